"""Rooms in Redis or Valkey (`--store redis://HOST:PORT/0`), through the package `redis`.

What there is, each key behind a prefix (`?prefix=`, or "scalesocket"):

    …:about       "scalesocket 1": whose keys these are, and how they are written
    …:clients     up to which IDs of clients have been given out, in blocks
    …:nodes       by ID of a node, or a worker of one, until when it is taken to be alive: its lease
    …:fenced      nodes that others have taken rooms from, and when
    …:since       since when there has been a node
    …:turns       how often a room has been taken
    …:calls:…     by node and thread, what it has asked last; for a day
    …:room:NAME   a record, the node that has the room: its `owner`, in which `turn` it was taken,
                  and, as `seat:ID`, seats that have got a token since
    …:rooms       by name, when a room was saved: those that go if nobody comes back
    …:kept        likewise, those that stay

All that must not come apart is one Lua script, and all times are Redis' own, in ms.

A node has a lease, not each of its rooms: one word every half second is enough for all of them. A
room is its owner's for as long as that is alive; then whoever wants it first takes it. Each record
that is written names its writer, and the same script looks up whether the room is still its own
(a fence): a node that has been frozen for an hour, while another one has got its rooms, changes
nothing of them. Nor does one that writes again what it was not told has been written, when another
one has had the room in between, and has ended it: that one's turn was a later one. And what a node
has given up, and asked again, may still come, as a network or a proxy has kept it: each call has a
number, and one that comes behind a later one does nothing.

Redis may lose what it was told last, as when a replica takes its place. So a node says, with its
lease, which IDs and turns there have been. Who finds Redis read-only asks for it anew by name: that
may be another one's by now.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import secrets
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from scalesocket import ConfigError

from .store import (
    NOTHING,
    ONE_REDIS,
    Latest,
    Record,
    StoredSeat,
    StoreError,
    check_record,
    merge_facts,
)

try:
    import redis
except ImportError:
    raise ConfigError(
        "--store with Redis needs the package redis, which is missing: pip install redis"
    ) from None

PORT = 6379
VERSION = 1  # of how records are written
LEASE = 3.0  # seconds for which a node is taken to be alive after it has said so
LONGEST_LEASE = 600.0  # seconds
RENEWALS = 6  # in that time
LOOK_PAUSE = 0.1  # seconds until it is looked up again whether another node is alive
TIMEOUT = 2.0  # seconds for Redis to answer
BLOCK = 10_000  # IDs of clients that a process takes at a time
MOST_AT_ONCE = 500  # names of rooms in one call
MOST_PAST = 1000  # rooms released last whose turns are known
UNKNOWN_USER = "it wants another user or password"
BATCH_SIZE = 1 << 20  # bytes, about, that are sent before answers are awaited


# ==== Where it is ========================================================================


class Place(NamedTuple):
    """What the URL says; `shown` is what is told of it: neither user nor password."""

    host: str
    port: int
    number: int  # of the database
    user: str | None
    password: str | None
    tls: bool
    prefix: str
    lease: float  # seconds
    alone: bool  # no other node is let in, and this one needs no lease
    shown: str


def parse_url(url: str) -> Place:
    """Return where Redis is.

    Raises:
        ConfigError: the URL does not say so.
    """
    wanted = "redis://[USER:PASSWORD@]HOST[:PORT][/NUMBER], and ?prefix=TEXT&lease=SECONDS&nodes=1"
    try:
        parts = urllib.parse.urlsplit(url)
        (parts.hostname or "").encode("idna")  # as it will be looked up
        port = parts.port or PORT
        pairs = urllib.parse.parse_qsl(parts.query, strict_parsing=bool(parts.query))
        query = dict(pairs)
        prefix = query.pop("prefix", "scalesocket")
        lease = float(query.pop("lease", LEASE))
        alone = {"": False, "1": True}.get(query.pop("nodes", ""))
    except ValueError:
        raise ConfigError(f"--store: {wanted} is wanted") from None
    number = re.fullmatch(r"/?|/([0-9]{1,4})", parts.path, re.ASCII)
    is_odd = bool(query) or alone is None or not 1 <= lease <= LONGEST_LEASE
    if is_odd or number is None or not parts.hostname or parts.fragment:
        raise ConfigError(f"--store: {wanted} is wanted")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    shown = f"{parts.scheme}://{host}:{port}/{number[1] or 0}"
    if prefix != "scalesocket":
        shown += f"?prefix={urllib.parse.quote(prefix)}"
    user, password = (
        part and urllib.parse.unquote(part) for part in (parts.username, parts.password)
    )
    return Place(
        parts.hostname,
        port,
        int(number[1] or 0),
        user or None,
        password or None,
        parts.scheme in ("rediss", "valkeys"),
        prefix,
        lease,
        bool(alone),
        shown,
    )


def connect(place: Place, timeout: float) -> redis.Redis:
    """Return a client, which connects when it is needed and tries nothing twice."""
    return redis.Redis(
        host=place.host,
        port=place.port,
        db=place.number,
        username=place.user,
        password=place.password,
        ssl=place.tls,
        protocol=2,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        retry=redis.retry.Retry(redis.backoff.NoBackoff(), 0),
    )


def explain(error: redis.RedisError) -> str:
    """Return what went wrong, in a few words."""
    if isinstance(error, redis.AuthenticationError):
        return UNKNOWN_USER
    if isinstance(error, redis.TimeoutError):
        return "it does not answer"
    cause = error.__cause__ or error.__context__
    if isinstance(error, redis.ConnectionError) and isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    # What the package says of a pipeline names the script, too.
    text = str(error).rpartition(" of pipeline caused error: ")[2].partition(" script: ")[0]
    # A long question is refused in this way before it is seen that there was no password.
    return UNKNOWN_USER if "unauthenticated" in text else text.rstrip(".")


@contextlib.contextmanager
def as_oserror(client: redis.Redis) -> Iterator[None]:
    """Have what Redis cannot do raise OSError, as for a file.

    Args:
        client: by which it is asked.
    """
    try:
        yield
    except redis.RedisError as error:
        if isinstance(error, redis.ReadOnlyError):  # or it would be asked again and again
            client.connection_pool.disconnect()
        raise OSError(f"Redis: {explain(error)}") from None


# ==== What it is asked ===================================================================

# Each script gets the prefix; the ID of this node, its thread and the number of the call; and what
# its own comment says. A Redis that is full cannot note the number, but can still remove rooms.
PREAMBLE = """
local prefix = ARGV[1]
local me, thread, number = string.match(ARGV[2], '^(%S+) (%S+) (%d+)$')
local calls = prefix .. ':calls:' .. me .. ':' .. thread
if tonumber(number) <= tonumber(redis.call('GET', calls) or 0) then
    return redis.error_reply('ERR this comes too late')
end
redis.pcall('SET', calls, number, 'PX', 86400000)
local nodes, fenced = prefix .. ':nodes', prefix .. ':fenced'
local rooms, kept = prefix .. ':rooms', prefix .. ':kept'
local function key(name) return prefix .. ':room:' .. name end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function is_live(node)
    local till = node and redis.call('ZSCORE', nodes, node)
    return till and tonumber(till) > now
end
-- Whether a room is mine that I took in this turn. One that nobody has is, if nobody has taken it
-- since. One that has vanished is, if nobody can have taken it: then Redis has lost what it had.
local function is_mine(name, turn)
    local owner, last = unpack(redis.call('HMGET', key(name), 'owner', 'turn'))
    if owner then return owner == me end
    if last == turn then return true end
    return tonumber(last or 0) < tonumber(turn) and not redis.call('ZSCORE', fenced, me)
end
"""
# The marker, the version, ms of the lease, 1 if no other node may be there.
CLAIM = """
local about, version = prefix .. ':about', tonumber(ARGV[4])
local found = redis.call('GET', about)
if not found then
    if redis.call('EXISTS', nodes, rooms, kept, prefix .. ':clients') > 0 then
        return {'foreign'}
    end
    redis.call('SET', about, ARGV[3] .. ' ' .. ARGV[4])
else
    local said = tonumber(string.match(found, '^' .. ARGV[3] .. ' (%d+)$'))
    if not said then return {'foreign'} end
    if said > version then return {'later'} end
end
local others = redis.call('ZRANGEBYSCORE', nodes, '(' .. now, '+inf', 'WITHSCORES')
if others[1] and ARGV[6] == '1' then return {'taken', others[1], others[2]} end
if not others[1] then redis.call('SET', prefix .. ':since', now) end
redis.call('ZREMRANGEBYSCORE', nodes, '-inf', now)
redis.call('ZREMRANGEBYSCORE', fenced, '-inf', now - 86400000)
redis.call('ZADD', nodes, now + ARGV[5], me)
return {'ok'}
"""
# The marker, the version, ms of the lease, the highest ID and turn that this node has been given;
# answers whether the last lease had not run out.
RENEW = """
redis.call('SET', prefix .. ':about', ARGV[3] .. ' ' .. ARGV[4], 'NX')
for at, name in ipairs({':clients', ':turns'}) do  -- or they would be given again
    local highest = ARGV[5 + at]
    if tonumber(redis.call('GET', prefix .. name) or 0) < tonumber(highest) then
        redis.call('SET', prefix .. name, highest)
    end
end
local was_live = is_live(me)
redis.call('ZADD', nodes, now + ARGV[5], me)
return was_live and 1 or 0
"""
# Names of rooms, each before its turn; answers which of them are not this node's, and takes what
# has vanished.
CHECK = """
local lost = {}
for at = 3, #ARGV, 2 do
    local name, turn = ARGV[at], ARGV[at + 1]
    if is_mine(name, turn) then redis.call('HSET', key(name), 'owner', me, 'turn', turn)
    else lost[#lost + 1] = name end
end
return lost
"""
# The name of a room, the fields that are wanted.
READ = """
local name, room = ARGV[3], key(ARGV[3])
local owner = redis.call('HGET', room, 'owner')
if owner and owner ~= me then
    if is_live(owner) then
        local till = tonumber(redis.call('ZSCORE', nodes, owner))
        return {'held', owner, till, till - now}
    end
    redis.call('ZADD', fenced, now, owner)
end
if not is_live(me) then return {'late'} end
local found, latest = redis.call('HMGET', room, unpack(ARGV, 4)), {}
for _, field in ipairs(redis.call('HKEYS', room)) do
    if string.find(field, '^seat:') then
        latest[#latest + 1] = string.sub(field, 6)
        latest[#latest + 1] = redis.call('HGET', room, field)
    end
end
local turn = redis.call('INCR', prefix .. ':turns')
redis.call('HSET', room, 'owner', me, 'turn', turn)
if found[1] then redis.call('HSET', room, 'whole', 0)
else redis.call('ZADD', rooms, now, name) end
return {'ok', turn, latest, unpack(found)}
"""
# The name of a room that has been read, and cannot go on from its record: that stays as it was.
KEEP_WHOLE = """
local room = key(ARGV[3])
if redis.call('HGET', room, 'owner') == me then redis.call('HSET', room, 'whole', 1) end
"""
# The name of a room, its turn, the fields of its record; without any it is removed. A whole one has
# ended.
WRITE = """
local name, room, turn = ARGV[3], key(ARGV[3]), ARGV[4]
if not is_mine(name, turn) then return 0 end
redis.call('DEL', room)
redis.call('ZREM', rooms, name)
redis.call('ZREM', kept, name)
if #ARGV > 4 then
    redis.call('HSET', room, 'owner', me, 'turn', turn, unpack(ARGV, 5))
    local whole, stays = unpack(redis.call('HMGET', room, 'whole', 'kept'))
    if whole == '1' then redis.call('HDEL', room, 'owner') end
    redis.call('ZADD', stays == '1' and kept or rooms, now, name)
end
return 1
"""
# The name of a room, its turn, fields `seat:ID` with the facts of seats that have got a token
# since; without any of one that has ended.
ADD = """
local name, room, turn = ARGV[3], key(ARGV[3]), ARGV[4]
if not is_mine(name, turn) then return 0 end
for at = 5, #ARGV, 2 do
    local field, facts = ARGV[at], ARGV[at + 1]
    if facts == '' then redis.call('HDEL', room, field)
    else redis.call('HSET', room, 'owner', me, 'turn', turn, field, facts) end
end
local is_new = redis.call('HEXISTS', room, 'whole') == 0
if is_new and redis.call('EXISTS', room) == 1 then redis.call('ZADD', rooms, now, name) end
return 1
"""
# Names of rooms that this node has no longer.
RELEASE = """
for at = 3, #ARGV do
    local name, room = ARGV[at], key(ARGV[at])
    if redis.call('HGET', room, 'owner') == me then
        redis.call('HDEL', room, 'owner')
        if redis.call('HLEN', room) <= 1 then  -- nothing of it is stored
            redis.call('DEL', room)
            redis.call('ZREM', rooms, name)
        end
    end
end
return 'ok'
"""
# ms for which a room that nobody has waits for somebody, the number of rooms that are kept.
SWEEP = """
local since = tonumber(redis.call('GET', prefix .. ':since') or now)
local long_ago = now - ARGV[3]
local function look(index, name)
    local owner = redis.call('HGET', key(name), 'owner')
    if owner then
        if not is_live(owner) then
            redis.call('HDEL', key(name), 'owner')
            redis.call('ZADD', fenced, now, owner)
        end
        redis.call('ZADD', index, now, name)  -- it waits from now on
    else
        redis.call('DEL', key(name))
        redis.call('ZREM', index, name)
    end
end
if since <= long_ago then
    local old = redis.call('ZRANGEBYSCORE', rooms, '-inf', long_ago, 'LIMIT', 0, 500)
    for _, name in ipairs(old) do look(rooms, name) end
end
local excess = math.min(redis.call('ZCARD', kept) - ARGV[4], 500)
if excess > 0 then
    for _, name in ipairs(redis.call('ZRANGE', kept, 0, excess - 1)) do look(kept, name) end
end
return 'ok'
"""
MARK = "scalesocket"
FIELDS = ("whole", "kept", "kind", "state", "metadata", "history", "seats", "missed")


def encode(record: Record) -> list[bytes]:
    """Return the fields of a record, each behind its name."""
    state = record.state
    kind = "none" if state is None else "text" if isinstance(state, str) else "bytes"
    facts = [f"[{seat.id},{len(seat.missed)},{seat.facts}]" for seat in record.seats]
    values = {
        "whole": b"01"[record.whole : record.whole + 1],
        "kept": b"01"[record.kept : record.kept + 1],
        "kind": kind.encode(),
        "state": state.encode() if isinstance(state, str) else state or b"",
        "metadata": record.metadata.encode(),
        "history": record.history,
        "seats": "\n".join(facts).encode(),
        "missed": b"".join(seat.missed for seat in record.seats),
    }
    return [part for name in FIELDS for part in (name.encode(), values[name])]


def decode(values: list[bytes | None], latest: list[bytes]) -> Record | None:
    """Return a record from the values of `FIELDS`, and of `seat:ID`, each behind its ID.

    Raises:
        ValueError: there is none in them.
    """
    if values[0] is None and not latest:
        return None
    there = [value for value in values if value is not None]
    if values[0] is None:
        fields = encode(NOTHING)
        there = fields[1::2]
    elif None in values:
        raise ValueError("a field is missing")
    whole, kept, kind, state, metadata, history, facts, missed = there
    fresh = {
        int(number): said.decode() for number, said in zip(latest[::2], latest[1::2], strict=True)
    }
    seats, at = [], 0
    for line in filter(None, facts.decode().split("\n")):
        number, size, said = line[1:-1].split(",", 2)
        if int(number) in fresh:
            said = merge_facts(said, fresh.pop(int(number)))
        seats.append(StoredSeat(int(number), said, missed[at : at + int(size)]))
        at += int(size)
    seats += [StoredSeat(number, said, b"") for number, said in fresh.items()]
    return Record(
        whole == b"1",
        kept == b"1",
        None if kind == b"none" else state.decode() if kind == b"text" else state,
        metadata.decode(),
        history,
        tuple(seats),
    )


def list_calls(
    batch: Mapping[str, Record | None], latest: Latest
) -> Iterator[tuple[str, str, list[bytes]]]:
    """Return what is to be written: the script, the name of the room, and fields."""
    for name, record in batch.items():
        yield WRITE, name, [] if record is None else encode(record)
    for name, said in latest.items():
        pairs = [
            (f"seat:{number}".encode(), (facts or "").encode()) for number, facts in said.items()
        ]
        for at in range(0, len(pairs), MOST_AT_ONCE):
            yield ADD, name, [part for pair in pairs[at : at + MOST_AT_ONCE] for part in pair]


class HeldError(OSError):
    """Another node has a room.

    Attributes:
        lease: which one, and until when if it says no more.
        left: seconds until then.
    """

    def __init__(self, node: bytes, till: int, left: int) -> None:
        super().__init__("another node has this room")
        self.lease = node, till
        self.left = left / 1000


class Calls(threading.local):
    """Numbers what a thread asks of Redis."""

    def __init__(self) -> None:
        self.thread = secrets.token_hex(4)
        self.numbers = itertools.count(1)


class RedisDatabase:
    """Records in Redis; see `Database`.

    Args:
        url: where that is.

    Raises:
        ConfigError: it does not say so.
    """

    def __init__(self, url: str) -> None:
        self.place = parse_url(url)
        self.lease, self.alone = self.place.lease, self.place.alone
        self.refuse: Callable[[str], None] = lambda _room: None  # is told which are not ours
        self._node = secrets.token_hex(8)
        self._id_of = 0  # the process whose ID that is
        self._lease = MARK, VERSION, int(self.lease * 1000)
        self._silence = ""  # why it could not say that it is alive; written on the thread "lease"
        self._turns: dict[str, int] = {}  # of this node's rooms; written on the writer's thread
        self._past: dict[str, int] = {}  # of rooms released last, of which something may follow
        self._last_turn = self._last_id = 0  # that it has been given
        self._calls = Calls()

    def claim(self) -> int:
        """See that the keys are ours; if there may be one node only, wait for the end of another.

        Returns:
            0, as IDs come in blocks; see `take_ids`.
        """
        shown = self.place.shown
        try:
            status = self._ask_for_place()
        except OSError as error:
            text = str(error).removeprefix("Redis: ")
            if "WRONGTYPE" in text:
                raise ConfigError(f"--store {shown} has keys of something else") from None
            if re.search("cluster|unknown command 'eval'", text, re.IGNORECASE):
                raise ConfigError(f"--store {shown}: {ONE_REDIS}") from None
            raise StoreError(f"cannot use --store {shown}: {text}") from None
        match status:
            case b"taken":
                raise StoreError(f"another server uses --store {shown}")
            case b"foreign":
                raise ConfigError(f"--store {shown} has keys of something else")
            case b"later":
                raise ConfigError(f"--store {shown} is of a later version of this server")
        self._id_of = os.getpid()
        return 0

    def _ask_for_place(self) -> bytes:
        """Return how `CLAIM` has ended."""
        deadline = time.monotonic() + 2 * self.lease
        seen: list[Any] = []
        with connect(self.place, TIMEOUT) as client, as_oserror(client):
            while True:
                status, *found = self._call(client, CLAIM, *self._lease, int(self.alone))
                # Who is alive says so again; who is not will be forgotten.
                is_alive = bool(seen) and found != seen
                if status != b"taken" or is_alive or time.monotonic() > deadline:
                    return bytes(status)
                seen = found
                time.sleep(LOOK_PAUSE)

    # -- on the writer's thread --

    def open(self) -> dict[str, bool]:
        """Begin; which rooms there are is asked when somebody wants one. See `Database`.

        A worker is a node of its own, so that others may have its rooms if it alone crashes.
        """
        if self._id_of != os.getpid() and not self.alone:
            self._node, self._id_of = secrets.token_hex(8), os.getpid()
        self._calls = Calls()  # other workers may be the same node
        self._client = connect(self.place, TIMEOUT)
        return {}

    def write(self, batch: Mapping[str, Record | None], highest: int, latest: Latest) -> None:
        """Write; each record is there whole, or the one before it. See `Database`.

        Whose room another node has is told `refuse`, and not written.
        """
        with as_oserror(self._client):
            names: list[str] = []
            pipe = self._client.pipeline(transaction=False)
            size = 0
            for script, name, fields in list_calls(batch, latest):
                turn = self._turns.get(name) or self._past.get(name, 0)
                self._call(pipe, script, name, turn, *fields)
                names.append(name)
                size += sum(map(len, fields))
                if size > BATCH_SIZE:
                    self._finish(pipe, names)
                    names, size = [], 0
            self._finish(pipe, names)

    def read(self, room: str) -> Record | None:
        """Take possession of a room, also if its record is damaged, and return that.

        Raises:
            HeldError: another node has it.
            ValueError, OSError: see `Database`.
        """
        with as_oserror(self._client):
            status, *found = self._call(self._client, READ, room, *FIELDS)
        if status == b"held":
            raise HeldError(*found)
        if status == b"late":
            raise OSError(f"this node has not said in time that it is alive{self._silence}")
        self._past.pop(room, None)
        self._last_turn, latest, *values = found
        self._turns[room] = self._last_turn
        try:
            record = decode(values, latest)
            if record is not None:
                check_record(record)
        except ValueError:
            if values[0] == b"1":
                with as_oserror(self._client):
                    self._call(self._client, KEEP_WHOLE, room)
            raise
        return record

    def release(self, names: Sequence[str]) -> None:
        """Let others have rooms."""
        with as_oserror(self._client):
            self._call(self._client, RELEASE, *names)
        for name in names:
            if (turn := self._turns.pop(name, None)) is not None:
                self._past[name] = turn
        while len(self._past) > MOST_PAST:
            del self._past[next(iter(self._past))]

    def may_hold(self, _room: str) -> bool:
        """Return True: Redis may have done what it was asked, though its answer was lost."""
        return True

    def close(self) -> None:
        """End."""
        self._client.close()

    # -- on the thread "lease" --

    def begin(self) -> None:
        """Connect; for what follows."""
        self._own = connect(self.place, self.lease / 3)
        self._other = connect(self.place, self.lease / 6)

    def renew(self, *, again: bool = False) -> bool:
        """Say that this node is alive; return whether others have thought so all the time.

        Args:
            again: in haste, by another connection.
        """
        client = self._other if again else self._own
        last = self._last_id, self._last_turn
        try:
            with as_oserror(client):
                found = self._call(client, RENEW, *self._lease, *last)
        except OSError as error:
            self._silence = f": {error}"
            raise
        self._silence = ""
        return bool(found)

    def find_lost(self, names: Sequence[str]) -> list[str]:
        """Return which of these rooms others have taken meanwhile."""
        lost: list[bytes] = []
        turns = [(name, turn) for name in names if (turn := self._turns.get(name)) is not None]
        with as_oserror(self._own):
            for at in range(0, len(turns), MOST_AT_ONCE):
                pairs = turns[at : at + MOST_AT_ONCE]
                lost += self._call(self._own, CHECK, *itertools.chain.from_iterable(pairs))
        return [name.decode() for name in lost]

    def take_ids(self) -> range:
        """Return IDs of clients that nobody else has."""
        with as_oserror(self._own):
            last: Any = self._own.incrby(f"{self.place.prefix}:clients", BLOCK)
        self._last_id = last
        return range(last - BLOCK + 1, last + 1)

    def sweep(self, patience: float, most: int) -> None:
        """Remove rooms that nobody has wanted for so many seconds, and kept ones over `most`."""
        with as_oserror(self._own):
            self._call(self._own, SWEEP, int(patience * 1000), most)

    def leave(self) -> None:
        """End; nobody need wait until it is clear that this node has."""
        with contextlib.suppress(redis.RedisError), self._own as client, self._other:
            if self._id_of == os.getpid():  # or other workers of this node may go on
                client.zrem(f"{self.place.prefix}:nodes", self._node)

    # -- both --

    def _call(self, client: Any, script: str, *arguments: Any) -> Any:
        """Have a script run, or add it to a pipeline."""
        who = f"{self._node} {self._calls.thread} {next(self._calls.numbers)}"
        return client.eval(PREAMBLE + script, 0, self.place.prefix, who, *arguments)

    def _finish(self, pipe: Any, names: list[str]) -> None:
        for name, done in zip(names, pipe.execute(), strict=True):
            if not done:
                self.refuse(name)
