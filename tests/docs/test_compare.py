"""README's comparison with its peers, and what it tells those who come from ScaleSocket."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest

from scalesocket import ConfigError, parse_command_line
from tests.bench import compare
from tests.bench.processes import THIS, find_program
from tests.support import (
    PATIENCE,
    ROOT,
    Closed,
    HandshakeRefused,
    RawClient,
    http_request,
    run_cli,
    serve,
)

README = (ROOT / "README.md").read_text("utf-8")


def table(heading: str) -> list[list[str]]:
    """Return the rows of the table that begins with these cells."""
    lines = README[README.index(heading) :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line]


COMPARISON = table("| | this | ScaleSocket (Rust) | websocketd (Go) |\n")
DIFFERENCES = table("| | ScaleSocket 0.2.4 | here |\n")


# ==== The comparison =======================================================


def test_every_row_of_the_comparison_has_its_probe() -> None:
    """Case 27: a cell said that clients stay when their program exits; nobody had measured it."""
    assert [row[0] for row in COMPARISON[2:]] == list(compare.ROWS)
    assert {len(row) for row in COMPARISON} == {4}


@pytest.mark.slow
@pytest.mark.parametrize("row", compare.ROWS)
def test_this_servers_cells_are_what_the_probes_find(
    row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "SOON", PATIENCE)
    monkeypatch.setattr(compare, "LONG", PATIENCE)
    server = compare.Contender(find_program(THIS, tmp_path), tmp_path)
    assert compare.fill(server, row) == next(line[1] for line in COMPARISON if line[0] == row)


def test_a_table_is_printed_as_readme_has_it() -> None:
    cells = {row[0]: row[1:] for row in COMPARISON[2:]}
    assert compare.format_table(cells, COMPARISON[0][1:]) in README


# ==== Coming from ScaleSocket ==============================================

TAKEN = """-b|--cache all:1|--cache tagged:8|--cachepersist|--delay 0|--delimiters=;|--delimiters=
--null|--joinmsg #ID|--leavemsg #ID|--json|--frame|--frame=json|--frame=gwsocket|--clientframe=json
--serverframe=json|--clientframe=gwsocket|--serverframe=gwsocket|--log json|--log text|-v|-vvv
--metrics|--api|--oneshot|--passenv A,B|--passenv=|--rooms a,b|--maxrooms 0|--maxforks 3|--tcp
--staticdir .|--tcpports 1:2|--addr 127.0.0.1:80|--addr [::1]:80"""


@pytest.mark.slow
def test_all_pairs_of_its_options_are_taken_but_those_that_readme_names() -> None:
    """Case 26: "work as they stand", and three did not."""
    options = [text.split() for text in re.split(r"[|\n]", TAKEN)]
    refused = set()
    for one, other in itertools.combinations(options, 2):
        try:
            parse_command_line([*one, *other, "cat"])
        except ConfigError as error:
            refused.add(re.sub("'.*?' ", "", str(error)))
    assert refused == {
        "--binary and JSON framing exclude each other",
        "--cache=tagged needs JSON framing of what TARGET prints",
        "argument --delimiters: is not one or more ASCII characters",
    }
    assert any(row[0].startswith("`--json --binary`, `--cache tagged:8`") for row in DIFFERENCES)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["no-such-command"],
        ["--staticdir", "/nowhere", "cat"],
        ["--rooms", "", "cat"],
        ["--tcpports", "9:1", "cat"],
    ],
)
def test_what_cannot_work_is_said_at_the_start(options: list[str]) -> None:
    done = run_cli(*options)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_the_differences_are_as_readme_says() -> None:
    joined = "#REMOTE_ADDR|#ROOM|#QUERY_A|#QUERY_B|#QUERY_NONE|"
    options = ["--api", "--rooms", "café,b", "--maxrooms", "1", "--joinmsg", joined]
    with serve(*options, "cat") as server:
        with RawClient.connect(server, path="/caf%C3%A9?a=x+y&b=1&b=2") as client:
            assert client.receive_text() == "127.0.0.1|café|x%20y|1||"
            (room,) = json.loads(http_request(server, path="/api/rooms/").body)
            assert room["name"] == "café"
            with RawClient.connect(server, "b") as other, pytest.raises(Closed) as closed:
                other.receive_text()
            assert closed.value.code == 1013
        with pytest.raises(HandshakeRefused) as refused:
            RawClient.connect(server, "c")
        assert refused.value.status == 404
        assert http_request(server, path="/api/nobody/connections").status == 404
        assert http_request(server, "HEAD", "/health").status == 200
        answer = http_request(server, "POST", "/health")
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
        assert server.output() == []  # the log is on stderr


def test_paths_that_are_no_rooms_are_refused_as_readme_says() -> None:
    """It said 404, which is what they are to a request for no WebSocket."""
    said = README[README.index("What websocketd's own black-box tests expect") :]
    paths = re.search(r"`(/)` and\s+`(/deep/nested/path)` are no rooms \((\d+)\)", said)
    assert paths is not None
    with serve("cat") as server:
        for path in paths.groups()[:2]:
            with pytest.raises(HandshakeRefused) as refused:
                RawClient.connect(server, path.removeprefix("/"))
            assert refused.value.status == int(paths[3]), path
