"""A history that may be long (`--cache`): newcomers get it at their own pace, and nobody waits.

A history is a list of runs of messages, each of which has hold of the next. A newcomer whose room
has a long one is not yet a member like the others: a thread of its own, the archive's, sends it run
after run as its socket takes them. What is said meanwhile the newcomer finds in the list, too; what
is not kept there waits in a queue with its place. When it has caught up, it is a member like all
others.

All histories together are bounded in bytes, so they have one lock: the archive's.
"""

from __future__ import annotations

import argparse
import functools
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from scalesocket import (
    FLAG,
    GAME_BACKLOGS,
    KIB,
    MESSAGE_COST,
    Client,
    Closing,
    Connection,
    Encoding,
    History,
    Members,
    Opcode,
    Route,
    parse_size,
    report_failure,
    start_thread,
    to_payload,
)

from .rooms import PatientRooms

if TYPE_CHECKING:
    from scalesocket import Config, Output, Room, Server

MAX_REMEMBERED_ROOMS = 1024  # whose past is kept though they are gone
PIECE_SIZE = 64 * KIB  # bytes of a room's past that a newcomer is sent at once
SMALL_HISTORY = 16 * KIB  # bytes that are sent while the newcomer is let in
HISTORIES = 4  # times --cachebytes that all rooms' histories may have together


def parse_history_size(text: str) -> int:
    """Return the bytes that a history may have: enough for a few messages at least."""
    size = parse_size(text)
    if size < 4 * KIB:
        raise argparse.ArgumentTypeError(f"{text!r} is too small for a history; 4K is the least")
    return size


# fmt: off
OPTIONS = (
    ("--cachepersist", "", FLAG, "keep them after the room has emptied"),
    ("--cachebytes", "SIZE", parse_history_size,
     "bytes of history that a room keeps; all together keep 4 times that (default 64M)"),
)
# fmt: on


def set_up(server: Server) -> None:
    """Have a server's rooms keep histories."""
    if server.config.cache[0]:
        registry, histories = server.registry, Histories(server.config)
        assert isinstance(registry, PatientRooms)
        registry.histories, registry.make_members = histories, histories.make_members
        server.find_kind = make_holding
        server.services.insert(0, histories.archive)


class Past:
    """A run of messages that everyone in a room was sent, with a reference to the next run.

    So whoever has a run can reach all that came after it, even if the history has dropped it.
    """

    __slots__ = ("encoded", "end", "next", "opcode", "payloads", "size")

    def __init__(self, opcode: int, payloads: Sequence[bytes], size: int, end: int) -> None:
        self.opcode = opcode
        self.payloads = payloads
        self.size = size  # bytes of memory, about
        self.end = end  # its place: bytes that the room has remembered up to here, ever
        self.next: Past | None = None  # set once
        self.encoded: tuple[Encoding | None, bytes] = (None, b"")  # kept if encoding is costly


class Archive:
    """The histories of all rooms: their size together, and the thread that sends them to newcomers.

    Args:
        limit: bytes. Beyond it, the room that was silent for longest loses its oldest messages.
    """

    def __init__(self, limit: float = math.inf) -> None:
        self.lock = threading.Lock()  # guards all below but the queue, and all of its histories
        self.size = 0  # bytes
        self.dropped = 0  # messages that were dropped because there were too many bytes
        self._limit = limit
        # Those that are not empty; the one that has grown last is the last.
        self._histories: dict[LongHistory, None] = {}
        self._queue: queue.SimpleQueue[Replay | None] = queue.SimpleQueue()

    def start(self) -> None:
        """Start the thread."""
        self._thread = start_thread("replay", self._run)

    def stop(self) -> None:
        """End the thread, and wait for that."""
        self._queue.put(None)
        self._thread.join()

    def call(self, replay: Replay) -> None:
        """Have the thread go on with a newcomer, after those that wait already."""
        self._queue.put(replay)

    def _run(self) -> None:
        while (replay := self._queue.get()) is not None:
            try:
                replay.advance()
            except BaseException:  # one newcomer's bug must not take everyone's history along
                report_failure()

    # -- under the lock --

    def count(self, history: LongHistory, size: int) -> None:
        """Note that a history has grown by so many bytes, or shrunk."""
        self.size += size
        if size > 0 or not history.bytes:
            self._histories.pop(history, None)
        if size > 0:
            self._histories[history] = None
            while self.size > self._limit:
                # First those that no newcomer is being sent now.
                idle = next((each for each in self._histories if not each.followers), None)
                self.dropped += (idle or next(iter(self._histories))).drop()


class LongHistory(History):
    """The last messages of a room, for those who come later (--cache), in runs.

    Only what everyone may see is kept, so nobody learns later what was not meant for them. Rooms
    of one name share it with --cachepersist: what an old room's program says last stands in its
    place among what the new room's program says.

    Args:
        size: how many messages.
        tagged: keep only messages that are marked `_cache`.
        archive: where it counts.
        limit: bytes.
        at_once: a newcomer is sent all of it while it is let in, as its seat must be; so it must
            be short.
    """

    def __init__(
        self,
        size: int,
        *,
        tagged: bool,
        archive: Archive,
        limit: float = math.inf,
        at_once: bool = False,
    ) -> None:
        super().__init__(size, tagged, limit)
        self.archive = archive
        self._at_once = at_once
        # These, and `bytes`, are guarded by the archive's lock.
        self._before = self.newest = Past(0, (), 0, 0)  # the former stands before the oldest
        self._count = 0  # messages
        self.writers: set[Room] = set()  # rooms that may still add to it
        self.persists = False  # it outlives its rooms
        self.followers: set[Replay] = set()  # of newcomers that are being sent it

    def begin(self, client: Client, members: HistoryMembers) -> Replay | None:
        """Send a newcomer a short history now, or return what sends it a long one.

        The latter also if an earlier room of this name may still add to it.
        """
        if not self._at_once and (len(self.writers) > 1 or self.bytes > SMALL_HISTORY):
            return Replay(client, members, self)
        if self.bytes:
            client.connection.send(self.replay(client.connection.encoding))
        return None

    def add(self, opcode: int, payloads: Sequence[bytes]) -> None:
        """Keep messages; the oldest make room."""
        with self.archive.lock:
            self._add(opcode, payloads[-self.size :])
            followers = list(self.followers)
        for follower in followers:
            follower.wake()

    def replay(self, encoding: Encoding) -> bytes:
        """Return all messages that are kept, in order, as a connection takes them."""
        with self.archive.lock:
            past, skipped = self._before, self._surplus()
        frames = []
        while past.next is not None:
            past = past.next
            frames.append(encoding.encode_run(past.opcode, past.payloads[skipped:]))
            skipped = 0
        return b"".join(frames)

    def encode(self, past: Past, encoding: Encoding, skipped: int) -> bytes:
        """Return a run as a connection takes it, without the first `skipped` messages of it.

        A costly encoding is made once for all who take it; of several, the first is kept.
        """
        if not encoding.is_costly or skipped:
            return encoding.encode_run(past.opcode, past.payloads[skipped:])
        kept, data = past.encoded
        if kept is not encoding:
            data = encoding.encode_run(past.opcode, past.payloads)
            with self.archive.lock:
                if kept is None and past.end > self._before.end:
                    past.encoded = (encoding, data)
                    self._grow(len(data))
        return data

    def lost(self, past: Past) -> int:
        """Return how many bytes that came after a run have been dropped."""
        return max(0, self._before.end - past.end)

    def open(self, room: Room) -> None:
        """Note that a room may add to it."""
        with self.archive.lock:
            self.writers.add(room)

    def close(self, room: Room) -> None:
        """Note that a room adds nothing more to it; this may be done again."""
        with self.archive.lock:
            self.writers.discard(room)
            followers = list(self.followers)
            self._settle()
        for follower in followers:
            follower.wake()

    def follow(self, replay: Replay) -> tuple[Past, int]:
        """Note that a newcomer is being sent it, and return where that begins.

        That is what stands before the oldest run, and how many of the first messages of that run
        are more than a newcomer is to get.
        """
        with self.archive.lock:
            self.followers.add(replay)
            return self._before, self._surplus()

    def unfollow(self, replay: Replay) -> None:
        """Note that a newcomer has been sent it."""
        with self.archive.lock:
            self.followers.discard(replay)
            self._settle()

    def forget(self) -> None:
        """Keep it only for as long as there is a room."""
        with self.archive.lock:
            self.persists = False
            self._settle()

    # -- under the archive's lock --

    def _surplus(self) -> int:
        return max(0, self._count - self.size)

    def _add(self, opcode: int, payloads: Sequence[bytes]) -> None:
        count = len(payloads)
        size = sum(map(len, payloads)) + MESSAGE_COST * count
        if count > 1 and size > min(PIECE_SIZE, self.limit // 4):  # in parts that can go singly
            self._add(opcode, payloads[: count // 2])
            self._add(opcode, payloads[count // 2 :])
        elif count:
            past = Past(opcode, payloads, size, self.newest.end + size)
            self.newest.next = past
            self.newest = past
            self._count += count
            oldest = self._before.next
            while oldest is not None and self._count - len(oldest.payloads) >= self.size:
                self.drop()
                oldest = self._before.next
            self._grow(size)

    def _grow(self, size: int) -> None:
        self.bytes += size
        self.archive.count(self, size)
        while self.bytes > self.limit:
            self.archive.dropped += self.drop()

    def drop(self) -> int:
        """Drop the oldest run; return how many messages that were."""
        oldest = self._before.next
        assert oldest is not None
        if oldest is self.newest and self.followers:
            self._before = oldest  # they go on from it
        else:
            self._before = Past(0, (), 0, oldest.end)  # which holds nothing
            self._before.next = oldest.next
        if oldest is self.newest:
            self.newest = self._before
        count = len(oldest.payloads)
        self._count -= count
        freed = oldest.size + len(oldest.encoded[1])
        self.bytes -= freed
        self.archive.count(self, -freed)
        return count

    def _settle(self) -> None:
        """Drop all of it if nobody will ask for it any more."""
        if not (self.writers or self.followers or self.persists):
            while self.bytes:
                self.drop()


class Replay:
    """Sends a newcomer the history of its room, and then makes it a member like the others.

    Messages that are kept meanwhile are found in the history, too. Messages that are not kept wait
    in the queue, each with its place in the history; so all come in order, and none comes twice.
    Nobody waits for the newcomer. It is closed if it takes nothing for --stall seconds, if
    --backlog bytes wait in the queue, or if the history has dropped as much as it may hold since
    the place where the newcomer is.

    Args:
        client: who it is.
        members: of its room, of which it will be one.
        history: what it is sent.
    """

    def __init__(self, client: Client, members: HistoryMembers, history: LongHistory) -> None:
        assert isinstance(client.connection, HoldingConnection)
        self._client = client
        self._connection = client.connection
        self._members = members
        self._history = history
        self._called = False  # the thread will go on with it; twice at the worst, which is no harm
        self.queue: deque[tuple[int, bytes]] = deque()  # guarded by the connection's lock
        self.held = 0  # bytes of messages in it
        self._at, self._surplus = self._history.follow(self)

    @property
    def left(self) -> int:
        """Bytes of the past that it has yet to be sent."""
        return self._history.newest.end - self._at.end

    @property
    def is_lost(self) -> bool:
        """Whether it is so far behind that nothing can be kept for it."""
        return self._history.lost(self._at) > self._history.limit

    @property
    def is_outrun(self) -> bool:
        """Whether it soon will be so far behind."""
        return self._history.lost(self._at) > self._history.limit / 2

    def begin(self) -> None:
        """Feed the connection; what is sent meanwhile waits in the queue."""
        with self._connection.lock:
            self._connection.set_replay(self)

    def leave(self, *, if_done: bool = False) -> bool:
        """Feed it no more, and drop what waits for that; or only `if_done`. Return whether it is.

        What is sent from now on goes straight to the socket again.
        """
        connection = self._connection
        with connection.lock:
            if connection.replay is self and not (if_done and self.queue):
                connection.set_replay(None)
            return connection.replay is not self

    def wake(self) -> None:
        """Have the archive's thread go on with it; under any lock but the archive's."""
        if not self._called:
            self._called = True
            self._history.archive.call(self)

    def advance(self) -> None:
        """Send the next piece if the connection has room for it; on the archive's thread."""
        self._called = False
        if self._connection.replay is self and self._client.departed and self.is_lost:
            self._connection.abort()  # its room does not look after it any more
        if self._is_over() or not self._connection.replay:
            self._end()
        elif self._connection.has_space:  # if not, it wakes us later
            data = self._take_piece()
            if data:
                self._feed(data)
                self.wake()
            elif self._members.promote(self._client, self):
                self._end()

    def wait(self, limit: int) -> bool:
        """Wait while its room speaks to nobody who can follow; return whether less is held back.

        Nobody waits for a newcomer else. But if there are only such, the child waits for them.
        """
        while self._members.is_outrun():
            time.sleep(0.01)
        return self.held < limit

    def has_caught_up(self, *, for_now: bool = False) -> bool:
        """Whether it has been sent all there is, and, but `for_now`, no earlier room can add."""
        return self._at.next is None and (for_now or len(self._history.writers) <= 1)

    # -- under the connection's lock --

    def hold(self, data: bytes) -> None:
        """Have data wait until everything that has been kept so far has been sent."""
        self.queue.append((self._history.newest.end, data))
        self.held += len(data)
        self.wake()

    def drop(self) -> None:
        """Drop what waits."""
        self.queue.clear()
        self.held = 0
        self.wake()

    # -- the archive's thread --

    def _feed(self, data: bytes) -> None:
        connection = self._connection
        with connection.lock:
            if connection.replay is self and connection.is_alive():
                connection.transmit(data)

    def _take_held(self) -> bytes | None:
        """Return what waits to be sent at this place of the past; None if that is nothing."""
        with self._connection.lock:
            if not self.queue or self.queue[0][0] > self._at.end:
                return None
            _, data = self.queue.popleft()
            self.held -= len(data)
            return data

    def _is_over(self) -> bool:
        """Whether nothing more may be sent, nor waits in the queue."""
        return self._connection.is_closing and not self.queue

    def _take_piece(self) -> bytes:
        connection = self._connection
        pieces: list[bytes] = []
        size = 0
        while size < PIECE_SIZE and not self._is_over():
            following = self._at.next  # looked at first: what is held by then comes before it
            piece = self._take_held()
            if piece is None:
                if following is None:
                    break
                piece = self._history.encode(following, connection.encoding, self._surplus)
                self._at, self._surplus = following, 0
            pieces.append(piece)
            size += len(piece)
        return b"".join(pieces)

    def _end(self) -> None:
        self.leave()
        self._history.unfollow(self)


class HoldingConnection(Connection):
    """A connection that holds back what is sent while a replay tells its peer the past."""

    replay: Replay | None = None

    def open(self) -> None:
        """Send the response of the opening handshake; then a replay may begin."""
        super().open()
        if (replay := self.replay) is not None:
            replay.wake()

    def answer(self, closing: Closing) -> None:
        """Answer a peer that wants no more, also of the past; see `Connection`."""
        with self.lock:
            if self.protocol.answers_close and not self.is_closing:
                self.set_replay(None)
        super().answer(closing)

    @property
    def backlog_size(self) -> int:
        """Bytes that wait for the peer."""
        return super().backlog_size + (replay.held if (replay := self.replay) else 0)

    @property
    def has_space(self) -> bool:
        """Whether a replay may send more now; if not, it will be woken."""
        return self._is_open and self._backlog.size <= self._max_backlog // 4

    def wait_while_full(self, stall: float) -> bool:
        """Wait for the peer, but not for a newcomer that is still being sent the history."""
        with self.lock:
            replay = self.replay
        return replay.wait(self._max_backlog) if replay else super().wait_while_full(stall)

    @property
    def lags(self) -> bool:
        """Whether the peer is behind: also while it is told the past."""
        return self.is_full or self.replay is not None

    def has_stalled(self, stall: float) -> bool:
        """Whether the peer takes nothing, or is too far behind.

        With --stall 0 one who has only come need not have taken all of the past at once.
        """
        if (replay := self.replay) is None:
            return super().has_stalled(stall)
        return replay.is_lost or super().has_stalled(stall or 1.0)

    def overflows(self, size: int) -> bool:
        """Whether even a game may not send so much more; what comes of the past is no fault."""
        if (replay := self.replay) is None:
            return super().overflows(size)
        return self.is_full and replay.held + size > GAME_BACKLOGS * self._max_backlog

    # -- under the lock --

    def set_replay(self, replay: Replay | None) -> None:
        """Have a replay hold back what is sent from now on; None: drop what it has held."""
        if self.replay is not None:
            self.replay.drop()
        self.replay, self._is_direct = replay, self.IS_DIRECT and replay is None
        self._on_shrunk()
        self._end_if_closed()

    def _push(self, data: bytes) -> None:
        if self.replay is None:
            super()._push(data)
            return
        self.replay.hold(data)
        self.is_full = self.backlog_size >= self._max_backlog

    def _discard(self) -> None:
        super()._discard()
        self.set_replay(None)

    def _on_shrunk(self) -> None:
        super()._on_shrunk()
        if self.replay is not None and self.has_space:
            self.replay.wake()

    def _end_if_closed(self) -> None:
        if self.replay is None:
            super()._end_if_closed()

    def _die(self) -> None:
        if self.replay is not None and not self._dead:
            self.replay.drop()
        super()._die()


@functools.cache
def make_holding(kind: type[Connection]) -> type[Connection]:
    """Return the kind of connections that are of another kind, too, and may have a replay."""
    return type(f"Holding{kind.__name__}", (HoldingConnection, kind), {})


class HistoryMembers(Members):
    """Who hears what a room's backend says, and who is yet to hear what was before.

    Args:
        history: what newcomers get.
        room: whose.
    """

    history: LongHistory

    def __init__(self, history: LongHistory, room: Room) -> None:
        super().__init__(room)
        self.history = history
        self.newcomers: dict[Client, Replay] = {}  # guarded by the lock, too

    def add(self, client: Client) -> bool:
        """Make a client a member, and give it the history; return whether it is still behind.

        Encoding and sending a long history takes a while, for which nobody is to wait; so does
        what the last room of this name may still have to say.
        """
        with self._lock:
            if client.departed:
                return False
            self._members[client.id] = client
            replay = self.history.begin(client, self)
            if replay is not None:
                self.newcomers[client] = replay
                replay.begin()
                replay.wake()
            return replay is not None

    def promote(self, client: Client, replay: Replay) -> bool:
        """Let a newcomer be as all the others, if it has caught up; return whether it is."""
        with self._lock:
            # One that has just been kicked gets what was said before, and then its Close.
            if not replay.has_caught_up(for_now=client not in self.newcomers):
                return False
            if not replay.leave(if_done=True):
                return False
            self.newcomers.pop(client, None)
            return True

    def remove(self, client: Client) -> None:
        """Take a client off the members; its seat has been taken back."""
        with self._lock:
            self._members.pop(client.id, None)
            self.newcomers.pop(client, None)

    def remember(self, message: str | bytes, flush: Callable[[], None]) -> Collection[Client]:
        """Keep what an in-process game has broadcast; return who is sent it from there."""
        if not self.history.wants(Route(Opcode.TEXT, [])):
            return ()
        opcode, payload = to_payload(message)
        if self.newcomers:
            flush()  # what they were sent before
        with self._lock:
            self.history.add(opcode, [payload])
            return list(self.newcomers)

    def is_outrun(self) -> bool:
        """Whether there are only newcomers, and none of them can follow."""
        if not self.newcomers:
            return False
        with self._lock:
            alone = 0 < len(self.newcomers) == len(self._members)
            return alone and all(replay.is_outrun for replay in self.newcomers.values())

    def send(self, outputs: Sequence[Output]) -> list[Client]:
        """Send messages to those they are for; return whose backlog is full now."""
        full = super().send(outputs)
        if self.newcomers:
            is_outrun = self.is_outrun()
            with self._lock:
                slow = [c for c in self.newcomers if is_outrun or c.connection.is_full]
                full += [client for client in slow if client not in full]
        return full

    # -- under the lock --

    def _find_hearers(self, route: Route) -> list[Client]:
        clients = self._find(route.to, route.exclude)
        if self.history.wants(route):
            self.history.add(route.opcode, route.payloads)
            if self.newcomers:  # they find it there
                clients = [client for client in clients if client not in self.newcomers]
        return clients

    def _encode(self, route: Route) -> Iterable[tuple[Sequence[Client], bytes]]:
        newcomers = self.newcomers
        for hearers, data in super()._encode(route):
            if not newcomers:
                yield hearers, data
                continue
            for client in hearers:
                if client in newcomers:  # in its place among what is kept
                    client.connection.send(data)
            yield [client for client in hearers if client not in newcomers], data


class Histories:
    """The histories of all rooms; under the registry's lock.

    Args:
        config: how much is kept.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._kept: dict[str, LongHistory] = {}  # with --cachepersist; the latest room's last
        self.archive = Archive(HISTORIES * config.cachebytes)
        self._limit = config.cachebytes
        self._has_seats = bool(config.resume or config.store)
        if self._has_seats:
            self._limit = min(self._limit, config.backlog // 2)

    def make_members(self, room: Room) -> HistoryMembers:
        """Return what sends to a room's clients, and has newcomers hear its history."""
        return HistoryMembers(self.open(room), room)

    def open(self, room: Room) -> LongHistory:
        """Return the history of a new room; with --cachepersist, that of the last of this name.

        That room's program may still be at its last words, which belong there, too.
        """
        name, (size, tagged) = room.name, self._config.cache
        history = self._kept.pop(name, None) or LongHistory(
            size,
            tagged=tagged,
            archive=self.archive,
            limit=self._limit,
            at_once=self._has_seats,
        )
        if self._config.cachepersist:
            history.persists = True
            self._kept[name] = history
            if len(self._kept) > MAX_REMEMBERED_ROOMS:
                idle = (n for n, kept in self._kept.items() if not kept.writers)
                self._kept.pop(next(idle, name)).forget()
        history.open(room)
        return history

    def close(self, room: Room) -> None:
        """Note that a room adds no more to its history; an empty one is not worth keeping."""
        name, history = room.name, room.members.history
        assert isinstance(history, LongHistory)
        history.close(room)
        if not history.writers and not history.bytes and self._kept.get(name) is history:
            self._kept.pop(name).forget()
