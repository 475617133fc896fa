"""The console (`--console`, `/console/`): WebSockets taken apart by hand, and rooms watched.

A page cannot see frames: its browser makes and reads them. So the console's page has a WebSocket of
its own, and the server lends it a wire: a tunnel is a WebSocket whose binary messages are bytes to
and from a new connection to this same server, as if they had come over TCP.

    page: own frames --> browser's WebSocket --> reader --> socket pair --> reader: HTTP, room
    page: own frames <-- browser's WebSocket <-- tunnel thread <-- socket pair <-- room

Whoever may open it sees all rooms and addresses, so only listed peers may; this machine by default.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import threading
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from scalesocket import (
    HERE,
    RECEIVE_SIZE,
    UNIX_PEER,
    CloseCode,
    Closing,
    ConfigError,
    HandshakeError,
    HttpSession,
    Messages,
    Opcode,
    Response,
    Server,
    Traffic,
    Want,
    __version__,
    encode_frame,
    is_loopback,
    json_response,
    start_thread,
)

from .files import WebFiles
from .metrics import find_totals
from .origins import is_own_page, make_guard
from .peers import parse_json
from .proxies import TrustedProxies, parse_proxies

if TYPE_CHECKING:
    from scalesocket import (
        Client,
        Config,
        Connection,
        Endpoint,
        Request,
        Room,
        RoomRegistry,
    )

PAGE = HERE / "client" / "console"  # not in web/, which --staticdir may serve
# fmt: off
OPTIONS = (
    ("--console", "[=LIST]", parse_proxies,
     "a page at /console/ to send and see frames, and to watch rooms; for this machine, "
     "or for these addresses and networks"),
)
# fmt: on
POLICY = "default-src 'self'; connect-src 'self' ws: wss:"
TUNNEL = "/console/tunnel"
_FORWARDED_FIELDS = ("X-Forwarded-For", "X-Forwarded-Host", "Forwarded", "Via", "X-Real-IP")


class Console:
    """Answers what is asked below `/console/`.

    Args:
        config: the options; `console` says who may ask.
        registry: the rooms to tell of.

    Raises:
        ConfigError: the page is not there.
    """

    def __init__(self, config: Config, registry: RoomRegistry) -> None:
        if not PAGE.is_dir():
            raise ConfigError("--console needs the folder client/ beside scalesocket.py")
        self._config = config
        self._registry = registry
        self._totals = find_totals(registry)
        self._allowed = TrustedProxies(config.console or ())
        self._guard = make_guard(config)
        self._files = WebFiles(PAGE)
        self._began = time.monotonic()
        self.problem = ""  # why the code that runs is not the latest (--reload)

    @staticmethod
    def covers(path: str) -> bool:
        """Whether a path is the console's."""
        return path == "/console" or path.startswith("/console/")

    def check(self, request: Request, peer: Endpoint) -> None:
        """Let only those look who may.

        A page from elsewhere that has its name lead here (DNS rebinding) is known by the Host that
        its requests name, also if a proxy tells that; what a proxy on this machine forwards by the
        fields it adds.

        Raises:
            HandshakeError: 403.
        """
        address, _ = peer
        if address not in self._allowed:
            raise HandshakeError(403, f"the console is not for {address}; see --console")
        for name in ("Host", "X-Forwarded-Host"):
            if name == "Host" or request.headers.get(name):
                self._guard.check_name(request.headers.get(name).lower())
        if is_loopback(address) and any(request.headers.get(name) for name in _FORWARDED_FIELDS):
            raise HandshakeError(403, "the console is not for what a proxy forwards")

    def respond(self, request: Request, peer: Endpoint) -> Response:
        """Return the page, a file of it, or the state of the server as JSON.

        Raises:
            HandshakeError: the peer may not look (403), or there is no such thing.
        """
        self.check(request, peer)
        if request.path.rstrip("/") == "/console/api":
            response = json_response(json.dumps(self._describe()))
            return response._replace(headers=(("Cache-Control", "no-store"),))
        if request.path == "/console":
            return Response(301, headers=(("Location", f"{request.base}/console/"),))
        inside = request._replace(
            target=request.target.removeprefix("/console"),
            base=f"{request.base}/console",
        )
        response = self._files.respond(inside)
        return response._replace(headers=(*response.headers, ("Content-Security-Policy", POLICY)))

    def take(
        self, session: HttpSession, request: Request, peer: Endpoint, *, secure: bool
    ) -> Generator[Want, Any, bool]:
        """Be a tunnel, if one is wanted, until either side ends; return whether one was.

        What comes through it is served as a connection.

        Raises:
            HandshakeError: the handshake is wrong, or the peer may not have one (403): only the
                page may, or any other page could play with what it finds on this machine.
        """
        if request.path != TUNNEL:
            return False
        server = session.server
        connection = session.shake_hands(request, max(self._config.maxmsg, RECEIVE_SIZE))
        self.check(request, peer)
        origin, named = (request.headers.get(name).lower() for name in ("Origin", "Host"))
        if not is_own_page(origin, named, secure=secure):
            raise HandshakeError(403, f"origin {origin or '(none)'} is not allowed")
        yield Want.HELPER
        server.check_all(session, request, peer)
        session.connection = connection
        server.connections.add(connection)
        self._carry(
            connection, lambda inner: server.readers.run(HttpSession(server, inner, UNIX_PEER))
        )
        return True

    def _carry(self, connection: Connection, serve: Callable[[socket.socket], None]) -> None:
        connection.open()
        ours, inner = socket.socketpair()
        with ours:
            reader = start_thread("reader of a tunnel", serve, inner)
            back = start_thread("tunnel", _pass_back, ours, connection, self._config.stall)
            closing = _pass_on(connection, ours)
            with contextlib.suppress(OSError):  # the server's side may have ended it
                ours.shutdown(socket.SHUT_RDWR)
            back.join()
            reader.join()
        connection.answer(closing)
        while connection.drop_input():
            wait_for(connection)

    # -- what the API tells --

    def _describe(self) -> dict[str, object]:
        (traffic, _), rooms = self._totals.add_up(), self._registry.running.copy()
        found = [self._describe_room(room) for room in rooms]
        kind = "game" if self._config.game else "terminal" if self._config.pty else "program"
        return {
            "version": __version__,
            "target": self._config.target,
            "kind": kind,
            "uptime": round(time.monotonic() - self._began, 3),
            "threads": threading.active_count(),
            "problem": self.problem,
            "rooms": found,
            "totals": {
                **counters(traffic),
                "connections": sum(len(room.clients) for room in rooms),
            },
        }

    @staticmethod
    def _describe_room(room: Room) -> dict[str, object]:
        return {
            "name": room.name,
            "clients": [describe_client(client) for client in room.clients.copy()],
            **counters(room.traffic),
            "inbox": room.inbox.size,
            "age": round(time.monotonic() - room.since, 3),
            "metadata": parse_json(room.metadata),
        }


def describe_client(client: Client) -> dict[str, object]:
    """Return what the API tells of a client."""
    return {
        "id": client.id,
        "user": client.user,
        "address": client.peer[0],
        "port": client.peer[1],
        "age": round(time.monotonic() - client.since, 3),
        "backlog": client.connection.backlog_size,
        "coding": client.connection.encoding.name,
        "dropped": client.dropped,
    }


def counters(traffic: Traffic) -> dict[str, int]:
    """Return the plain numbers of a `Traffic`."""
    return {name: getattr(traffic, name) for name in Traffic.__annotations__}


# ==== The tunnel ===========================================================
# The reader of the page's connection writes what it sends into a socket pair; a second thread
# reads what comes back. Each ends the other by ending its side.


def wait_for(connection: Connection) -> None:
    """Wait until there is something to receive."""
    if not connection.has_more:
        with contextlib.suppress(ValueError), selectors.DefaultSelector() as selector:
            selector.register(connection, selectors.EVENT_READ)  # ValueError: it has ended
            selector.select()


def _pass_on(connection: Connection, sock: socket.socket) -> Closing:
    """Write what the page sends; return how it ended."""
    while (events := connection.receive()) is not None:
        if not events:
            wait_for(connection)
        for event in events:
            if isinstance(event, Closing):
                return event
            if isinstance(event, Messages) and event.opcode == Opcode.BINARY:
                with contextlib.suppress(OSError):  # it has ended, as the page will be told
                    sock.sendall(b"".join(event.payloads))
    return Closing(CloseCode.ABNORMAL, "connection lost", failed=False)


def _pass_back(sock: socket.socket, connection: Connection, stall: float) -> None:
    """Send the page what the server's side answers, at the page's pace."""
    with contextlib.suppress(OSError):
        while data := sock.recv(RECEIVE_SIZE):
            connection.send(encode_frame(Opcode.BINARY, data))
            if not connection.wait_while_full(stall):
                connection.close(CloseCode.POLICY_VIOLATION, "too slow", discard=True)
                return
    connection.close(CloseCode.NORMAL, "the connection has ended")


def set_up(server: Server) -> None:
    """Have a server show the console."""
    console = Console(server.config, server.registry)
    server.site.console = console
    server.takers.append(console.take)
