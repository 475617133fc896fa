"""How many messages a second one client may send (--maxrate): it waits, and nobody else does."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from scalesocket.net.rate import find_rate, limit, split, take_first

import scalesocket
from scalesocket import (
    CloseCode,
    Closing,
    Config,
    ConfigError,
    Event,
    Game,
    Messages,
    Opcode,
    Want,
)
from tests.certificates import Certificates
from tests.net.test_tcplisten import LineClient
from tests.rooms.test_seats import sit
from tests.support import (
    RawClient,
    ServerProcess,
    encode_client_frames,
    http_request,
    serve,
    wait_until,
    with_constants,
)
from tests.wire.test_tls import join as join_securely

pytestmark = pytest.mark.slow  # many servers are started here; --quick leaves them out

ALL_SHARED = with_constants(OWN_READERS=0)
TOLD = ("--clientframe=json", '--joinmsg={"t":"+"}', '--leavemsg={"t":"-"}')


def count_waits(server: ServerProcess) -> int:
    text = http_request(server, path="/metrics").body.decode()
    return int(text.partition("\nscalesocket_rate_waits_total ")[2].split("\n")[0])


def flood(client: RawClient, count: int = 5000) -> None:
    """Send more than may come at once, all of it in the kernel's hands at the end."""
    client.send_bytes(encode_client_frames(f'{{"n":{n}}}' for n in range(count)))


# ==== Rules ===============================================================


def make_run(*payloads: bytes) -> Messages:
    return Messages(Opcode.TEXT, list(payloads), sum(map(len, payloads)))


def test_a_run_is_split_with_no_message_and_no_byte_lost() -> None:
    first, rest = split(make_run(b"a", b"bcd", b"efgh"), 2)
    assert first.payloads + rest.payloads == [b"a", b"bcd", b"efgh"]
    assert len(first.payloads) == 2 and first.size + rest.size == 8


@pytest.mark.parametrize("count", range(6))
def test_what_is_passed_on_and_what_is_kept_are_all_there_was_in_order(count: int) -> None:
    closing = Closing(CloseCode.NORMAL, "", failed=False)
    events: list[Event] = [make_run(b"a", b"b"), make_run(b"c"), closing]
    first, rest, left = take_first(events, count)
    told = [p for e in (*first, *rest) if isinstance(e, Messages) for p in e.payloads]
    passed = sum(len(e.payloads) for e in first if isinstance(e, Messages))
    assert told == [b"a", b"b", b"c"]
    assert passed == min(count, 3) and left == count - passed
    assert (first if count >= 3 else rest)[-1] is closing


def test_who_is_to_wait_when_memory_runs_out_is_not_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody read it any more, so that its end was not heard: it stayed in its room."""
    reader = limit(Config(maxrate=1), Mock())().shared
    session = Mock(want=Want.MESSAGES, held=[])
    session.client.departed = False
    monkeypatch.setattr(reader, "_unwatch", forgotten := Mock())
    monkeypatch.setattr(reader, "call_later", Mock(side_effect=MemoryError))
    with pytest.raises(MemoryError):
        reader._dispatch(session, [make_run(b"one", b"two")], {})
    assert not forgotten.called
    monkeypatch.setattr(reader, "call_later", Mock())
    reader._dispatch(session, [make_run(b"one", b"two")], {})
    assert forgotten.called


def test_who_goes_on_when_memory_runs_out_is_cut_off_as_some_of_it_may_be_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reader = limit(Config(maxrate=1), Mock())().shared
    session = Mock(want=Want.MESSAGES, held=[])
    monkeypatch.setattr(scalesocket.Reader, "start_reading", Mock())
    monkeypatch.setattr(reader, "_dispatch", Mock(side_effect=MemoryError))
    with pytest.raises(MemoryError):
        reader._go_on(session)
    assert session.connection.abort.called


@pytest.mark.parametrize("held", [[], [make_run(b"more")]], ids=["there is room", "it is full"])
def test_who_goes_on_is_read_only_while_its_room_has_room(
    monkeypatch: pytest.MonkeyPatch, held: list[Event]
) -> None:
    reader = limit(Config(maxrate=1), Mock())().shared
    monkeypatch.setattr(scalesocket.Reader, "start_reading", read := Mock())
    monkeypatch.setattr(reader, "_dispatch", Mock())
    reader._go_on(Mock(want=Want.MESSAGES, held=held))
    assert read.called == (not held)


def test_nothing_is_kept_of_who_is_in_a_room_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    reader: Any = limit(Config(maxrate=1), Mock())().shared
    monkeypatch.setattr(scalesocket.Reader, "attend", Mock())
    session = Mock(want=Want.MESSAGES, held=[])
    session.client.departed = False
    monkeypatch.setattr(reader, "_unwatch", Mock())
    monkeypatch.setattr(reader, "call_later", Mock())
    reader._dispatch(session, [make_run(b"one", b"two")], {})
    assert reader._spent and reader._slowed
    reader.attend(session)
    assert not reader._spent and not reader._slowed


class Calm(Game):
    max_rate = 5


@pytest.mark.parametrize(
    ("option", "game", "rate"),
    [(0, None, 0), (9, None, 9), (0, Game, 0), (0, Calm, 5), (9, Calm, 5), (3, Calm, 3)],
)
def test_the_server_and_a_game_may_each_have_a_limit(
    option: int, game: type[Game] | None, rate: int
) -> None:
    assert find_rate(Config(maxrate=option, game=game)) == rate


def test_without_a_limit_readers_are_those_of_the_lone_file() -> None:
    assert scalesocket.Server(Config(game=Game)).readers.kind is scalesocket.Reader
    assert scalesocket.Server(Config(game=Calm)).readers.kind is not scalesocket.Reader


def test_a_lone_file_says_what_a_game_with_a_limit_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scalesocket, "find_feature", lambda name: None)
    with pytest.raises(ConfigError, match="--maxrate"):
        scalesocket.Server(Config(game=Calm))


# ==== Clients =============================================================


def join(server: ServerProcess, how: str, trust: ssl.SSLContext) -> RawClient:
    return join_securely(server, trust, "room") if how == "TLS" else RawClient.connect(server)


@pytest.mark.parametrize("how", ["plain", "TLS"])
@pytest.mark.parametrize("command", [None, ALL_SHARED], ids=["own readers", "a shared reader"])
def test_who_sends_too_much_waits_and_loses_nothing(
    how: str, command: Sequence[str] | None, certs: Certificates
) -> None:
    options = (*(certs.options() if how == "TLS" else ()), "--metrics", "--maxrate", "50", "cat")
    with serve(*options, command=command) as server, ExitStack() as stack:
        talker, friend = (stack.enter_context(join(server, how, certs.trust())) for _ in "ab")
        began = time.monotonic()
        talker.send_bytes(encode_client_frames(map(str, range(150))))
        assert friend.receive_many(150) == [b"%d" % number for number in range(150)]
        assert time.monotonic() - began >= 1.9  # 50 at once, and 100 at the rate
        server.wait_log("sends more than 50 messages a second; it is read no faster")
        if how == "plain":
            assert count_waits(server) == 1


@pytest.mark.parametrize("command", [None, ALL_SHARED], ids=["own readers", "a shared reader"])
def test_nobody_waits_for_one_who_sends_too_much(command: Sequence[str] | None) -> None:
    with serve("--maxrate", "40", "cat", command=command) as server, ExitStack() as stack:
        talker, friend = (stack.enter_context(RawClient.connect(server)) for _ in "ab")
        flood(talker)
        for number in range(40):
            friend.send_text(f"mine {number}")
            while not (text := friend.receive_text()).startswith("mine"):
                assert json.loads(text)["n"] < 4999  # its flood is not over
            assert text == f"mine {number}"
        talker.reset()


def test_who_keeps_to_the_rate_never_waits() -> None:
    with serve("--maxrate", "1000", "--metrics", "cat") as server:
        with RawClient.connect(server) as client:
            for number in range(1500):
                client.send_text(str(number))
                assert client.receive_text() == str(number)
                time.sleep(0.001)
        assert count_waits(server) == 0


def test_lines_of_text_are_messages_too() -> None:
    options = ("--maxrate", "20", "--tcplisten", "127.0.0.1:0", "cat")
    with serve(*options) as server, RawClient.connect(server) as friend:
        with LineClient(server) as client:
            began = time.monotonic()
            client.send("".join(f"{number}\n" for number in range(60)))
            assert friend.receive_many(60) == [b"%d" % number for number in range(60)]
            assert time.monotonic() - began >= 1.9


def test_a_seat_loses_nothing_when_its_connection_is_cut_while_it_waits() -> None:
    """What its room has not got yet was not taken, and so it is sent again."""
    with serve("--maxrate", "10", "--resume", "60", "cat") as server:  # 5 s for all of it
        client, given = sit(server, "room")
        client.send_bytes(encode_client_frames(map(str, range(60))))
        assert client.receive_text() == "0"
        client.reset()
        again, given = sit(server, "room", given["token"], 1)
        taken = given["taken"]
        assert given["resumed"] and 10 <= taken < 60
        again.send_bytes(encode_client_frames(map(str, range(taken, 60))))
        assert again.receive_many(59) == [b"%d" % number for number in range(1, 60)]
        again.close()


# ==== Ends ================================================================


def test_a_farewell_comes_behind_all_that_was_said_before() -> None:
    with serve("--maxrate", "20", *TOLD, "cat") as server:
        with RawClient.connect(server) as witness, RawClient.connect(server) as talker:
            witness.receive_many(2)
            flood(talker, 50)
            talker.send_close(1000)
            heard = witness.receive_many(51)
            assert [json.loads(text).get("n") for text in heard] == [*range(50), None]
            assert talker.wait_close() == (1000, "")


@pytest.mark.parametrize("command", [[], ["OWN_READERS=0"]], ids=["own readers", "a shared one"])
@pytest.mark.parametrize("end", ["reset", "close"])
def test_who_goes_while_he_waits_is_missed_long_before_his_words_are_out(
    end: str, command: list[str]
) -> None:
    values = {"ABANDON_TIMEOUT": 0.0} | ({"OWN_READERS": 0} if command else {})
    options = ("--ping", "4", "--maxrate", "1", *TOLD, "cat")
    with serve(*options, command=with_constants(**values)) as server:
        with RawClient.connect(server) as witness:
            assert "+" in witness.receive_text()
            for _ in range(2):
                talker = RawClient.connect(server)
                assert "+" in witness.receive_text()
                flood(talker)
                talker.reset() if end == "reset" else talker.sock.close()
                while '"-"' not in witness.receive_text():
                    pass
            wait_until(lambda: server.descriptors() < 40)


KICKER = """
import json, sys
for line in sys.stdin:
    end = {"code": 4000, "reason": "enough"}
    print(json.dumps({"_to": json.loads(line)["_from"], "_close": end}), flush=True)
"""


@pytest.mark.parametrize("command", [None, ALL_SHARED], ids=["own readers", "a shared reader"])
def test_who_is_kicked_while_he_waits_is_told(
    command: Sequence[str] | None, tmp_path: Path
) -> None:
    (tmp_path / "kicker.py").write_text(KICKER)
    options = ("--frame=json", "--maxrate", "1", "./kicker.py")
    with serve(*options, cwd=tmp_path, command=command) as server:
        for _ in range(3):
            with RawClient.connect(server) as talker:
                flood(talker, 500)
                assert talker.wait_close() == (4000, "enough")
        wait_until(lambda: server.threads() <= 4)


def test_a_room_that_is_full_and_a_client_that_is_too_fast_wait_for_each_other() -> None:
    """The program begins to read after a second."""
    small = with_constants(INBOX_SIZE=2000, OWN_READERS=1)
    with serve("--maxrate", "500", "sh", "--", "-c", "sleep 1; exec cat", command=small) as server:
        with ExitStack() as stack:
            crowd = [stack.enter_context(RawClient.connect(server)) for _ in range(3)]
            for name, client in enumerate(crowd):
                client.send_in_background(
                    encode_client_frames(f"{name} {n} {'x' * 200}" for n in range(1500))
                )
            for client in crowd:
                heard = [text.split()[:2] for text in client.receive_many(4500)]
                for name in range(3):
                    assert [int(n) for who, n in heard if int(who) == name] == [*range(1500)]


@pytest.mark.parametrize("command", [None, ALL_SHARED], ids=["own readers", "a shared reader"])
def test_a_signal_ends_a_server_whose_clients_wait(command: Sequence[str] | None) -> None:
    with (
        serve("--maxrate", "1", "--metrics", "cat", command=command) as server,
        ExitStack() as stack,
    ):
        for room in "aab":
            flood(stack.enter_context(RawClient.connect(server, room)))
        wait_until(lambda: count_waits(server) == 3)
        assert server.stop() == 0
        assert not any("lost" in line or "did not end" in line for line in server.log())


# ==== Games ===============================================================

COUNTING = """
from scalesocket import Game

class Counting(Game):
    max_rate = 10

    def on_message(self, client, message):
        client.send(message)
"""


def test_a_game_says_how_much_one_client_may_send(tmp_path: Path) -> None:
    (tmp_path / "counting.py").write_text(COUNTING)
    with serve("--metrics", "counting:Counting", cwd=tmp_path) as server:
        with RawClient.connect(server) as client:
            client.send_bytes(encode_client_frames(map(str, range(25))))
            assert client.receive_many(25) == [b"%d" % number for number in range(25)]
            assert count_waits(server) == 1
