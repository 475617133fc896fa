"""A room that is open on another node is found there (`--peers`).

A proxy sends a room's clients to one node, but not for ever: it forgets, or its list of nodes
changes, and then late-comers come to a node that does not have their room. That node asks all
others at once, and passes the connection through to the one that has it:

    client --GET /lobby--> node --GET /api/rooms/?local=ID&room=lobby--> all peers, at once
                                <-------- [{"state": "open", …}] ------- one of them
    client <----------- bytes, both ways, as they are -----------------> that one

If none has it, the node opens it itself. Two that are asked for the same room at the same moment
both say "opening" of it: then the one whose ID is less goes on, and the other asks again until it
has opened. IDs are random, as nodes need no names of their own. One that cannot be reached has no
say, and may have the room open, too: then there are two, each for whoever comes to its node, until
either has emptied.

A client that comes through a node carries a mark. It is never passed through a second time: if its
room has gone elsewhere meanwhile, it is told 503, and comes again.

If this node lacks threads, descriptors or memory to ask, nothing is known: the client is told 503.

A peer is waited for `ASK_TIMEOUT` seconds. One that did not answer in time is left out for
`LEFT_OUT` seconds, or until any peer asks us something; one that refuses the connection costs
nothing, and is asked each time. A node that does not answer a client's request, which was passed on
to it, within `ANSWER_TIMEOUT` seconds is given up, and the client is told 503.

A node may hang later on: the system beneath it still takes what is sent, and nobody reads that. So
each one that has clients of ours is asked for `/health` every `--ping` seconds, on one thread for
all of them; if it says nothing to that twice, they get Close 1012, and come again.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import select
import selectors
import socket
import struct
import threading
import time
import urllib.parse
from typing import TYPE_CHECKING, Any

from scalesocket import (
    _SHORTAGES,
    CLOSE_TIMEOUT,
    KIB,
    MAX_HEAD,
    MAX_HEADERS,
    OUT_OF_MEMORY,
    RECEIVE_SIZE,
    UNIX_PEER,
    CloseCode,
    HandshakeError,
    Opcode,
    ShortageError,
    Want,
    encode_close,
    encode_frame,
    error_response,
    insist,
    log,
    parse_room_name,
    start_thread,
)

from .lines import is_gone, keep_alive
from .origins import find_forwarded_host
from .peers import parse_list, take_body
from .presence import poll_end
from .rooms import RESTARTING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from scalesocket import Endpoint, HttpSession, Request, Server, Session

    from .peers import Peer, Peers
    from .tls import TlsTransport

ASK_TIMEOUT = 0.5  # seconds for a peer to say whether it has a room: two round trips, or three
LEFT_OUT = 5.0  # seconds for which one that was slower is not asked
AGREE_TIMEOUT = 3.0  # seconds for nodes to agree on who opens a room
AGREE_PAUSE = 0.02  # seconds until one is asked again that is opening it
MAX_SEEKING = 64  # clients that ask at the same time, each on a thread for each peer
ANSWER_TIMEOUT = 30.0  # seconds for a node to answer a request that has been passed on to it
MOST_MISSES = 2  # times that a node may leave `/health` without an answer
ABORT_TIMEOUT = 1.0  # seconds for those that are cut off to end
MARK = "X-ScaleSocket-Relayed"  # in a request that has been passed through
# What a node says of who has connected to it, in place of what was said before.
REPLACED = frozenset(
    ("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded", MARK.lower())
)
ADDED_FIELDS = 4  # in place of those
ADDED_SIZE = KIB  # bytes of them, and of what stands before the path there
RETRY = ("Retry-After", "1")
GONE = "the node that has this room has ended"
SILENT = "the node that has this room does not answer"
CANNOT_ASK = "this node cannot reach the others for now"
POLLERR = getattr(select, "POLLERR", 0)
# `poll` takes no descriptor, which `epoll` does: for each client that is passed through.
Selector = getattr(selectors, "PollSelector", selectors.DefaultSelector)


# ==== 1. Who has a room ==================================================================


class Opening:
    """A node's word that it is about to open a room, until it has, or has not.

    Args:
        end: takes it back; more than once does no harm.
    """

    def __init__(self, end: Callable[[], None]) -> None:
        self._end: Callable[[], None] | None = end

    @property
    def has_ended(self) -> bool:
        """Whether it has been taken back."""
        return self._end is None

    def end(self) -> None:
        """Take it back: the room is open, or will not be."""
        end, self._end = self._end, None
        if end is not None:
            end()


class Question:
    """One room, asked of several peers at the same time; any of them may be too late."""

    def __init__(self) -> None:
        self._changed = threading.Condition()  # guards the answers
        self._answers: dict[Peer, tuple[str, str]] = {}

    def answer(self, peer: Peer, state: str, node: str) -> None:
        """Note what a peer has said."""
        with self._changed:
            self._answers[peer] = state, node
            self._changed.notify()

    def wait(self, count: int, timeout: float) -> dict[Peer, tuple[str, str]]:
        """Return what so many peers say: state and ID; less if one has it, or when time is up."""

        def is_enough() -> bool:
            states = [state for state, _ in self._answers.values()]
            return len(states) >= count or "open" in states

        with self._changed:
            self._changed.wait_for(is_enough, timeout)
            return dict(self._answers)


STATES = ("none", "opening", "open")  # of a room on a node; a later one counts
UNKNOWN = "unknown"  # this node could not ask, and the other one may well have the room


def is_shortage(error: Exception) -> bool:
    """Whether it is this node that lacks something, and not a peer that has failed."""
    if isinstance(error, OSError):
        return error.errno in _SHORTAGES
    return isinstance(error, MemoryError | ShortageError)


def parse_state(body: bytes, name: str) -> tuple[str, str]:
    """Return what a peer says of a room: one of `STATES`; and its ID, if it says that.

    Raises:
        ValueError: it is no list in JSON.
    """
    state, node = "none", ""
    for entry in parse_list(body):
        match entry:
            case {
                "name": str(said),
                "state": "none" | "opening" | "open" as of_it,
                "node": str(id),
            }:
                if said == name:
                    state, node = max(state, of_it, key=STATES.index), id
            case {"name": str(said), "connections": int()}:  # an older version lists its rooms
                state = "open" if said == name else state
    return state, node


class Seeker:
    """Finds out which node has a room.

    Args:
        peers: the nodes, and the ID of this one.
        find_room: returns the room of a name, if it is open here.
    """

    def __init__(self, peers: Peers, find_room: Callable[[str], object]) -> None:
        self._peers = peers
        self._id = peers.id
        self._find_room = find_room
        self._turns = threading.BoundedSemaphore(MAX_SEEKING)
        self._lock = threading.Lock()  # guards all below
        self._openings: dict[str, int] = {}  # how many clients are about to open a room
        self._left_out: dict[Peer, float] = {}  # until when
        self._complained: set[Peer] = set()
        self._known: dict[str, Peer] = {}  # by ID, as of their last answers
        self._self: set[Peer] = set()  # this very node, if it is in its list

    def describe(self, name: str, asker: str) -> str:
        """Return what a peer is told of a room here, as JSON; `asker` is its ID."""
        if asker == self._id:
            return json.dumps({"name": name, "state": "none", "node": asker})
        with self._lock:
            peer = self._known.get(asker)
            if peer is None:  # a node that has just started, maybe one that was left out
                self._left_out.clear()
            else:
                self._left_out.pop(peer, None)
            # In this order: an opening ends when the room is open.
            state = "opening" if name in self._openings else "none"
        if self._find_room(name):
            state = "open"
        return json.dumps({"name": name, "state": state, "node": self._id})

    def seek(self, name: str) -> Peer | Opening:
        """Return the peer that has a room; if none has, it is this node's to open.

        May take ASK_TIMEOUT seconds, and AGREE_TIMEOUT if another node is opening it.

        Raises:
            HandshakeError: 503, another node does not get to the end of that, too many ask, or
                this node lacks what it needs for asking.
        """
        if not self._turns.acquire(timeout=AGREE_TIMEOUT):
            raise HandshakeError(503, "too many look for a room", RETRY)
        try:
            return self._agree(name, self._claim(name))
        finally:
            self._turns.release()

    def leave_out(self, peer: Peer) -> None:
        """Do not ask a peer for a while."""
        with self._lock:
            self._left_out[peer] = time.monotonic() + LEFT_OUT

    def _claim(self, name: str) -> Opening:
        """Say that this node is about to open a room."""

        def end() -> None:
            with self._lock:
                self._openings[name] -= 1
                if not self._openings[name]:
                    del self._openings[name]

        with self._lock:
            self._openings[name] = self._openings.get(name, 0) + 1
        return Opening(end)

    def _agree(self, name: str, opening: Opening | None) -> Peer | Opening:
        """Ask until it is clear who has a room, or opens it.

        Whoever says "opening" does so before it asks. So of two nodes that open a room at the same
        moment, at least one hears it of the other. That one asks again; and if its own ID is not
        the least, it takes its word back, so that the other one sees nobody.
        """
        deadline = time.monotonic() + AGREE_TIMEOUT
        try:
            while not self._find_room(name):
                answers = self._ask(name)
                for peer, (state, _) in answers.items():
                    if state == "open":
                        return peer
                rivals = [node for state, node in answers.values() if state == "opening"]
                if not rivals and opening is not None:
                    break
                if time.monotonic() >= deadline:
                    raise HandshakeError(503, "another node is opening this room", RETRY)
                if not rivals:
                    opening = self._claim(name)
                    continue
                if opening is not None and min(rivals) < self._id:
                    opening.end()
                    opening = None
                time.sleep(AGREE_PAUSE)
            opening, agreed = None, opening or self._claim(name)
            return agreed
        finally:
            if opening is not None:
                opening.end()

    # -- asking --

    def _ask(self, name: str) -> dict[Peer, tuple[str, str]]:
        """Return what the peers say that answer in time.

        Raises:
            HandshakeError: 503, not all could be asked, and of the others none has the room.
        """
        now = time.monotonic()
        with self._lock:
            others = [peer for peer in self._peers.all if peer not in self._self]
            asked = [peer for peer in others if self._left_out.get(peer, now) <= now]
        question = Question()
        for peer in asked:
            try:
                start_thread(f"peer {peer.name}", self._ask_one, question, peer, name)
            except ShortageError as error:
                self._complain(peer, str(error))
                question.answer(peer, UNKNOWN, "")
        answers = question.wait(len(asked), ASK_TIMEOUT)
        states = [state for state, _ in answers.values()]
        if "open" not in states:
            for peer in asked:
                if peer not in answers:
                    self._complain(peer, f"it takes over {ASK_TIMEOUT:g} s", left_out=True)
            if UNKNOWN in states:
                raise HandshakeError(503, CANNOT_ASK, RETRY)
        return answers

    def _ask_one(self, question: Question, peer: Peer, name: str) -> None:
        query = f"local={self._id}&room={urllib.parse.quote(name, safe='')}"
        try:
            body = take_body(peer.fetch(f"/api/rooms/?{query}", ASK_TIMEOUT))
            state, node = parse_state(body, name)
        except TimeoutError:
            return  # whoever asks has noticed
        except (OSError, ValueError, MemoryError) as error:
            self._complain(peer, str(error) or OUT_OF_MEMORY)
            state, node = UNKNOWN if is_shortage(error) else "none", ""
        else:
            with self._lock:
                self._complained.discard(peer)
                if node == self._id:
                    self._self.add(peer)
                elif node:
                    self._know(node, peer)
        question.answer(peer, state, node)

    def _know(self, node: str, peer: Peer) -> None:
        """Note a peer's ID; each has one at a time."""
        if self._known.get(node) is not peer:
            self._known = {n: p for n, p in self._known.items() if p is not peer} | {node: peer}

    def _complain(self, peer: Peer, what: str, *, left_out: bool = False) -> None:
        """Log once that a peer does not answer; it is not asked for a while, or is."""
        if left_out:
            self.leave_out(peer)
        with self._lock:
            news = peer not in self._complained
            self._complained.add(peer)
        if news:
            log.warning("peer %s does not say which rooms it has: %s", peer.name, what)


# ==== 2. Passing a connection through ====================================================


class Frames:
    """Where the frames of a server end in its bytes, so that a last one can be put behind them."""

    def __init__(self) -> None:
        self._head = b""  # of the response, or of a frame; it is not whole yet
        self._is_open = False  # the response was 101
        self._rest = 0  # bytes of a frame's payload that are yet to come
        self.has_begun = False  # something of the response has been seen, or told in its place
        self.has_closed = False  # a Close frame has begun

    @property
    def may_be_closed(self) -> bool:
        """Whether a Close frame may follow what has been seen."""
        return self._is_open and not (self._head or self._rest or self.has_closed)

    def feed(self, data: bytes) -> None:
        """Take what comes next."""
        self.has_begun = True
        if not self._is_open:
            self._head += data
            head, end, data = self._head.partition(b"\r\n\r\n")
            if not end or not head.startswith(b"HTTP/1.1 101 "):
                self._head = self._head[:MAX_HEAD]
                return
            self._is_open, self._head = True, b""
        at, end_of_all = 0, len(data)
        while at < end_of_all:
            if self._rest:
                step = min(self._rest, end_of_all - at)
                self._rest -= step
                at += step
                continue
            self._head += data[at : at + 1]
            at += 1
            self._read_head()

    def _read_head(self) -> None:
        """See whether the head of a frame is whole (RFC 6455 section 5.2); nothing is masked."""
        head = self._head
        if len(head) < 2:
            return
        length = head[1] & 0x7F
        size = {126: 4, 127: 10}.get(length, 2)
        if len(head) < size:
            return
        self._rest = int.from_bytes(head[2:], "big") if size > 2 else length
        self.has_closed = self.has_closed or head[0] & 0x0F == Opcode.CLOSE
        self._head = b""


class Side:
    """One of the two ends of a connection that is passed through; it never blocks.

    Args:
        sock: connected.
        tls: what encrypts, if the socket does not do that itself.
    """

    def __init__(self, sock: socket.socket, tls: TlsTransport | None = None) -> None:
        self.sock = sock
        self._tls = tls
        self._waiting = b""  # for the socket
        self.ended = False  # it sends nothing more
        self._shut = False  # we send it nothing more
        self._later: tuple[type[OSError], ...] = (BlockingIOError,)
        if hasattr(sock, "do_handshake"):
            import ssl

            self._later += (ssl.SSLWantReadError, ssl.SSLWantWriteError)
        sock.setblocking(False)

    @property
    def is_busy(self) -> bool:
        """Whether something waits for its socket."""
        return bool(self._waiting)

    def read(self) -> bytes:
        """Return what has come; nothing: nothing has, or it has `ended`."""
        if self.ended or (self._tls is not None and self._tls.ended):
            self.ended = True
            return b""
        try:
            data = self.sock.recv(RECEIVE_SIZE)
        except self._later:
            return b""
        except OSError:
            data = b""
        if not data:
            self.ended = True
        elif self._tls is not None:
            try:
                data, reply = self._tls.decrypt(data)
            except EOFError:
                data, reply = b"", self._tls.take_output()
                self.ended = True
            self._waiting += reply
        return data

    def write(self, data: bytes = b"") -> bool:
        """Send data, and what waits; return whether the socket has taken anything."""
        if data and not self._shut:
            self._waiting += self._tls.encrypt(data) if self._tls is not None else data
        if not self._waiting:
            return False
        try:
            sent = self.sock.send(self._waiting)
        except self._later:
            return False
        except OSError:  # what it has sent before may still be there to be read
            self._shut = True
            self._waiting = b""
            return False
        self._waiting = self._waiting[sent:]
        return True

    def cut(self) -> None:
        """Expect nothing more of a peer that is gone; what it has not taken is lost."""
        self.ended = self._shut = True
        self._waiting = b""
        with contextlib.suppress(OSError):  # or the system would try for minutes to send the rest
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def shut(self) -> None:
        """Send nothing more, once what waits has been sent."""
        if self._shut or self._waiting:
            return
        self._shut = True
        with contextlib.suppress(OSError):
            if self._tls is not None:
                self.sock.send(self._tls.close())
            # Not the method of an SSLSocket: that would make what still comes look plain.
            socket.socket.shutdown(self.sock, socket.SHUT_WR)

    @property
    def events(self) -> int:
        """What its socket is to be watched for, beside what has come."""
        return selectors.EVENT_WRITE if self._waiting else 0


class Relay:
    """Passes bytes between a client and the node that has its room, as they are.

    Neither side is read while the other has not taken what came before.

    Args:
        client, node: both ends.
        request: what the node is sent first.
        ping: seconds; an end whose system has not answered for twice as long is gone; 0: never.
    """

    def __init__(self, client: Side, node: Side, request: bytes, ping: float = 0.0) -> None:
        self._client = client
        self._node = node
        self._request = request
        self._ping = ping
        self._checked_at = time.monotonic()
        self._answer_by = self._checked_at + ANSWER_TIMEOUT
        self._until = 0.0  # when patience with the client ends; 0: the node has not ended
        self._is_broken = False  # one of them has been reset, and what came before may wait there
        self._frames = Frames()
        self._farewell = GONE

    def stop(self, farewell: str) -> None:
        """End, and tell the client why; for any thread."""
        self._farewell = farewell
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._node.sock, socket.SHUT_RD)

    def abort(self) -> None:
        """End now; for any thread."""
        for side in (self._node, self._client):
            with contextlib.suppress(OSError):
                socket.socket.shutdown(side.sock, socket.SHUT_RDWR)

    def run(self) -> None:
        """Pass on, until both have ended, or one has and the other does not follow."""
        client, node = self._client, self._node
        node.write(self._request)
        with Selector() as selector:
            watched = {side: 0 for side in (client, node)}
            while not (client.ended and node.ended and not client.is_busy):
                while self._move():
                    pass
                for side, other in ((client, node), (node, client)):
                    hears = 0 if side.ended or other.is_busy else selectors.EVENT_READ
                    wanted = side.events | hears
                    if wanted != watched[side]:
                        watch(selector, side.sock, watched[side], wanted)
                        watched[side] = wanted
                ending = client.ended or node.ended or self._is_broken
                if not any(watched.values()):
                    return
                if not selector.select(CLOSE_TIMEOUT if ending else self._pause()) and ending:
                    return
                if self._is_overdue():
                    return
                self._look()

    def _pause(self) -> float | None:
        """Return after how many seconds to `_look`, though nothing comes; None: never."""
        if self._frames.has_begun:
            return self._ping / 2 or None
        left = max(0.0, self._answer_by - time.monotonic())
        return min(left, self._ping / 2 or left)

    def _is_overdue(self) -> bool:
        """Whether a client that has been sent its Close goes on talking, and does not end."""
        if not self._node.ended or self._client.is_busy:
            return False
        self._until = self._until or time.monotonic() + CLOSE_TIMEOUT
        return time.monotonic() >= self._until

    def _look(self) -> None:
        """See now and then what does not show in what comes.

        That is a node which does not answer, and an end which is gone though something is on its
        way there: it is given up. And that is one which has been reset, while it is not read as the
        other end takes nothing.
        """
        now = time.monotonic()
        if now >= self._answer_by and not self._frames.has_begun:
            self._farewell = SILENT
            self._node.cut()
        if not self._ping or now - self._checked_at < self._ping / 2:
            return
        self._checked_at = now
        for side in (self._client, self._node):
            if is_gone(side.sock, self._ping):
                self._farewell = SILENT  # it may well be there, and only the way to it cut
                side.cut()
            elif poll_end(side.sock) & POLLERR:
                self._is_broken = True

    def _move(self) -> bool:
        """Move what can be moved now; return whether that was anything."""
        client, node = self._client, self._node
        moved = client.write() | node.write()
        if not node.is_busy and (data := client.read()):
            node.write(data)
            moved = True
        if not client.is_busy and (data := node.read()):
            self._frames.feed(data)
            client.write(data)
            moved = True
        if client.ended:
            node.shut()
        if node.ended:
            if not self._frames.has_begun:
                self._frames.has_begun = True
                refusal = error_response(HandshakeError(503, self._farewell, RETRY))
                client.write(refusal.encode_head(keep_alive=False) + refusal.body)
            elif self._frames.may_be_closed:
                self._frames.has_closed = True
                close = encode_close(CloseCode.SERVICE_RESTART, self._farewell)
                client.write(encode_frame(Opcode.CLOSE, close))
            client.shut()
        return moved


def watch(selector: selectors.BaseSelector, sock: socket.socket, before: int, after: int) -> None:
    """Watch a socket for other events than before."""
    if not before:
        selector.register(sock, after)
    elif not after:
        selector.unregister(sock)
    else:
        selector.modify(sock, after)


def encode_request(
    request: Request, base: str, client: Endpoint, *, host: str, secure: bool
) -> bytes:
    """Return a client's request as the node that has its room is to get it.

    Args:
        request: as it came.
        base: what stands before paths there.
        client: who it is; what it says of that itself is left out.
        host: by what name it has found a proxy that we believe, if there is one.
        secure: it came over TLS.
    """
    address, port = client
    lines = [f"{request.method} {base}{request.target} {request.version}"]
    fields = request.headers.fields
    lines += [f"{key}: {value}" for key, value in fields if key.lower() not in REPLACED]
    lines += [f"X-Forwarded-Proto: {'https' if secure else 'http'}", f"{MARK}: 1"]
    if host:
        lines.append(f"X-Forwarded-Host: {host}")
    if address != UNIX_PEER[0]:
        address = address.partition("%")[0]  # a zone means nothing elsewhere
        shown = f"[{address}]" if ":" in address else address
        lines.append(f"X-Forwarded-For: {shown}:{port}")
    return "\r\n".join((*lines, "", "")).encode("latin-1")


def check_size(request: Request, head: bytes) -> None:
    """Refuse a request to which a node could add nothing, wherever its room is.

    Raises:
        HandshakeError: 431.
    """
    if request.headers.get(MARK):
        return
    fields, most = len(request.headers.fields), MAX_HEADERS - ADDED_FIELDS
    if fields > most:
        raise HandshakeError(431, f"{fields} header fields; {most} is the most with --peers")
    if len(head) > MAX_HEAD - ADDED_SIZE:
        size = MAX_HEAD - ADDED_SIZE
        raise HandshakeError(431, f"request head over the {size} bytes that it has with --peers")


# ==== 3. All that are passed through =====================================================


class Relays:
    """Clients whose room is open on another node.

    Args:
        peers: the nodes.
        find_room: returns the room of a name, if it is open here.
        ping: seconds after which the system sees whether a silent end is there, and this node
            whether another one answers; 0: never.
    """

    def __init__(self, peers: Peers, find_room: Callable[[str], object], ping: float) -> None:
        self._seeker = Seeker(peers, find_room)
        self._ping = ping
        # Each with the node that it leads to. Its methods are atomic; copy it to iterate.
        self._running: dict[Relay, Peer] = {}
        self._lock = threading.Lock()  # guards `_watched`
        self._watched: set[Peer] = set()  # a thread looks after each of them
        self._counter = itertools.count(1)
        self._stopped = threading.Event()
        self.total = 0  # that have been passed through

    @property
    def count(self) -> int:
        """How many are passed through now."""
        return len(self._running)

    def describe(self, name: str, asker: str) -> list[str]:
        """Return what a peer is told of a room here, as a JSON object; `asker` is its ID."""
        return [self._seeker.describe(name, asker)]

    def claim(self, name: str) -> Opening:
        """Return a word to the other nodes that this one opens a room.

        Raises:
            HandshakeError: 503, another node has it, or see `Seeker.seek`.
        """
        found = self._seeker.seek(name)
        if isinstance(found, Opening):
            return found
        raise HandshakeError(503, f"the room is on another node, {found.name}", RETRY)

    def entrust(self, session: Session, name: str, opening: Opening | None = None) -> None:
        """Have a session see to the word that this node opens a room.

        It keeps the room shut on all other nodes. So none is given while somebody is waited for,
        who may take long: that is --auth, or a client that is to say which seat it wants. It is
        given anew behind that, as another node may have opened the room.

        Args:
            opening: has been given already.
        """

        def begin() -> None:
            nonlocal opening
            if (opening is None or opening.has_ended) and self.may_find(name, session.server):
                opening = self.claim(name)
                session.end_opening = opening.end

        session.begin_opening = begin
        if opening is not None:
            session.end_opening = opening.end
            if session.server.askers:
                opening.end()

    @staticmethod
    def may_find(name: str, server: Server) -> bool:
        """Whether a room is not here, and might be on another node."""
        try:
            server.check_room(name)
        except HandshakeError:
            return False
        return server.registry.find(name) is None

    def take(
        self, session: HttpSession, request: Request, peer: Endpoint, *, secure: bool
    ) -> Generator[Want, Any, bool]:
        """Pass a client through to its end if its room is on another node; return whether it is.

        Raises:
            HandshakeError: 431, see `check_size`; 503, see `Seeker.seek`; or it came from another
                node, and is elsewhere.
        """
        server = session.server
        try:
            name = parse_room_name(request.path)
        except HandshakeError:  # no room; it may be the console's tunnel
            return False
        check_size(request, session.head)
        if not self.may_find(name, server):
            self.entrust(session, name)
            return False
        yield Want.HELPER
        found = self.claim(name) if request.headers.get(MARK) else self._find(name)
        if isinstance(found, Opening):
            self.entrust(session, name, found)
            return False
        owner, node = found
        host = find_forwarded_host(server.proxies, session.peer, request)
        head = encode_request(request, owner.base, peer, host=host, secure=secure)
        self._carry(session, owner, node, head + session.rest)
        return True

    def _find(self, name: str) -> Opening | tuple[Peer, socket.socket]:
        while not isinstance(found := self._seeker.seek(name), Opening):
            try:
                return found, found.connect(ASK_TIMEOUT)
            except OSError as error:
                if is_shortage(error):
                    raise HandshakeError(503, CANNOT_ASK, RETRY) from None
                log.warning("peer %s has a room and does not let in: %s", found.name, error)
                self._seeker.leave_out(found)
        return found

    def _carry(
        self, session: HttpSession, owner: Peer, node: socket.socket, request: bytes
    ) -> None:
        """Pass a connection through, to its end."""
        sock = session.sock
        for end in (sock, node):
            keep_alive(end, self._ping)
        relay = Relay(Side(sock, session.tls), Side(node), request, self._ping)
        self._running[relay] = owner
        self.total = next(self._counter)
        try:
            self._watch(owner)
            if self._stopped.is_set():  # before it was among them
                relay.stop(RESTARTING)
            relay.run()
        finally:
            node.close()
            sock.close()  # before `stop` may take it for gone, and the process ends
            del self._running[relay]

    def _watch(self, peer: Peer) -> None:
        """Have a thread see whether a node answers, for as long as clients are passed through."""
        with self._lock:
            if self._ping and peer not in self._watched:
                with contextlib.suppress(ShortageError):  # the next client may have it
                    start_thread(f"peer {peer.name}", self._probe, peer)
                    self._watched.add(peer)

    def _probe(self, peer: Peer) -> None:
        misses = 0
        while insist(self._is_needed, peer) and not self._stopped.wait(0 if misses else self._ping):
            misses = 0 if self._answers(peer) else misses + 1
            if misses < MOST_MISSES:
                continue
            if misses == MOST_MISSES:
                log.warning("peer %s does not answer; its clients are to come again", peer.name)
            for relay in insist(self._lead_to, peer):
                relay.stop(SILENT)

    def _answers(self, peer: Peer) -> bool:
        """Whether a node says anything, whatever that is; takes `ping` seconds if not."""
        try:
            peer.fetch("/health", self._ping)
        except TimeoutError:
            return False
        except (OSError, ValueError, MemoryError):  # its end shows in what is passed through
            pass
        return True

    def _lead_to(self, peer: Peer) -> list[Relay]:
        return [relay for relay, owner in self._running.copy().items() if owner is peer]

    def _is_needed(self, peer: Peer) -> bool:
        """Whether clients are passed through to a node; if none are, its thread is to end."""
        with self._lock:
            if not self._lead_to(peer):
                self._watched.discard(peer)
            return peer in self._watched

    def stop(self, timeout: float) -> None:
        """End them all; their clients are told to come again, and have so many seconds to go."""
        self._stopped.set()
        for relay in self._running.copy():
            relay.stop(RESTARTING)
        self._wait(timeout)
        for relay in self._running.copy():
            relay.abort()
        self._wait(ABORT_TIMEOUT)

    def _wait(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while self._running and time.monotonic() < deadline:
            time.sleep(0.01)
