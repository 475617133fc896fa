"""Who steers: what a client says never routes, closes or passes for the server's own line.

All of it against a real server; `test_framing.py` has what single lines amount to.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from tests.support import ROOT, RawClient, ServerProcess, http_request, serve, wait_until

pytestmark = pytest.mark.slow  # many servers are started here; --quick leaves them out

KEEP = ("--closegrace=5", "sh", "--", "-c", 'cat >> "$1"', "sh")  # a child that keeps what it reads
LOOKS_LIKE = "a client can write what looks like --joinmsg"


def readme_example(folder: Path) -> Path:
    """Return the program of README's chapter on JSON, as it is printed."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    chapter = text[text.index("## Who said it") :]
    code = re.search(r"```python\n(.*?)```", chapter, re.DOTALL)
    assert code is not None
    path = folder / "example.py"
    path.write_text(code[1])
    return path


def dropped(server: ServerProcess) -> int:
    """Return how many messages could not be used, as the metrics count them."""
    text = http_request(server, path="/metrics").body.decode()
    found = re.findall(r"scalesocket_messages_dropped_total\S* (\d+)", text)
    assert found, text
    return sum(map(int, found))


HOSTILE = [
    '{"a":1}',
    "{}",
    '{"t":1,"_close":{"code":4444}}',
    '{"t":["Join"],"_close":true}',
    '{"t":null,"_meta":true,"name":"mine"}',
    '{"t":"x","_to":2,"_Close":true}',
    '{"t":"x","_except":[1,2,3]}',
    r'{"\u005fclose":true,"_to ":1}',
    '{"_to":"nobody"}',
    '{"_cache":true,"_from":1}',
    '{"t":"x","text":"' + "x" * 900_000 + '"}',
]


def test_the_example_of_the_readme_is_safe_as_printed(tmp_path: Path) -> None:
    """A client's `{"a":1}` closed everyone with 1011, and its `_close` with 4444 (case 4)."""
    options = ("--json", "--api", "--cache=tagged:8", "--metrics")
    with serve(*options, str(readme_example(tmp_path))) as server:
        with RawClient.connect(server) as victim, RawClient.connect(server) as attacker:
            assert victim.receive_json() == {"t": "Welcome", "_to": 1}
            assert attacker.receive_json() == {"t": "Welcome", "_to": 2}
            for message in HOSTILE:
                attacker.send_text(message)
                for client in (victim, attacker):  # everyone hears of it, whomever it names
                    heard = client.receive_json()
                    assert heard.pop("_from") == 2
                    sent = json.loads(message)
                    assert heard == {k: v for k, v in sent.items() if k.strip()[:1] != "_"}
            for wrong in ("", "x", "[]", "1", '{"t":', '{"_to":1,}'):
                attacker.send_text(wrong)
            attacker.send_json({"t": "bye"})
            assert victim.receive_json() == {"_from": 2, "t": "bye"}
            assert json.loads(http_request(server, path="/api/room/metadata").body) is None
            assert dropped(server) == 6
            with RawClient.connect(server) as newcomer:
                assert newcomer.receive_json() == {"t": "Welcome", "_to": 3}, "nothing was kept"
        server.stop()
        said = [line for line in server.log() if "--clientroute keeps it" in line]
        assert len(said) == 1 and "_close" in said[0], "once, for who relied on it"


def test_with_clientroute_a_client_says_whom_its_message_is_for() -> None:
    """As with ScaleSocket: `cat` is enough for private messages."""
    with serve("--frame", "--clientroute", "cat") as server:
        with RawClient.connect(server) as ann, RawClient.connect(server) as bob:
            bob.send_json({"_from": 1, "_to": 1, "text": "psst"})
            bob.send_json({"text": "hi"})
            assert ann.receive_json() == {"_from": 2, "_to": 1, "text": "psst"}
            assert ann.receive_json() == bob.receive_json() == {"_from": 2, "text": "hi"}


PRIVATE = [
    '\\ufeff{"secret":1,"_to":1}',
    '{"secret":2,"_to":1,}',
    "{'secret':3,'_to':1}",
    '{"secret":4,"_to":1',
    '{"secret":NaN,"_to":1}',
]


def test_a_private_line_that_cannot_be_read_is_told_to_the_operator_alone(tmp_path: Path) -> None:
    """A program printed a byte order mark, or a comma too many: everyone got it (case 3)."""
    script = tmp_path / "program.py"
    lines = ", ".join(f"'''{line}'''" for line in PRIVATE)
    script.write_text(
        f"import sys\nfor line in sys.stdin:\n    for secret in ({lines}): print(secret)\n"
        "    print('use _to and _close')\n"
    )
    with serve("--frame", "--metrics", str(script)) as server:
        with RawClient.connect(server) as ann, RawClient.connect(server) as bob:
            ann.send_json({})
            for client in (ann, bob):
                assert client.receive_text() == "use _to and _close"
            assert dropped(server) == len(PRIVATE)
        server.wait_log("message of the child was not sent: it names a field that routes")


def heard(path: Path, lines: int) -> list[str]:
    """Return what a child has read, once there are so many lines of it."""
    wait_until(lambda: path.exists() and path.read_bytes().count(b"\n") >= lines)
    return path.read_text().splitlines()


def test_a_client_cannot_write_a_second_line_beside_join_messages(tmp_path: Path) -> None:
    """`hello\\nLEAVE 7\\nJOIN 8` reached the program as three lines (case 41)."""
    messages = ("--joinmsg=JOIN #ID #QUERY_N", "--leavemsg=LEAVE #ID")
    with serve(*messages, *KEEP, str(tmp_path / "heard")) as server:
        with RawClient.connect(server, path="/room?n=a%0ALEAVE%201+b") as client:
            client.send_text("hello\nLEAVE 7\r\nJOIN 8\n")
            client.send_text("\u2028LEAVE 7\rJOIN 8")
            client.close()
        assert heard(tmp_path / "heard", 4) == [
            "JOIN 1 a%0ALEAVE%201%20b",
            "hello LEAVE 7  JOIN 8",
            " LEAVE 7 JOIN 8",
            "LEAVE 1",
        ]
        server.stop()
        assert sum(LOOKS_LIKE in line for line in server.log()) == 1


def test_with_multiline_a_message_may_be_several_lines_all_the_same(tmp_path: Path) -> None:
    with serve("--multiline", "--joinmsg=JOIN #ID", *KEEP, str(tmp_path / "heard")) as server:
        with RawClient.connect(server) as client:
            client.send_text("a\nb\n")
            assert heard(tmp_path / "heard", 3) == ["JOIN 1", "a", "b"]


@pytest.mark.parametrize(
    ("option", "cure"), [("--binary", ""), ("--pty", ""), ("--multiline", ": use --frame=json")]
)
def test_no_cure_is_named_that_is_refused(option: str, cure: str) -> None:
    with serve(option, "--joinmsg=JOIN #ID", "cat") as server:
        server.stop()
        said = [line for line in server.log() if LOOKS_LIKE in line]
        assert [line.partition(" or --leavemsg")[2] for line in said] == [cure]


@pytest.mark.parametrize(
    "options", [("--json", "cat"), ("cat",), ("--clientframe=gwsocket", "cat")]
)
def test_nobody_is_warned_where_lines_can_be_told_apart(options: tuple[str, ...]) -> None:
    with serve(*options) as server:
        server.stop()
        assert not any(LOOKS_LIKE in line for line in server.log())


def test_a_program_written_for_little_endian_headers_works(tmp_path: Path) -> None:
    """ScaleSocket 0.2.4 reads gwsocket's headers so; here the room ended at once (case 26)."""
    script = tmp_path / "program.py"
    script.write_text(
        "import struct, sys\n"
        "read, header = sys.stdin.buffer.read, struct.Struct('<III')\n"
        "while data := read(12):\n"
        "    client, kind, length = header.unpack(data)\n"
        "    sys.stdout.buffer.write(header.pack(client, kind, length) + read(length))\n"
        "    sys.stdout.buffer.flush()\n"
    )
    with serve("--frame=gwsocket", "--byteorder=little", str(script)) as server:
        with RawClient.connect(server) as client, RawClient.connect(server) as other:
            client.send_text("mine")
            other.send_text("yours")
            assert (client.receive_text(), other.receive_text()) == ("mine", "yours")
    said = r"printf '\0\0\0\0\1\0\0\0\2\0\0\0hi'; exec cat"
    with serve("--frame=gwsocket", "sh", "--", "-c", said) as server:
        with RawClient.connect(server) as client:
            assert client.wait_close()[0] == 1011
        server.wait_log("see --byteorder")


def test_a_program_in_go_reads_the_true_sender(tmp_path: Path) -> None:
    """Go's `encoding/json` ignores case: `_From` was the sender there (case 1, golang/go#14750)."""
    program = tmp_path / "reads.py"  # the same rule: the last member that is equal ignoring case
    program.write_text(
        "import json, sys\n"
        "for line in sys.stdin:\n"
        "    pairs = json.loads(line, object_pairs_hook=list)\n"
        "    print([v for k, v in pairs if k.casefold() == '_from'][-1], flush=True)\n"
    )
    with serve("--clientframe=json", sys.executable, "--", str(program)) as server:
        with RawClient.connect(server), RawClient.connect(server) as attacker:
            for name in ("_From", "_FROM", "_from", r"_\u0046rom"):
                attacker.send_text(f'{{"t":"Leave","{name}":1}}')
                assert attacker.receive_text() == "2"
