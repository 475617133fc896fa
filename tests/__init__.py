"""The tests of ScaleSocket; `python3 -m tests` runs them all."""
