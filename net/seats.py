"""Seats that outlive their connections (`--resume SECONDS`).

A client that wants one opens `ws://host/<room>?_seat` and says first what it wants:

    > {"_seat":{}}                                      a new seat
    > {"_seat":{"token":"k3…","seen":12}}               that one again; 12 messages have come for it
    < {"_seat":{"token":"Zx…","id":7,"taken":3,"seen":12,"resumed":true}}

Then it is sent what it lacks, and what comes; it sends again what the server has not taken. So
nothing is lost, and nothing comes twice. Who has kept nothing but its token leaves `seen` out: it
is sent nothing again, and the room is told that it needs everything.

A `Seat` is where its client's connection would be, so a room writes to it as to any other. It
counts what passes, keeps what may not have arrived, and passes it on. What has arrived it learns
from a ping: a Pong (RFC 6455 section 5.5.3) says that all that was sent before its Ping has come.

Lock order: registry → room → turn → seat → connection, and seat → inbox.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self

from scalesocket import (
    PLAIN,
    Called,
    CloseCode,
    Closing,
    ConnectionClosed,
    Control,
    Encoding,
    GameBackend,
    HandshakeError,
    Left,
    Messages,
    Opcode,
    Unwritten,
    Want,
    encode_frame,
    expand_template,
    insist,
    log,
    parse_seconds,
    parse_text,
    refuse_if,
)

from .framings import make_framing
from .per_address import AddressLimits
from .presence import probe
from .rooms import RESTARTING

if TYPE_CHECKING:
    from scalesocket.net.lines import LineProtocol
    from scalesocket.net.store import StoredRoom

    from scalesocket import (
        Client,
        Config,
        Connection,
        ConnectionLimits,
        Event,
        Life,
        RoomRegistry,
        Server,
        Session,
        WebSocketProtocol,
    )

# fmt: off
OPTIONS = (
    ("--resume", "SECONDS", parse_seconds,
     "a client that asks for a seat keeps it for so long without a connection (default 0)"),
    ("--dropmsg", "MSG", parse_text,
     "likewise when it has lost its connection, and keeps its seat (--resume)"),
    ("--resumemsg", "MSG", parse_text,
     "likewise when it is back; #RESTORED is true if it has kept nothing"),
)
# fmt: on
OPENING_TIMEOUT = 10.0  # seconds for the first message
MAX_OPENING = 512  # bytes of it
TOKEN_SIZE = 24  # random bytes
MAX_TOKENS = 8  # of one seat that are good while the latest is not known to have come
MAX_DROPPED = 4096  # seats without a connection, in all rooms; beyond it the oldest is given up
ACK_SIZE = 64 * 1024  # bytes that are kept, beyond which it is asked what of them has arrived
PIECE_COST = 100  # bytes, about, for each piece that is kept, beside its own
NEWEST_PATIENCE = 5.0  # seconds at the most for a client that may never have heard of its seat
RESUMED_ELSEWHERE = 4001  # close code of a connection whose seat another one has taken
PING = b"seat:%d"  # how many messages were sent before it


def check_options(config: Config) -> None:
    """Refuse messages about seats where there are none, or that a client could pretend.

    Raises:
        ConfigError: an option contradicts another.
    """
    told = bool(config.dropmsg or config.resumemsg)
    refuse_if(told and not config.resume, "--dropmsg and --resumemsg need --resume SECONDS")
    framed = config.clientframe == "json"
    refuse_if(told and not framed, "--dropmsg and --resumemsg need --frame=json, or --json")
    refuse_if(bool(config.resume) and config.oneshot, "--resume does not go with --oneshot")


def call_hook(backend: GameBackend, client: Client, *, is_back: bool, restored: bool) -> None:
    """Tell a game that a client has lost its connection, or is back, unless it has left."""
    if not client.left:
        assert client.seat is not None
        client.seat.was_told = not is_back
        client.restored = restored
        (backend.game.on_resume if is_back else backend.game.on_drop)(client)


def is_wanted(client: Client) -> bool:
    """Whether the request of a client asks for a seat."""
    names = (part.partition("=")[0] for part in client.request.query.split("&"))
    return "_seat" in names


# ==== What is kept =======================================================================
# Plain frames, one for each message, as a room has encoded them once for all seats. The same
# bytes are kept by all seats that they were sent to.


class SeatEncoding(Encoding):
    """Messages as seats take them: as plain frames, whatever their connections make of them."""

    name = "seat"


class TextSeatEncoding(SeatEncoding):
    """As seats take them whose connections can tell no binary messages."""

    def encode_run(self, opcode: int, payloads: Sequence[bytes]) -> bytes:
        """Return texts."""
        return super().encode_run(opcode, payloads) if opcode == Opcode.TEXT else b""


SEAT = SeatEncoding()
TEXT_SEAT = TextSeatEncoding()


def find_frames(data: bytes) -> list[int]:
    """Return where each frame of these begins, and the end of the last; none is masked."""
    starts = [0]
    at = 0
    while at < len(data):
        length = data[at + 1]
        header = {126: 4, 127: 10}.get(length, 2)
        if header > 2:
            length = int.from_bytes(data[at + 2 : at + header])
        at += header + length
        starts.append(at)
    return starts


def split_frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield opcode and payload of each frame of these."""
    for start, end in itertools.pairwise(find_frames(data)):
        header = {126: 4, 127: 10}.get(data[start + 1], 2)
        yield data[start] & 0x0F, data[start + header : end]


def translate(data: bytes, encoding: Encoding) -> bytes:
    """Return plain frames as a connection takes them."""
    runs = [encoding.encode_run(opcode, [payload]) for opcode, payload in split_frames(data)]
    return b"".join(runs)


class Once:
    """Remembers the last answer, as what is sent to all seats is the same bytes each time."""

    def __init__(self) -> None:
        self.counted = (b"", 0)  # plain frames, and how many messages they hold
        self._translated: tuple[bytes, Encoding | None, bytes] = (b"", None, b"")

    def count(self, data: bytes) -> tuple[bytes, int]:
        """Return plain frames, and how many messages they hold, in one tuple for all seats."""
        counted = self.counted = (data, len(find_frames(data)) - 1)
        return counted

    def translate(self, data: bytes, encoding: Encoding) -> bytes:
        """Return plain frames as a connection takes them."""
        seen, wanted, translated = self._translated
        if seen is not data or wanted is not encoding:
            translated = translate(data, encoding)
            self._translated = (data, encoding, translated)
        return translated


# ==== What a connection says =============================================================


class Asked(Closing):
    """A connection has said which seat it wants. It ends nothing: it wakes the session."""

    token: str
    seen: int | None

    def __new__(cls, token: str = "", seen: int | None = None) -> Self:
        asked = super().__new__(cls, CloseCode.NORMAL, "", failed=False)
        asked.token, asked.seen = token, seen
        return asked


BAD_OPENING = Closing(
    CloseCode.POLICY_VIOLATION,
    'the first message must be {"_seat":{}} or {"_seat":{"token":"…","seen":NUMBER}}',
    failed=True,
)


def parse_opening(payload: bytes) -> Closing:
    """Return what the first message of a connection asks for, or `BAD_OPENING`."""
    if len(payload) > MAX_OPENING:
        return BAD_OPENING
    try:
        match json.loads(payload):
            case {"_seat": dict(wish), **rest} if not rest:
                token, seen = wish.pop("token", ""), wish.pop("seen", None)
            case _:
                return BAD_OPENING
    except (ValueError, RecursionError):
        return BAD_OPENING
    is_number = seen is None or (type(seen) is int and 0 <= seen < 1 << 63)
    if wish or not isinstance(token, str) or not is_number:
        return BAD_OPENING
    return Asked(token, seen)


class SeatProtocol:
    """The protocol of a connection that is to have a seat.

    Its first message becomes `Asked`. What is behind that waits until the seat is there.

    Args:
        protocol: what understands the bytes.
        connection: whose protocol this will be.
    """

    def __init__(self, protocol: WebSocketProtocol | LineProtocol, connection: Connection) -> None:
        self._protocol = protocol
        self.connection = connection
        self.is_waiting = True  # its first message has not come
        self._behind: list[Event] = []  # that, and not given out
        self.pending = protocol.pending  # `receive` has more to give though no more bytes come
        self.seat: Seat | None = None
        self.encoding = protocol.encoding
        self.answers_close = protocol.answers_close
        self.encode_close = protocol.encode_close

    def receive(self, data: bytes) -> list[Event]:
        """Take the bytes of one `recv`; return what they amount to."""
        events = self._protocol.receive(data)
        for event in events:
            if isinstance(event, Messages):
                event.source = self.connection
        if self._behind:
            events, self._behind = self._behind + events, []
        if self.is_waiting:
            events = self._open(events)
        elif self.seat is not None:
            for event in events:
                if isinstance(event, Control) and event.opcode == Opcode.PONG:
                    self._take_pong(self.seat, event.payload)
        self.pending = bool(self._behind) or self._protocol.pending
        return events

    def finish(self) -> list[Event] | None:
        """Return what the end of the bytes means: a cut, also in the middle of a line."""
        self._behind = []
        self._protocol.finish()
        return None

    def _open(self, events: list[Event]) -> list[Event]:
        for index, event in enumerate(events):
            if isinstance(event, Messages):
                first, *others = event.payloads
                self._behind = events[index if others else index + 1 :]
                event.payloads = others
                self.is_waiting = False
                opening = parse_opening(first) if event.opcode == Opcode.TEXT else BAD_OPENING
                return [*events[:index], opening]
        return events

    def _take_pong(self, seat: Seat, payload: bytes) -> None:
        mark, _, number = payload.partition(b":")
        if mark == b"seat" and number.isdigit():
            seat.confirm(self.connection, int(number))
        else:  # of a ping of --ping; it may have answered no other (5.5.3)
            seat.ask_again(self.connection)


# ==== Seats ==============================================================================


class Seat:
    """What a client has in place of a connection: its methods are those that a room uses of one.

    Args:
        client: whose it is.
        kind: of session that may take it, which decides what messages it can be sent.
        seats: where it is known by its tokens.
        limit: bytes of messages that are kept for it.
    """

    def __init__(self, client: Client, kind: str, seats: Seats, limit: int) -> None:
        self.client = client
        self.kind = kind
        self.encoding = TEXT_SEAT if kind == "lines" else SEAT
        self.keys: list[bytes] = []  # of its tokens; guarded by the lock of `seats`
        self.taken = 0  # messages of the client; guarded by the inbox's lock
        self._seats = seats
        self._limit = limit
        self._lock = threading.Lock()  # guards all below, and the order of what is sent
        self._connection: Connection | None = None  # the latest, and the only one it listens to
        self._number = 0  # of the client as which it was opened: the newest one has the seat
        self._key = b""  # of the token that this one was given
        self._is_known = False  # to its client: a token is known to have come
        self.is_stored = False  # for good: its room has ended, and will be back
        self.was_told = False  # its game knows that it has no connection; its room's thread's
        self.in_store = False  # something has been stored of it; the writer's thread's
        self.has_left = False  # its client has, or lacks too much; or else its room may have ended
        self._kept: deque[tuple[bytes, int]] = deque()  # frames, and how many messages they are
        self._size = 0  # bytes of these
        self._first = 0  # number of the first message that is kept
        self._sent = 0  # messages so far
        self._asked = -1  # number that a ping is under way with; -1: none is
        self._is_over = False
        self._code = int(CloseCode.ABNORMAL)  # how its last connection ended
        self._dropped_at = 0.0  # when it did
        self._is_stale = False  # brought back from before a crash: what it was sent is not known
        self.farewell: tuple[int, str] = (CloseCode.TRY_AGAIN_LATER, "too much came at once")

    # -- as a connection --

    @property
    def is_full(self) -> bool:
        """Whether as many bytes wait for its connection as may."""
        connection = self._connection
        return connection is not None and connection.is_full

    @property
    def backlog_size(self) -> int:
        """Bytes that wait for its connection."""
        connection = self._connection
        return 0 if connection is None else connection.backlog_size

    @property
    def lags(self) -> bool:
        """Whether its connection does."""
        connection = self._connection
        return connection is not None and getattr(connection, "lags", connection.is_full)

    def wait_while_full(self, stall: float) -> bool:
        """As of a connection; one that is lost holds nobody up."""
        connection = self._connection
        return (
            connection is None
            or connection.wait_while_full(stall)
            or connection is not self._connection
        )

    def overflows(self, size: int) -> bool:
        """As of a connection."""
        connection = self._connection
        return connection is not None and connection.overflows(size)

    def has_stalled(self, stall: float) -> bool:
        """As of a connection."""
        connection = self._connection
        return connection is not None and connection.has_stalled(stall)

    def is_alive(self) -> bool:
        """Whether its connection is."""
        connection = self._connection
        return connection is not None and connection.is_alive()

    def probe(self) -> bool:
        """Return whether somebody is there, or may come back."""
        connection = self._connection
        return connection is None or probe(connection)

    def send(self, data: bytes) -> bool:
        """Keep frames, and send them if there is a connection."""
        once = self._seats.once
        piece = once.counted  # of the last seat that was sent it, most often
        if piece[0] is not data:
            piece = once.count(data)
        with self._lock:
            if self._is_over:
                return False
            self._kept.append(piece)
            self._sent += piece[1]
            size = self._size = self._size + len(data) + PIECE_COST
            while self._size > self._limit:
                self._forget_piece()
            connection = self._connection
            if connection is not None:
                encoding = connection.encoding
                connection.send(data if encoding is PLAIN else once.translate(data, encoding))
                if size >= ACK_SIZE and self._asked < 0:
                    self._ask(connection)
            return True

    def close(self, code: int, reason: str = "", *, discard: bool = False) -> None:
        """End it, with this close code for its connection."""
        with self._lock:
            self.farewell = (code, reason)
            connection = self._end()
        if connection is not None:
            connection.close(code, reason, discard=discard)

    def answer(self, closing: Closing) -> None:
        """Answer how its connection has ended."""
        connection = self._connection
        if connection is not None:
            connection.answer(closing)

    # -- its connections --

    def takes(self, run: Messages) -> bool:
        """Count messages, if they are of the connection that has the seat; under inbox's lock."""
        if run.source is not self._connection:
            return False
        self.taken += len(run.payloads)
        return True

    def may_be_taken(self, kind: str, client: Client) -> bool:
        """Whether a client of that kind of session may have it, if it shows a token."""
        owner = self.client
        return (self.kind, owner.room_name, owner.user) == (kind, client.room_name, client.user)

    def attach(
        self, connection: Connection, asked: Asked, client: Client, *, anew: bool = False
    ) -> bool:
        """Take a connection, and send it the answer and what it lacks; or end if that is gone.

        Args:
            connection: the new one; nothing has been taken of it yet.
            asked: what it has asked for.
            client: as which it was opened; the seat's own is where that is from now on.
            anew: nobody had the seat before.

        Returns:
            Whether it has; otherwise it is over.

        Raises:
            ConnectionClosed: it was opened before the one that has, or had, the seat. It was cut
                off, and is heard after the one that followed it.
        """
        room = self.client.room
        assert room is not None
        with self._lock:
            if self._is_over:
                return False
            if self.is_stored:  # nobody would know of the token that is given now
                raise ConnectionClosed(CloseCode.SERVICE_RESTART, RESTARTING)
            if client.id < self._number:
                raise ConnectionClosed(RESUMED_ELSEWHERE, "resumed elsewhere")
            seen = 0 if anew else self._sent if asked.seen is None else asked.seen
            restored = self._is_stale or asked.seen is None
            if self._is_stale:
                self._is_stale = False
                self._empty()
                self._first = self._sent = seen
            goes_on = self._first <= seen <= self._sent
            if goes_on:
                old, self._connection = self._connection, connection
                self._number = client.id
                owner = self.client
                owner.peer, owner.local, owner.secure = client.peer, client.local, client.secure
                self._welcome(connection, asked, seen, anew=anew, restored=restored)
            else:
                self.has_left = True
                old, self._connection = self._end(), None
        if goes_on and (note_token := self._seats.note_token) is not None:
            note_token(self)
        if old is not None:
            room.log.info("resumed elsewhere", client=self.client.id)
            old.close(RESUMED_ELSEWHERE, "resumed elsewhere", discard=True)
        return goes_on

    def detach(self, connection: Connection, code: int) -> None:
        """Note that a connection has ended; if it is the latest, the time of the seat runs."""
        room = self.client.room
        assert room is not None
        with self._lock:
            if self._is_over or connection is not self._connection:
                return
            self._code = code
            self._dropped_at = time.monotonic()
            self.client.dropped = True
            oldest = self._seats.expect(self, self._dropped_at)
            self._tell(is_back=False)
            self._connection = None  # last: if memory runs out above, all is done once more
            if not self._is_known and not self.taken:
                self._seats.expire_soon(self, self._dropped_at)
        room.log.debug("dropped with %d", code, client=self.client.id)
        if oldest is not None:
            oldest[0].expire(oldest[1])

    def lose(self, now: float) -> None:
        """Note that it has no connection, and is to be given up in time, unless it has got one."""
        with self._lock:
            if self._is_over or self._connection is not None:
                return
            self._dropped_at = now
            oldest = self._seats.expect(self, now)
        if oldest is not None:
            oldest[0].expire(oldest[1])

    def describe(self, *, whole: bool) -> tuple[dict[str, Any], bytes] | None:
        """Return what is to be stored of it, and frames that may not have come; None: it is over.

        Args:
            whole: nothing will be sent any more, and nobody may take it back until it has been
                revived; or else none of these frames will be of use.
        """
        with self._lock:
            if self._is_over:
                return None
            self.is_stored = whole
            kept = list(self._kept) if whole else []
            return self._describe(kept), b"".join(data for data, _ in kept)

    def describe_token(self) -> dict[str, Any]:
        """Return what is to be stored since it has got a token."""
        with self._lock:
            return self._describe([])

    def _describe(self, kept: list[tuple[bytes, int]]) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "keys": self._seats.list_keys(self),
            "sent": self._sent,
            "pieces": [(len(data), count) for data, count in kept],
            "stale": self._is_stale,
            "dropped": self.was_told,
        }

    def revive(self, facts: dict[str, Any], missed: bytes, *, whole: bool) -> None:
        """Be as it was described, before anybody knows of it."""
        self.in_store = self.was_told = True  # see `StoredRoom.restore`
        self.taken = facts["taken"]
        self._is_stale = facts["stale"] or not whole
        self._is_known = True
        self._sent = self._first = facts["sent"]
        at = 0
        for size, count in facts["pieces"] if whole else ():
            self._kept.append((missed[at : at + size], count))
            self._first -= count
            self._size += size + PIECE_COST
            at += size

    def finish(self, connection: Connection) -> bool:
        """Note that the client gives it back; return whether this connection may say so."""
        with self._lock:
            if self._is_over or connection is not self._connection:
                return False
            self._end()
            return True

    def expire(self, dropped_at: float) -> None:
        """End it, unless it has had a connection since."""
        with self._lock:
            if self._is_over or self._connection is not None or self._dropped_at != dropped_at:
                return
            self._end()
        self._seats.registry.release(self.client, Left(self.client, self._code))

    def confirm(self, connection: Connection, number: int) -> None:
        """Note that messages up to this number have come, and the answer with the token."""
        with self._lock:
            is_heard = connection is self._connection and not self._is_over
            if is_heard and number <= self._sent:
                if number == self._asked:
                    self._asked = -1
                self._is_known = True
                self._seats.keep_only(self, self._key)
                self._forget(number)

    def ask_again(self, connection: Connection) -> None:
        """Wait for no answer any more; what has come is asked with what is sent next."""
        with self._lock:
            if connection is self._connection:
                self._asked = -1

    # -- under the lock --

    def _welcome(
        self, connection: Connection, asked: Asked, seen: int, *, anew: bool, restored: bool
    ) -> None:
        """Send a new connection the answer, and what it lacks from the message `seen` on."""
        room = self.client.room
        assert room is not None
        if not anew:
            self._is_known = True  # it has shown a token
            self._tell(is_back=True, restored=restored)
        # Whoever has put messages of the old connection into the inbox is done with that.
        with room.inbox.lock:
            taken = self.taken
        token, self._key = self._seats.give_token(self, asked.token)
        self.client.dropped = False
        counts = {"taken": taken, "seen": seen}
        facts = {"token": token, "id": self.client.id, **counts, "resumed": not anew}
        connection.send(connection.encoding.encode_message(json.dumps({"_seat": facts})))
        self._forget(seen)
        rest = b"".join(data for data, _ in self._kept)
        if rest:
            connection.send(translate(rest, connection.encoding))
        self._ask(connection)

    def _end(self) -> Connection | None:
        self._is_over = True
        self.client.dropped = False
        self._empty()
        self._seats.forget(self)
        return self._connection

    def _tell(self, *, is_back: bool, restored: bool = False) -> None:
        """Tell the room, in its place among what the client says."""
        client, room = self.client, self.client.room
        assert room is not None
        if isinstance(room.backend, GameBackend):
            hear = functools.partial(
                call_hook, room.backend, client, is_back=is_back, restored=restored
            )
            room.inbox.put(Called(hear))
            return
        client.restored = restored
        data = self._seats.announce(client, is_back=is_back)
        if data:
            room.inbox.put(Unwritten(client, data, whole=True))

    def _ask(self, connection: Connection) -> None:
        """Ask with a ping what has come, where the protocol has one."""
        if self.kind != "lines":
            self._asked = self._sent
            connection.send_control(encode_frame(Opcode.PING, PING % self._sent))

    def _empty(self) -> None:
        self._kept.clear()
        self._size = 0

    def _forget(self, seen: int) -> None:
        """Drop what is kept of the messages before this number."""
        while self._kept and self._first + self._kept[0][1] <= seen:
            self._forget_piece()
        if self._first < seen:
            data, count = self._kept[0]
            gone = seen - self._first
            cut = find_frames(data)[gone]
            self._kept[0] = (data[cut:], count - gone)
            self._size -= cut
            self._first = seen

    def _forget_piece(self) -> None:
        """Drop the oldest piece that is kept."""
        data, count = self._kept.popleft()
        self._first += count
        self._size -= len(data) + PIECE_COST


class Seats:
    """All seats of a server, by their tokens.

    Of a token only its digest is kept: how long it takes to find that tells nothing of a token.

    Args:
        config: `resume`, and `backlog`, which bounds what is kept for each seat.
        registry: of the rooms in which they are.
        limits: tell how many one address may have without a connection.
    """

    def __init__(self, config: Config, registry: RoomRegistry, limits: ConnectionLimits) -> None:
        assert isinstance(limits, AddressLimits)  # it is beside this file
        self.registry = registry
        self._limits = limits
        # Brings a room back to which a client comes, if it is stored (net/store.py).
        self.recall: Callable[[Client], StoredRoom | None] | None
        self.recall = getattr(registry, "recall", None)
        # Has a new token stored there.
        self.note_token: Callable[[Seat], None] | None = getattr(registry, "note_token", None)
        self.once = Once()
        self._patience = config.resume
        self._limit = config.backlog
        self._dropmsg, self._resumemsg = config.dropmsg, config.resumemsg
        self._framing = make_framing(config, config.clientframe, lambda _client, _what: None)
        self._lock = threading.Lock()  # guards all below, and the keys of each seat
        self._by_key: dict[bytes, Seat] = {}
        self._dropped: dict[Seat, tuple[float, str]] = {}  # when, and of which network; in order
        self._dropped_of: dict[str, dict[Seat, None]] = {}  # by network, likewise in order
        self._is_timed = False  # `_expire_due` will be called

    # -- a session's side --

    def stay(self, session: Session, client: Client) -> Generator[Want, Any, bool]:
        """Be in a room until the connection ends; its seat may stay longer.

        Returns:
            Whether it has been, because the client has asked for a seat.
        """
        if not is_wanted(client):
            return False
        connection = session.connection
        protocol = SeatProtocol(connection.protocol, connection)
        connection.protocol = protocol  # type: ignore[assignment]  # it has the methods of one
        session.client = client  # for its reader; what it says is for no room yet
        session.end_opening()  # nobody is kept out of a room by who says nothing
        connection.open()
        if (worker := session.server.worker) is not None:
            worker.vouch(session, client.id)
        self.registry.timer.call_later(OPENING_TIMEOUT, functools.partial(self._check, protocol))
        event = yield Want.MESSAGES
        if isinstance(event, Asked):
            protocol.seat = yield from self._give_seat(session, client, event)
            if protocol.seat is not None:
                yield from self._hold(session, protocol.seat)
                return True
            event = yield Want.MESSAGES
        connection.answer(event)
        return True

    def _give_seat(
        self, session: Session, client: Client, asked: Asked
    ) -> Generator[Want, Any, Seat | None]:
        """Return the seat that a connection has got; None: it is refused, and is being closed."""
        try:
            if self.registry.may_wait(client.room_name):
                yield Want.HELPER
                session.begin_opening()
            back = self.recall(client) if self.recall is not None and asked.token else None
            return self._find_seat(session, client, asked, back)
        except (ConnectionClosed, HandshakeError) as refusal:
            # The room is full, or is on another node now, or it comes too late.
            code = getattr(refusal, "code", CloseCode.TRY_AGAIN_LATER)
            log.warning("room %s refused a client: %s", client.room_name, refusal.reason)
            session.connection.close(code, refusal.reason)
            return None
        finally:
            session.end_opening()

    @staticmethod
    def _hold(session: Session, seat: Seat) -> Life:
        """Have a client in its room until this connection ends."""
        connection = session.connection
        session.client = seat.client
        try:
            closing = yield Want.MESSAGES
            leaves = closing.code == CloseCode.NORMAL and not closing.failed
            if leaves and seat.finish(connection):
                yield from session.leave(seat.client, closing)
            else:
                seat.detach(connection, closing.code)
                connection.answer(closing)
        finally:
            insist(seat.detach, connection, CloseCode.ABNORMAL)  # unless that is done
            session.client = None

    @staticmethod
    def _check(protocol: SeatProtocol) -> None:
        if protocol.is_waiting:
            protocol.connection.close(
                CloseCode.POLICY_VIOLATION, f"no message for {OPENING_TIMEOUT:g} s"
            )

    def _find_seat(
        self, session: Session, client: Client, asked: Asked, back: StoredRoom | None
    ) -> Seat | None:
        """Return the seat that a token is for, or a new one; None if that is gone at once.

        Args:
            back: the room, if it has been brought back for this client.

        Raises:
            ConnectionClosed: the room takes none more, or has failed, or a later connection has
                the seat.
        """
        with self._lock:
            seat = self._by_key.get(digest(asked.token))
        owner = None
        if seat is not None and seat.may_be_taken(session.KIND, client):
            owner, connection = seat.client, session.connection
            # First, as there may be no memory below: then nobody else would let go of the seat.
            detach = functools.partial(seat.detach, connection, CloseCode.ABNORMAL)
            session.at_end.append(functools.partial(insist, detach))
            if seat.attach(connection, asked, client):
                return seat
        if back is not None and back.failure is not None:  # it would fail again
            raise back.failure
        return self._take(session, client, asked, owner)

    def _take(
        self, session: Session, client: Client, asked: Asked, before: Client | None
    ) -> Seat | None:
        """Return a new seat, in the place of the client that it was `before`; see `_find_seat`."""
        seat = Seat(client, session.KIND, self, self._limit)
        connection, client.seat = session.connection, seat
        client.connection = seat  # type: ignore[assignment]  # it has what rooms use of one
        if before is None or not self._replace(before, client):
            self.registry.join(client)
        if not seat.attach(connection, asked, client, anew=True):
            connection.close(*seat.farewell)
            return None
        return seat

    def _replace(self, old: Client, client: Client) -> bool:
        """Give a client the place of one whose seat has ended; False if it, or the room, is gone.

        In one step, or the room could end in between, or take somebody else. It hears first that
        the old one has left.
        """
        registry, room = self.registry, old.room
        assert room is not None and old.seat is not None
        room.members.remove(old)
        with registry.lock:
            if old.departed or not room.inbox.put(Left(old, CloseCode.ABNORMAL)):
                return False
            old.departed = True
            room.clients.discard(old)
            room.clients.add(client)
            client.room = room
            room.visits += 1
            room.join(client)
        room.members.remove(old)  # if it was only just let in
        if self.note_token is not None:
            self.note_token(old.seat)
        room.log.debug("in the place of %d, who lacks too much", old.id, client=client.id)
        return True

    def revive(self, client: Client, facts: dict[str, Any], missed: bytes, *, whole: bool) -> Seat:
        """Return a seat that was stored, which `lose` is to be called for; see `Seat.describe`."""
        seat = Seat(client, facts["kind"], self, self._limit)
        seat.revive(facts, missed, whole=whole)
        client.seat = seat
        client.connection = seat  # type: ignore[assignment]  # it has what rooms use of one
        with self._lock:
            seat.keys = [bytes.fromhex(key) for key in facts["keys"]]
            self._by_key |= dict.fromkeys(seat.keys, seat)
        return seat

    # -- a seat's side, under its lock --

    def list_keys(self, seat: Seat) -> list[str]:
        """Return what its tokens are known by, as text."""
        with self._lock:
            return [key.hex() for key in seat.keys]

    def announce(self, client: Client, *, is_back: bool) -> bytes:
        """Return what a program reads when a client has lost its connection, or is back."""
        message = self._resumemsg if is_back else self._dropmsg
        if not message:
            return b""
        return self._framing.announce(client.id, expand_template(message, client))

    def give_token(self, seat: Seat, shown: str) -> tuple[str, bytes]:
        """Return a new token of a seat, and its key.

        The one that was shown, and some that were given since, are good until the new one is known
        to have come: its answer may be lost, or a connection that has ended may be heard after the
        one that followed it.
        """
        token = secrets.token_urlsafe(TOKEN_SIZE)
        key = digest(token)
        with self._lock:
            seat.keys.sort(key=digest(shown).__eq__)  # that one last
            self._keep(seat, seat.keys[1 - MAX_TOKENS :])
            seat.keys.append(key)
            self._by_key[key] = seat
            self._remove(seat)
        return token, key

    def keep_only(self, seat: Seat, key: bytes) -> None:
        """Let a seat be found by this key alone."""
        if len(seat.keys) > 1:
            with self._lock:
                self._keep(seat, [key] if key in seat.keys else [])

    def forget(self, seat: Seat) -> None:
        """Let a seat be found no more here; in a store it may be, so its keys stay known."""
        with self._lock:
            for key in seat.keys:
                self._by_key.pop(key, None)
            self._remove(seat)

    def _keep(self, seat: Seat, keys: list[bytes]) -> None:
        for key in set(seat.keys).difference(keys):
            del self._by_key[key]
        seat.keys = keys

    def expect(self, seat: Seat, dropped_at: float) -> tuple[Seat, float] | None:
        """Give a seat up if it has no connection for --resume seconds.

        Returns:
            The oldest, and when that was dropped, if there are too many, be it of one address:
            that could fill a room without even being connected.
        """
        network = self._limits.name(seat.client.address)
        with self._lock:
            self._dropped[seat] = (dropped_at, network)
            same = self._dropped_of.setdefault(network, {})
            same[seat] = None
            too_many = bool(network) and len(same) > self._limits.of_one
            all_too_many = len(self._dropped) > MAX_DROPPED
            oldest = next(iter(same if too_many else self._dropped if all_too_many else ()), None)
            found = None if oldest is None else (oldest, self._dropped[oldest][0])
            is_timed, self._is_timed = self._is_timed, True
        if not is_timed:
            insist(self.registry.timer.call_later, self._patience, self._expire_due)
        return found

    def expire_soon(self, seat: Seat, dropped_at: float) -> None:
        """Give a seat up sooner whose client has said nothing, and may not know of it.

        It asks for a new one, and so do those who open connections that are cut off.
        """
        if self._patience > NEWEST_PATIENCE:
            expire = functools.partial(seat.expire, dropped_at)
            self.registry.timer.call_later(NEWEST_PATIENCE, expire)

    def _remove(self, seat: Seat) -> None:
        """Note that a seat has a connection again, or is over; the lock is held."""
        if seat in self._dropped:
            _, network = self._dropped.pop(seat)
            del self._dropped_of[network][seat]
            if not self._dropped_of[network]:
                del self._dropped_of[network]

    def _expire_due(self) -> None:
        """Give up those whose time is over; on the poller's thread, one call for all seats."""
        long_ago = time.monotonic() - self._patience
        with self._lock:
            due = [(seat, at) for seat, (at, _) in self._dropped.items() if at <= long_ago]
        for seat, dropped_at in due:
            seat.expire(dropped_at)
        with self._lock:
            is_timed = self._is_timed = bool(self._dropped)
            soonest = min((at for at, _ in self._dropped.values()), default=0.0)
        if is_timed:
            self.registry.timer.call_later(max(soonest - long_ago, 0.01), self._expire_due)


def digest(token: str) -> bytes:
    """Return by what a token is known."""
    return hashlib.sha256(token.encode(errors="replace")).digest()


def set_up(server: Server) -> None:
    """Have a server's clients take seats."""
    server.seats = Seats(server.config, server.registry, server.limits)
