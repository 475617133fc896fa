"""What users of `ws`, `websockets`, Colyseus and Socket.IO have reported, tried here.

Each docstring names the public report. What was wrong here is tested where its subject is.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import struct
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import (
    CONTINUATION,
    PONG,
    TEXT,
    Closed,
    HandshakeRefused,
    RawClient,
    ServerProcess,
    encode_client_frame,
    http_request,
    serve,
    wait_until,
)

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
    pytest.mark.slow,  # many servers are started here; --quick leaves them out
]

MIB = 2**20

GAME = """
import time
from scalesocket import Game

class Say(Game):
    max_clients = 2

    def on_create(self, room):
        self.room = room
        room.call_later(3600, lambda: None)

    def on_join(self, client):
        self.room.broadcast(f"join {client.id}")

    def on_message(self, client, message):
        if message == "sleep":
            time.sleep(8)
        elif message == "end":
            self.room.close(4000, "over")
        elif message == "away":
            client.close(4001, "idle")
        elif message.startswith("flood"):
            for _ in range(int(message[5:])):
                self.room.broadcast("x" * 100_000)
        else:
            self.room.broadcast(message)

    def on_leave(self, client, code):
        self.room.broadcast(f"leave {client.id} {code}")
        if code == 4001:
            self.room.close(4002, "alone")

    def on_dispose(self):
        print("disposed", flush=True)

class Roomy(Say):
    max_clients = 50
"""


@pytest.fixture
def say(tmp_path: Path) -> Path:
    (tmp_path / "say.py").write_text(GAME)
    return tmp_path


def metric(server: ServerProcess, name: str) -> int:
    """Return one number of `/metrics`."""
    text = http_request(server, "GET", "/metrics").body.decode()
    return int(text.partition(f"\nscalesocket_{name} ")[2].split("\n")[0])


def receive_until(client: RawClient, wanted: str) -> list[str]:
    texts: list[str] = []
    while not texts or texts[-1] != wanted:
        texts.append(client.receive_text())
    return texts


# ==== ws ===================================================================


def test_memory_of_slow_clients_is_given_back_when_they_are_gone(say: Path) -> None:
    """A server that sends to slow clients keeps hundreds of MB when they have gone
    (websockets/ws#1830, #667)."""
    with serve("--stall", "60", "--metrics", "say:Say", cwd=say) as server:
        before = server.rss()
        slow = [RawClient.connect(server, f"room{number}") for number in range(8)]
        for client in slow:
            client.send_text("flood150")  # 15 MB: more than kernels hold
        wait_until(lambda: server.rss() > before + 100 * MIB)
        for client in slow:
            client.reset()
        wait_until(lambda: server.rss() < before + 40 * MIB)
        assert b"backlog_bytes 0" in http_request(server, "GET", "/metrics").body


def test_a_client_that_only_half_closes_leaves() -> None:
    """There is no way to detect a half-closed connection (websockets/ws#2225)."""
    with serve("--json", "cat") as server, RawClient.connect(server) as watcher:
        watcher.receive_text()
        with RawClient.connect(server) as client:
            assert watcher.receive_json() == {"t": "Join", "_from": 2}
            client.sock.shutdown(socket.SHUT_WR)
            assert watcher.receive_json() == {"t": "Leave", "_from": 2}


def test_a_client_whose_network_is_gone_leaves() -> None:
    """`close` does not come after a network failure (websockets/ws#686)."""
    # A watcher on a busy machine has 6 s to answer.
    with serve("--json", "--ping", "3", "cat") as server, RawClient.connect(server) as watcher:
        watcher.receive_text()
        with RawClient.connect(server):  # answers nothing
            assert watcher.receive_json() == {"t": "Join", "_from": 2}
            assert watcher.receive_json() == {"t": "Leave", "_from": 2}


def test_who_sends_only_pieces_of_a_message_is_not_closed_as_silent() -> None:
    """The heartbeat of the README closes connections that are alive (websockets/ws#2217)."""
    with serve("--ping", "3", "cat") as server, RawClient.connect(server) as client:
        frames = []
        for byte in encode_client_frame(TEXT, b"hello"):
            client.send_bytes(bytes([byte]))
            with contextlib.suppress(TimeoutError):
                frames.append(client.receive(0.6))  # it does not answer pings
        while (TEXT, b"hello") not in frames:
            frames.append(client.receive())


def test_a_frame_with_a_reserved_bit_ends_its_client_alone() -> None:
    """`RSV1 must be clear` ended the server (websockets/ws#1191)."""
    with serve("cat") as server, RawClient.connect(server) as other:
        with RawClient.connect(server) as client:
            client.send_frame(TEXT, b"hello", rsv=4)
            assert client.wait_close()[0] == 1002
        other.send_text("still here")
        assert other.receive_text() == "still here"


def test_too_many_headers_are_refused_and_nothing_ends() -> None:
    """A request with more headers than the limit ended the server: the one that it looked at was
    beyond it (websockets/ws#2230, CVE-2024-37890)."""
    with serve("cat") as server:
        for count in (90, 200, 2000):
            headers = {f"X-{number}": "x" for number in range(count)}
            if count == 90:
                RawClient.connect(server, headers=headers).close()
                continue
            with pytest.raises(HandshakeRefused) as caught:
                RawClient.connect(server, headers=headers)
            assert caught.value.response.status == 431
        assert http_request(server, "GET", "/health").status == 200


def test_tiny_fragments_weigh_no_more_than_their_bytes() -> None:
    """131,000 fragments of one byte held 13 MB, 15 times what was sent (websockets/ws#2331)."""
    with serve("cat") as server, RawClient.connect(server) as warm:
        warm.send_text("hello")
        warm.receive_text()
        before = server.rss()
        clients = [RawClient.connect(server) for _ in range(2)]
        piece = b"".join(encode_client_frame(CONTINUATION, b"x", fin=False) for _ in range(1000))
        for client in clients:
            client.send_frame(TEXT, b"x", fin=False)
            client.send_bytes(piece * 131)
            client.ping(b"all has been read")
            while client.receive() != (PONG, b"all has been read"):
                pass  # pings of the server's own
        assert server.rss() - before < 2 * 2 * MIB
        for client in clients:
            client.reset()


def test_who_does_not_answer_a_close_is_cut_soon() -> None:
    """A server waits 30 s for the Close of a client that has gone silent; thousands of such
    connections stay (websockets/ws#2203)."""
    with serve("--json", "cat") as server:
        clients = [RawClient.connect(server) for _ in range(20)]
        clients[0].send_json({"x": 1})
        while clients[0].receive_json() != {"_from": 1, "x": 1}:
            pass  # its program runs, and has all of its descriptors
        before = server.descriptors()
        for client in clients[1:]:
            client.send_frame(TEXT, b"\xff")  # 1007, and its Close is never answered
        wait_until(lambda: server.descriptors() <= before - 19, timeout=20)
        for client in clients:
            client.sock.close()


# ==== websockets ===========================================================


def deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def test_a_continuation_that_says_it_is_compressed_is_refused() -> None:
    """RSV1 on a continuation was taken (python-websockets/websockets#1720)."""
    offer = {"Sec-WebSocket-Extensions": "permessage-deflate"}
    with serve("--compress", "cat") as server:
        data = deflate(b"hello hello hello")
        for second, code in ((0, None), (4, 1002)):
            with RawClient.connect(server, headers=offer) as client:
                client.allow_rsv = True
                client.send_frame(TEXT, data[:4], fin=False, rsv=4)
                client.send_frame(CONTINUATION, data[4:], rsv=second)
                if code is None:
                    assert client.receive_message()[0] == TEXT
                else:
                    assert client.wait_close()[0] == code


@pytest.mark.parametrize("size", [4107, 8718, 15_000])
def test_long_header_lines_are_taken(size: int) -> None:
    """A cookie of 8,718 or a token of 4,500 characters could not be sent
    (python-websockets/websockets#1239, #1471, #743)."""
    with serve("cat") as server:
        RawClient.connect(server, headers={"Cookie": "x" * size}).close()


def test_too_long_a_header_is_told_as_that() -> None:
    """It was answered with 400 and no word of why (python-websockets/websockets#1471, #1576)."""
    with serve("cat") as server, pytest.raises(HandshakeRefused) as caught:
        RawClient.connect(server, headers={"Cookie": "x" * 20_000})
    assert caught.value.response.status == 431
    assert b"16384" in caught.value.response.body


def test_a_ping_from_a_client_that_is_gone_is_no_error() -> None:
    """The pong for a peer that had closed raised, and was logged as an error
    (python-websockets/websockets#977, #551)."""
    with serve("-v", "cat") as server:
        for _ in range(30):
            client = RawClient.connect(server)
            client.send_bytes(encode_client_frame(9, b"x") * 50 + encode_client_frame(8, b""))
            client.reset()
        with RawClient.connect(server) as client:
            client.send_text("hello")
            assert client.receive_text() == "hello"
        assert not [line for line in server.log() if line.startswith(("[ERROR]", "[WARN"))]


def test_pings_are_answered_while_a_hook_blocks(say: Path) -> None:
    """A handler that sleeps for longer than the time-out loses its connection: nobody answers
    pings meanwhile (python-websockets/websockets#1025, #625)."""
    with serve("--ping", "3", "say:Say", cwd=say) as server, RawClient.connect(server) as client:
        client.receive_text()
        client.send_text("sleep")
        client.ping(b"now")
        while client.receive()[0] != PONG:
            pass
        client.send_text("after")
        assert client.receive_text() == "after"


def test_who_comes_while_the_server_ends_is_told_or_cut() -> None:
    """Connections that were accepted during the shutdown were never closed, and it hung
    (python-websockets/websockets#394, #541)."""
    with serve("cat") as server:
        codes: list[object] = []
        inside: list[RawClient] = []
        stop = threading.Event()

        def come() -> None:
            while not stop.is_set():
                try:
                    with RawClient.connect(server) as client:
                        inside.append(client)
                        codes.append(client.wait_close()[0])
                except HandshakeRefused as refused:
                    codes.append(refused.response.status)
                except (OSError, EOFError):
                    codes.append("cut")

        threads = [threading.Thread(target=come) for _ in range(8)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(inside) == 8)
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 0
        stop.set()
        for thread in threads:
            thread.join(20)
        assert Counter(map(str, codes))["1001"] >= 8
        assert {str(code) for code in codes} <= {"1001", "503", "cut", "1006"}


def test_a_broadcast_of_a_game_waits_for_no_client(say: Path) -> None:
    """Who broadcasts from a thread blocks on the first client whose buffer is full
    (python-websockets/websockets#1466)."""
    with (
        serve("--stall", "60", "say:Say", cwd=say) as server,
        RawClient.connect(server) as reader,
        RawClient.connect(server),
    ):
        reader.send_text("flood30")
        reader.send_text("done")
        receive_until(reader, "done")


@pytest.mark.parametrize(
    "headers",
    [
        {"Connection": "keep-alive, Upgrade"},
        {"Connection": "upgrade,keep-alive", "Upgrade": "WebSocket"},
        {"Connection": "Upgrade , foo", "Upgrade": "websocket, h2c"},
    ],
    ids=str,
)
def test_lists_in_connection_and_upgrade_are_read_as_lists(headers: dict[str, str]) -> None:
    """They were compared as a whole (python-websockets/websockets#399)."""
    with serve("cat") as server:
        RawClient.connect(server, headers=headers).close()


# ==== Colyseus =============================================================


def test_a_broadcast_in_on_join_reaches_who_has_joined(say: Path) -> None:
    """It passed over the new client (colyseus/colyseus#260)."""
    with serve("say:Say", cwd=say) as server, RawClient.connect(server) as client:
        assert client.receive_text() == "join 1"


def crowd_in(server: ServerProcess, count: int) -> tuple[list[RawClient], list[int]]:
    """Connect so many at once; return who is in, and the codes of the others."""
    inside: list[RawClient] = []
    codes: list[int] = []
    together = threading.Barrier(count)

    def come() -> None:
        together.wait()
        try:
            client = RawClient.connect(server)
        except HandshakeRefused as refused:
            codes.append(refused.response.status)
            return
        try:
            client.receive_text()
            inside.append(client)
        except Closed as closed:
            codes.append(closed.code)
            client.sock.close()

    threads = [threading.Thread(target=come) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return inside, codes


@contextlib.contextmanager
def released(clients: list[RawClient]) -> Iterator[None]:
    try:
        yield
    finally:
        for client in clients:
            client.sock.close()


def test_never_more_than_max_clients_and_never_fewer(say: Path) -> None:
    """1,500 were in a room for 1,000 (colyseus/colyseus#678); two who came at once to a room for
    two were told that it was full (colyseus/colyseus#726); two rooms of one name were made
    (colyseus/colyseus#156); a slow check let them into a full one (colyseus/colyseus#119)."""
    with serve("--api", "--auth", "sleep 0.2", "say:Say", cwd=say) as server:
        for _ in range(5):
            inside, codes = crowd_in(server, 12)
            with released(inside):
                assert len(inside) == 2
                assert len(codes) == 10
                assert http_request(server, "GET", "/api/rooms/").body.count(b'"name"') == 1
            wait_until(lambda: http_request(server, "GET", "/api/rooms/").body == b"[]")


def test_the_end_of_an_old_connection_is_not_taken_for_that_of_a_new_one(say: Path) -> None:
    """Who had come back got the `onLeave` of the connection before, and was out
    (colyseus/colyseus#348)."""
    with serve("--ping", "4", "say:Say", cwd=say) as server:
        with RawClient.connect(server) as old, RawClient.connect(server) as new:
            old.receive_text()
            assert receive_until(new, "leave 1 1006") == ["join 2", "leave 1 1006"]
            new.send_text("I am here")
            assert new.receive_text() == "I am here"


def test_a_room_ends_though_calls_of_it_are_due_later(say: Path) -> None:
    """A room with a timer stayed when all had left (colyseus/colyseus#181)."""
    with serve("say:Say", cwd=say) as server:
        with RawClient.connect(server) as client:
            client.receive_text()
        wait_until(lambda: "disposed" in server.output())


def test_a_room_that_is_ending_gives_way_to_who_comes(say: Path) -> None:
    """A client whose room had just ended got no room at all (colyseus/colyseus#277)."""
    with serve("say:Roomy", cwd=say) as server:  # who vanished still counts
        for number in range(1, 200):
            with RawClient.connect(server) as client:
                assert client.receive_text() == f"join {number}"
                if number % 2:
                    client.close()


def test_a_room_that_closes_itself_is_over_for_all_in_it(say: Path) -> None:
    """`disconnect()` left out who was about to come in (colyseus/colyseus#314)."""
    with serve("say:Roomy", cwd=say) as server:
        for _ in range(20):
            codes: list[tuple[int, str]] = []
            with RawClient.connect(server) as client:
                client.receive_text()

                def come(found: list[tuple[int, str]] = codes) -> None:
                    with RawClient.connect(server) as late:
                        late.send_text("end")
                        found.append(late.wait_close())

                thread = threading.Thread(target=come)
                thread.start()
                client.send_text("end")
                assert client.wait_close() == (4000, "over")
                thread.join(20)
                assert codes == [(4000, "over")]


def test_who_is_sent_away_leaves_with_the_code_that_the_game_gave(say: Path) -> None:
    """`onLeave` was told another (colyseus/colyseus#948, #515); a room that was closed in it ended
    with a TypeError (colyseus/colyseus#192)."""
    with (
        serve("say:Say", cwd=say) as server,
        RawClient.connect(server) as away,
        RawClient.connect(server) as other,
    ):
        away.send_text("away")
        assert away.wait_close() == (4001, "idle")
        assert receive_until(other, "leave 1 4001")
        assert other.wait_close() == (4002, "alone")


def test_one_peer_is_in_several_rooms_at_once() -> None:
    """Only the first of two joins came through (colyseus/colyseus.js#14)."""
    with serve("--json", "cat") as server:
        clients = [RawClient.connect(server, f"room{number}") for number in range(5)]
        with released(clients):
            for client in clients:
                assert client.receive_json() == {"t": "Join", "_from": clients.index(client) + 1}


# ==== Socket.IO ============================================================


def test_there_is_one_leave_for_each_join_however_it_ends() -> None:
    """One disconnection was told twice (socketio/socket.io#3454); clients stayed in rooms that
    they had left (socketio/socket.io#280, #1808)."""
    with serve("--json", "--ping", "2", "cat") as server:
        with RawClient.connect(server) as watcher:
            stop = threading.Event()
            seen: Counter[tuple[str, int]] = Counter()

            def watch() -> None:
                while True:
                    message = watcher.receive_json()
                    assert isinstance(message, dict)
                    if message.get("t") in ("Join", "Leave"):
                        seen[message["t"], message["_from"]] += 1
                    if message.get("t") == "stop":
                        return

            thread = threading.Thread(target=watch)
            thread.start()
            for number in range(60):
                client = RawClient.connect(server)
                if number % 5 == 0:
                    client.reset()
                elif number % 5 == 1:
                    client.send_close()
                    client.reset()
                elif number % 5 == 2:
                    client.close()
                elif number % 5 == 3:
                    client.sock.shutdown(socket.SHUT_WR)
                    stop.wait(0.01)
                    client.reset()
                else:
                    client.send_frame(TEXT, b"\xff")
                    client.sock.close()
            mute = RawClient.connect(server)  # closed for its silence, and then reset
            wait_until(lambda: len(seen) >= 1 + 61 * 2)
            mute.reset()
            with RawClient.connect(server) as last:
                last.send_json({"t": "stop"})
                thread.join(20)
            assert not thread.is_alive()
            assert set(seen.values()) == {1}


def test_who_goes_while_it_is_checked_does_not_stay_in_the_room() -> None:
    """A socket that had gone during a slow check joined its room, for ever
    (socketio/socket.io#4380)."""
    with serve("--json", "--api", "--auth", "sleep 1", "cat") as server:
        gone = []
        for number in range(5):
            sock = socket.create_connection((server.host, server.port))
            sock.sendall(
                b"GET /ghosts HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
                b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            if number % 2:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            gone.append(sock)
        wait_until(lambda: len(server.children()) >= 1)
        for sock in gone:
            sock.close()
        with RawClient.connect(server, "ghosts"):
            wait_until(
                lambda: b'"connections": 1,' in http_request(server, "GET", "/api/ghosts/").body
            )


def test_rooms_that_have_been_leave_no_memory() -> None:
    """652 rooms were left of one connection (socketio/socket.io#1736)."""
    with serve("--api", "--metrics", "cat") as server:

        def churn(count: int) -> None:
            for number in range(count):
                client = RawClient.connect(server, f"room-{number}-{'x' * 100}")
                client.reset()
            # Some may not have begun yet: their programs are not there, but they are listed.
            wait_until(lambda: http_request(server, "GET", "/api/rooms/").body == b"[]")
            wait_until(lambda: metric(server, "rooms") == 0)
            assert server.children() == []

        churn(60)
        before = server.rss()
        churn(150)
        wait_until(lambda: server.rss() - before < 4 * MIB)


def test_pings_do_not_double_when_somebody_comes_back() -> None:
    """After each reconnection there was one more ping in an interval (socketio/socket.io#2737)."""
    with serve("--ping", "2", "cat") as server:
        for _ in range(3):
            with RawClient.connect(server) as client:
                client.send_text("hello")
                client.receive_text()
        began = time.monotonic()
        with RawClient.connect(server) as client:
            pings = 0
            while pings < 5:
                opcode, payload = client.receive()
                if opcode == 9:
                    pings += 1
                    client.send_frame(PONG, payload)
            assert time.monotonic() - began > 6
