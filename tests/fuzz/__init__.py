"""Bad input by the thousand: one small check per parser, run by pytest and by a real fuzzer.

`targets` says what must hold for any bytes at all. `mutate` makes inputs from seeds and a random
generator, for every test run. `runner` lets atheris, a coverage-guided fuzzer, make them:
`python3 -m tests.fuzz`. What either has found stands in `corpus/<target>/`, and runs first.
"""
