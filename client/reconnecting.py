"""A WebSocket that comes back after it is lost.

    from scalesocket.client.reconnecting import Received, Reconnecting
    from scalesocket.client.websocket import connect

    for event in Reconnecting(lambda: connect("ws://localhost:9000/lobby")).events():
        if isinstance(event, Received):
            print(event.message)

A server that restarts says so (1001, 1012), or its connections are just lost (1006). Clients
that all came back at once would be its next trouble: each waits longer after each failure, and
none as long as another.

`Reconnecting.to(url)` has a seat where the server keeps them (`--resume`): what was missed comes
after a loss, and what was said meanwhile is sent then.
"""

from __future__ import annotations

import contextlib
import math
import random
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import RemoteDisconnected
from typing import Any

from scalesocket import CloseCode

from .seat import Seat, keeps_seats, name_seat
from .websocket import ConnectionClosed, InvalidHandshake, WebSocket, connect

COME_BACK = (
    CloseCode.GOING_AWAY,
    CloseCode.ABNORMAL,
    CloseCode.SERVICE_RESTART,
    CloseCode.TRY_AGAIN_LATER,
)
STEADY_AFTER = 5.0  # seconds: a connection this old was a good one, and delays begin anew
ASKED_WITH = ("timeout", "headers", "ssl_context")  # options of `connect`


class Backoff:
    """Delays that double from `first` to `last` seconds, each up to a half shorter by chance."""

    def __init__(self, first: float = 0.5, last: float = 15.0) -> None:
        self._first = first
        self._last = last
        self._failures = 0

    def next_delay(self) -> float:
        """Return the seconds to wait before the next attempt."""
        # Beyond the twentieth doubling any number would do, and a float would overflow at last.
        delay = min(self._last, self._first * 2.0 ** min(self._failures, 20))
        self._failures += 1
        return delay * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Begin with the first delay again: a connection has been a good one."""
        self._failures = 0


@dataclass(frozen=True, slots=True)
class Opened:
    """The WebSocket is open, for the first time or again.

    Attributes:
        resumed: nothing was missed, and the room goes on: it takes this for the same client.
        lost: how many of its own messages nobody has any more, if it is resumed.
    """

    ws: WebSocket
    resumed: bool = False
    lost: int = 0


@dataclass(frozen=True, slots=True)
class Received:
    """A message has come."""

    message: str | bytes


@dataclass(frozen=True, slots=True)
class Lost:
    """The WebSocket is lost, or could not be opened again; the next attempt is `delay` away."""

    error: Exception
    delay: float  # seconds


def may_come_back(error: Exception) -> bool:
    """Whether the same connection may succeed a little later."""
    match error:
        case ConnectionClosed():
            return error.code in COME_BACK
        case InvalidHandshake():
            return error.status == 0 or error.status >= 500  # a proxy whose server restarts
        case ssl.SSLCertVerificationError():
            return False
    return isinstance(error, OSError)


def listen(
    ws: WebSocket, probe_after: float, stopped: Callable[[], bool], look_every: float = 1.0
) -> Iterator[str | bytes]:
    """Give out messages, and find out whether a silent peer is still there.

    Args:
        ws: whose messages.
        probe_after: seconds without a sign of the peer until it is pinged; after twice as many
            the connection is given up as lost.
        stopped: whether to end.
        look_every: seconds between two such questions at the most.

    Raises:
        ConnectionClosed: it is closed, or was lost.
    """
    probed_at: float | None = None
    while not stopped():
        try:
            message = ws.receive(min(look_every, probe_after / 4))
        except TimeoutError:
            probed_at = probe(ws, probe_after, probed_at)
            continue
        yield message


def probe(ws: WebSocket, probe_after: float, probed_at: float | None) -> float | None:
    """Look after a silent peer; return when it has been pinged, or None while it is well."""
    now = time.monotonic()
    if ws.silence < probe_after:
        return None
    if probed_at is None:
        with contextlib.suppress(TimeoutError):  # much waits to go out, and the peer takes none
            ws.ping(timeout=0)
        return now
    if now - probed_at > probe_after:
        raise ConnectionClosed(CloseCode.ABNORMAL, "the server does not answer a ping")
    return probed_at


class Reconnecting:
    """A connection that comes back after it is lost.

    Args:
        open_connection: opens it, such as `lambda: connect(url)`.
        backoff: how long to wait between attempts.
        probe_after: seconds without a sign of the peer until it is pinged; after twice as many
            the connection is given up as lost.
    """

    def __init__(
        self,
        open_connection: Callable[[], WebSocket],
        *,
        backoff: Backoff | None = None,
        probe_after: float = 10.0,
    ) -> None:
        self._open = open_connection
        self._backoff = backoff or Backoff()
        self._probe_after = probe_after
        self._stopped = threading.Event()
        self._seat: Seat | None = None
        self._ws: WebSocket | None = None  # while it is open

    @classmethod
    def to(
        cls,
        url: str,
        *,
        backoff: Backoff | None = None,
        probe_after: float = 10.0,
        **options: Any,
    ) -> Reconnecting:
        """Return a connection to a room, with a seat if the server keeps them.

        The server is asked before each attempt: it may have been started anew with other options.

        Args:
            url: of the room.
            backoff, probe_after: see the class.
            options: of `connect`.
        """
        if "headers" in options:
            options["headers"] = tuple(options["headers"])  # they are read more than once
        asked = {name: options[name] for name in ASKED_WITH if name in options}
        seat = Seat()

        def open_connection() -> WebSocket:
            try:
                seated = "unix_path" not in options and keeps_seats(url, **asked)
            except RemoteDisconnected:  # a proxy whose server restarts, or one that knows no HTTP
                if seat.is_taken:
                    raise
                seated = False
            if seated:
                link._seat = seat
                return connect(name_seat(url), **options)
            seat.forget()
            link._seat = None
            return connect(url, **options)

        link = cls(open_connection, backoff=backoff, probe_after=probe_after)
        return link

    def send(self, message: str | bytes, timeout: float | None = None) -> bool:
        """Send a message, from any thread; who has a seat may do so without a connection.

        Args:
            message: `str` as text, `bytes` as binary.
            timeout: seconds to wait for a peer that does not read, until it is given up.

        Returns:
            Whether it is sent, or kept until the connection is back (a mebibyte at the most).
        """
        seat, ws = self._seat, self._ws
        if self._stopped.is_set():
            return False
        if seat is not None:
            return seat.send(message, timeout)
        if ws is None:
            return False
        try:
            ws.send(message, timeout)
        except ConnectionClosed:
            return False  # `events` notices, too
        except TimeoutError:  # megabytes wait: whoever is there does not read
            ws.abort()
            return False
        return True

    def stop(self) -> None:
        """End `events`, from any thread."""
        self._stopped.set()

    def events(self) -> Iterator[Opened | Received | Lost]:
        """Connect, and give out what happens; come back when the connection is lost.

        Ends when it is stopped, at the latest a second later or when an attempt to connect is
        over; the connection is then closed.

        Raises:
            ConnectionClosed: the server has ended it for good.
            InvalidHandshake, OSError: the first attempt has failed, or there is no hope.
        """
        opened = False
        while not self._stopped.is_set():
            steady_at = math.inf
            try:
                with self._open() as ws:
                    resumed = self._seat is not None and self._seat.take(ws)
                    opened, self._ws = True, ws
                    steady_at = time.monotonic() + STEADY_AFTER
                    yield Opened(ws, resumed, self._seat.lost if self._seat is not None else 0)
                    yield from self._receive(ws)
            except (ConnectionClosed, InvalidHandshake, OSError) as error:
                self._ws = None
                if self._seat is not None and may_come_back(error):
                    self._seat.lose()
                elif self._seat is not None:
                    self._seat.forget()  # nothing waits for a connection that will not come
                if not opened or not may_come_back(error):
                    raise
                if time.monotonic() >= steady_at:
                    self._backoff.reset()
                delay = self._backoff.next_delay()
                yield Lost(error, delay)
                self._stopped.wait(delay)

    def _receive(self, ws: WebSocket) -> Iterator[Received]:
        for message in listen(ws, self._probe_after, self._stopped.is_set):
            if self._seat is not None:
                self._seat.count()
            yield Received(message)
