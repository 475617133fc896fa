"""The words about the code say what the code does: chapters, README, `--help`, sizes."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest
from scalesocket.net import (
    auth,
    children,
    history,
    lines,
    logs,
    metrics,
    per_address,
    proxies,
    relay,
    store,
)

import scalesocket
from tests.support import ROOT, SCRIPT, run_cli

SOURCE = SCRIPT.read_text(encoding="utf-8")
LINES = SOURCE.splitlines()

Option = tuple[str, str, object, str]
ROWS: list[Option] = [row for rows in scalesocket.list_options().values() for row in rows]
PARTS = ("net", "game", "client", "tests")
NAMES = sorted({name for row in ROWS for name in row[0].split()})


# ==== Chapters =============================================================


def banners() -> list[tuple[int, int, str]]:
    """Return line number, chapter number and name of each banner."""
    found = []
    for number, line in enumerate(LINES):
        match = re.fullmatch(r"# ==== (\d+)\. (.+?) =+", line)
        if match:
            found.append((number, int(match[1]), match[2]))
    return found


def test_the_list_of_chapters_is_what_the_banners_say() -> None:
    assert scalesocket.__doc__
    _, _, listing = scalesocket.__doc__.partition("\nChapters:\n")
    listed = re.findall(r"^ +(\d+)\. (.+?)\s*$", listing, re.MULTILINE)
    assert len(listed) == 15
    assert [(int(number), name) for number, name in listed] == [b[1:] for b in banners()]
    assert [number for _, number, _ in banners()] == list(range(1, 16))


def test_every_banner_has_the_same_form() -> None:
    """Also one with a mistake in it would be taken for a comment."""
    assert len([line for line in LINES if line.startswith("# ===")]) == len(banners())
    assert {len(LINES[at]) for at, _, _ in banners()} == {len(LINES[banners()[0][0]])}


def test_every_banner_is_followed_by_its_reason() -> None:
    for at, _, name in banners():
        reason = LINES[at + 1]
        assert reason.startswith("# ") and len(reason) > 20, f"chapter {name} has no reason"


# ==== Sizes ================================================================


MOST_LINES = 5_491


def test_the_server_does_not_grow() -> None:
    more = len(LINES) - MOST_LINES
    assert more <= 0, f"{more} lines too many: what comes takes the place of others (net/README.md)"


def test_the_protocol_chapters_know_no_socket_thread_or_clock() -> None:
    """Chapters 3 to 6 are bytes in, events out."""
    (start,) = [at for at, number, _ in banners() if number == 3]
    (stop,) = [at for at, number, _ in banners() if number == 7]
    tree = ast.parse("\n".join(LINES[start:stop]))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert not names & {"socket", "threading", "time", "select", "selectors", "os", "log", "open"}


def modules_of(nodes: Iterable[ast.AST]) -> set[str]:
    """Return the top names of what import statements among these bring in."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module
            found.add(node.module.partition(".")[0])
    return found


def test_the_server_imports_nothing_but_the_standard_library() -> None:
    """What is in `net/` is imported when its option is used, and by nothing else."""
    tree = ast.parse(SOURCE)
    assert modules_of(tree.body) <= sys.stdlib_module_names
    assert modules_of(ast.walk(tree)) - sys.stdlib_module_names == {"scalesocket"}


# ==== Help =================================================================


@cache
def help_text() -> str:
    done = run_cli("--help")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.slow
def test_help_is_readable_in_a_terminal() -> None:
    lines = help_text().splitlines()
    assert max(map(len, lines)) <= 90
    assert all(line == line.rstrip() for line in lines)
    for title in scalesocket.OPTIONS:
        assert f"{title}:" in lines
    assert run_cli("-h").stdout == help_text()


@pytest.mark.parametrize("name", NAMES)
def test_help_shows_every_option(name: str) -> None:
    assert re.search(rf"^ +.*(?<![\w-]){re.escape(name)}(?![\w-])", help_text(), re.MULTILINE)


def test_help_names_no_option_that_does_not_exist() -> None:
    text = help_text().replace("--passenv", "")
    mentioned = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))
    assert mentioned <= {*NAMES}


@pytest.mark.slow
def test_version_is_one_line() -> None:
    for name in ("-V", "--version"):
        assert run_cli(name).stdout == f"scalesocket {scalesocket.__version__}\n"


def told_default(row: Option) -> str | None:
    """Return the default that an option's help tells, without its explanation."""
    found = re.search(r"\(default ([^)]*)\)", row[3])
    return re.split(r"[;:] |, or ", found[1])[0].strip() if found else None


@pytest.mark.parametrize("row", [row for row in ROWS if callable(row[2])], ids=lambda row: row[0])
def test_help_tells_the_true_default(row: Option) -> None:
    names, _, read, _ = row
    assert callable(read)
    field = names.split()[0].lstrip("-")
    told = told_default(row)
    if told is None or not hasattr(scalesocket.Config(), field):
        return
    if told in ("newline", "from the limit of open files"):
        return
    actual = getattr(scalesocket.Config(), field)
    if field == "idfield":
        assert actual == ""  # what it then is depends on --joinmsg, and the help says how
    elif field == "addr":
        assert actual == (read(told),)
    elif isinstance(actual, tuple) and actual and isinstance(actual[0], str):
        assert set(read(told)) == set(actual)
    else:
        assert read(told) == actual


# ==== README ===============================================================


@cache
def readme_rows() -> dict[str, list[list[str]]]:
    """Return the cells behind each option that stands in the first cell of a table's row."""
    rows: dict[str, list[list[str]]] = {}
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    ours, _, _ = text.partition("\n## How it compares\n")  # behind it values of others are told
    for line in ours.splitlines():
        if not line.lstrip().startswith("|"):
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
        for code in re.findall(r"`([^`]+)`", cells[0]):
            for name in re.findall(r"(?<![\w-])-{1,2}[A-Za-z][\w-]*", code):
                rows.setdefault(name, []).append(cells[1:])
    return rows


def plain(text: str) -> str:
    """Return text in the form in which defaults are compared: `1 MiB` is `1m`."""
    text = text.replace("`", "").replace("\\", "").lower()
    text = re.sub(r"(\d)\s*([kmg])(?:i?b)?\b", r"\1\2", text)
    return re.sub(r"(\d)\s*(?:s|sec|seconds)\b", r"\1", text)


@pytest.mark.parametrize("name", NAMES)
def test_readme_lists_every_option(name: str) -> None:
    assert name in readme_rows(), f"{name} stands in no table of README.md"


def test_readme_lists_no_option_that_does_not_exist() -> None:
    assert set(readme_rows()) <= set(NAMES)


def test_no_option_is_in_readme_twice() -> None:
    assert [name for name, rows in readme_rows().items() if len(rows) > 1] == []


WORD = r"[^\s,;()]+"
NOTHING = {"", "-", "–", "—", "off", "no", "none", "any", "all", "false"}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_readme_tells_the_same_default_as_help(row: Option) -> None:
    told = told_default(row)
    for name in row[0].split():
        for cells in readme_rows().get(name, []):  # that it is there is another test's
            cell = plain(cells[0])
            if told is None:
                word = (re.findall(r"[\w–—-]+", cell) or [""])[0]
                known = word in NOTHING or word in NAMES or "default" in row[3]
                assert known, f"{name}: README says {cells[0]!r}, --help tells no default"
                continue
            words = set(re.findall(WORD, plain(told))) - {"and", "or"}
            missing = words - set(re.findall(WORD, cell))
            assert not missing, f"{name}: README says {cells[0]!r}, --help says {told!r}"


# ==== Limits ===============================================================


def size(number: int) -> str:
    for unit, factor in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if number % factor == 0:
            return f"{number // factor} {unit}"
    return str(number)


def test_the_table_of_limits_is_true() -> None:
    """Each row is found by its first words; its value must hold these, and no other number."""
    config, module = scalesocket.Config(), scalesocket
    expected: dict[str, list[str]] = {
        "request head": [
            *map(size, (module.MAX_HEAD, proxies.MAX_PROXY_HEADER)),
            f"{module.MAX_HEADERS} fields",
            f"{module.HEAD_TIMEOUT:g} s",
            size(module.MAX_HEAD - relay.ADDED_SIZE),
            f"{module.MAX_HEADERS - relay.ADDED_FIELDS} fields",
        ],
        "next request": [f"{module.IDLE_TIMEOUT:g} s"],
        "first line": [f"{lines.ROOM_LINE_TIMEOUT:g} s"],
        "name of a room": [f"{module.MAX_ROOM_NAME} characters"],
        "message of a client": [size(config.maxmsg)],
        "number in a client's JSON": [f"{module.MAX_DIGITS:,} digits"],
        "levels of JSON": [str(module.MAX_NESTING)],
        "what clients have sent": [size(module.INBOX_SIZE)],
        "what the program has printed": [size(config.backlog)],
        "what a game has sent": [f"{module.GAME_BACKLOGS} times"],
        "a client with a full backlog": [f"{config.stall:g} s", "1008"],
        "history of a room": [
            size(config.cachebytes),
            size(history.HISTORIES * config.cachebytes),
        ],
        "what a game saves": [size(store.MAX_STATE)],
        "what the program prints": [size(module.MAX_OUTPUT_ITEM), "1011"],
        "the log": [size(logs.MAX_LOG_WAITING)],
        "line of the program's stderr": [size(module.MAX_LOG_LINE)],
        "silence": [f"{config.ping:g} s", f"{2 * config.ping:g} s", "1011"],
        "answer to a Close": [f"{module.CLOSE_TIMEOUT:g} s"],
        "rooms": [str(config.maxrooms)],
        "clients in a room": ["any number"],
        "connections of any kind": [str(module.MAX_REFUSED), "503"],
        "connections of one address": [str(per_address.MAX_REFUSED_OF_ONE), "503"],
        "a command that": [
            f"{auth.AUTH_TIMEOUT:g} s",
            f"{auth.MAX_AUTH} at a time",
            f"{auth.MAX_AUTH_OF_ONE} for one address",
            "5 s",
            "503",
        ],
        "start of a program": [f"{children.TCP_CONNECT_TIMEOUT:g} s"],
        "a game's": [f"{module.MAX_TICK_TIME:g} s", f"{metrics.LATE_TICK:g} s"],
        "all rooms' end": [f"{module.END_TIMEOUT:g} s"],
    }
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    _, _, table = readme.partition("| limit | default |\n| --- | --- |\n")
    rows = [line.strip("| ").split(" | ") for line in table.partition("\n\n")[0].splitlines()]
    assert len(rows) == len(expected)
    for name, value in rows:
        (values,) = [v for words, v in expected.items() if name.startswith(words)]
        missing = [v for v in values if v not in value]
        assert not missing, f"{name}: {missing}"
        numbers = re.findall(r"[\d.]+", value)
        assert sorted(numbers) == sorted(re.findall(r"[\d.]+", " ".join(values))), name


def test_the_table_of_modules_has_each_of_them() -> None:
    guide = (ROOT / "net" / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[(\w+\.py)\]\(\1\) \|", guide, re.MULTILINE)
    there = {path.name for path in (ROOT / "net").glob("*.py")}
    assert not there ^ set(listed), "in net/ or in the table of net/README.md, but not in both"
    assert listed == sorted(listed)


def test_what_a_module_may_hang_on_the_server_is_told() -> None:
    """Three places were missing: who wants one has to find it in the code."""
    source = SOURCE.partition("# What follows is set by")[2].partition("game = config.game")[0]
    places = re.findall(r"^        self\.(\w+)", source, re.MULTILINE)
    guide = (ROOT / "net" / "README.md").read_text(encoding="utf-8")
    table = guide.partition("What a module may hang on the server")[2].partition("\n\nModules")[0]
    rows = re.findall(r"^\| (.+?) \|", table, re.MULTILINE)
    told = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert len(places) > 10
    assert [name for name in places if name not in told] == []


PAGES = sorted(
    path
    for path in (*ROOT.glob("*.md"), *(p for d in PARTS for p in (ROOT / d).rglob("*.md")))
    if "node_modules" not in path.parts
)


def anchors(page: Path) -> set[str]:
    """Return what links may name of a page: its headings, as GitHub spells them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_something(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            other = page.parent / path if path else page
            if not other.exists() or (anchor and anchor not in anchors(other)):
                broken.append(target)
    assert not broken
