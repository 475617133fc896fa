"""Rooms: who shares a child, what it is told, where its messages go, and how rooms end."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import cast
from unittest.mock import Mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import scalesocket
from scalesocket import (
    Client,
    CloseCode,
    Closing,
    Config,
    ConnectionClosed,
    FieldNames,
    Game,
    Headers,
    Poller,
    Request,
    RoomRegistry,
)
from tests.support import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PATIENCE,
    ROOT,
    TEXT,
    Closed,
    HandshakeRefused,
    RawClient,
    ServerProcess,
    encode_client_frame,
    encode_client_frames,
    http_request,
    run_cli,
    serve,
    shell,
    wait_until,
    with_constants,
)

pytestmark = pytest.mark.slow  # many servers are started here; --quick leaves them out

# Prints its process ID, then echoes: a client knows which child it talks to.
PID_THEN_CAT = shell("echo $$; exec cat")


def write_program(folder: Path, source: str, name: str = "child.py") -> str:
    """Write a Python program and return its path."""
    path = folder / name
    path.write_text(source)
    return str(path)


def assert_silent(*clients: RawClient) -> None:
    """Check that nothing more has come; meant for after a message that would have come later."""
    for client in clients:
        with pytest.raises(TimeoutError):
            client.receive(0)


def metric(server: ServerProcess, name: str) -> int:
    """Return one number of `/metrics`."""
    text = http_request(server, path="/metrics").body.decode()
    found = re.search(rf"^scalesocket_{name} (\d+)$", text, re.MULTILINE)
    assert found, f"{name} is not in {text}"
    return int(found[1])


def api(server: ServerProcess, path: str) -> object:
    """Return the value that the rooms API answers."""
    response = http_request(server, path=f"/api/{path}")
    assert response.status == 200, response
    return json.loads(response.body)


def echo(client: RawClient, text: str) -> str:
    """Send a text and return the next one."""
    client.send_text(text)
    return client.receive_text()


# ==== 1. One child for each room ==========================================


def test_clients_of_a_room_share_one_child_and_rooms_are_separate() -> None:
    with serve(*shell("while read line; do echo $$ $line; done")) as server, ExitStack() as stack:
        first, second = (stack.enter_context(RawClient.connect(server, "a")) for _ in range(2))
        other = stack.enter_context(RawClient.connect(server, "b"))
        first.send_text("from first")
        pid, _, text = first.receive_text().partition(" ")
        assert text == "from first"
        assert second.receive_text() == f"{pid} from first"
        assert echo(second, "from second") == f"{pid} from second"
        assert first.receive_text() == f"{pid} from second"
        other_pid = echo(other, "x").split()[0]
        assert sorted(server.children()) == sorted([int(pid), int(other_pid)])
        assert_silent(first, second, other)


def test_a_room_that_has_emptied_gets_a_fresh_child() -> None:
    with serve(*PID_THEN_CAT) as server:
        pids = []
        for _ in range(20):
            with RawClient.connect(server) as client:
                pids.append(client.receive_text())
                client.close()
        assert len(set(pids)) == 20
        wait_until(lambda: not server.children())


def test_a_client_has_left_when_it_has_closed_though_its_tcp_is_open() -> None:
    lasting = with_constants(CLOSE_TIMEOUT=3 * PATIENCE)
    with serve("--api", *PID_THEN_CAT, command=lasting) as server, ExitStack() as stack:
        pids = []
        for _ in range(5):
            client = stack.enter_context(RawClient.connect(server))
            pids.append(client.receive_text())
            client.send_close()
            assert client.receive()[0] == CLOSE
        assert len(set(pids)) == 5


def test_the_child_of_a_room_stays_while_one_client_does() -> None:
    with serve(*PID_THEN_CAT) as server, RawClient.connect(server) as first:
        pid = first.receive_text()
        for _ in range(3):
            with RawClient.connect(server) as second:
                assert echo(second, "I am new") == "I am new"
                assert first.receive_text() == "I am new"
                second.close()
        assert server.children() == [int(pid)]


def test_a_room_name_is_percent_decoded() -> None:
    with serve(*shell('echo "$ROOM"; exec cat')) as server:
        with RawClient.connect(server, "caf%C3%A9%20%22x%22") as client:
            assert client.receive_text() == 'café "x"'
            with RawClient.connect(server, "caf%c3%a9%20%22%78%22") as same:
                assert echo(same, "same room") == "same room"
                assert client.receive_text() == "same room"


def test_only_the_listed_rooms_are_there() -> None:
    with serve("--rooms", "red, blue", "cat") as server:
        for name in ("red", "blue"):
            with RawClient.connect(server, name) as client:
                assert echo(client, name) == name
        for name in ("green", "Red", "red,blue"):
            with pytest.raises(HandshakeRefused) as refused:
                RawClient.connect(server, name)
            assert refused.value.status == 404


def assert_nobody_misses_anything(server: ServerProcess, rounds: int) -> None:
    """Let two clients come to one new room after another, of which the second speaks at once."""
    for number in range(rounds):
        with ExitStack() as stack:
            room = f"round{number}"
            first, second = (stack.enter_context(RawClient.connect(server, room)) for _ in "12")
            second.send_text("hello")
            assert second.receive_text() == "hello"
            assert first.receive_text() == "hello", f"in round {number}"


def test_who_has_been_let_in_misses_nothing() -> None:
    with serve("cat") as server:
        assert_nobody_misses_anything(server, 40)


# ==== 2. Join and leave messages ==========================================


def test_join_and_leave_messages_have_every_variable() -> None:
    variables = "#ID|#ROOM|#REMOTE_ADDR|#QUERY_STRING|#QUERY_NAME|#QUERY_X|#QUERY_NONE|#OTHER|#"
    query = "name=Ann%20B%22&x=1&x=2&novalue"
    with serve(f"--joinmsg=+{variables}", f"--leavemsg=-{variables}", "cat") as server:
        with RawClient.connect(server, "hall") as watcher:
            watcher.receive_text()
            with RawClient.connect(server, path=f"/hall?{query}") as client:
                filled = f"2|hall|127.0.0.1|{query}|Ann%20B%22|1||#OTHER|#"
                assert client.receive_text() == f"+{filled}"
                assert watcher.receive_text() == f"+{filled}"
                client.close()
            assert watcher.receive_text() == f"-{filled}"


def test_no_room_name_or_query_breaks_out_of_a_json_string() -> None:
    join = '{"room":"#ROOM","a":"#QUERY_A","all":"#QUERY_STRING"}'
    with serve("--joinmsg", join, "cat") as server:
        for name in ('"],x:["', "a\\", "#ID #QUERY_A", "' \\\" é"):
            room = "".join(f"%{byte:02x}" for byte in name.encode())
            query = 'a="}\\'
            with RawClient.connect(server, path=f"/{room}?{query}") as client:
                assert client.receive_json() == {"room": name, "a": "%22%7D%5C", "all": query}


def test_a_client_that_vanishes_is_announced_too() -> None:
    with serve("--joinmsg=+#ID", "--leavemsg=-#ID", "cat") as server:
        with RawClient.connect(server) as watcher:
            assert watcher.receive_text() == "+1"
            client = RawClient.connect(server)
            assert watcher.receive_text() == "+2"
            client.send_text("last words")
            client.reset()
            assert [watcher.receive_text(), watcher.receive_text()] == ["last words", "-2"]


def test_join_messages_and_leave_of_a_client_come_in_that_order() -> None:
    with serve("--json", "cat") as server, RawClient.connect(server) as watcher:
        watcher.receive_text()
        for _ in range(20):
            client = RawClient.connect(server)
            client.send_bytes(encode_client_frames([b'{"n":0}', b'{"n":1}']))
            client.send_close()
            client.sock.close()
        seen: dict[int, list[object]] = {}
        for _ in range(80):
            event = cast("dict[str, object]", watcher.receive_json())
            story = seen.setdefault(cast(int, event["_from"]), [])
            story.append(event.get("t", event.get("n")))
        assert list(seen.values()) == [["Join", 0, 1, "Leave"]] * 20


def test_every_client_gets_the_answer_to_its_own_join() -> None:
    welcome = '{"_to":#ID,"t":"Welcome"}'
    with serve("--serverframe=json", "--joinmsg", welcome, "cat") as server, ExitStack() as stack:
        for number in range(200):
            client = stack.enter_context(RawClient.connect(server, f"room{number % 3}"))
            assert client.receive_json() == {"_to": number + 1, "t": "Welcome"}


def test_ids_are_unique_in_the_whole_server() -> None:
    with serve("--joinmsg", "#ID", "cat") as server:
        ids = []
        for number in range(12):
            with RawClient.connect(server, f"room{number % 3}") as client:
                ids.append(int(client.receive_text()))
                client.close()
        assert len(set(ids)) == 12
        assert all(0 < number < 2**32 for number in ids)


# ==== 3. JSON framing, from clients =======================================


@pytest.fixture(scope="module")
def tagging() -> Iterator[ServerProcess]:
    """A server that shows its clients what the child got from them."""
    with serve("--clientframe=json", "--metrics", "cat") as server:
        yield server


@pytest.fixture
def tagged(tagging: ServerProcess) -> Iterator[tuple[RawClient, int]]:
    """A client of it, with its ID."""
    with RawClient.connect(tagging, "tagged") as client:
        client.send_text("{}")
        found = re.fullmatch(r'\{"_from":(\d+)\}', client.receive_text())
        assert found
        yield client, int(found[1])
        client.close()


def test_a_message_keeps_its_bytes_behind_the_tag(tagged: tuple[RawClient, int]) -> None:
    client, number = tagged
    rest = r' "z":1.50e+3,  "big" : 123456789012345678901234567890, "é":"\u00e9\/", "a":[ ]}'
    assert echo(client, f"{{{rest}") == f'{{"_from":{number},{rest}'


@pytest.mark.parametrize(
    "message",
    [
        '{"_from":99,"a":1}',
        '{"a":1,"_from":99}',
        '{"_from":98,"a":1,"_from":"99"}',
        r'{"\u005ffrom":99,"a":1}',
        r'{"_\u0066\u0072om":{"x":[1,"}"]}, "a":1}',
        '{"_from" : 99 , "a" : 1 }',
    ],
)
def test_the_sender_is_always_overwritten(tagged: tuple[RawClient, int], message: str) -> None:
    client, number = tagged
    text = echo(client, message)
    pairs = json.loads(text, object_pairs_hook=lambda pairs: pairs)
    assert sorted(pairs) == [["_from", number], ["a", 1]] or sorted(pairs) == [
        ("_from", number),
        ("a", 1),
    ]


def test_a_message_on_several_lines_is_one_line_for_the_child(
    tagged: tuple[RawClient, int],
) -> None:
    client, number = tagged
    value = {"a": [1, {"b": "line\nbreak"}], "c": None}
    text = echo(client, json.dumps(value, indent=2).replace("\n", "\r\n"))
    assert json.loads(text) == {"_from": number, **value}
    assert echo(client, "{}") == f'{{"_from":{number}}}'


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
SERVERS_OWN = FieldNames("_from", "_save", "_restore")  # those are left out; see test_store.py
NAMES = st.text().filter(lambda name: not SERVERS_OWN.find([name]))
JSON_OBJECTS = st.dictionaries(NAMES | st.sampled_from(["_from", "_to", "_"]), JSON_VALUES)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=JSON_OBJECTS, indent=st.sampled_from([None, 0, 1]), ascii_only=st.booleans())
def test_any_json_object_arrives_with_its_sender_and_else_unchanged(
    tagged: tuple[RawClient, int], value: dict[str, object], indent: int | None, ascii_only: bool
) -> None:
    client, number = tagged
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate cannot stand in UTF-8, only as an escape
        text = json.dumps(value, indent=indent)
    assert json.loads(echo(client, text)) == {**value, "_from": number}


@pytest.mark.parametrize(
    "wrong",
    [
        "hello",
        "",
        "[1]",
        "12",
        "null",
        '"text"',
        '{"a":1',
        '{"a":1}{"b":2}',
        '{"a":1}\n{"b":2}',
        "{'a':1}",
        '{"a":NaN}',
        '{"a":"\n"}',
        "[" * 100_000,
        '{"a":' * 100_000,
    ],
    ids=lambda text: repr(text[:12]),
)
def test_what_is_no_json_object_is_dropped_counted_and_the_client_stays(
    tagging: ServerProcess, tagged: tuple[RawClient, int], wrong: str
) -> None:
    client, number = tagged
    dropped = metric(tagging, "messages_dropped_total")
    lines = len(tagging.log())
    client.send_text(wrong)
    assert echo(client, '{"still":"here"}') == f'{{"_from":{number},"still":"here"}}'
    assert metric(tagging, "messages_dropped_total") == dropped + 1
    assert f"client={number}" in tagging.wait_log(r"\[WARN\].*JSON.*", since=lines)[0]


def test_looking_for_long_numbers_holds_nobody_up() -> None:
    """Seen: 1 MB of numbers of 1,000 digits took over a second, in which nobody else was served."""
    numbers = b",".join([b"7" * 1000] * 60_000) + b"," + b"7" * 1001
    with (
        serve("--clientframe=json", "--maxmsg", "64M", "cat") as server,
        RawClient.connect(server) as client,
    ):
        client.send_bytes(encode_client_frame(TEXT, b'{"n":[' + numbers + b"]}"))
        assert echo(client, '{"n":1}').endswith('"n":1}')
        server.wait_log("a number of 1001 digits; 1000 is the most")


# ==== 4. JSON framing, to clients =========================================


@pytest.fixture(scope="module")
def routing() -> Iterator[ServerProcess]:
    """A server whose child sends back what clients send, to whom they say."""
    with serve("--serverframe=json", "--joinmsg", "#ID", "cat") as server:
        yield server


@pytest.fixture
def three(routing: ServerProcess) -> Iterator[tuple[list[RawClient], list[int]]]:
    """Three clients of one room, and their IDs."""
    with ExitStack() as stack:
        clients: list[RawClient] = []
        ids: list[int] = []
        for _ in range(3):
            client = stack.enter_context(RawClient.connect(routing, "three"))
            ids.append(int(client.receive_text()))
            for earlier in clients:
                earlier.receive_text()
            clients.append(client)
        yield clients, ids
        for client in clients:
            if client.sock.fileno() >= 0:
                client.close()


def test_to_is_an_id_a_list_or_null(three: tuple[list[RawClient], list[int]]) -> None:
    clients, (one, two, last) = three
    expected: list[tuple[object, set[int]]] = [
        (one, {0}),
        (last, {2}),
        ([one, last], {0, 2}),
        ([two, two], {1}),
        ([], set()),
        (987654, set()),
        ([987654, two], {1}),
        (None, {0, 1, 2}),
    ]
    for to, recipients in expected:
        text = json.dumps({"t": "x", "_to": to})
        clients[0].send_text(text)
        clients[0].send_text("end")
        for index, client in enumerate(clients):
            if index in recipients:
                assert client.receive_text() == text
            assert client.receive_text() == "end", (to, index)


def test_except_is_an_id_or_a_list(three: tuple[list[RawClient], list[int]]) -> None:
    clients, (one, two, last) = three
    expected: list[tuple[dict[str, object], set[int]]] = [
        ({"_except": one}, {1, 2}),
        ({"_except": [one, last]}, {1}),
        ({"_except": []}, {0, 1, 2}),
        ({"_except": None}, {0, 1, 2}),
        ({"_to": [one, two], "_except": two}, {0}),
        ({"_to": two, "_except": [two]}, set()),
    ]
    for fields, recipients in expected:
        text = json.dumps({"t": "x", **fields})
        clients[0].send_text(text)
        clients[0].send_text("end")
        for index, client in enumerate(clients):
            if index in recipients:
                assert client.receive_text() == text
            assert client.receive_text() == "end", (fields, index)


def test_lines_that_are_no_json_object_go_to_everyone(
    three: tuple[list[RawClient], list[int]],
) -> None:
    clients, _ = three
    for text in ("plain", "", "[1,2]", "use _to", '{"a":1', '"\\u005ffro"', '{"a":{"_to":1}}'):
        clients[0].send_text(text)
        assert [client.receive_text() for client in clients] == [text] * 3


def test_an_escaped_to_is_a_to(three: tuple[list[RawClient], list[int]]) -> None:
    clients, ids = three
    text = rf'{{"_\u0074\u006F":{ids[1]}}}'
    clients[0].send_text(text)
    clients[0].send_text("end")
    assert clients[1].receive_text() == text
    assert [client.receive_text() for client in clients] == ["end"] * 3


@pytest.mark.parametrize("extra", ['"n":' + "1" * 5000, '"n":1e999', '"n":[[[[[]]]]]'])
def test_a_private_message_stays_private_whatever_else_is_in_it(
    three: tuple[list[RawClient], list[int]], extra: str
) -> None:
    clients, ids = three
    text = f'{{"_to":{ids[2]},{extra}}}'
    clients[0].send_text(text)
    clients[0].send_text("end")
    assert clients[2].receive_text() == text
    assert [client.receive_text() for client in clients] == ["end"] * 3


@pytest.mark.parametrize("wrong", ['"a"', "true", "1.5", '{"a":1}', "[1,null]", '["a"]'])
def test_a_to_that_is_no_id_is_not_sent_to_anybody(
    routing: ServerProcess, three: tuple[list[RawClient], list[int]], wrong: str
) -> None:
    clients, _ = three
    clients[0].send_text(f'{{"t":"secret","_to":{wrong}}}')
    clients[0].send_text("end")
    assert [client.receive_text() for client in clients] == ["end"] * 3
    routing.wait_log(r"\[WARN\].*_to")


def test_close_ends_a_client_after_the_message_before_it(
    three: tuple[list[RawClient], list[int]],
) -> None:
    clients, ids = three
    kicker, kicked, other = clients
    kicker.send_bytes(
        encode_client_frames(
            [
                json.dumps({"t": "last", "_to": ids[1]}),
                json.dumps({"_to": ids[1], "_close": {"code": 4001, "reason": "cheated"}}),
                "after",
            ]
        )
    )
    assert kicked.receive_json() == {"t": "last", "_to": ids[1]}
    with pytest.raises(Closed) as closed:
        kicked.receive_message()
    assert (closed.value.code, closed.value.reason) == (4001, "cheated")
    assert [kicker.receive_text(), other.receive_text()] == ["after", "after"]
    assert_silent(kicker, other)


def test_close_true_is_1000_and_takes_lists_and_except(
    three: tuple[list[RawClient], list[int]],
) -> None:
    clients, ids = three
    clients[0].send_json({"_to": [ids[1], 987654], "_close": True})
    assert clients[1].wait_close() == (1000, "")
    clients[0].send_json({"_except": ids[0], "_close": True})
    assert clients[2].wait_close() == (1000, "")
    assert echo(clients[0], "alone") == "alone"


def test_a_close_code_may_be_a_float_as_ids_may(three: tuple[list[RawClient], list[int]]) -> None:
    """Some languages have no other numbers."""
    clients, ids = three
    clients[0].send_json({"_to": float(ids[1]), "_close": {"code": 4001.0, "reason": "lua"}})
    assert clients[1].wait_close() == (4001, "lua")


def test_close_without_to_ends_all_and_a_forbidden_code_becomes_1000(
    routing: ServerProcess, three: tuple[list[RawClient], list[int]]
) -> None:
    clients, _ = three
    clients[0].send_json({"_close": {"code": 1006, "reason": "x" * 200}})
    for client in clients:
        code, reason = client.wait_close()
        assert (code, set(reason)) == (1000, {"x"})
    routing.wait_log(r"\[WARN\].*1006")


def test_a_closed_client_is_announced_and_says_nothing_more() -> None:
    with serve("--json", "--clientroute", "cat") as server, RawClient.connect(server) as first:
        assert first.receive_json() == {"t": "Join", "_from": 1}
        with RawClient.connect(server) as second:
            assert second.receive_json() == {"t": "Join", "_from": 2}
            assert first.receive_json() == {"t": "Join", "_from": 2}
            first.send_json({"_to": 2, "_close": True})
            assert second.receive()[0] == CLOSE
            second.send_json({"t": "too late"})
            assert first.receive_json() == {"t": "Leave", "_from": 2}
            assert echo(first, '{"t":"end"}') == '{"_from":1,"t":"end"}'


def test_the_two_directions_are_framed_independently() -> None:
    with serve("--clientframe=json", "cat") as server, ExitStack() as stack:
        clients = [stack.enter_context(RawClient.connect(server)) for _ in range(2)]
        clients[0].send_json({"_to": 2})
        assert [c.receive_text() for c in clients] == ['{"_from":1,"_to": 2}'] * 2
    with serve("--serverframe=json", "cat") as server, ExitStack() as stack:
        clients = [stack.enter_context(RawClient.connect(server)) for _ in range(2)]
        clients[0].send_text('{"_to": 2}')
        assert clients[1].receive_text() == '{"_to": 2}'
        clients[0].send_text("no JSON")
        assert [c.receive_text() for c in clients] == ["no JSON"] * 2


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (["--joinmsg", '{"t":"Join","id":#ID}'], "id"),
        (["--joinmsg", '{ "id" : "#ID" }'], "id"),
        (["--idfield", "who", "--joinmsg", '{"id":#ID}'], "who"),
    ],
)
def test_one_field_both_ways_as_in_the_first_generation(options: list[str], field: str) -> None:
    with serve("--frame", *options, "cat") as server, ExitStack() as stack:
        first, second = (stack.enter_context(RawClient.connect(server)) for _ in "12")
        # What a client sends is tagged with itself, and so comes back to it alone.
        second.send_json({field: 1, "x": 0})
        first.send_json({"_to": 2, "_from": 3})
        expected = [{field: 1, "_to": 2, "_from": 3}, {field: 2, "x": 0}]
        for client, mine in zip((first, second), expected, strict=True):
            messages = [client.receive_json()]
            while messages[-1] != mine:
                messages.append(client.receive_json())
            # All that came before were the join messages.
            assert len(messages) <= 3
            assert not any(other in messages for other in expected if other != mine)
        assert_silent(first, second)


# ==== 5. gwsocket framing =================================================

# Reads the strict mode's messages, and says in JSON what it read; then does what it is told:
# `ID TYPE TEXT` is sent with these numbers in its header, byte by byte.
GWSOCKET_CHILD = """\
import json, struct, sys, time

def read_message():
    header = sys.stdin.buffer.read(12)
    if len(header) < 12:
        sys.exit()
    client, kind, length = struct.unpack("!III", header)
    return client, kind, sys.stdin.buffer.read(length)

def write_message(client, kind, payload, slowly=False):
    data = struct.pack("!III", client, kind, len(payload)) + payload
    for piece in [data[i:i + 1] for i in range(len(data))] if slowly else [data]:
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        time.sleep(0.001 if slowly else 0)

while True:
    client, kind, payload = read_message()
    write_message(client, 1, json.dumps([client, kind, payload.hex()]).encode())
    words = payload.split(b" ", 2)
    if len(words) == 3:
        write_message(int(words[0]), int(words[1]), words[2], slowly=True)
"""


def test_gwsocket_framing_in_both_directions(tmp_path: Path) -> None:
    child = write_program(tmp_path, GWSOCKET_CHILD)
    options = ("--frame=gwsocket", "--joinmsg", "join #ID", "--leavemsg", "leave #ID")
    with serve(*options, child) as server, ExitStack() as stack:
        clients = []
        for number in (1, 2):
            client = stack.enter_context(RawClient.connect(server))
            assert client.receive_json() == [number, 1, f"join {number}".encode().hex()]
            clients.append(client)
        first, second = clients

        first.send_binary(b"\x00\xff\n")
        assert first.receive_json() == [1, 2, "00ff0a"]
        first.send_text("é\nnext line")
        assert first.receive_json() == [1, 1, "é\nnext line".encode().hex()]
        first.send_text("")
        assert first.receive_json() == [1, 1, ""]

        first.send_text("2 2 for the second, with a\nnewline")
        first.receive_text()
        assert second.receive_message() == (BINARY, b"for the second, with a\nnewline")
        first.send_text("2 1 text")
        first.receive_text()
        assert second.receive_message() == (TEXT, b"text")
        first.send_text("0 2 for all")
        first.receive_text()
        for client in clients:
            assert client.receive_message() == (BINARY, b"for all")
        first.send_text("987654 1 for nobody")
        first.receive_text()
        first.send_text("0 1 é")
        first.receive_text()
        assert [client.receive_text() for client in clients] == ["é", "é"]
        second.close()


def test_gwsocket_takes_many_messages_and_large_ones(tmp_path: Path) -> None:
    child = write_program(
        tmp_path,
        "import struct, sys\n"
        "messages = [b'%d' % n for n in range(1000)] + [b'x' * 300_000] * 3 + [b'']\n"
        "sys.stdout.buffer.write(b''.join(struct.pack('!III', 0, 2, len(m)) + m "
        "for m in messages))\n",
    )
    with serve("--serverframe=gwsocket", child) as server, RawClient.connect(server) as client:
        expected = [b"%d" % n for n in range(1000)] + [b"x" * 300_000] * 3 + [b""]
        assert client.receive_many(1004) == expected
        assert client.wait_close()[0] == 1000


def test_a_gwsocket_header_that_cannot_be_one_ends_the_room(tmp_path: Path) -> None:
    program = (
        "import os, struct, sys\n"
        "header = struct.pack('!III', *map(int, os.environ['ROOM'].split()))\n"
        "good = struct.pack('!III', 0, 1, 2) + b'ok'\n"
        "sys.stdout.buffer.write(good + header)\n"
        "sys.stdout.flush()\n"
        "sys.stdin.read()\n"
    )
    with serve("--frame=gwsocket", write_program(tmp_path, program)) as server:
        for header in ("0 3 5", "0 0 5", "0 1 4294967295", "0 16777216 0"):
            with RawClient.connect(server, header.replace(" ", "%20")) as client:
                assert client.receive_text() == "ok"
                code, reason = client.wait_close()
                assert code == 1011
                assert "gwsocket" in reason


def test_one_direction_of_gwsocket_goes_with_lines_in_the_other(tmp_path: Path) -> None:
    program = "import sys\nwhile data := sys.stdin.buffer.read(14):\n    print(data.hex())\n"
    with serve("--clientframe=gwsocket", write_program(tmp_path, program)) as server:
        with RawClient.connect(server) as client:
            client.send_text("hi")
            client.send_binary(b"\xff\n")
            assert client.receive_text() == "0000000100000001000000026869"
            assert client.receive_text() == "000000010000000200000002ff0a"
    program = (
        "import struct, sys\nfor line in sys.stdin.buffer:\n"
        "    sys.stdout.buffer.write(struct.pack('!III', 0, 2, len(line)) + line)\n"
        "    sys.stdout.flush()\n"
    )
    with serve("--serverframe=gwsocket", write_program(tmp_path, program)) as server:
        with RawClient.connect(server) as client:
            client.send_text("hi")
            assert client.receive_binary() == b"hi\n"


# ==== 6. History ==========================================================


@pytest.mark.parametrize(
    ("cache", "kept"),
    [("1", ["5"]), ("all:3", ["3", "4", "5"]), ("8", ["1", "2", "3", "4", "5"])],
)
def test_a_newcomer_gets_the_last_messages(cache: str, kept: list[str]) -> None:
    with serve("--cache", cache, "cat") as server, RawClient.connect(server) as first:
        for number in "12345":
            assert echo(first, number) == number
        with RawClient.connect(server) as second:
            assert [second.receive_text() for _ in kept] == kept
            assert echo(second, "new") == "new"
            assert first.receive_text() == "new", "the history goes to the newcomer only"


def test_only_tagged_messages_are_kept_and_none_that_was_for_somebody() -> None:
    lines = [
        '{"n":1,"_cache":true}',
        '{"n":2}',
        '{"n":3,"_cache":false}',
        '{"n":4,"_cache":true,"_to":1}',
        "plain",
        '{"n":5,"_cache":1}',
        r'{"n":6,"\u005fcache":true}',
        '{"n":7,"_cache":true,"_to":null}',
    ]
    with serve("--serverframe=json", "--cache=tagged:8", "cat") as server:
        with RawClient.connect(server) as first:
            assert [echo(first, line) for line in lines] == lines
            with RawClient.connect(server) as second:
                assert [second.receive_text() for _ in range(3)] == [lines[0], lines[6], lines[7]]
                assert echo(second, "end") == "end"


def test_with_all_every_broadcast_is_kept_and_no_private_message_or_metadata() -> None:
    with serve("--serverframe=json", "--cache=all:8", "cat") as server:
        with RawClient.connect(server) as first:
            first.send_text('{"_meta":true,"x":1}')
            assert echo(first, '{"_to":1}') == '{"_to":1}'
            assert echo(first, '{"n":1}') == '{"n":1}'
            with RawClient.connect(server) as second:
                assert second.receive_text() == '{"n":1}'
                assert echo(second, "end") == "end"


def test_history_goes_with_the_room_unless_it_is_to_persist() -> None:
    for options, kept in (([], []), (["--cachepersist"], ["old"])):
        with serve("--cache", "8", *options, *shell("exec cat")) as server:
            for room, texts in (("a", []), ("a", kept), ("b", []), ("a", kept * 2)):
                with RawClient.connect(server, room) as client:
                    assert [client.receive_text() for _ in texts] == texts
                    assert echo(client, "old") == "old"
                    client.close()
                wait_until(lambda s=server: not s.children())


def test_binary_history_is_replayed_as_binary() -> None:
    with serve("--cache", "8", "--binary", "cat") as server, RawClient.connect(server) as first:
        first.send_binary(b"\x00\xff")
        assert first.receive_binary() == b"\x00\xff"
        with RawClient.connect(server) as second:
            assert second.receive_binary() == b"\x00\xff"


def test_no_gap_and_no_repeat_between_history_and_what_follows() -> None:
    counting = "i=0; while echo $i; do i=$((i+1)); done"
    with serve("--cache", "64", "--linger", "60", *shell(counting)) as server:
        firsts = []
        for _ in range(40):
            with RawClient.connect(server) as client:
                numbers = [int(payload) for payload in client.receive_many(150)]
                assert numbers == list(range(numbers[0], numbers[0] + 150))
                firsts.append(numbers[0])
                client.reset()
        assert firsts == sorted(set(firsts)), "the child went on between the clients"


# ==== 7. Metadata and the API =============================================


def test_metadata_is_in_the_api_and_not_forwarded() -> None:
    with serve("--serverframe=json", "--api", "cat") as server, ExitStack() as stack:
        assert api(server, "rooms/") == []
        clients = [stack.enter_context(RawClient.connect(server, "a")) for _ in range(2)]
        stack.enter_context(RawClient.connect(server, "b"))
        clients[0].send_text('{"_meta":true,"mode":"race","left":3}')
        assert [echo(clients[0], "end"), clients[1].receive_text()] == ["end", "end"]
        room = {"name": "a", "connections": 2, "metadata": {"mode": "race", "left": 3}}
        assert api(server, "a/") == room
        assert api(server, "a/metadata") == {"mode": "race", "left": 3}
        assert api(server, "a/connections") == 2
        other = {"name": "b", "connections": 1, "metadata": None}
        assert api(server, "rooms/") == [room, other]
        clients[0].send_text('{"_meta":true,"mode":"over"}')
        assert echo(clients[0], '{"_meta":"x"}') == '{"_meta":"x"}'
        assert api(server, "a/metadata") == {"mode": "over"}


def test_the_api_counts_a_client_out_when_it_has_left() -> None:
    with serve("--api", "cat") as server, RawClient.connect(server, "a") as first:
        second = RawClient.connect(server, "a")
        assert echo(second, "hello") == "hello"
        assert api(server, "a/connections") == 2
        second.reset()
        wait_until(lambda: api(server, "a/connections") == 1)
        first.close()
        wait_until(lambda: api(server, "rooms/") == [])
        assert http_request(server, path="/api/a/").status == 404


# ==== 8. Bytes and delimiters =============================================


def test_binary_takes_text_and_bytes_as_they_are() -> None:
    with serve("--binary", *shell("head -c 9; exec cat")) as server:
        with RawClient.connect(server) as client:
            client.send_text("text")
            client.send_binary(b"\nbyte")
            found = b""
            while len(found) < 9:
                found += client.receive_binary()
            assert found == b"text\nbyte"


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        (["--delimiters=;"], ["a", "b,c\nd\0e", "f\r\n"]),
        (["--delimiters=;,"], ["a", "b", "c\nd\0e", "f\r\n"]),
        (["--null"], ["a;b,c\nd", "e;f\r\n"]),
        (["--null", "--delimiters=\n"], ["a;b,c", "d", "e;f"]),
        (["--delimiters=\n;"], ["a", "b,c", "d\0e", "f"]),
        ([], ["a;b,c", "d\0e;f"]),
    ],
)
def test_any_of_the_delimiters_ends_a_message(options: list[str], messages: list[str]) -> None:
    script = r"printf 'a;b,c\nd\0e;f\r\n'"
    with serve(*options, *shell(script)) as server, RawClient.connect(server) as client:
        assert [client.receive_text() for _ in messages] == messages
        assert client.wait_close()[0] == 1000


def test_output_that_is_not_utf8_is_repaired_and_reported() -> None:
    script = r"printf 'caf\351\nfine\n'; exec cat"
    with serve("--metrics", *shell(script)) as server, RawClient.connect(server) as client:
        assert client.receive_text() == "caf\ufffd"
        assert client.receive_text() == "fine"
        assert metric(server, "messages_dropped_total") == 1
        server.wait_log(r"\[WARN\].*UTF-8")


# ==== 9. Limits ===========================================================


def test_oneshot_serves_one_client_and_exits_with_0() -> None:
    with serve("--oneshot", "cat") as server:
        with RawClient.connect(server) as client:
            with pytest.raises(HandshakeRefused) as refused:
                RawClient.connect(server)
            assert refused.value.status == 503
            assert echo(client, "mine") == "mine"
            client.close()
        assert server.wait() == 0


def test_the_first_signal_while_it_ends_by_itself_is_no_second_one() -> None:
    """With --oneshot the program was killed, and the exit status 1, if ^C came as it ended."""
    code = """
import signal, scalesocket

server = scalesocket.Server(scalesocket.parse_command_line(["--oneshot", "cat"]))
scalesocket.handle_signals(server)
server.stop()  # as --oneshot does
signal.raise_signal(signal.SIGTERM)
print("patient", flush=True)
try:
    signal.raise_signal(signal.SIGINT)  # the same one would be its echo
except KeyboardInterrupt:
    print("cut short", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("patient\ncut short\n", "")


def test_oneshot_does_not_end_with_a_tunnel_of_the_console() -> None:
    with serve("--oneshot", "--console", "cat") as server, RawClient.connect(server) as client:
        assert echo(client, "mine") == "mine"
        origin = {"Origin": server.http().rstrip("/")}
        RawClient.connect(server, path="/console/tunnel", headers=origin).close()
        for _ in range(100):
            assert echo(client, "still mine") == "still mine"
        client.close()
        assert server.wait() == 0


def test_oneshot_ends_when_its_child_does() -> None:
    with serve("--oneshot", *shell("echo done")) as server:
        with RawClient.connect(server) as client:
            assert client.receive_text() == "done"
            assert client.wait_close()[0] == 1000
        assert server.wait() == 0


def test_oneshot_is_not_used_up_by_plain_http_or_a_bad_handshake() -> None:
    with serve("--oneshot", "cat") as server:
        assert http_request(server, path="/health").status == 200
        for path in ("/api", "/a/b"):
            with pytest.raises(HandshakeRefused):
                RawClient.connect(server, path=path)
        with RawClient.connect(server) as client:
            assert echo(client, "mine") == "mine"
            client.reset()
        assert server.wait() == 0


def test_the_place_of_a_room_is_free_as_soon_as_its_last_client_has_left() -> None:
    with serve("--maxrooms", "1", "cat") as server:
        with RawClient.connect(server, "other") as client:
            assert echo(client, "x") == "x"
            for _ in range(2):
                with RawClient.connect(server, "more") as refused:
                    code, reason = refused.wait_close()
                    assert code == 1013
                    assert "1 at most" in reason
            with RawClient.connect(server, "other") as same:
                assert echo(same, "y") == "y"
                same.close()
            client.close()
        for number in range(20):
            with RawClient.connect(server, f"room{number}") as client:
                assert echo(client, "mine") == "mine"
                client.close()


def test_the_place_is_free_too_when_the_child_ignores_that_its_input_ends() -> None:
    deaf = "trap '' INT TERM; echo up; while :; do sleep 0.05; done"
    with serve("--maxrooms", "1", "--closegrace", "0", *shell(deaf)) as server:
        for number in range(2):
            with RawClient.connect(server, f"room{number}") as client:
                assert client.receive_text() == "up"
                client.close()


def test_a_refused_client_is_hung_up_on_at_once() -> None:
    lasting = with_constants(CLOSE_TIMEOUT=3 * PATIENCE)
    with (
        serve("--maxclients", "1", "cat", command=lasting) as server,
        RawClient.connect(server) as first,
    ):
        assert echo(first, "x") == "x"
        with RawClient.connect(server) as refused:
            assert refused.wait_close()[0] == 1013


def test_maxclients_is_for_each_room() -> None:
    with serve("--maxclients", "2", "cat") as server, ExitStack() as stack:
        first, second = (stack.enter_context(RawClient.connect(server, "a")) for _ in range(2))
        stack.enter_context(RawClient.connect(server, "b"))
        with RawClient.connect(server, "a") as third:
            code, reason = third.wait_close()
            assert code == 1013
            assert "2" in reason
        for _ in range(20):
            second.close()
            second = stack.enter_context(RawClient.connect(server, "a"))
            assert echo(second, "x") == "x"
            assert first.receive_text() == "x"


def test_a_message_over_the_limit_is_closed_with_its_size_and_the_limit() -> None:
    with serve("--maxmsg", "1K", "cat") as server:
        with RawClient.connect(server) as client:
            assert echo(client, "x" * 1024) == "x" * 1024
            client.send_text("x" * 1025)
            code, reason = client.wait_close()
            assert code == 1009
            assert "1025" in reason
            assert "1024" in reason
        with RawClient.connect(server) as client:
            client.send_frame(TEXT, b"x" * 1000, fin=False)
            client.send_frame(CONTINUATION, b"x" * 24, fin=False)
            client.send_frame(CONTINUATION, b"")
            assert client.receive_text() == "x" * 1024
            client.send_frame(BINARY, b"x" * 1000, fin=False)
            client.send_frame(CONTINUATION, b"x" * 25, fin=False)
            code, reason = client.wait_close()
            assert code == 1009
            assert "1025" in reason
            assert "1024" in reason


# ==== 10. How rooms end ===================================================


def test_the_child_of_an_emptied_room_reads_the_end_of_its_input() -> None:
    with serve(*shell("cat; echo saw the end >&2")) as server:
        with RawClient.connect(server) as client:
            assert echo(client, "x") == "x"
            client.close()
        server.wait_log("saw the end")


def test_a_lingering_room_keeps_its_child_for_a_while() -> None:
    with serve("--linger", "3", "--api", *shell("while read x; do echo $$; done")) as server:
        pids = []
        for _ in range(3):
            with RawClient.connect(server) as client:
                pids.append(echo(client, "who?"))
                client.close()
        assert len(set(pids)) == 1
        assert server.children() == [int(pids[0])]
        wait_until(lambda: not server.children())
        assert api(server, "rooms/") == []
        with RawClient.connect(server) as client:
            assert echo(client, "who?") != pids[0]


def test_however_often_a_lingering_room_is_left_one_timed_call_waits_for_its_end() -> None:
    """Each who came and went left one behind, for all of --linger."""
    timer = Poller("timer")  # which does not run
    registry = RoomRegistry(Config(game=Game, linger=3600), timer)
    request = Request("GET", "/den", "HTTP/1.1", Headers())
    peer = ("192.0.2.1", 1)
    for number in range(5):
        client = Client(number, "den", request, Mock(), peer=peer, local=peer)
        room = registry.join(client)
        room.leave(client, Closing(CloseCode.ABNORMAL, "", failed=False))
        assert len(timer._calls) == 1
    registry.end_all(CloseCode.NORMAL, "")
    assert registry.wait_until_idle(PATIENCE)


def test_who_comes_and_goes_while_a_hook_hangs_adds_up_to_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each left some 5 KB in the inbox, without end."""
    monkeypatch.setattr(scalesocket, "MAX_DEPARTED", 50)
    go_on = threading.Event()

    class Hanging(Game):
        def on_join(self, client: Client) -> None:
            assert go_on.wait(PATIENCE)

    registry = RoomRegistry(Config(game=Hanging), Poller("timer"))
    request, peer = Request("GET", "/den", "HTTP/1.1", Headers()), ("192.0.2.1", 1)

    def make_client(number: int) -> Client:
        return Client(number, "den", request, Mock(), peer=peer, local=peer)

    room = registry.join(make_client(0))
    wait_until(lambda: not room.inbox.events)  # its hook hangs
    for number in range(1, 51):
        registry.join(client := make_client(number))
        room.leave(client, Closing(CloseCode.ABNORMAL, "", failed=False))
    with pytest.raises(ConnectionClosed, match="does not get on") as refused:
        registry.join(make_client(51))
    assert refused.value.code == CloseCode.TRY_AGAIN_LATER
    go_on.set()
    wait_until(lambda: not room.inbox.events)
    assert registry.join(make_client(52)) is room
    registry.end_all(CloseCode.NORMAL, "")
    assert registry.wait_until_idle(PATIENCE)


def test_a_lingering_room_waits_from_the_last_leave_on() -> None:
    with serve("--linger", "2", *shell("while read x; do echo $$; done")) as server:
        with RawClient.connect(server) as first:
            pid = echo(first, "who?")
            first.close()
        with RawClient.connect(server) as second:
            # Longer than the first leave's two seconds; the child's own clock says so.
            with pytest.raises(TimeoutError):
                second.receive(2.5)
            assert echo(second, "who?") == pid


def test_respawn_starts_the_child_again_and_tells_it_who_is_there() -> None:
    script = "read a; read b; echo got $a $b; read c; exit 3"
    options = ("--respawn", "--joinmsg", "join#ID", "--leavemsg", "leave#ID")
    with serve(*options, *shell(script)) as server, RawClient.connect(server) as first:
        with RawClient.connect(server) as second:
            for client in (first, second):
                assert client.receive_text() == "got join1 join2"
            for _ in range(2):
                first.send_text("end")
                for client in (first, second):
                    assert client.receive_text() == "got join1 join2"
            second.close()
        # "leave2" ends that child; the next is told of the first alone, and waits for a line.
        wait_until(lambda: sum("status 3" in line for line in server.log()) == 3)
        first.send_text("hello")
        assert first.receive_text() == "got join1 hello"


@pytest.mark.parametrize("is_back", [True, False])
def test_a_program_that_is_being_replaced_is_started_again_when_it_is_there(
    tmp_path: Path, is_back: bool
) -> None:
    """One try that failed ended the room, with all who were in it."""
    program, other = tmp_path / "program", tmp_path / "other"
    program.write_text("#!/bin/sh\necho one\nread line\n")
    program.chmod(0o755)
    command = with_constants("scalesocket.net.patience", RESPAWN_LAST=1e9 if is_back else 0.5)
    with (
        serve("--respawn", str(program), command=command) as server,
        RawClient.connect(server) as client,
    ):
        assert client.receive_text() == "one"
        program.rename(other)
        client.send_text("end")
        server.wait_log("cannot start .*program: No such file or directory")
        if is_back:
            client.send_text("for the next one")
            other.write_text("#!/bin/sh\nread line\necho $line\nread line\n")
            other.rename(program)
            assert client.receive_text() == "for the next one"
        else:
            assert client.wait_close()[0] == 1011


def test_respawn_waits_longer_each_time() -> None:
    with serve("--respawn", *shell("date +%s.%N")) as server, RawClient.connect(server) as client:
        times = [float(client.receive_text()) for _ in range(5)]
        gaps = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
        for gap, least in zip(gaps, (0.1, 0.2, 0.4, 0.8), strict=True):
            assert gap > least * 0.95
        client.close()
        wait_until(lambda: not server.children())


def test_passstderr_sends_both_streams_by_name() -> None:
    script = r"""echo 'oh "no"' >&2; read line; echo é; exec cat"""
    with serve("--passstderr", *shell(script)) as server, RawClient.connect(server) as client:
        assert client.receive_json() == {"stream": "stderr", "data": 'oh "no"'}
        client.send_text("now the other one")
        assert client.receive_json() == {"stream": "stdout", "data": "é"}
        assert json.loads(echo(client, "in")) == {"stream": "stdout", "data": "in"}
        server.wait_log('stderr: oh "no"')  # an operator who lets players see it wants it, too


def test_stderr_is_logged_with_its_room() -> None:
    script = r"printf 'one\ntwo' >&2; exec 2>&-; exec cat"
    with serve(*shell(script)) as server, RawClient.connect(server, "hall") as client:
        assert echo(client, "x") == "x"
        assert "room=hall" in server.wait_log("one.*")[0]
        assert "room=hall" in server.wait_log("two.*")[0]


def test_what_a_child_printed_before_it_exited_all_comes_before_the_close() -> None:
    script = "seq 20000; printf last"
    with serve(*shell(script)) as server, RawClient.connect(server) as client:
        expected = [b"%d" % n for n in range(1, 20001)] + [b"last"]
        assert client.receive_many(20001) == expected
        assert client.wait_close()[0] == 1000


def test_a_child_that_ends_closes_all_its_clients() -> None:
    script = 'read line; echo x; [ "$ROOM" = killed ] && kill -9 $$; exit $ROOM'
    with serve("--api", *shell(script)) as server:
        for room, code, words in (("0", 1000, ""), ("3", 1011, "3"), ("killed", 1011, "signal 9")):
            with ExitStack() as stack:
                clients = [stack.enter_context(RawClient.connect(server, room)) for _ in range(3)]
                assert api(server, f"{room}/connections") == 3
                clients[0].send_text("go")
                for client in clients:
                    assert client.receive_text() == "x"
                    got, reason = client.wait_close()
                    assert got == code
                    assert words in reason
                with RawClient.connect(server, room) as fresh:
                    assert echo(fresh, "go") == "x"


def test_a_child_that_leaves_children_of_its_own_behind_does_not_hold_the_room() -> None:
    script = "sleep 1000 & echo bye; exit 0"
    with serve(*shell(script)) as server, RawClient.connect(server) as client:
        assert client.receive_text() == "bye"
        assert client.wait_close()[0] == 1000
        wait_until(lambda: not server.survivors(), message="the sleep is still there")


def test_a_target_that_does_not_exist_is_one_clear_line(tmp_path: Path) -> None:
    done = run_cli("no-such-program", cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "no-such-program" in line


def test_a_program_that_has_been_removed_ends_its_rooms_only(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nexec cat\n")
    program.chmod(0o755)
    with serve(str(program)) as server, RawClient.connect(server, "old") as old:
        assert echo(old, "x") == "x"
        program.unlink()
        with RawClient.connect(server, "new") as client:
            code, reason = client.wait_close()
            assert code == 1011
            assert "program" in reason
        assert echo(old, "y") == "y"
        program.write_text("#!/nowhere/interpreter\n")
        program.chmod(0o755)
        with RawClient.connect(server, "new") as client:
            assert client.wait_close()[0] == 1011


def test_a_program_that_crashes_at_its_start_shows_why_in_the_log(tmp_path: Path) -> None:
    child = write_program(tmp_path, "raise RuntimeError('no luck')\n")
    with serve(child, allow_traceback=True) as server, RawClient.connect(server) as client:
        code, reason = client.wait_close()
        assert code == 1011
        assert "status 1" in reason
        server.wait_log("RuntimeError: no luck")


# ==== 11. Games in Python =================================================

GAMES = r'''
import json
import sys
import time

import __main__
import scalesocket
from scalesocket import Game


class Echo(Game):
    def on_message(self, client, message):
        client.send(message)


class Relay(Game):
    def on_create(self, room):
        self.room = room

    def on_message(self, client, message):
        self.room.broadcast(message)


class Diary(Game):
    """Tells everybody what has happened so far, hook by hook."""

    def on_create(self, room):
        self.room = room
        self.pages = [f"create {room.id}"]

    def write(self, page):
        self.pages.append(page)
        self.room.broadcast(json.dumps(self.pages))

    def on_join(self, client):
        assert self.room.clients[client.id] is client
        self.write(f"join {client.id}")

    def on_message(self, client, message):
        self.write(f"message {client.id} {message!r}")

    def on_leave(self, client, code):
        assert client.id not in self.room.clients
        self.write(f"leave {client.id} {code}")

    def on_dispose(self):
        sys.stderr.write("|".join(["disposed:", *self.pages]) + "\n")


class Obedient(Game):
    """Does what a message says: a JSON list of a verb and its arguments."""

    max_clients = 2
    subprotocols = ("moo.v1", "moo.v2")

    def on_create(self, room):
        self.room = room
        self.heard = []

    def on_join(self, client):
        client.data["name"] = client.request.query

    def on_message(self, client, message):
        verb, *arguments = json.loads(message)
        self.heard.append(verb)
        getattr(self, f"do_{verb}")(client, *arguments)

    def do_say(self, client, text):
        self.room.broadcast(f"{client.data['name']}: {text}")

    def do_exclude(self, client):
        self.room.broadcast("not for you", exclude=[client])
        self.room.broadcast(b"bytes for all")

    def do_kick(self, client, code, reason):
        client.send("last words")
        client.close(code, reason)

    def do_close(self, client, code, reason):
        self.room.broadcast("the end")
        self.room.close(code, reason)

    def do_later(self, client):
        self.room.call_later(0.2, lambda: client.send("late"))
        self.room.call_later(0.1, lambda: client.send("soon"))
        self.room.call_later(0.1, lambda: client.send("soon, second"))
        client.send("now")

    def do_raise_later(self, client):
        self.room.call_later(0.05, lambda: 1 / 0)

    def do_raise(self, client):
        client.send("before")
        raise RuntimeError("a bug in the game")

    def do_metadata(self, client, value):
        self.room.metadata = value
        client.send("set")

    def do_modules(self, client):
        same = scalesocket is __main__ and scalesocket.Game is __main__.Game
        client.send(f"{same} {sys.modules['scalesocket'] is __main__}")

    def do_flood(self, client):
        self.room.broadcast(b"x" * 200_000)

    def on_leave(self, client, code):
        self.room.broadcast(f"left with {code}")

    def on_dispose(self):
        sys.stderr.write(" ".join([self.room.id, "heard", *self.heard]) + "\n")


class Clock(Game):
    tick_rate = 20

    def on_create(self, room):
        self.room = room
        self.start = time.monotonic()

    def on_tick(self, dt):
        self.room.broadcast(json.dumps([dt, time.monotonic() - self.start]))

    def on_message(self, client, message):
        time.sleep(float(message))
        client.send("slept")


class Broken(Game):
    def on_create(self, room):
        raise RuntimeError("cannot begin")


class NoGame:
    pass
'''


@pytest.fixture(scope="module")
def games(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a module of games in it."""
    folder = tmp_path_factory.mktemp("games")
    (folder / "parlour.py").write_text(GAMES)
    return folder


@pytest.fixture(scope="module")
def obedient(games: Path) -> Iterator[ServerProcess]:
    """A server that runs `Obedient`, whose games may raise."""
    options = ("--api", "--backlog", "256K", "--ping", "0")
    with serve(*options, "parlour:Obedient", cwd=games, allow_traceback=True) as server:
        yield server


def test_a_game_of_three_lines_echoes_text_and_binary(games: Path) -> None:
    with serve("parlour:Echo", cwd=games) as server, RawClient.connect(server) as client:
        for text in ("hello", "", "two\nlines", "漢字"):
            client.send_text(text)
            assert client.receive_message() == (TEXT, text.encode())
        client.send_binary(b"\x00\xff")
        assert client.receive_message() == (BINARY, b"\x00\xff")
        burst = [b"%d" % number for number in range(5000)]
        client.send_in_background(encode_client_frames(burst))
        assert client.receive_many(5000) == burst
        assert server.children() == []


def test_hooks_come_in_order_each_with_its_client(games: Path) -> None:
    with serve("parlour:Diary", cwd=games) as server, RawClient.connect(server, "hall") as first:
        pages = ["create hall", "join 1"]
        assert first.receive_json() == pages
        endings = {
            3: lambda client: client.close(4001, "bye"),
            4: lambda client: client.close(None),
            5: lambda client: client.reset(),
        }
        with RawClient.connect(server, "other") as other:
            assert other.receive_json() == ["create other", "join 2"], "a game for each room"
        for number, end in endings.items():
            second = RawClient.connect(server, "hall")
            second.send_text("hé")
            second.send_binary(b"\x00")
            pages += [f"join {number}", f"message {number} 'hé'", f"message {number} b'\\x00'"]
            for _ in range(3):
                second.receive_text()
            end(second)
            pages.append(f"leave {number} {({3: 4001, 4: 1005, 5: 1006})[number]}")
            for length in range(len(pages) - 3, len(pages) + 1):
                assert first.receive_json() == pages[:length]
        first.close()
        server.wait_log(re.escape("|".join(["disposed:", *pages, "leave 1 1000"])) + "$")


def test_who_has_been_let_into_a_game_misses_nothing(games: Path) -> None:
    with serve("parlour:Relay", cwd=games) as server:
        assert_nobody_misses_anything(server, 40)


def test_broadcast_may_exclude(obedient: ServerProcess) -> None:
    with (
        RawClient.connect(obedient, path="/exclude?ann") as first,
        RawClient.connect(obedient, path="/exclude?bob") as second,
    ):
        second.send_json(["say", "hi"])
        assert [first.receive_text(), second.receive_text()] == ["bob: hi", "bob: hi"]
        first.send_json(["exclude"])
        assert first.receive_message() == (BINARY, b"bytes for all")
        assert second.receive_text() == "not for you"
        assert second.receive_binary() == b"bytes for all"


def test_a_game_may_close_a_client(obedient: ServerProcess) -> None:
    with RawClient.connect(obedient, path="/kick?ann") as first:
        first.send_json(["say", "first"])
        first.receive_text()
        with RawClient.connect(obedient, path="/kick?bob") as second:
            second.send_json(["kick", 4002, "no cheating"])
            assert second.receive_text() == "last words"
            assert second.wait_close() == (4002, "no cheating")
        assert first.receive_text() == "left with 4002"
        first.send_json(["say", "alone"])
        assert first.receive_text() == "ann: alone"


def test_a_game_may_close_its_room(obedient: ServerProcess) -> None:
    with (
        RawClient.connect(obedient, path="/close?ann") as first,
        RawClient.connect(obedient, path="/close?bob") as second,
        RawClient.connect(obedient, path="/open?eve") as other,
    ):
        for name, client in (("ann", first), ("bob", second)):
            client.send_json(["say", "in"])
            while client.receive_text() != f"{name}: in":
                continue
        assert first.receive_text() == "bob: in"
        first.send_json(["close", 4003, "game over"])
        for client in (first, second):
            assert client.receive_text() == "the end"
            assert client.wait_close() == (4003, "game over")
        other.send_json(["say", "on"])
        assert other.receive_text() == "eve: on"


def test_no_message_reaches_a_game_that_has_closed_its_room(obedient: ServerProcess) -> None:
    with RawClient.connect(obedient, path="/closing?ann") as client:
        orders = [["close", 4003, "game over"], ["say", "too late"], ["raise"]]
        client.send_bytes(encode_client_frames(map(json.dumps, orders)))
        assert client.receive_text() == "the end"
        assert client.wait_close() == (4003, "game over")
    assert obedient.wait_log("^closing heard.*")[0] == "closing heard close"


def test_calls_come_later_in_their_order(obedient: ServerProcess) -> None:
    with RawClient.connect(obedient, "later") as client:
        client.send_json(["later"])
        texts = [client.receive_text() for _ in range(4)]
        assert texts == ["now", "soon", "soon, second", "late"]


@pytest.mark.parametrize("verb", ["raise", "raise_later", "unknown"])
def test_an_exception_ends_its_room_only_and_is_logged(obedient: ServerProcess, verb: str) -> None:
    lines = len(obedient.log())
    with (
        RawClient.connect(obedient, path=f"/{verb}?ann") as client,
        RawClient.connect(obedient, path=f"/not-{verb}?eve") as other,
    ):
        client.send_json([verb])
        if verb == "raise":
            assert client.receive_text() == "before"
        code, reason = client.wait_close()
        assert code == 1011
        assert "failed" in reason
        assert "a bug in the game" not in reason, "what went wrong is for the operator"
        obedient.wait_log("Traceback", since=lines)
        other.send_json(["say", "on"])
        assert other.receive_text() == "eve: on"
        with RawClient.connect(obedient, path=f"/{verb}?bob") as fresh:
            fresh.send_json(["say", "again"])
            assert fresh.receive_text() == "bob: again"


def test_a_client_that_does_not_read_is_closed_and_the_room_goes_on(
    obedient: ServerProcess,
) -> None:
    with (
        RawClient.connect(obedient, path="/flood?ann") as reader,
        RawClient.connect(obedient, path="/flood?bob") as sleeper,
    ):
        sleeper.send_json(["say", "here"])
        assert reader.receive_text() == "bob: here"
        for _ in range(500):
            reader.send_json(["flood"])
            reader.send_json(["say", "more"])
            messages = [reader.receive_message()[1]]
            while messages[-1] != b"ann: more":
                messages.append(reader.receive_message()[1])
            assert b"x" * 200_000 in messages
            if b"left with 1008" in messages:
                break
        reader.send_json(["say", "end"])
        assert reader.receive_text() == "ann: end"
        code, reason = sleeper.wait_close()
        assert code == 1008
        assert "slow" in reason


def test_a_game_has_its_own_limit_of_clients(obedient: ServerProcess) -> None:
    with RawClient.connect(obedient, "full"), RawClient.connect(obedient, "full"):
        wait_until(lambda: api(obedient, "full/connections") == 2)
        with RawClient.connect(obedient, "full") as third:
            code, reason = third.wait_close()
            assert code == 1013
            assert "2" in reason


def test_the_first_subprotocol_of_the_client_that_a_game_speaks_is_chosen(
    obedient: ServerProcess,
) -> None:
    for offered, chosen in (
        (["other", "moo.v2", "moo.v1"], "moo.v2"),
        (["moo.v1"], "moo.v1"),
        (["other", "MOO.V1"], None),
        ([], None),
    ):
        with RawClient.connect(obedient, "subprotocol", subprotocols=offered) as client:
            assert client.subprotocol == chosen


def test_a_game_sets_the_metadata_of_its_room(obedient: ServerProcess) -> None:
    with RawClient.connect(obedient, "meta") as client:
        client.send_json(["metadata", {"mode": ["race", 3]}])
        assert client.receive_text() == "set"
        assert api(obedient, "meta/metadata") == {"mode": ["race", 3]}


def test_a_game_that_imports_scalesocket_gets_the_very_module_that_runs(
    obedient: ServerProcess,
) -> None:
    with RawClient.connect(obedient, "modules") as client:
        client.send_json(["modules"])
        assert client.receive_text() == "True True"


def test_ticks_come_at_their_rate_with_the_time_that_has_passed(games: Path) -> None:
    with serve("parlour:Clock", cwd=games) as server, RawClient.connect(server) as client:
        ticks = [cast("list[float]", client.receive_json()) for _ in range(30)]
        steps = [dt for dt, _ in ticks]
        assert all(0 < dt <= 0.25 for dt in steps)
        for number, (_, now) in enumerate(ticks, 1):
            assert now >= number * 0.05 - 0.01, "a tick is never early"
        # Unless a pause was cut short, the steps add up to the time that has passed. The clock is
        # read a little after the step was measured: on a busy machine not at every tick at once.
        behind = [now - sum(steps[: n + 1]) for n, (_, now) in enumerate(ticks)]
        first, last = min(behind[:15]), min(behind[15:])
        assert first == pytest.approx(last, abs=0.02) or max(steps) == 0.25


def test_after_a_pause_ticks_are_skipped_and_the_step_is_cut(games: Path) -> None:
    with serve("parlour:Clock", cwd=games) as server, RawClient.connect(server) as client:
        before = cast("list[float]", client.receive_json())
        client.send_text("0.8")
        while (text := client.receive_text()) != "slept":
            before = json.loads(text)
        dt, now = cast("list[float]", client.receive_json())
        assert dt == 0.25
        assert now - before[1] >= 0.8
        ticks = [cast("list[float]", client.receive_json()) for _ in range(4)]
        assert ticks[-1][1] - now >= 0.1, "what was missed is not made up for"


def test_a_game_that_cannot_begin_closes_its_room(games: Path) -> None:
    with serve("parlour:Broken", cwd=games, allow_traceback=True) as server:
        for _ in range(2):
            with RawClient.connect(server) as client:
                assert client.wait_close()[0] == 1011
        server.wait_log("RuntimeError: cannot begin")


def test_a_script_may_name_its_game_and_options_in_its_metadata(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("WORD = 'helped'\n")
    script = (
        "# /// script\n# requires-python = '>=3.11'\n#\n# [tool.scalesocket]\n"
        "# game = 'Mine'\n# maxmsg = '1K'\n# ///\n"
        "import helper, scalesocket, __main__\n"
        "class Mine(scalesocket.Game):\n"
        "    def on_message(self, client, message):\n"
        "        client.send(f'{helper.WORD} {message} {scalesocket is __main__}')\n"
    )
    write_program(tmp_path, script, "mine.py")
    with serve("mine.py", cwd=tmp_path) as server, RawClient.connect(server) as client:
        assert echo(client, "hi") == "helped hi True"
        client.send_text("x" * 1025)
        assert client.wait_close()[0] == 1009


def test_what_is_no_game_is_one_clear_line(games: Path) -> None:
    for target in ("parlour:NoGame", "parlour:Missing", "nowhere:Echo"):
        done = run_cli(target, cwd=games)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert target.partition(":")[0] in line
