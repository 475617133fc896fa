"""The Python client's seat: what is said and heard while the network goes and comes back."""

from __future__ import annotations

import itertools
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import pytest
from scalesocket.client import reconnecting, websocket
from scalesocket.client.chat import ChatView
from scalesocket.client.reconnecting import Backoff, Lost, Opened, Received, Reconnecting
from scalesocket.client.seat import MOST_KEPT, Seat, keeps_seats
from scalesocket.client.terminal import App, Canvas
from scalesocket.client.websocket import ConnectionClosed, InvalidHandshake, WebSocket

from tests.certificates import Certificates
from tests.pages.test_page_seats import Wire
from tests.support import PATIENCE, ServerProcess, free_port, http_request, serve, wait_until


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with serve("--resume", "60", "--api", "cat") as running:
        yield running


class Talker:
    """Listens in a thread of its own, and keeps what happens."""

    def __init__(self, url: str) -> None:
        self.link = Reconnecting.to(url, backoff=Backoff(0.01, 0.1))
        self.heard: list[Any] = []
        self.opened: list[bool] = []
        self.lost = 0
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        try:
            for event in self.link.events():
                match event:
                    case Opened():
                        self.opened.append(event.resumed)
                    case Received():
                        self.heard.append(json.loads(event.message))
                    case Lost():
                        self.lost += 1
        except (ConnectionClosed, InvalidHandshake, OSError) as error:
            self.error = error

    def stop(self) -> None:
        self.link.stop()
        self._thread.join()


@pytest.mark.slow
def test_nothing_is_lost_and_nothing_comes_twice_however_often_it_is_cut(
    server: ServerProcess,
) -> None:
    wire = Wire(server.port)
    talker = Talker(f"ws://127.0.0.1:{wire.port}/often")
    wait_until(lambda: talker.opened)
    said = 0
    for _ in range(8):
        for _ in range(50):
            assert talker.link.send(json.dumps(said))
            said += 1
        lost = talker.lost
        wire.cut()
        wait_until(lambda lost=lost: talker.lost > lost)
        assert talker.link.send(json.dumps(said)), "it waits for the connection"
        said += 1
        opened = len(talker.opened)
        wire.mend()
        wait_until(lambda opened=opened: len(talker.opened) > opened)
    wait_until(lambda: len(talker.heard) >= said)
    talker.stop()
    wire.cut()
    assert talker.heard == list(range(said))
    assert talker.opened == [False] + [True] * 8


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP", b"HTTP/1.1 200 OK\r\nDa"]
    + [b'HTTP/1.1 200 OK\r\nContent-Length: 79\r\n\r\n{"addresses": [], "re'],
)
def test_a_proxy_that_closes_without_an_answer_costs_nobody_the_seat(
    server: ServerProcess, answer: bytes
) -> None:
    """Docker's proxy does so while its container restarts: what was said meanwhile was lost. So it
    was where a part of the answer came."""
    wire = Wire(server.port)
    talker = Talker(f"ws://127.0.0.1:{wire.port}/proxied")
    wait_until(lambda: talker.opened)
    wire.cut()
    with socket.create_server(("127.0.0.1", wire.port)) as listener:
        assert talker.link.send("1")
        for _ in range(3):
            connection = listener.accept()[0]
            connection.recv(4096)
            connection.sendall(answer)
            connection.close()
    wire.mend()
    wait_until(lambda: talker.heard == [1])
    talker.stop()
    wire.cut()
    assert talker.opened == [False, True]


def test_a_server_that_closes_without_an_answer_is_asked_for_no_seat() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"ws://127.0.0.1:{listener.getsockname()[1]}/room"
        requests: list[bytes] = []

        def close_all() -> None:
            for _ in range(2):
                connection = listener.accept()[0]
                requests.append(connection.recv(4096))
                connection.close()

        thread = threading.Thread(target=close_all)
        thread.start()
        with pytest.raises(InvalidHandshake):
            next(Reconnecting.to(url).events())
        thread.join()
    assert requests[0].startswith(b"GET /lobby/about.json ")
    assert requests[1].startswith(b"GET /room ")


@pytest.mark.slow
def test_who_takes_the_seat_elsewhere_ends_the_first_one(server: ServerProcess) -> None:
    first, second = (Talker(server.url("both")) for _ in range(2))
    wait_until(lambda: first.opened and second.opened)
    assert first.link._seat is not None and second.link._seat is not None
    second.link._seat._token = first.link._seat._token
    second.link._seat._seen = first.link._seat._seen
    assert second.link._ws is not None
    second.link._ws.abort()
    wait_until(lambda: first.error)
    second.stop()
    assert isinstance(first.error, ConnectionClosed) and first.error.code == 4001
    first.stop()


def test_what_waits_keeps_its_bound_though_each_connection_is_lost_while_it_is_said_again() -> None:
    """Each attempt let in a mebibyte more."""

    def connection(*, breaks: bool) -> Mock:
        answer = json.dumps({"_seat": {"token": "x", "taken": 0, "resumed": True}})
        lost = ConnectionClosed(1006, "") if breaks else None
        return Mock(receive=Mock(return_value=answer), send=Mock(side_effect=[None, lost]))

    seat = Seat()
    seat.take(Mock(receive=connection(breaks=False).receive))
    seat.lose()
    assert seat.send(bytes(MOST_KEPT - 10)) and not seat.send(bytes(11))
    for _ in range(3):
        assert seat.take(connection(breaks=True))
        assert not seat.send(bytes(11))
    assert seat.take(connection(breaks=False))
    seat.lose()
    assert seat.send(bytes(11))


@pytest.mark.slow
def test_a_server_that_is_started_anew_without_seats_gets_none(server: ServerProcess) -> None:
    with serve("--resume", "60", "cat", addr=f"127.0.0.1:{free_port()}") as old:
        talker = Talker(old.url("anew"))
        wait_until(lambda: talker.opened)
    wait_until(lambda: talker.lost)
    with serve("--api", "cat", addr=f"127.0.0.1:{old.port}") as new:
        wait_until(lambda: len(talker.opened) == 2)
        assert talker.opened == [False, False]
        assert talker.link.send("1")
        wait_until(lambda: talker.heard == [1])
        assert b"_seat" not in http_request(new, path="/api/rooms/").body
        talker.stop()


def test_a_server_says_whether_it_keeps_seats(server: ServerProcess) -> None:
    assert keeps_seats(server.url("any"))
    with serve("cat") as plain:
        assert not keeps_seats(plain.url("any"))
        about = json.loads(http_request(plain, path="/lobby/about.json").body)
    assert "resume" not in about
    with pytest.raises(OSError, match="refused"):
        keeps_seats(plain.url("any"))


@pytest.mark.parametrize("name", ["host", "HOST"])
def test_a_server_is_asked_for_seats_by_the_host_that_is_given(
    server: ServerProcess, name: str
) -> None:
    """There were two Hosts, which a server refuses; so nobody had a seat."""
    assert keeps_seats(server.url("any"), headers=[(name, "localhost")])


def test_each_address_of_a_server_that_is_asked_for_seats_has_its_share_of_the_time(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before each attempt to come back the first one, which was silent, had all of it."""
    places = [("127.0.0.1", 9), ("127.0.0.1", server.port)]
    found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", place) for place in places]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    usual, shares = websocket.connect_one, []

    def connect_one(sock: socket.socket, place: Any, timeout: float | None) -> socket.socket:
        shares.append(timeout)
        if place == places[1]:
            return usual(sock, place, timeout)
        sock.close()
        raise TimeoutError

    monkeypatch.setattr(websocket, "connect_one", connect_one)
    assert keeps_seats(server.url("room"), timeout=2 * PATIENCE)
    assert len(shares) == 2 and shares[0] is not None and shares[0] <= PATIENCE


def test_a_certificate_that_is_not_trusted_says_of_no_seat(certs: Certificates) -> None:
    """Its error is a ValueError, too: the seat was forgotten, with all that waited."""
    with serve(*certs.options(), "--resume", "60", "cat") as server:
        url = f"wss://localhost:{server.port}/room"
        assert keeps_seats(url, ssl_context=certs.trust())
        with pytest.raises(ssl.SSLCertVerificationError):
            keeps_seats(url)


def test_headers_that_can_be_read_only_once_are_sent_each_time(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The question about seats took them, and the connection had none."""
    sent: list[Any] = []
    opened = reconnecting.connect

    def connect(url: str, **options: Any) -> WebSocket:
        sent.append([*options["headers"]])
        return opened(url, **options)

    monkeypatch.setattr(reconnecting, "connect", connect)
    fields = [("Cookie", "a=b")]
    link = Reconnecting.to(server.url("once"), headers=iter(fields))
    for _ in range(2):
        next(link.events())
    assert sent == [fields, fields]


@pytest.mark.slow
def test_what_is_said_after_the_end_is_not_said_to_be_kept(server: ServerProcess) -> None:
    """There is no connection that it could wait for."""
    talker = Talker(server.url("over"))
    wait_until(lambda: talker.opened)
    talker.stop()
    assert not talker.link.send('"after"')
    with serve("--resume", "60", "head", "--", "-n1") as brief:
        talker = Talker(brief.url("over"))
        wait_until(lambda: talker.opened)
        assert talker.link.send('"before"')
        wait_until(lambda: talker.error)
        assert not talker.link.send('"after"')
        talker.stop()


def test_what_waits_is_bounded() -> None:
    seat = Seat()
    assert not seat.send("nobody has a seat yet")
    seat._token = "t"
    assert seat.send("x" * 2**19) and seat.send("x" * 2**19)
    assert not seat.send("x")


class Script:
    """A WebSocket whose server gives seats back as the test says."""

    def __init__(self, taken: int, *, resumed: bool) -> None:
        self._answer = {"token": "t", "taken": taken, "resumed": resumed, "seen": 0}
        self.sent: list[str] = []

    def send(self, message: str, timeout: float | None = None) -> None:
        message.encode()
        self.sent.append(message)

    def receive(self, timeout: float | None = None) -> str:
        return json.dumps({"_seat": self._answer})


class Cut(Script):
    """One whose server ends it when it has sent what was missed, and heard nothing yet."""

    def __init__(self, *missed: str) -> None:
        super().__init__(0, resumed=True)
        self._coming = [super().receive(), *missed]

    def __enter__(self) -> Cut:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def send(self, message: str, timeout: float | None = None) -> None:
        if self.sent:
            raise ConnectionClosed(1012, "the server restarts")
        super().send(message)

    def receive(self, timeout: float | None = None) -> str:
        if not self._coming:
            raise ConnectionClosed(1012, "the server restarts")
        return self._coming.pop(0)


def test_what_was_missed_is_heard_also_if_nothing_can_be_said_again() -> None:
    """It had come, and the server knew that by a Pong; so it was not sent again. The seat was lost,
    with all that was said meanwhile."""
    seat = Seat()
    seat.take(Script(0, resumed=False))  # type: ignore[arg-type]
    seat.send("one")
    seat.lose()
    link = Reconnecting(lambda: Cut("first", "second"))  # type: ignore[arg-type,return-value]
    link._seat = seat
    opened, first, second, lost = itertools.islice(link.events(), 4)
    assert isinstance(opened, Opened) and opened.resumed
    assert (first, second) == (Received("first"), Received("second"))
    assert isinstance(lost, Lost)
    back = Script(0, resumed=True)
    seat.take(back)  # type: ignore[arg-type]
    assert json.loads(back.sent[0])["_seat"]["seen"] == 2 and back.sent[1:] == ["one"]


def resume(seat: Seat) -> None:
    """Take a seat back from a server that has taken nothing yet."""
    seat.take(Script(0, resumed=True))  # type: ignore[arg-type]


def test_what_was_said_again_is_not_forgotten_with_the_next_message() -> None:
    """When that connection was lost, too, all but the last mebibyte was."""
    seat = Seat()
    resume(seat)
    for _ in range(8):
        assert seat.send("x" * (MOST_KEPT // 8))
    seat.lose()
    for _ in range(8):
        assert seat.send("x" * (MOST_KEPT // 8))
    resume(seat)
    assert seat.send("next")
    resume(seat)
    assert seat.lost == 1
    for _ in range(10):  # it goes in time
        seat.send("x" * (MOST_KEPT // 8))
    assert seat._size <= MOST_KEPT


def test_what_was_said_again_and_what_waits_have_one_bound() -> None:
    """Each connection that came and went let in a mebibyte more."""
    seat = Seat()
    resume(seat)
    seat.send("x" * MOST_KEPT)
    seat.lose()
    assert seat.send("x" * MOST_KEPT)
    for _ in range(3):
        resume(seat)
        seat.lose()
        assert not seat.send("x")
    seat.take(Script(1, resumed=True))  # type: ignore[arg-type]
    seat.lose()
    assert seat.send("x" * MOST_KEPT) and seat.lost == 0


def test_what_a_server_had_taken_before_it_crashed_is_said_again() -> None:
    """Who had come back since the last save had forgotten it by then."""
    seat = Seat()
    resume(seat)
    for word in ("one", "two", "three"):
        seat.send(word)
    seat.take(Script(3, resumed=True))  # type: ignore[arg-type]
    seat.lose()
    assert seat.send("four")
    after_crash = Script(1, resumed=True)
    assert seat.take(after_crash)  # type: ignore[arg-type]
    assert after_crash.sent[1:] == ["two", "three", "four"] and seat.lost == 0


def test_what_the_server_has_taken_takes_no_room_from_what_waits() -> None:
    seat = Seat()
    resume(seat)
    assert seat.send("x" * MOST_KEPT)
    seat.lose()
    assert seat.send("x" * MOST_KEPT)
    seat.take(Script(2, resumed=True))  # type: ignore[arg-type]
    assert seat._size <= MOST_KEPT
    assert seat.send("y" * (MOST_KEPT - 1)) and seat._size <= MOST_KEPT
    seat.lose()
    assert seat.send("z" * MOST_KEPT) and not seat.send("z")
    assert seat._size <= 2 * MOST_KEPT
    back = Script(2, resumed=True)
    assert seat.take(back)  # type: ignore[arg-type]
    assert [text[0] for text in back.sent[1:]] == ["y", "z"] and seat.lost == 0


@pytest.mark.parametrize("online", [True, False])
def test_what_can_never_be_sent_is_not_kept(online: bool) -> None:
    """It was counted as said, so that after a loss the message behind it was said twice; or else
    each attempt to come back ended with its error."""
    seat = Seat()
    seat.take(Script(0, resumed=False))  # type: ignore[arg-type]
    if not online:
        seat.lose()
    for message, error in ("half \ud800", UnicodeEncodeError), ({"t": "x"}, TypeError):
        with pytest.raises(error):
            seat.send(message)  # type: ignore[arg-type]
    assert seat.send("one")
    seat.lose()
    back = Script(1 if online else 0, resumed=True)
    assert seat.take(back)  # type: ignore[arg-type]
    assert back.sent[1:] == ([] if online else ["one"])


@pytest.mark.parametrize("taken", ["1e999", "[" * 200_000])
def test_an_answer_that_is_none_says_of_no_seat(taken: str) -> None:
    """The thread of a terminal client ended in silence, and its screen stood still."""
    script = Script(0, resumed=False)
    script.receive = (  # type: ignore[method-assign]
        lambda timeout=None: f'{{"_seat":{{"token":"t","resumed":false,"taken":{taken}}}}}'
    )
    with pytest.raises(InvalidHandshake):
        Seat().take(script)  # type: ignore[arg-type]


def test_a_terminal_says_that_nothing_was_missed_and_what_was_written_is_on_its_way() -> None:
    class Link:
        sent: list[str] = []

        def send(self, message: str) -> bool:
            self.sent.append(message)
            return True

    now = 0.0
    game, link = ChatView("Ann"), Link()
    app = App(game, link, "ws://host/lobby", clock=lambda: now)  # type: ignore[arg-type]
    app.handle(Opened(None))  # type: ignore[arg-type]
    app.handle(Lost(OSError("gone"), 1.0))
    for key in [*"hello", "enter"]:
        app._send(game.press(key))
    assert len(link.sent) == 1
    app.handle(Opened(None, resumed=True))  # type: ignore[arg-type]
    assert len(link.sent) == 1, "the connection has it already"
    now = 1.0
    lines = app.draw(Canvas(60, 20))
    assert "Back again, nothing missed." in "".join(text for text, _ in lines[-1])
    now = 9.0
    lines = app.draw(Canvas(60, 20))
    assert "Back again" not in "".join(text for text, _ in lines[-1])
