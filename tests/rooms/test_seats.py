"""--resume: seats that outlive their connections, with an account of every message."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import re
import socket
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import pytest
from scalesocket.net import seats
from scalesocket.net.per_address import AddressLimits

from scalesocket import (
    PLAIN,
    Client,
    Closing,
    Headers,
    Inbox,
    Messages,
    Request,
    Role,
    WebSocketProtocol,
    encode_frame,
    parse_command_line,
)
from tests.support import (
    FREE,
    PATIENCE,
    PING,
    PONG,
    Address,
    Closed,
    RawClient,
    ServerProcess,
    encode_client_frame,
    http_request,
    open_socket,
    serve,
    wait_until,
    with_constants,
)

TEXT, BINARY = 1, 2
ECHO = """
from scalesocket import Game


class Echo(Game):
    @classmethod
    def on_auth(cls, request):
        return request.query.partition("who=")[2] or True

    def on_create(self, room):
        self.room = room
        self.joined = 0

    def on_join(self, client):
        client.data["at"] = 0
        self.joined += 1

    def on_message(self, client, message):
        if message == "many":
            for number in range(40):
                self.room.broadcast(f"{number}:" + "x" * 1000)
        elif message == "who":
            client.send(f"{self.joined} joined, {len(self.room.clients)} there")
        elif message == "end":
            self.room.close(4321, "it is over")
        elif message == "kick":
            [other.close(4000) for other in self.room.clients.values() if other is not client]
        else:
            client.send(message)

    def on_drop(self, client):
        self.room.broadcast(f"drop {client.id}", exclude=[client])

    def on_resume(self, client):
        self.room.broadcast(f"resume {client.id} {client.restored}", exclude=[client])

    def on_leave(self, client, code):
        self.room.broadcast(f"leave {client.id} {code}")
"""


@pytest.fixture(scope="module")
def game(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("echo")
    (folder / "echo.py").write_text(ECHO)
    return folder


@pytest.fixture(scope="module")
def server(game: Path) -> Iterator[ServerProcess]:
    options = ("--resume", "120", "--backlog", "32K", "--compress", "--api", "--metrics")
    with serve(*options, "--maxclients", "3", "echo:Echo", cwd=game) as server:
        yield server


class Cut(Exception):
    """As many bytes have passed as may."""


class Player:
    """A client that keeps its seat however often it is cut off, and accounts for its messages.

    It says numbers, and hears each of them again.
    """

    def __init__(self, address: Address, room: str, *, extension: str = "") -> None:
        self.address = address
        self.room = room
        self.extension = extension
        self.token = ""
        self.said = 0  # numbers that it has said, from 0 on
        self.heard = 0  # numbers that it has heard
        self.resumed = 0  # how often it was

    def play(self, count: int, out: float = 1e9, into: float = 1e9, *, reset: bool = False) -> bool:
        """Say so many numbers more, and hear all; return False if it was cut off before.

        Args:
            count: how many.
            out, into: after so many bytes of what it sends, or is sent, the connection is cut.
            reset: by a reset.
        """
        self._out, self._into, self._data = out, into, b""
        self._until = self.said + count
        with self.connect() as self._socket:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if reset:
                self._socket.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
            try:
                self._open()
                self._begin()
                while self.said < self._until:
                    self.said += 1
                    self._say(self.said - 1)
                while self.heard < self.said:
                    self._hear()
            except Cut:
                self.said = self._until  # what was not sent will be
                return False
        return True

    def _begin(self) -> None:
        wish: dict[str, object] = {"token": self.token, "seen": self.heard} if self.token else {}
        self._write(self._encode(TEXT, json.dumps({"_seat": wish}).encode()))
        answer = json.loads(self._read_message())["_seat"]
        assert answer["resumed"] == bool(self.token)
        self.resumed += answer["resumed"]
        self.token = answer["token"]
        assert self.heard <= answer["taken"] <= self.said
        for number in range(answer["taken"], self.said):
            self._say(number)

    def _hear(self) -> None:
        assert self._read_message() == self._payload(self.heard)
        self.heard += 1

    @staticmethod
    def _payload(number: int) -> bytes:
        return str(number).encode() + b"." * (number % 7 * 40)

    def connect(self) -> socket.socket:
        return open_socket(self.address)

    # -- WebSocket --

    def _open(self) -> None:
        extension = f"Sec-WebSocket-Extensions: {self.extension}\r\n" if self.extension else ""
        self._write(
            f"GET /{self.room}?_seat HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n{extension}"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        while b"\r\n\r\n" not in self._data:
            self._read_some()
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        assert b" 101 " in head
        assert (b"permessage-deflate" in head) == bool(self.extension)

    def _say(self, number: int) -> None:
        payload, opcode = self._payload(number), (TEXT, BINARY)[number % 2]
        if number % 3:
            self._write(self._encode(opcode, payload))
        else:  # in fragments
            half = len(payload) // 2
            self._write(encode_client_frame(opcode, payload[:half], fin=False))
            self._write(encode_client_frame(0, payload[half:]))

    def _encode(self, opcode: int, payload: bytes) -> bytes:
        if not self.extension:
            return encode_client_frame(opcode, payload)
        packer = zlib.compressobj(wbits=-15)
        packed = packer.compress(payload) + packer.flush(zlib.Z_SYNC_FLUSH)
        return encode_client_frame(opcode, packed[:-4], rsv=4)

    def _read_message(self) -> bytes:
        while True:
            first, second = self._take(2)
            assert first & 0x80 and second < 127
            size = second if second < 126 else int.from_bytes(self._take(2))
            payload = self._take(size)
            if first & 0x0F == 9:
                self._write(encode_client_frame(10, payload))
            elif first & 0x0F == 8:  # a connection that was cut before has been heard late
                assert int.from_bytes(payload[:2]) == 4001
                raise Cut
            elif first & 0x40:
                return zlib.decompressobj(-15).decompress(payload + b"\0\0\xff\xff")
            else:
                return payload

    # -- bytes --

    def _take(self, size: int) -> bytes:
        while len(self._data) < size:
            self._read_some()
        taken, self._data = self._data[:size], self._data[size:]
        return taken

    def _read_some(self) -> None:
        if not self._into:
            raise Cut  # what came before that has been heeded
        data = self._socket.recv(65536)
        assert data, "the server has ended the connection"
        piece = data[: int(min(self._into, len(data)))]
        self._into -= len(piece)
        self._data += piece

    def _write(self, data: bytes) -> None:
        piece = data[: int(min(self._out, len(data)))]
        self._out -= len(piece)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(piece)
        if len(piece) < len(data):
            raise Cut


class LinePlayer(Player):
    """The same with lines of text."""

    def _open(self) -> None:
        self._write(f"{self.room}?_seat\n".encode())

    def _say(self, number: int) -> None:
        self._write(self._payload(number) + b"\n")

    def _encode(self, opcode: int, payload: bytes) -> bytes:
        return payload + b"\n"

    def _read_message(self) -> bytes:
        while b"\n" not in self._data:
            self._read_some()
        line, _, self._data = self._data.partition(b"\n")
        return line


def cut_everywhere(player: Player) -> int:
    """Cut a player off behind every byte, out and in, until a whole game fits; return how often."""
    assert player.play(3)
    cuts = 0
    for direction in ("out", "into"):
        for size in itertools.count(1):
            limit: dict[str, Any] = {direction: size}
            if player.play(3, reset=size % 2 == 0, **limit):
                break
            cuts += 1
            if size % 8 == 0:  # or there would be ever more to say again
                wait_until(lambda: player.play(0))
    wait_until(lambda: player.play(0))
    assert player.heard == player.said
    return cuts


@pytest.mark.slow
@pytest.mark.parametrize("extension", ["", "permessage-deflate"])
def test_cuts_at_every_byte_lose_nothing_and_double_nothing(
    server: ServerProcess, extension: str
) -> None:
    player = Player(server, "cuts" + extension, extension=extension)
    assert cut_everywhere(player) > 600
    assert player.resumed > 200


@pytest.mark.slow
def test_lines_of_text_are_accounted_for_as_well(game: Path) -> None:
    with serve("--resume", "120", "--tcplisten", "127.0.0.1:0", "echo:Echo", cwd=game) as server:
        port = int(server.wait_log(r"lines of text at .* port (\d+)")[1])
        player = LinePlayer(("127.0.0.1", port), "cuts")
        assert cut_everywhere(player) > 150


def test_words_in_the_packet_that_asks_for_a_seat_do_not_show_that_the_answer_came(
    game: Path,
) -> None:
    with serve("--resume", "120", "--tcplisten", "127.0.0.1:0", "echo:Echo", cwd=game) as server:
        port = int(server.wait_log(r"lines of text at .* port (\d+)")[1])

        def ask(wish: object, *words: str) -> dict[str, Any]:
            """Have a seat, and say words in the same packet."""
            lines = ["den?_seat", json.dumps({"_seat": wish}), *words]
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
                sock.sendall("".join(f"{line}\n" for line in lines).encode())
                file = sock.makefile("r")
                answer: dict[str, Any] = json.loads(file.readline())["_seat"]
                for word in words:
                    assert file.readline() == f"{word}\n"
                return answer

        seat = ask({}, "one")
        for number in range(2):  # of whom the answer is lost each time
            again = ask({"token": seat["token"], "seen": 1 + number}, "more")
            assert again["resumed"] and again["id"] == seat["id"]
            assert again["taken"] == 1 + number


# ==== The words =============================================================


def sit(
    server: ServerProcess,
    room: str,
    token: str = "",
    seen: int | None = None,
    *,
    who: str = "",
    address: str = "",
) -> tuple[RawClient, dict[str, Any]]:
    """Return a client that has asked for a seat, and the answer; `address`: through a proxy."""
    headers = {"X-Forwarded-For": address} if address else {}
    client = RawClient.connect(server, f"{room}?_seat&who={who}", headers)
    wish: dict[str, object] = {"token": token} if token else {}
    if seen is not None:
        wish["seen"] = seen
    client.send_json({"_seat": wish})
    try:
        answer: Any = client.receive_json()
    except Closed:
        client.reset()
        raise
    client.send_frame(PONG, b"seat:0")  # so that it is known to have come
    return client, answer["_seat"]


def wait_closed(client: RawClient) -> tuple[int, str]:
    """Return how the server closes a connection, after whatever it still sends."""
    with client, pytest.raises(Closed) as closed:
        while True:
            client.receive_message()
    return closed.value.code, closed.value.reason


def say(client: RawClient, text: str) -> None:
    client.send_text(text)
    assert client.receive_text() == text


def test_two_tabs_fight_for_one_token(server: ServerProcess) -> None:
    first, seat = sit(server, "tabs")
    say(first, "one")
    second, again = sit(server, "tabs", seat["token"], 1)
    assert again["resumed"] and again["id"] == seat["id"] and again["taken"] == 1
    assert again["token"] != seat["token"]
    assert wait_closed(first) == (4001, "resumed elsewhere")
    say(second, "two")  # and its Pong has shown that the new token came
    second.reset()
    names = []
    for token in (seat["token"], "guessed", "", again["token"] + "x", again["token"][:-1]):
        other, fresh = sit(server, "tabs", token, 0)
        assert not fresh["resumed"] and fresh["id"] != seat["id"]
        other.close()
        names.append(f"leave {fresh['id']} 1000")
    stranger, fresh = sit(server, "tabs", again["token"], 2, who="eve")
    assert not fresh["resumed"]
    stranger.close()
    names.append(f"leave {fresh['id']} 1000")
    third, again = sit(server, "tabs", again["token"], 2)
    assert again["resumed"] and again["taken"] == 2
    elsewhere, fresh = sit(server, "elsewhere", again["token"], 2)
    assert not fresh["resumed"]  # it is of another room, and is still good there
    elsewhere.close()
    assert [third.receive_text() for _ in names] == names
    say(third, "three")
    third.close()


def test_others_are_told_and_only_a_close_with_1000_gives_a_seat_back(
    server: ServerProcess,
) -> None:
    with RawClient.connect(server, "told") as watcher:
        say(watcher, "here")
        for code in (1001, 1005, 4000):
            client, seat = sit(server, "told")
            name = seat["id"]
            client.send_close(None if code == 1005 else code)
            assert watcher.receive_text() == f"drop {name}"
            assert wait_closed(client)[0] == code
            rooms = json.loads(http_request(server, path="/api/told/").body)
            assert (rooms["connections"], rooms["dropped"]) == (2, 1)
            assert re.search(
                rb"\nscalesocket_seats_dropped [1-9]", http_request(server, path="/metrics").body
            )
            client, again = sit(server, "told", seat["token"])
            assert again["resumed"] and again["id"] == name
            assert watcher.receive_text() == f"resume {name} True"
            client.close()
            assert watcher.receive_text() == f"leave {name} 1000"


def test_a_dropped_seat_counts_for_maxclients(server: ServerProcess) -> None:
    seated = [sit(server, "full") for _ in range(3)]
    seated[0][0].reset()
    with pytest.raises(Closed) as closed, RawClient.connect(server, "full") as late:
        late.receive_text()
    assert closed.value.code == 1013
    with pytest.raises(Closed) as closed:
        sit(server, "full")
    assert closed.value.code == 1013
    back, again = sit(server, "full", seated[0][1]["token"], 0)
    assert again["resumed"]
    for client in (back, seated[1][0], seated[2][0]):
        client.close()


def test_who_has_missed_too_much_begins_anew(server: ServerProcess) -> None:
    client, seat = sit(server, "much")
    say(client, "one")
    with RawClient.connect(server, "much") as other:
        client.reset()
        assert other.receive_text() == f"drop {seat['id']}"
        other.send_text("many")  # 40 KB, and --backlog is 32 KB
        other.receive_many(40)
        fresh, answer = sit(server, "much", seat["token"], 1)
        assert not answer["resumed"] and answer["id"] != seat["id"]
        fresh.close()
        other.receive_text()
        client, seat = sit(server, "much")
        ahead, answer = sit(server, "much", seat["token"], 10_000)  # it cannot have seen that
        assert not answer["resumed"]
        assert wait_closed(client) == (4001, "resumed elsewhere")
        ahead.close()


def test_who_has_missed_too_much_and_needs_nothing_of_it_has_its_seat(
    server: ServerProcess,
) -> None:
    client, seat = sit(server, "reload")
    with RawClient.connect(server, "reload") as other:
        client.reset()
        assert other.receive_text() == f"drop {seat['id']}"
        other.send_text("many")
        other.receive_many(40)
        reloaded, answer = sit(server, "reload", seat["token"])
        assert answer["resumed"] and answer["id"] == seat["id"]
        say(reloaded, "two")
        reloaded.close()


def test_who_has_missed_too_much_is_not_kept_out_by_its_old_seat(server: ServerProcess) -> None:
    """That counted for --maxclients until its time was over: "the room is full"."""
    client, seat = sit(server, "own")
    other, _ = sit(server, "own")
    third, _ = sit(server, "own")  # as many as may be there
    client.reset()
    assert other.receive_text() == third.receive_text() == f"drop {seat['id']}"
    other.send_text("many")
    other.receive_many(40)
    fresh, answer = sit(server, "own", seat["token"], 0)
    assert not answer["resumed"] and answer["id"] != seat["id"]
    assert other.receive_text() == f"leave {seat['id']} 1006"
    say(fresh, "one")
    for each in (fresh, other, third):
        each.close()


def test_a_room_goes_on_whose_only_player_has_missed_too_much(server: ServerProcess) -> None:
    """Its old seat ends before it has a new one, which is no reason for the room to end."""
    client, seat = sit(server, "alone")
    client.send_text("many")
    client.receive_many(40)
    fresh, answer = sit(server, "alone", seat["token"], 0)
    assert not answer["resumed"]
    assert wait_closed(client) == (4001, "resumed elsewhere")
    fresh.send_text("who")
    assert fresh.receive_text() == "2 joined, 1 there"
    fresh.close()


def test_a_seat_that_is_kicked_or_whose_room_ends_is_gone(server: ServerProcess) -> None:
    client, seat = sit(server, "gone")
    other, _ = sit(server, "gone")
    other.send_text("kick")
    assert wait_closed(client) == (4000, "")
    back, again = sit(server, "gone", seat["token"], 0)
    assert not again["resumed"]
    back.reset()
    other.send_text("end")
    assert wait_closed(other) == (4321, "it is over")
    back, more = sit(server, "gone", again["token"], 0)
    assert not more["resumed"]
    back.close()


@pytest.mark.parametrize(
    "first",
    ["hello", "{}", '{"_seat":1}', '{"_seat":{},"more":1}', '{"_seat":{"seen":-1}}', "[" * 400]
    + ['{"_seat":{"seen":1' + "0" * 130 + "}}"]
    + ['{"_seat":{"token":7}}', '{"_seat":{"x":1}}', '{"_seat":{"token":"' + "x" * 600 + '"}}'],
)
def test_a_first_message_that_asks_for_no_seat_is_refused(
    server: ServerProcess, first: str
) -> None:
    client = RawClient.connect(server, "bad?_seat")
    client.send_text(first)
    code, reason = wait_closed(client)
    assert code == 1008 and reason.startswith('the first message must be {"_seat":{}}')


def test_without_the_parameter_nothing_is_different(server: ServerProcess) -> None:
    with RawClient.connect(server, "plain") as client:
        say(client, '{"_seat":{}}')
        client.ping(b"seat:1")
        say(client, "still")
    assert "dropped" not in json.loads(http_request(server, path="/api/").body)


@pytest.mark.slow
def test_a_program_is_told_and_a_seat_expires() -> None:
    messages = ("--dropmsg", '{"t":"Drop","_from":#ID}')
    messages += ("--resumemsg", '{"t":"Back","_from":#ID,"all":#RESTORED}')
    with serve("--resume", "0.5", "--json", *messages, "cat") as server:
        with RawClient.connect(server, "cat") as watcher:
            assert watcher.receive_json() == {"t": "Join", "_from": 1}
            client, seat = sit(server, "cat")
            assert watcher.receive_json() == {"t": "Join", "_from": 2}
            second, again = sit(server, "cat", seat["token"])  # takes it over, nothing was dropped
            assert watcher.receive_json() == {"t": "Back", "_from": 2, "all": True}
            assert wait_closed(client)[0] == 4001
            second.reset()
            assert watcher.receive_json() == {"t": "Drop", "_from": 2}
            assert watcher.receive_json() == {"t": "Leave", "_from": 2}
            late, fresh = sit(server, "cat", again["token"], 1)
            assert not fresh["resumed"]
            late.reset()
        wait_until(lambda: any("room closed" in line for line in server.log()))
        secrets = [seat["token"], again["token"], fresh["token"]]
        assert not any(token in line for token in secrets for line in server.log())


@pytest.mark.slow
def test_a_program_is_told_the_address_from_which_somebody_is_back() -> None:
    """It was told the one before, and `on_resume` of a game found that, too, if it was fast."""
    options = ("--resume", "60", "--json", "--trustproxy", "127.0.0.1")
    with (
        serve(*options, "--resumemsg", '{"at":"#REMOTE_ADDR","_from":#ID}', "cat") as server,
        RawClient.connect(server, "cat") as watcher,
    ):
        assert watcher.receive_json() == {"t": "Join", "_from": 1}
        client, seat = sit(server, "cat", address="192.0.2.1")
        assert watcher.receive_json() == {"t": "Join", "_from": 2}
        with client, sit(server, "cat", seat["token"], 0, address="192.0.2.2")[0]:
            assert watcher.receive_json() == {"at": "192.0.2.2", "_from": 2}


@pytest.mark.slow
def test_of_too_many_dropped_seats_the_oldest_goes_and_who_says_nothing_is_closed() -> None:
    command = with_constants("scalesocket.net.seats", MAX_DROPPED=1)
    with serve("--resume", "600", "--json", "cat", command=command) as server:
        with RawClient.connect(server, "cat") as watcher:
            assert watcher.receive_json() == {"t": "Join", "_from": 1}
            for number in (2, 3):
                client, _ = sit(server, "cat")
                assert watcher.receive_json() == {"t": "Join", "_from": number}
                client.reset()
            assert watcher.receive_json() == {"t": "Leave", "_from": 2}
    command = with_constants("scalesocket.net.seats", OPENING_TIMEOUT=0.5)
    with serve("--resume", "600", "cat", command=command) as server:
        silent = RawClient.connect(server, "cat?_seat")
        assert wait_closed(silent) == (1008, "no message for 0.5 s")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "command"),
    [
        ("den?_seat", with_constants("scalesocket.net.seats", OPENING_TIMEOUT=3600)),
        ("den", with_constants(CLOSE_TIMEOUT=3600)),
    ],
    ids=["seat", "room"],
)
@pytest.mark.skipif(FREE, reason="a Python without the interpreter lock gives less memory back")
def test_an_unfinished_message_of_who_has_gone_is_not_kept(path: str, command: list[str]) -> None:
    """A timed call had hold of it: so --maxconns times --maxmsg was no bound."""
    with serve("--resume", "60", "--maxmsg", "16M", "cat", command=command) as server:
        before = server.rss()
        clients = [RawClient.connect(server, path) for _ in range(4)]
        for client in clients:
            client.send_bytes(encode_client_frame(TEXT, b"x" * 15_000_000)[:-100])
        wait_until(lambda: server.rss() > before + 40_000_000)
        for client in clients:
            client.reset()
        wait_until(lambda: server.rss() < before + 20_000_000)


def test_one_address_has_no_more_dropped_seats_than_it_may_have_connections() -> None:
    """Coming and going was enough to fill a room for --resume seconds, with no connection left."""
    options = ("--resume", "600", "--maxperaddr", "3", "--json")
    with serve(*options, "--dropmsg", '{"t":"Drop","_from":#ID}', "cat") as server:
        with RawClient.connect(server, "cat") as watcher:
            assert watcher.receive_json() == {"t": "Join", "_from": 1}
            for number in (2, 3, 4, 5):
                client, _ = sit(server, "cat")
                assert watcher.receive_json() == {"t": "Join", "_from": number}
                client.reset()
                assert watcher.receive_json() == {"t": "Drop", "_from": number}
            assert watcher.receive_json() == {"t": "Leave", "_from": 2}


@pytest.mark.slow
def test_a_connection_that_has_lost_its_seat_goes_also_while_its_room_takes_nothing() -> None:
    """Who came back again and again to a program that reads nothing filled the server up."""
    with (
        serve("--resume", "600", "sleep", "--", "1000") as server,
        contextlib.ExitStack() as stack,
    ):
        for _ in range(5):  # the first four have readers of their own
            stack.enter_context(RawClient.connect(server, "den"))
        client, seat = sit(server, "den")
        wait_until(server.children)  # its pipes count, and it may start late
        flood(client)
        before = server.descriptors()
        for _ in range(6):
            client.reset()
            client, seat = sit(server, "den", seat["token"], 0)
            flood(client)
        stack.enter_context(client)
        wait_until(lambda: server.descriptors() <= before)


def flood(client: RawClient) -> None:
    """Send more than inbox and kernel hold, as far as it is taken."""
    client.sock.settimeout(0.3)
    with contextlib.suppress(OSError):
        for _ in range(60):
            client.sock.sendall(encode_client_frame(1, b"x" * 60_000))


def make_seat() -> tuple[seats.Seat, Callable[..., dict[str, Any]]]:
    """Return a seat, and what gives it a connection and returns the answer."""
    config = parse_command_line(["--resume", "60", "--json", "cat"])
    registry = Mock(recall=None, note_token=None)
    every = seats.Seats(config, registry, AddressLimits(config))
    request = Request("GET", "/den?_seat", "HTTP/1.1", Headers())
    nobody: Any = None
    place = ("127.0.0.1", 1)
    client = Client(1, "den", request, nobody, peer=place, local=place)
    client.room = Mock(inbox=Inbox())
    seat = client.seat = seats.Seat(client, "http", every, 1 << 20)
    client.connection = cast(Any, seat)

    def attach(connection: Mock, **wish: Any) -> dict[str, Any]:
        asked = seats.Asked(**wish)
        assert seat.attach(connection, asked, client, anew=not wish)
        (frame,) = connection.send.call_args_list[0].args
        told: dict[str, Any] = json.loads(frame[frame.index(b"{") :])["_seat"]
        return told

    return seat, attach


def test_who_answers_only_its_latest_ping_is_asked_again_what_has_come() -> None:
    """It may (RFC 6455 section 5.5.3). Where a ping of --ping came behind that of its seat, it was
    asked never again, and as much as --backlog was kept for it."""
    seat, attach = make_seat()
    connection = Mock(encoding=PLAIN)
    protocol = seats.SeatProtocol(WebSocketProtocol(Role.SERVER, max_message=1000), connection)
    protocol.is_waiting, protocol.seat = False, seat
    attach(connection)
    message = encode_frame(2, bytes(seats.ACK_SIZE))
    seat.send(message)
    assert connection.send_control.call_count == 1, "the answer to the first is awaited"
    protocol.receive(encode_client_frame(PONG, b""))
    seat.send(message)
    asked = connection.send_control.call_args.args[0]
    assert asked == encode_frame(PING, b"seat:2")
    protocol.receive(encode_client_frame(PONG, b"seat:2"))
    assert not seat._kept


def test_a_seat_that_has_just_ended_takes_no_connection() -> None:
    seat, attach = make_seat()
    token = attach(Mock(encoding=PLAIN))["token"]
    seat.close(1000)
    late, asked = Mock(encoding=PLAIN), seats.Asked(token, 0)
    assert not seat.attach(late, asked, seat.client)
    assert not late.send.called


def test_a_seat_for_whose_new_connection_there_is_no_memory_is_given_up_in_time() -> None:
    """It had that connection for ever: its client stayed in the room, and the room never ended."""
    seat, attach = make_seat()
    first, second = Mock(encoding=PLAIN), Mock(encoding=PLAIN)
    token = attach(first)["token"]
    seat.detach(first, 1006)
    second.send.side_effect = MemoryError
    session: Any = Mock(KIND="http", connection=second, at_end=[])
    asked = seats.Asked(token, 0)
    with pytest.raises(MemoryError):
        seat._seats._find_seat(session, seat.client, asked, None)
    for give_back in session.at_end:
        give_back()
    assert not seat.is_alive()
    seat.expire(seat._dropped_at)
    cast(Any, seat._seats.registry).release.assert_called_once()


@pytest.mark.parametrize("scarce", ["to tell the room", "to give it up in time"])
def test_a_seat_for_whose_loss_there_is_no_memory_is_lost_all_the_same(
    scarce: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was never given up: its client stayed in the room, and the room never ended."""
    seat, attach = make_seat()
    first, timer = Mock(encoding=PLAIN), cast(Any, seat._seats.registry.timer)
    attach(first)
    timed = timer.call_later
    failures = [MemoryError()]

    def fail_once(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        if failures:
            raise failures.pop()
        return function(*arguments, **named)

    telling = scarce == "to tell the room"
    owner, name = (seat._seats, "announce") if telling else (timer, "call_later")
    monkeypatch.setattr(owner, name, functools.partial(fail_once, getattr(owner, name)))
    session: Any = Mock(connection=first)
    life = seat._seats._hold(session, seat)
    next(life)
    with pytest.raises((StopIteration, MemoryError)):
        life.send(Closing(1006, "", failed=False))
    assert not failures and not seat.is_alive() and seat.client.dropped
    assert seat in seat._seats._dropped
    assert seat._seats._expire_due in [call.args[1] for call in timed.mock_calls]


def test_what_is_being_taken_while_a_seat_changes_hands_is_counted() -> None:
    """The client was told of less than there was, and said it again."""
    seat, attach = make_seat()
    client, inbox = seat.client, cast(Any, seat.client.room).inbox
    first, second = (Mock(encoding=PLAIN) for _ in range(2))
    token = attach(first)["token"]
    begun, go_on = threading.Event(), threading.Event()

    class Slow(list[bytes]):
        def __len__(self) -> int:
            begun.set()
            go_on.wait(PATIENCE)
            return super().__len__()

    run = Messages(TEXT, Slow([b"1", b"2", b"3"]), 3)
    run.client, run.source = client, first
    told: list[dict[str, Any]] = []
    putting = threading.Thread(target=inbox.put_messages, args=([run],))
    taking = threading.Thread(target=lambda: told.append(attach(second, token=token, seen=0)))
    putting.start()
    begun.wait(PATIENCE)
    taking.start()
    taking.join(0.2)  # it waits
    go_on.set()
    putting.join()
    taking.join()
    assert told[0]["taken"] == 3


def test_however_many_answers_are_lost_a_seat_has_the_token_that_is_shown_and_a_few_more() -> None:
    seat, attach = make_seat()
    shown = attach(Mock(encoding=PLAIN))["token"]
    given = [attach(Mock(encoding=PLAIN), token=shown, seen=0)["token"] for _ in range(20)]
    good = {seats.digest(token) for token in [shown, *given[1 - seats.MAX_TOKENS :]]}
    assert set(seat.keys) == set(seat._seats._by_key) == good


def test_however_often_seats_are_dropped_one_timed_call_waits_for_their_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each drop had one of its own, which kept its seat for --resume seconds, used or not."""
    now = 1000.0
    monkeypatch.setattr(seats, "time", Mock(monotonic=lambda: now))
    config = parse_command_line(["--resume", "60", "cat"])
    registry = Mock()
    every = seats.Seats(config, registry, AddressLimits(config))
    dropped = [Mock(keys=[], client=Mock(address="192.0.2.7")) for _ in range(3)]
    for seat in dropped:
        seat.expire.side_effect = lambda at, seat=seat: every.forget(seat)
    for _ in range(1000):
        for seat in dropped:
            assert every.expect(seat, now) is None
            now += 0.001
            every.give_token(seat, "")
    every.expect(dropped[0], now)
    every.expect(dropped[1], now + 30.0)
    [(patience, expire)] = [call.args for call in registry.timer.call_later.call_args_list]
    assert patience == 60.0
    now += 60.0
    expire()
    assert [seat.expire.call_count for seat in dropped] == [1, 0, 0]
    wait, expire = registry.timer.call_later.call_args.args
    assert wait == pytest.approx(30.0)
    now += wait
    expire()
    assert [seat.expire.call_count for seat in dropped] == [1, 1, 0]
    assert registry.timer.call_later.call_count == 2  # nobody is left to wait for
    every.expect(dropped[2], now)
    assert registry.timer.call_later.call_count == 3


# ==== Frames that are kept ==================================================


def test_frames_are_found_whatever_their_length() -> None:
    runs = [b"", b"a", b"b" * 125, b"c" * 126, b"d" * 65535, b"e" * 65536]
    data = seats.SEAT.encode_run(TEXT, runs)
    starts = seats.find_frames(data)
    assert len(starts) == len(runs) + 1 and starts[-1] == len(data)
    assert seats.translate(data, seats.SEAT) == data
    assert seats.Once().count(data) == (data, len(runs))
    assert seats.TEXT_SEAT.encode_run(BINARY, runs) == b""
