"""The examples of README and game/README, in the hands of strangers.

Whoever starts from an example serves it as it stands. So what a stranger sends may neither end its
room, nor reach through it to the server: not close others, not rewrite the lobby, not whisper.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support import ROOT, TEXT, RawClient, ServerProcess, http_request, serve

pytestmark = pytest.mark.slow  # a server for each example

ROUTES: list[dict[str, object]] = [
    {"_close": {"code": 4444}},
    {"_close": True, "_to": 1},
    {"_meta": True, "name": "owned"},
    {"_to": 987654},
    {"_to": "everyone"},
    {"_except": [1, 2]},
    {"_cache": True},
    {"_from": 1},
    {"_save": {"wins": 99}},
    {"_restore": {"wins": 99}},
]
NOT_JSON = ["", " ", "north", "{", "[", '{"t":', "{'t': 1}", '{"t":1,}', "\ufeff{}", "NaN", "\0"]
ODD_JSON = ["null", "1", "[]", '"Join"', "{}", '{"a":1}', '{"t":1}', '{"t":null}', '{"t":["dig"]}']
ODD_JSON += ['{"t":{}}', '{"t":"Join"}', '{"t":"Leave"}', '{"t":"dig","place":{"a":[]}}', "1e999"]
ODD_JSON += ['{"t":"dig","place":' + "9" * 5000 + "}", "[" * 900 + "]" * 900]
ODD_JSON += ['{"t":' + "[" * depth + "]" * depth + "}" for depth in (50, 900, 1500, 4500)]
ODD_JSON += ['{"t":"dig","place":"\\ud800"}', '{"\\udfff":"\\u0000"}']
HOSTILE = [
    *NOT_JSON,
    *ODD_JSON,
    *(json.dumps(route) for route in ROUTES),
    *(json.dumps({"t": "dig", "place": 1} | route) for route in ROUTES),
    "hello\nLEAVE 1\r\nJOIN 1",
    '{"t":"dig",\n"_close":true}',
]


class Example(NamedTuple):
    """An example, how the page starts it, and how to see that it still answers."""

    file: str
    options: tuple[str, ...]
    target: str
    message: str  # that it answers
    answer: str  # a pattern


README_EXAMPLES = {
    "for message in stdin": Example("example.py", (), "./example.py", "bob", r"hello bob"),
    "for line in stdin": Example(
        "events.py", ("--json",), "./events.py", '{"t":"say","text":"bob"}', r".*bob.*"
    ),
    "class Echo(Game)": Example("echo.py", (), "echo:Echo", "bob", r"bob"),
}
GAME_EXAMPLES = [
    # The first `treasure.py` is not among them: the page goes on to say how it dies.
    Example("treasure.py", (), "treasure.py", "deep down", r"no: .*|further .*|the chest"),
    Example("members.py", (), "members:Members", "deep down", r"no: .*|further .*|the chest"),
    Example(
        "treasure_lines.py",
        ("--json",),
        "treasure_lines.py",
        '{"t":"dig","place":"deep down"}',
        r'.*"a place is a number.*',
    ),
]


def python_blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Yield name, if it has one, and text of each block of Python on a page."""
    pattern = r"^```python ?(.*)\n((?:.*\n)*?)```$"
    yield from re.findall(pattern, page.read_text(encoding="utf-8"), re.MULTILINE)


def readme_examples() -> list[tuple[Example, str]]:
    """Return README's blocks of Python, but for the one that shows a script's own options."""
    found = []
    for _, source in python_blocks(ROOT / "README.md"):
        if not source.startswith("# /// script"):
            [example] = [e for words, e in README_EXAMPLES.items() if words in source]
            found.append((example, source))
    return found


@pytest.fixture(params=[*readme_examples(), *GAME_EXAMPLES], ids=str)
def example(request: pytest.FixtureRequest, tmp_path: Path) -> Example:
    """Write an example into a folder of its own, with what the page wrote before it."""
    if isinstance(request.param, Example):
        for name, source in python_blocks(ROOT / "game" / "README.md"):
            (tmp_path / name).write_text(source)
        return request.param
    example, source = request.param
    (tmp_path / example.file).write_text(source)
    return example


def test_every_block_of_the_readme_is_among_the_examples() -> None:
    assert len(readme_examples()) == len(README_EXAMPLES)


def test_no_stranger_ends_or_steers_an_example(example: Example, tmp_path: Path) -> None:
    """Seen (case 4): with README's own example one message closed everybody with a code of the
    stranger's choice, one ended the room with 1011, and one rewrote the lobby."""
    served = serve("--api", *example.options, example.target, cwd=tmp_path)
    with served as server, join(server) as bystander, join(server) as stranger:
        for message in HOSTILE:
            stranger.send_text(message)
        stranger.send_binary(b"\xff\xfe\0" * 1000)
        stranger.send_text("x" * 1000)
        assert answers(stranger, example), "the stranger was cut off"
        assert answers(bystander, example), "somebody else was cut off"
        metadata = http_request(server, path="/api/room/metadata").body
        assert b"owned" not in metadata and b"99" not in metadata


def test_a_megabyte_ends_no_example(example: Example, tmp_path: Path) -> None:
    served = serve("--api", *example.options, example.target, cwd=tmp_path)
    with served as server, join(server) as bystander, join(server) as stranger:
        for message in ("x" * 2**20, json.dumps({"t": "dig", "place": "9" * (2**20 - 100)})):
            stranger.send_text(message)
        assert answers(bystander, example)


def join(server: ServerProcess) -> RawClient:
    return RawClient.connect(server, path="/room?key=sesame")


def answers(client: RawClient, example: Example) -> bool:
    """Whether the example still answers; what it says otherwise is passed over.

    Raises:
        Closed: the connection has been.
    """
    client.send_text(example.message)
    while True:
        opcode, payload = client.receive()
        if opcode == TEXT and re.fullmatch(example.answer, payload.decode(), re.DOTALL):
            return True
