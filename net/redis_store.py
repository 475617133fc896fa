"""Rooms in Redis or Valkey (`--store redis://HOST:PORT/0`), through the package `redis`.

What there is, each key behind a prefix (`?prefix=`, or "scalesocket"):

    …:about       "scalesocket 1": whose keys these are, and how they are written
    …:clients     the highest ID of a client
    …:nodes       by ID of a node, until when it is known to be alive (its lease), in ms
    …:room:NAME   a record, and the node that has the room (`owner`)
    …:rooms       by name of a room, when it was saved: those that go if nobody comes back
    …:kept        likewise, those that stay

All that must not come apart is one Lua script, and all times are Redis' own. A node says that it is
alive every `RENEW_PAUSE` seconds, on a thread and a connection of its own. It writes the record
of a room only if the room is its own, which the same script looks up: a node that has been frozen
for an hour, while another one has got its rooms, changes nothing of them.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from scalesocket import ConfigError, log, start_thread

from .store import Record, StoredSeat, StoreError

try:
    import redis
except ImportError:
    raise ConfigError(
        "--store with Redis needs the package redis, which is missing: pip install redis"
    ) from None

PORT = 6379
VERSION = 1  # of how records are written
LEASE = 3.0  # seconds for which a node is taken to be alive after it has said so
RENEW_PAUSE = 0.5  # seconds until it says so again
LOOK_PAUSE = 0.1  # seconds until it is looked up again whether another node is alive
TIMEOUT = 2.0  # seconds for Redis to answer
RENEW_TIMEOUT = 1.0  # seconds for it to answer a node that says that it is alive
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
    shown: str


def parse_url(url: str) -> Place:
    """Return where Redis is.

    Raises:
        ConfigError: the URL does not say so.
    """
    wanted = "redis://[USER:PASSWORD@]HOST[:PORT][/NUMBER][?prefix=PREFIX]"
    parts = urllib.parse.urlsplit(url)
    try:
        port = parts.port or PORT
        query = urllib.parse.parse_qs(parts.query, strict_parsing=bool(parts.query))
    except ValueError:
        raise ConfigError(f"--store: {wanted} is wanted") from None
    (prefix,) = query.pop("prefix", ["scalesocket"])[-1:]
    number = re.fullmatch(r"/?|/([0-9]{1,4})", parts.path, re.ASCII)
    if query or number is None or not parts.hostname or parts.fragment:
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
        return "it wants another user or password"
    if isinstance(error, redis.TimeoutError):
        return "it does not answer"
    cause = error.__cause__ or error.__context__
    if isinstance(error, redis.ConnectionError) and isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return str(error).partition(" script: ")[0].rstrip(".")


@contextlib.contextmanager
def as_oserror() -> Iterator[None]:
    """Have what Redis cannot do raise OSError, as for a file."""
    try:
        yield
    except redis.RedisError as error:
        raise OSError(f"Redis: {explain(error)}") from None


# ==== What it is asked ===================================================================

# Each script gets the prefix and the ID of this node, and what its own comment says.
PREAMBLE = """
local prefix, me = ARGV[1], ARGV[2]
local nodes, rooms, kept = prefix .. ':nodes', prefix .. ':rooms', prefix .. ':kept'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function is_live(node)
    local till = node and redis.call('ZSCORE', nodes, node)
    return till and tonumber(till) > now
end
"""
# What the marker should be, the version, seconds of the lease in ms.
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
if others[1] and others[1] ~= me then return {'taken', others[1], others[2]} end
redis.call('ZREMRANGEBYSCORE', nodes, '-inf', now)
redis.call('ZADD', nodes, now + ARGV[5], me)
return {'ok', redis.call('INCRBY', prefix .. ':clients', 0)}
"""
# Seconds of the lease in ms.
RENEW = """
redis.call('ZADD', nodes, now + ARGV[3], me)
return 'ok'
"""
# The name of a room, the fields of its record.
WRITE = """
local name = ARGV[3]
local room = prefix .. ':room:' .. name
local owner = redis.call('HGET', room, 'owner')
if owner and owner ~= me and is_live(owner) then return 0 end
redis.call('DEL', room)
redis.call('ZREM', rooms, name)
redis.call('ZREM', kept, name)
if #ARGV > 3 then
    redis.call('HSET', room, 'owner', me, unpack(ARGV, 4))
    redis.call('ZADD', redis.call('HGET', room, 'kept') == '1' and kept or rooms, now, name)
end
return 1
"""
# The highest ID of a client.
NOTE = """
local clients = prefix .. ':clients'
local highest = tonumber(redis.call('GET', clients) or 0)
if tonumber(ARGV[3]) > highest then redis.call('SET', clients, ARGV[3]) end
return 'ok'
"""
# The name of a room, the fields that are wanted.
READ = """
local room = prefix .. ':room:' .. ARGV[3]
local found = redis.call('HMGET', room, unpack(ARGV, 4))
if found[1] then redis.call('HSET', room, 'owner', me, 'whole', 0) end
return found
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


def decode(values: list[bytes]) -> Record:
    """Return a record from the values of `FIELDS`."""
    whole, kept, kind, state, metadata, history, facts, missed = values
    seats, at = [], 0
    for line in filter(None, facts.decode().split("\n")):
        number, size, said = line[1:-1].split(",", 2)
        seats.append(StoredSeat(int(number), said, missed[at : at + int(size)]))
        at += int(size)
    return Record(
        whole == b"1",
        kept == b"1",
        None if kind == b"none" else state.decode() if kind == b"text" else state,
        metadata.decode(),
        history,
        tuple(seats),
    )


class RedisDatabase:
    """Records in Redis; see `Database`.

    Args:
        url: where that is.

    Raises:
        ConfigError: it does not say so.
    """

    def __init__(self, url: str) -> None:
        self._place = parse_url(url)
        self._node = secrets.token_hex(8)
        self._claimed_by = 0  # process
        self._client: redis.Redis | None = None
        self._ending = threading.Event()

    def claim(self) -> int:
        """See that the keys are ours, and that no other server uses them, or wait for its end."""
        shown = self._place.shown
        deadline = time.monotonic() + 2 * LEASE
        seen: list[Any] = []
        try:
            with as_oserror(), connect(self._place, TIMEOUT) as client:
                while True:
                    arguments = MARK, VERSION, int(LEASE * 1000)
                    status, *found = self._call(client, CLAIM, *arguments)
                    if status != b"taken":
                        break
                    # Who is alive says so again; who is not will be forgotten.
                    is_alive = seen != [] and found != seen
                    if is_alive or time.monotonic() > deadline:
                        raise StoreError(f"another server uses --store {shown}")
                    seen = found
                    time.sleep(LOOK_PAUSE)
        except OSError as error:
            text = str(error).removeprefix("Redis: ")
            if "WRONGTYPE" in text:
                raise ConfigError(f"--store {shown} has keys of something else") from None
            raise StoreError(f"cannot use --store {shown}: {text}") from None
        if status == b"foreign":
            raise ConfigError(f"--store {shown} has keys of something else")
        if status == b"later":
            raise ConfigError(f"--store {shown} is of a later version of this server")
        self._claimed_by = os.getpid()
        return int(found[0])

    def open(self) -> dict[str, bool]:
        """Connect; see `Database`."""
        self._client = connect(self._place, TIMEOUT)
        self._thread = start_thread("lease", self._stay_alive)
        with as_oserror():
            pipe = self._client.pipeline(transaction=False)
            for key in ("rooms", "kept"):
                pipe.zrange(f"{self._place.prefix}:{key}", 0, -1, withscores=True)
            found = dict(zip((False, True), pipe.execute(), strict=True))
        rows = [(at, name, kept) for kept, pairs in found.items() for name, at in pairs]
        return {name.decode(): kept for _, name, kept in sorted(rows)}

    def write(self, batch: Mapping[str, Record | None], highest: int) -> None:
        """Write; each record is there whole, or the one before it. See `Database`."""
        assert self._client is not None
        with as_oserror():
            self._call(self._client, NOTE, highest)
            names: list[str] = []
            pipe = self._client.pipeline(transaction=False)
            size = 0
            for name, record in batch.items():
                fields = [] if record is None else encode(record)
                self._call(pipe, WRITE, name, *fields)
                names.append(name)
                size += sum(map(len, fields))
                if size > BATCH_SIZE:
                    self._finish(pipe, names)
                    names, size = [], 0
            self._finish(pipe, names)

    def read(self, room: str) -> Record | None:
        """Read; see `Database`."""
        assert self._client is not None
        with as_oserror():
            values = self._call(self._client, READ, room, *FIELDS)
        return None if values[0] is None else decode(values)

    def close(self) -> None:
        """End; the next server need not wait until it is clear that this one has."""
        self._ending.set()
        self._thread.join()
        if self._client is not None:
            with contextlib.suppress(redis.RedisError), self._client as client:
                if self._claimed_by == os.getpid():  # or other workers of this node may go on
                    client.zrem(f"{self._place.prefix}:nodes", self._node)
            self._client = None

    def _call(self, client: Any, script: str, *arguments: Any) -> Any:
        """Have a script run, or add it to a pipeline."""
        return client.eval(PREAMBLE + script, 0, self._place.prefix, self._node, *arguments)

    @staticmethod
    def _finish(pipe: Any, names: list[str]) -> None:
        for name, done in zip(names, pipe.execute(), strict=True):
            if not done:
                log.error("room %s is not saved: another server has it now", name)

    # -- the thread "lease" --

    def _stay_alive(self) -> None:
        with connect(self._place, RENEW_TIMEOUT) as client:
            while not self._ending.wait(RENEW_PAUSE):
                with contextlib.suppress(redis.RedisError):  # the writer says so
                    self._call(client, RENEW, int(LEASE * 1000))
