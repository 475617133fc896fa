"""Many nodes: the rooms of the others, for a lobby (`--peers`).

A room lives on one node, so nodes share nothing and need not know each other: a proxy routes by the
first segment of the path. Only who wants to see all rooms has to ask all nodes (and a node for
whose room the proxy has sent a client elsewhere before: see net/relay.py):

    lobby --GET /api/rooms/--> node --GET /api/rooms/?local=ID--> every peer, at the same time
          <-- own rooms and those of all peers --

`?local` asks for a node's own rooms only, so that no question goes round in circles. ID is the
asking node's: one that is asked by itself, because all nodes got the same list, tells nothing.

Peers are believed in nothing but their rooms. An answer is bounded in time and in size, is taken
apart and put together again, and where a room is, this node says.
"""

from __future__ import annotations

import json
import math
import re
import socket
import threading
import time
import urllib.parse
import uuid
from typing import TYPE_CHECKING

from scalesocket import (
    MAX_DIGITS,
    MAX_ROOM_NAME,
    MIB,
    RECEIVE_SIZE,
    ConfigError,
    ShortageError,
    check_nesting,
    report_failure,
    start_thread,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from scalesocket import JsonValue

FRESH = 1.0  # seconds for which an answer is used again
PATIENCE = 1.0  # seconds that a lobby waits for peers, and a peer has to answer
KEPT = 5.0  # seconds for which the last answer stands when no other comes
MAX_ANSWER = 1 * MIB  # bytes
MAX_LISTED = 10_000  # rooms of one peer
MAX_CONNECTIONS = 10**9  # in one room; who tells of more is lying
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029/]")


# ==== 1. What a peer says =================================================================


def parse_list(body: bytes) -> list[JsonValue]:
    """Return a list in JSON, or its first `MAX_LISTED` members.

    Raises:
        ValueError: it is none.
    """
    try:
        found = parse_json(body.decode())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(found, list):
        raise ValueError("it is no list")
    return found[:MAX_LISTED]


def parse_json(text: str) -> JsonValue:
    """Return a value in JSON, which can be written as JSON again.

    A program may have put numbers into its room's metadata that no float can hold, or that have
    more digits than Python takes: those become null, as JavaScript writes them.

    Raises:
        ValueError: it is no JSON.
        RecursionError: it is nested too deeply.
    """
    check_nesting(text)
    return json.loads(
        text, parse_int=_read_int, parse_float=_read_float, parse_constant=_refuse_constant
    )


def _read_int(digits: str) -> int | None:
    return int(digits) if len(digits) <= MAX_DIGITS else None


def _read_float(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


def parse_listing(body: bytes, node: str) -> list[str]:
    """Return the rooms in a peer's answer as JSON objects that name the node.

    Whatever else the objects say is left out, and so is what can be no room.

    Raises:
        ValueError: it is no list in JSON.
    """
    rooms = []
    for entry in parse_list(body):
        match entry:
            case {"name": str(name), "connections": int(connections)}:
                if _is_room(name) and 0 <= connections <= MAX_CONNECTIONS:
                    metadata = entry.get("metadata")
                    facts = {"name": name, "connections": int(connections), "node": node}
                    rooms.append(json.dumps(facts | {"metadata": metadata}))
    return rooms


def _is_room(name: str) -> bool:
    return 0 < len(name) <= MAX_ROOM_NAME and not _CONTROL.search(name)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def take_body(answer: bytes) -> bytes:
    """Return the body of a response.

    Raises:
        ValueError: it is none, or not a good one.
    """
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end or not re.match(rb"HTTP/1\.[01] 200 ", head):
        raise ValueError(f"it begins with {head[:40]!r}")
    return body


# ==== 2. Asking it =======================================================================


class Peer:
    """Another node, as one of --peers names it.

    Args:
        address: `HOST:PORT`, or an `http` or `https` URL.
        base: what stands before paths there, unless it is a URL, which says so itself.

    Raises:
        ConfigError: it is neither.
    """

    def __init__(self, address: str, base: str = "") -> None:
        url = address if "://" in address else f"http://{address}{base}"
        try:
            parts = urllib.parse.urlsplit(url)
            port = parts.port
            (parts.hostname or "").encode("idna")  # as it will be looked up
        except ValueError:
            raise ConfigError(f"--peers: {address!r} is no URL or HOST:PORT") from None
        named = parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc
        if not named or not (port or "://" in address) or re.search(r"[\s?#]", url):
            raise ConfigError(f"--peers: {address!r} is no URL or HOST:PORT")
        self.name = parts.netloc
        self._host = parts.hostname or ""
        self._port = port or (443 if parts.scheme == "https" else 80)
        self.base = parts.path.rstrip("/")  # what stands before paths there
        self._tls = make_tls_context() if parts.scheme == "https" else None

    def ask(self, asker: str) -> list[str]:
        """Return its rooms, as JSON objects. Takes `PATIENCE` seconds, and what DNS takes.

        Args:
            asker: the ID of this node.

        Raises:
            OSError: it cannot be reached, or not in time.
            ValueError: it says something that cannot be used.
        """
        answer = self.fetch(f"/api/rooms/?local={asker}", PATIENCE)
        return parse_listing(take_body(answer), self.name)

    def fetch(self, target: str, timeout: float) -> bytes:
        """Return the response to a GET. Takes `timeout` seconds, and what DNS takes.

        Raises:
            OSError: it cannot be reached, or not in time.
            ValueError: the response is too long.
        """
        deadline = time.monotonic() + timeout
        # 1.0 knows neither chunks nor connections that stay open: the body goes to the end.
        head = f"GET {self.base}{target} HTTP/1.0\r\nHost: {self.name}\r\n\r\n"
        with self.connect(timeout) as sock:
            sock.settimeout(time_left(deadline))
            sock.sendall(head.encode())
            return receive_all(sock, deadline)

    def connect(self, timeout: float) -> socket.socket:
        """Return a connection to it, under TLS if it is an `https` URL.

        Raises:
            OSError: it cannot be reached, or not in time.
        """
        deadline = time.monotonic() + timeout
        sock = socket.create_connection((self._host, self._port), timeout)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(time_left(deadline))
            return self._wrap(sock)
        except OSError:
            sock.close()
            raise

    def _wrap(self, sock: socket.socket) -> socket.socket:
        if self._tls is None:
            return sock
        return self._tls.wrap_socket(sock, server_hostname=self._host)


def make_tls_context() -> ssl.SSLContext:
    """Return what checks a peer's certificate against the authorities that this system trusts."""
    import ssl

    return ssl.create_default_context()


def receive_all(sock: socket.socket, deadline: float, limit: int = MAX_ANSWER) -> bytes:
    """Return all that comes until the peer closes, `limit` bytes at the most.

    Raises:
        OSError: that takes too long.
        ValueError: it is too much.
    """
    answer = bytearray()
    while True:
        sock.settimeout(time_left(deadline))
        data = sock.recv(RECEIVE_SIZE)
        if not data:
            return bytes(answer)
        answer += data
        if len(answer) > limit:
            raise ValueError(f"it has over {limit} bytes")


def time_left(deadline: float) -> float:
    """Return the seconds until then.

    Raises:
        TimeoutError: there are none.
    """
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError("it takes too long")
    return seconds


# ==== 3. Asking all of them ===============================================================


class Answers:
    """What one peer has said last. Guarded by the lock of `Peers`."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.rooms: list[str] = []
        self.came_at = -KEPT  # on the monotonic clock; there is none yet
        self.asking = False  # a thread is at it, at most one for each peer
        self.trusted = True  # it has answered when it was asked last; a lobby waits for it
        self.complaint = ""  # logged once, not each second


class Peers:
    """The rooms of the other nodes.

    Each peer is asked on a thread of its own, which ends with its answer, at the latest when
    its time is over. Nobody waits for one that did not answer the last time.

    Args:
        addresses: see `Peer`.
        warn: called with a line for the log when a peer begins to fail.
        base: of their paths, as of ours (--basepath), unless a URL says something else.

    Raises:
        ConfigError: an address cannot be one.
    """

    def __init__(
        self, addresses: Sequence[str], warn: Callable[[str], None], *, base: str = ""
    ) -> None:
        self.id = uuid.uuid4().hex  # of this node, as it runs now
        self._warn = warn
        self._all = [Answers(Peer(address, base)) for address in dict.fromkeys(addresses)]
        self._answered = threading.Condition()  # guards all below, and what peers have said
        self._asked_at = float("-inf")

    @property
    def all(self) -> list[Peer]:
        """All of them; this very node may be one."""
        return [one.peer for one in self._all]

    def is_asked_by_itself(self, query: str) -> bool:
        """Whether this very node has asked for its own rooms: they would be listed twice."""
        return query == f"local={self.id}"

    def rooms(self) -> list[str]:
        """Return all rooms of the peers, as JSON objects; may take `PATIENCE` seconds."""
        with self._answered:
            now = time.monotonic()
            if now - self._asked_at >= FRESH:
                self._asked_at = now
                self._ask_all()
            if not self._answered.wait_for(lambda: not self._awaited(), PATIENCE):
                for one in self._all:  # DNS may take longer than we have; nobody waits again
                    one.trusted = one.trusted and not one.asking
            old = time.monotonic() - KEPT
            return [room for one in self._all if one.came_at > old for room in one.rooms]

    def describe(self, name: str) -> dict[str, str]:
        """Return what a peer says of a room, as JSON by metric, and all under ""; or nothing."""
        quoted = json.dumps(name)
        for text in self.rooms():
            if quoted in text and (room := json.loads(text))["name"] == name:
                metrics = {key: json.dumps(room[key]) for key in ("connections", "metadata")}
                return {"": text, **metrics}
        return {}

    def _awaited(self) -> bool:
        return any(one.asking and one.trusted for one in self._all)

    def _ask_all(self) -> None:
        for one in self._all:
            if not one.asking:
                try:
                    start_thread(f"peer {one.peer.name}", self._ask, one)
                    one.asking = True
                except ShortageError:
                    return  # what is known stands

    def _ask(self, one: Answers) -> None:
        complaint = f"peer {one.peer.name} does not tell its rooms"
        rooms: list[str] = []
        try:
            rooms = one.peer.ask(self.id)
            complaint = ""
        except (OSError, ValueError) as error:
            complaint += f": {error}"
        except BaseException:  # memory has run out, or it is a bug of ours
            report_failure()
        finally:  # or it would never be asked again
            with self._answered:
                one.asking = False
                one.trusted = not complaint
                if not complaint:
                    one.rooms, one.came_at = rooms, time.monotonic()
                news = complaint and not one.complaint
                one.complaint = complaint
                self._answered.notify_all()
        if news:
            self._warn(complaint)
