"""A place in a room that outlives its connections, as a client has it.

`Reconnecting.to` (reconnecting.py) uses it; README.md, "Seats that outlive connections", says what
crosses the wire. A `Seat` knows what has come for it, and keeps what was said: whatever the server
has not taken is said again on the next connection, once. The last of what it has taken is kept,
too: a server that crashes then, or stops before its program has read it, has taken less after all.
"""

from __future__ import annotations

import http.client
import itertools
import json
import ssl
import threading
from collections import deque
from collections.abc import Iterable

from scalesocket import MIB

from .websocket import (
    OPEN_TIMEOUT,
    ConnectionClosed,
    InvalidHandshake,
    WebSocket,
    deadline_after,
    open_socket,
    parse_url,
)

MOST_KEPT = MIB  # bytes of what may be on its way, and as many that wait for a connection
MOST_ABOUT = 64 * 1024  # bytes of what a server says of itself


def keeps_seats(
    url: str,
    *,
    timeout: float | None = OPEN_TIMEOUT,
    headers: Iterable[tuple[str, str]] = (),
    ssl_context: ssl.SSLContext | None = None,
) -> bool:
    """Ask the server of a room whether it keeps seats (`--resume`).

    Args:
        url: of the room.
        timeout: seconds for the connection, and for what is waited for on it.
        headers: more fields for the request.
        ssl_context: for `wss://`; without one the system's authorities are trusted.

    Raises:
        InvalidURL: the address is wrong.
        InvalidHandshake: a proxy says that the server is not there (502, 503, …).
        OSError: it cannot be reached; RemoteDisconnected if it closes without a whole answer.
    """
    address = parse_url(url)
    connection = http.client.HTTPConnection(address.host, address.port)
    folder = address.target.partition("?")[0].rpartition("/")[0]
    fields = {name.lower(): value for name, value in [("Host", address.authority), *headers]}
    # Not below: that a certificate is not trusted is a ValueError, too.
    connection.sock = open_socket(address, None, ssl_context, deadline_after(timeout))
    try:
        connection.request("GET", f"{folder}/lobby/about.json", headers=fields)
        response = connection.getresponse()
        if response.status >= 500:
            raise InvalidHandshake(response.status, f"the server answered {response.status}")
        if response.status != 200:
            return False
        body = response.read(MOST_ABOUT)
        if not body or (response.length and len(body) < MOST_ABOUT):
            raise http.client.IncompleteRead(body)
        about = json.loads(body)
    except http.client.HTTPException:
        raise http.client.RemoteDisconnected("it closed without a whole answer") from None
    except (ValueError, RecursionError):
        return False  # it is another kind of server
    finally:
        connection.close()
    return isinstance(about, dict) and bool(about.get("resume"))


def name_seat(url: str) -> str:
    """Return the address of a room for a connection that wants a seat."""
    return f"{url}{'&' if '?' in url else '?'}_seat"


class Seat:
    """What has to be known to take a seat back, and what was said on it.

    One thread at a time calls `take`, `count` and `forget`; any may `send`.

    Attributes:
        lost: how many of its own messages nobody had any more when it was last taken back.
    """

    def __init__(self) -> None:
        self.lost = 0
        self._seen = 0  # messages that have come for it
        self._lock = threading.Lock()  # guards all below, and the order of what is sent
        self._token = ""
        self._ws: WebSocket | None = None
        # The last of it. The server may lack something, and after a crash what it had taken, too.
        self._said: deque[str | bytes] = deque()
        self._size = 0  # bytes of these
        self._first = 0  # number of the first
        self._taken = 0  # number of the first that the server had not taken when it last said so
        self._waiting = 0  # bytes of what was said while there is no connection

    @property
    def is_taken(self) -> bool:
        """Whether there is one to come back to."""
        return self._token != ""

    def take(self, ws: WebSocket, timeout: float | None = OPEN_TIMEOUT) -> bool:
        """Sit down on a new connection, and say again what the server lacks.

        Returns:
            Whether the seat goes on where it was; otherwise it is a new one.

        Raises:
            ConnectionClosed, TimeoutError: there is no answer.
            InvalidHandshake: the answer is none.
        """
        wish = {"token": self._token, "seen": self._seen} if self._token else {}
        ws.send(json.dumps({"_seat": wish}), timeout)
        answer = ws.receive(timeout)
        try:
            facts = json.loads(answer)["_seat"]
            token, taken = str(facts["token"]), int(facts["taken"])
            resumed = bool(facts["resumed"])
        except (ValueError, TypeError, LookupError, OverflowError, RecursionError):
            raise InvalidHandshake(101, "the server does not say which seat it is") from None
        with self._lock:
            if not resumed:
                self._forget_said()
                self._seen = 0
            self.lost = max(0, self._first - taken) if resumed else 0
            lacking = self._find_lacking(taken)
            self._waiting = min(self._waiting, sum(map(size_of, lacking)))
            self._token, self._ws = token, ws
            for message in lacking:
                if self._ws is not None:
                    self._say(self._ws, message, timeout)
            if self._ws is not None:
                self._waiting = 0
            return resumed

    def count(self) -> None:
        """Note that a message has come."""
        self._seen += 1

    def lose(self) -> None:
        """Note that the connection is lost: what is said from now on waits for the next."""
        with self._lock:
            self._ws = None

    def forget(self) -> None:
        """Give it up: what comes next begins anew."""
        with self._lock:
            self._token, self._ws = "", None
            self._forget_said()

    def send(self, message: str | bytes, timeout: float | None = None) -> bool:
        """Send a message now, or when there is a connection again.

        Returns:
            Whether it is sent or kept; there is a bound to what waits.

        Raises:
            UnicodeEncodeError, TypeError: it can never be sent, so it is not kept, either.
        """
        size = size_of(message)
        with self._lock:
            if self._ws is None:
                self._forget_taken(2 * MOST_KEPT - size)
                most = min(MOST_KEPT - self._waiting, 2 * MOST_KEPT - self._size)
                if not self._token or size > most:
                    return False
                self._waiting += size
            self._said.append(message)
            self._size += size
            if self._ws is None:
                return True
            # What was said again goes little by little: the server may lack it still.
            least = max(MOST_KEPT, self._size - 2 * size)
            while self._size > least and len(self._said) > 1:
                self._forget_oldest()
            self._say(self._ws, message, timeout)
            return True

    # -- under the lock --

    def _say(self, ws: WebSocket, message: str | bytes, timeout: float | None) -> None:
        try:
            ws.send(message, timeout)
        except ConnectionClosed:
            self._ws = None  # whoever receives notices, too, behind what has come before
        except TimeoutError:  # megabytes wait: whoever is there does not read
            ws.abort()
            self._ws = None

    def _find_lacking(self, taken: int) -> list[str | bytes]:
        """Return what the server lacks, which has taken so many messages."""
        if not self._first <= taken <= self._first + len(self._said):
            while self._said and self._first < taken:
                self._forget_oldest()
            self._first = taken  # what was before is lost
        self._taken = taken
        self._forget_taken(MOST_KEPT)
        return list(itertools.islice(self._said, taken - self._first, None))

    def _forget_taken(self, size: int) -> None:
        """Forget what the server has said to have, until no more than so many bytes are kept."""
        while self._size > size and self._first < self._taken:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        self._size -= size_of(self._said.popleft())
        self._first += 1

    def _forget_said(self) -> None:
        self._said.clear()
        self._size = self._first = self._taken = self._waiting = 0


def size_of(message: str | bytes) -> int:
    """Return how many bytes a message is. Raises UnicodeEncodeError or TypeError if it is none."""
    return len(message.encode()) if isinstance(message, str) else memoryview(message).nbytes
