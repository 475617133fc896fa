"""Rooms that outlive their process (`--store FILE`, or `redis://…`).

A room is saved on its own thread, between two events: what its game says in `on_save`, or its
program has said with `_save`; its metadata, its history and its seats. That makes a `Record`,
which a thread of its own writes to the file, in one transaction with whatever else waits:

    room's thread --Record--> pending, one for each room --writer's thread--> SQLite, or Redis
                              (a later one takes its place)                   (redis_store.py)

What comes within a tenth of a second is written at once. So are the tokens that clients are given
between two saves: each finds its seat again also if the room has not been saved since.

So play never waits for a disk, and what waits for it is bounded. A store that cannot be written is
tried again each second; that is logged once, and counted.

When a server stops, a record is whole: seats have all that their clients may lack, and these go on
as if nothing had been. Any other record is from some moment before a crash; what clients have been
sent since then nobody knows, so they are told all anew (`client.restored`). What a program has read
between its last `_save` and that record is in neither, and counts as taken: it is lost. From when a
room is back, its record is no longer whole.

A room comes back with its first client. Reading its record may take long, so that is done before
any lock is held; `_dormant` says whether what was read is still what counts.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import random
import re
import sqlite3
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from scalesocket import (
    END_TIMEOUT,
    PLAIN,
    Called,
    Client,
    CloseCode,
    ConfigError,
    ConnectionClosed,
    GameBackend,
    Headers,
    Joined,
    Left,
    Messages,
    ProcessBackend,
    Request,
    Room,
    RoomEvent,
    Unwritten,
    insist,
    log,
    parse_seconds,
    refuse_if,
    report_failure,
    start_thread,
    write_json,
)

from .rooms import RESTARTING, ROOM_TIMEOUT, LateRoom, PatientRooms
from .seats import find_frames, split_frames

if TYPE_CHECKING:
    from scalesocket import Config, Poller, Server

    from .seats import Seat

MAGIC = b"SQLite format 3\0"
APPLICATION = 0x5CA1E50C  # the file's `application_id`
VERSION = 1  # its `user_version`
BUSY_TIMEOUT = 2.0  # seconds for another process to end its transaction
GATHER_TIME = 0.1  # seconds for which what is to be written waits for more of it
RETRY_PAUSE = 1.0  # seconds until a file that could not be written is tried again
LAST_PATIENCE = 5.0  # seconds at the end, in which the last save is tried again and again
SLOW_WRITE = 5.0  # seconds from which writing is worth a line of the log
LOAD_TIMEOUT = 10.0  # seconds for a record to be read
RETURN_TIME = 60.0  # seconds after the start for somebody to come back to a room, at the least
TRIAL_TIME = 3.0  # seconds after which a program is not taken to end because of what it has read
REDIS_SCHEMES = ("redis", "rediss", "valkey", "valkeys")  # with an s: over TLS
NOT_NOW = "the room cannot be read now"
BEGINS_ANEW = "room %s begins anew and is not saved: what is stored stays"
CURE = 'README.md, "Rooms that outlive their process", says how to begin anew'
IS_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
IS_REFUSED = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)
ONE_REDIS = "no Sentinel and no Cluster will do, but one Redis or Valkey: redis://HOST:PORT/0"
MAX_STATE = 16 << 20  # bytes, or characters, that a room may save
MAX_DORMANT = 10_000  # rooms that are stored and not running; the longest unused go first


def parse_store(text: str) -> str:
    """Return the path of a file, or the URL of a Redis."""
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", text)
    if scheme is not None and re.search("sentinel|cluster", scheme[1].lower()):
        raise argparse.ArgumentTypeError(f"{scheme[1]}://…: {ONE_REDIS}")
    if not text or (scheme is not None and scheme[1].lower() not in REDIS_SCHEMES):
        what = f"{scheme[1]}://…" if scheme else "''"  # there may be a password in it
        raise argparse.ArgumentTypeError(f"{what} is no file (SQLite), and no redis://HOST:PORT/0")
    return text


# fmt: off
OPTIONS = (
    ("--store", "FILE", parse_store,
     "save rooms and seats in FILE (SQLite) or redis://HOST:PORT/0: they outlive this process"),
    ("--saveevery", "SECONDS", parse_seconds,
     "time from one save of a room to the next, if something has happened in it (default 10; 0: "
     "only at its end)"),
)
# fmt: on


def check_options(config: Config) -> None:
    """Refuse what cannot be saved.

    Raises:
        ConfigError: an option contradicts another.
    """
    refuse_if(not config.store, "--saveevery needs --store FILE")
    refuse_if(config.oneshot, "--store does not go with --oneshot")


def set_up(server: Server) -> None:
    """Have what is stored opened before the first room is made, and written at the end."""
    if isinstance(server.registry, StoredRooms):  # or --reload has left no more than --saveevery
        server.registry.server = server
        server.services.append(server.registry)


class StoreError(ConfigError):
    """The store cannot be used, though it may be later; the program ends with status 1."""

    status = 1


class BusyError(StoreError):
    """It can be used soon: another program has it locked, or the disk takes its time."""


class DamageError(StoreError):
    """What is stored of a room cannot be used; that is of this room alone."""


# ==== What is stored =====================================================================


class StoredSeat(NamedTuple):
    """A seat: whose it is, and what its client may not have got."""

    id: int
    facts: str  # JSON
    missed: bytes  # plain frames


# What is known of a seat: see `Seat.describe` and `describe_client`.
FACTS = {
    "kind": str, "keys": list, "sent": int, "pieces": list, "stale": bool, "dropped": bool,
    "taken": int, "user": str, "claims": dict, "name": object, "target": str, "base": str,
    "peer": list, "local": list, "secure": bool,
}  # fmt: skip


def check_seats(seats: Iterable[StoredSeat]) -> None:
    """See that seats can be brought back.

    Raises:
        ValueError: what is stored of one is damaged.
    """
    for seat in seats:
        try:
            facts = json.loads(seat.facts)
            wrong = [name for name, kind in FACTS.items() if not isinstance(facts[name], kind)]
            for key in facts["keys"]:
                bytes.fromhex(key)
            for size, count in facts["pieces"]:
                wrong += [] if type(size) is type(count) is int else ["pieces"]
            if not wrong and sum(size for size, _ in facts["pieces"]) != len(seat.missed):
                wrong = ["missed"]
        except KeyError as error:
            wrong = [error.args[0]]
        except (TypeError, ValueError):
            wrong = ["facts"]
        if wrong:
            raise ValueError(f"what is stored of seat {seat.id} is damaged: {wrong[0]}")


def merge_facts(stored: str | None, latest: str) -> str:
    """Return the facts of a seat that has got a token since its room was saved.

    The rest of what is stored is as of that save, as is what the room will be.

    Raises:
        ValueError: what is stored is damaged.
    """
    if stored is None:
        return latest
    try:
        return json.dumps(json.loads(stored) | {"keys": json.loads(latest)["keys"]})
    except (KeyError, TypeError):
        raise ValueError("what is stored of a seat is damaged") from None


def is_late(stored: str) -> bool:
    """Whether the room of a seat had not heard of its client when it was saved."""
    with contextlib.suppress(AttributeError, TypeError, ValueError):
        return bool(json.loads(stored).get("late"))
    return False  # it is damaged


class Record(NamedTuple):
    """All that is kept of a room."""

    whole: bool  # from its very end; nothing has happened since
    kept: bool  # it stays when nobody comes
    state: str | bytes | None  # of its game or program; text is JSON
    metadata: str  # JSON
    history: bytes  # plain frames
    seats: tuple[StoredSeat, ...]


def check_record(record: Record) -> None:
    """See that a room can be brought back, and told of.

    Raises:
        ValueError: what is stored of it is damaged.
    """
    check_seats(record.seats)
    damaged = "metadata"
    with contextlib.suppress(IndexError, TypeError, ValueError):
        json.loads(record.metadata)
        damaged = "history"
        if find_frames(record.history)[-1] == len(record.history):
            return
    raise ValueError(f"what is stored of its {damaged} is damaged")


class Database(Protocol):
    """Where records are: what a kind of store has to do.

    A file is of one server at a time. Redis may be of many nodes (net/shared_rooms.py); whoever has
    a room has read it, which takes possession of it.

    All but `claim` is called on the writer's thread; it raises OSError or `sqlite3.Error`, and
    `read` ValueError if what is stored of the room is damaged.
    """

    def claim(self) -> int:
        """Take possession, before anything is forked; return the highest ID of a client so far.

        Raises:
            ConfigError: it cannot be used.
        """

    def open(self) -> dict[str, bool]:
        """Begin; return the rooms that there are, and whether they are kept, oldest first."""

    def write(self, batch: Mapping[str, Record | None], highest: int, latest: Latest) -> None:
        """Store or (None) remove the records of rooms, and the highest ID: all, or nothing.

        Then `merge_facts` of seats, or (None) remove those that no record knows. A room that has no
        record gets `NOTHING`, and these.
        """

    def read(self, room: str) -> Record | None:
        """Return the record of a room, which is not whole any more from now on."""

    def may_hold(self, room: str) -> bool:
        """Whether anything may be stored of a room; if not, there is nothing to remove."""

    def close(self) -> None:
        """End."""


# The facts of seats that have got a token since their room was saved, by room and ID; None: of one
# whose client has left since.
Latest = Mapping[str, Mapping[int, str | None]]
NOTHING = Record(False, False, None, "null", b"", ())

# A column of BLOB keeps what it is given: any other kind would make a number of the text "1".
SCHEMA = """
CREATE TABLE IF NOT EXISTS rooms (
    name TEXT PRIMARY KEY, whole INTEGER, kept INTEGER, saved REAL,
    state BLOB, metadata TEXT, history BLOB);
CREATE TABLE IF NOT EXISTS seats (
    room TEXT, id INTEGER, facts TEXT, missed BLOB, PRIMARY KEY (room, id));
CREATE TABLE IF NOT EXISTS numbers (name TEXT PRIMARY KEY, value INTEGER);
"""
INTO_ROOMS = "INTO rooms VALUES (?, ?, ?, ?, ?, ?, ?)"


def make_row(name: str, record: Record) -> tuple[Any, ...]:
    """Return a record as a row of `rooms`."""
    return name, record.whole, record.kept, time.time(), *record[2:5]


class SqliteFile:
    """Records in a file.

    Beside it stands a file `…-lock`, which is locked for as long as a server uses it; with
    --workers the parent has it, and each worker has a connection of its own.

    Args:
        path: of the file.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._place = ""
        self._file: tuple[int, int] | None = None  # which one it was when it was claimed
        self._db: sqlite3.Connection | None = None
        self._names: set[str] | None = None  # of all rooms in it, at the least; None: not known

    def claim(self) -> int:
        """Lock the file, see that it is ours, and make it if it is not there."""
        try:
            # Or its lock would have as many names as the file.
            self._place = os.path.realpath(self._path)
            is_new = self._inspect()
            self._lock()
            self._connect()
            with self._transaction() as db:
                if is_new:
                    db.execute(f"PRAGMA application_id = {APPLICATION}")
                    db.execute(f"PRAGMA user_version = {VERSION}")
                self._check(db)
                for statement in SCHEMA.split(";"):
                    db.execute(statement)
                db.execute("INSERT OR IGNORE INTO numbers VALUES ('client', 0)")
                db.execute("UPDATE numbers SET value = value")  # whether it can be written
                (highest,) = db.execute("SELECT value FROM numbers").fetchone()
            self._file = self._identify()
            assert self._db is not None
            self._db.execute("PRAGMA journal_mode = WAL")
        except (OSError, sqlite3.Error) as error:
            why = self._explain(error)
            raise StoreError(f"cannot use --store {self._path}: {why}") from None
        finally:
            self.close()  # no connection may be carried into another process
        return int(highest)

    @staticmethod
    def _check(db: sqlite3.Connection) -> None:
        """See that all of the file can be read: nobody could come in, or no room be saved.

        Raises:
            sqlite3.Error: it is damaged.
        """
        (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            error = sqlite3.DatabaseError("database disk image is malformed")
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise error

    def _explain(self, error: OSError | sqlite3.Error) -> str:
        """Return what keeps the file from being used, and the cure if that is known."""
        reason = getattr(error, "strerror", None) or str(error)
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # in short
        if code in IS_DAMAGED:
            cure = f"put a backup in place of {self._path}*, or move them away to begin anew"
            return f"{reason}; {cure}"
        if isinstance(error, PermissionError) or code in IS_REFUSED:
            who = f"user {os.geteuid()}" if hasattr(os, "geteuid") else "this user"
            return f"{reason}; {who} must own {self._path}* and be able to write to its folder"
        return reason

    def open(self) -> dict[str, bool]:
        """Connect; see `Database`."""
        self.close()  # if that has failed before
        self._see_that_it_is_there()
        self._connect()
        assert self._db is not None
        self._db.execute("PRAGMA synchronous = NORMAL")
        rows = self._db.execute("SELECT name, kept FROM rooms ORDER BY saved")
        found = {name: bool(kept) for name, kept in rows}
        self._names = set(found)
        return found

    def write(self, batch: Mapping[str, Record | None], highest: int, latest: Latest) -> None:
        """Write; see `Database`."""
        assert self._names is not None
        self._see_that_it_is_there()
        names = {name for name, record in batch.items() if record is not None}
        names |= {name for name, said in latest.items() if any(said.values())}
        fresh = names - self._names
        self._names |= fresh
        try:
            self._write(batch, highest, latest)
        except sqlite3.Error:  # it is undone; of what else fails nobody knows how far it has come
            self._names -= fresh
            raise
        self._names -= batch.keys() - names

    def may_hold(self, room: str) -> bool:
        """Tell; see `Database`."""
        return self._names is None or room in self._names

    def _write(self, batch: Mapping[str, Record | None], highest: int, latest: Latest) -> None:
        with self._transaction() as db:
            for name, record in batch.items():
                db.execute("DELETE FROM seats WHERE room = ?", (name,))
                if record is None:
                    db.execute("DELETE FROM rooms WHERE name = ?", (name,))
                    continue
                db.execute(f"INSERT OR REPLACE {INTO_ROOMS}", make_row(name, record))
                seats = [(name, *seat) for seat in record.seats]
                db.executemany("INSERT INTO seats VALUES (?, ?, ?, ?)", seats)
            for name, said in latest.items():
                if any(said.values()):
                    db.execute(f"INSERT OR IGNORE {INTO_ROOMS}", make_row(name, NOTHING))
                for number, facts in said.items():
                    self._write_latest(db, name, number, facts)
            db.execute("UPDATE numbers SET value = max(value, ?)", (highest,))

    @staticmethod
    def _write_latest(db: sqlite3.Connection, name: str, number: int, latest: str | None) -> None:
        where = "WHERE room = ? AND id = ?"
        found = db.execute(f"SELECT facts, missed FROM seats {where}", (name, number))
        before, missed = found.fetchone() or (None, b"")
        if latest is not None:
            with contextlib.suppress(ValueError):  # damage keeps nothing else waiting
                seat = name, number, merge_facts(before, latest), missed
                db.execute("INSERT OR REPLACE INTO seats VALUES (?, ?, ?, ?)", seat)
        elif before is not None and is_late(before):
            db.execute(f"DELETE FROM seats {where}", (name, number))

    def read(self, room: str) -> Record | None:
        """Read; see `Database`."""
        columns = "whole, kept, state, metadata, history"
        with self._transaction() as db:
            row = db.execute(f"SELECT {columns} FROM rooms WHERE name = ?", (room,)).fetchone()
            if row is None:
                return None
            rows = db.execute("SELECT id, facts, missed FROM seats WHERE room = ?", (room,))
            whole, kept, state, metadata, history = row
            seats = tuple(StoredSeat(*seat) for seat in rows)
            record = Record(bool(whole), bool(kept), state, metadata, history, seats)
            check_record(record)
            db.execute("UPDATE rooms SET whole = 0 WHERE name = ?", (room,))
        return record

    def close(self) -> None:
        """Close the connection; what is in the log of the last one that does goes to the file."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def _identify(self) -> tuple[int, int] | None:
        """Return which file has this name now; None: none has."""
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(self._place)
            return status.st_dev, status.st_ino
        return None

    def _see_that_it_is_there(self) -> None:
        """See that what is written will be found by the next server.

        SQLite goes on with the file that it has opened, though that was removed or replaced.

        Raises:
            OSError: it would not be.
        """
        if self._identify() != self._file:
            raise OSError(f"{self._path} has been removed or replaced; it has to be put back")

    def _inspect(self) -> bool:
        """Return whether the file is new; it is made, for this user alone.

        Raises:
            ConfigError: it is somebody else's.
            OSError: it cannot be opened.
        """
        with open(os.open(self._place, os.O_RDWR | os.O_CREAT, 0o600), "rb") as file:
            head = file.read(100)  # https://www.sqlite.org/fileformat.html section 1.3
            version, application = int.from_bytes(head[60:64]), int.from_bytes(head[68:72])
            if head and (head[:16] != MAGIC or application != APPLICATION):
                raise ConfigError(f"--store {self._path} is a file of something else")
            if version > VERSION:
                raise ConfigError(f"--store {self._path} is of a later version of this server")
            if hasattr(os, "fchmod"):
                os.fchmod(file.fileno(), 0o600)
        return not head

    def _lock(self) -> None:
        """Lock it as long as this process lives, and those that it has forked.

        Raises:
            StoreError: another server has it.
        """
        try:
            import fcntl
        except ImportError:  # Windows: SQLite's own locks are between transactions
            return
        self._lock_file = os.open(f"{self._place}-lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock_file)
            raise StoreError(f"another server uses --store {self._path}") from None

    def _connect(self) -> None:
        self._db = sqlite3.connect(
            self._place, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False
        )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        db = self._db
        assert db is not None
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
            db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # it has been done already
                db.execute("ROLLBACK")
            raise


# ==== The writer =========================================================================


class Question:
    """What is asked of the writer's thread: the record of a room."""

    def __init__(self, room: str) -> None:
        self.room = room
        self.answered = threading.Event()
        self.record: Record | None = None
        self.error: Exception | None = StoreError("it cannot be read")  # in place of an answer
        self.given_up = False  # nobody waits for the answer; written under the store's lock


class Store:
    """Writes records, and reads them, on a thread of its own.

    Args:
        database: where they are.
        count: is told of each failure, and of each record that was written.
        highest: ID of a client so far.
    """

    def __init__(self, database: Database, count: Any, highest: int = 0) -> None:
        self._database = database
        self._count = count
        self._changed = threading.Condition()  # guards all below but the last four
        self._pending: dict[str, Record | None] = {}
        self._given: dict[str, dict[int, Seat]] = {}  # tokens; to which seats of rooms
        self._write_at = 0.0  # when what waits is due
        self._questions: list[Question] = []
        self._give_up_at = math.inf  # it is to end, and tries until then; infinite: it is not
        self.is_open = False  # it is known which rooms are stored; written by the thread
        self._failing = False  # what was tried last was in vain; written by the thread
        self.highest = highest  # written under the registry's lock
        self._was_slow = False  # the thread's alone

    def start(self, tell: Callable[[dict[str, bool]], None] = lambda _rooms: None) -> None:
        """Start the thread, and wait until it has tried to open the store.

        Args:
            tell: is told what `Database.open` returns, on that thread, and later if that fails.
        """
        self._tell = tell
        self._tried = threading.Event()
        self._thread = start_thread("store", self._run)
        self._tried.wait()

    def stop(self) -> None:
        """Write what waits, and end the thread; wait for that, but not for ever."""
        with self._changed:
            self._give_up_at = time.monotonic() + LAST_PATIENCE
            self._changed.notify()
        self._thread.join(END_TIMEOUT)
        if self._thread.is_alive():
            log.error("the store does not answer at the end: what it was told last may be lost")
        elif left := len(self._pending):
            log.error("%d rooms could not be saved at the end", left)

    def put(self, room: str, record: Record | None) -> None:
        """Have a record written; None: have it removed."""
        with self._changed:
            self._expect()
            self._pending.pop(room, None)
            self._pending[room] = record
            if is_removal(record):
                self._given.pop(room, None)

    def put_token(self, room: str, seat: Seat) -> None:
        """Have the tokens of a seat written, or that its client has left."""
        with self._changed:
            self._expect()
            self._given.setdefault(room, {})[seat.client.id] = seat

    def read(self, room: str) -> Record | None:
        """Return the record of a room; it is not whole any more from now on.

        Raises:
            BusyError: it is to be asked again.
            DamageError, StoreError: that cannot be told.
        """
        question = Question(room)
        with self._changed:
            self._questions.append(question)
            if room in self._given:  # they belong to it
                self._hurry()
            self._changed.notify()
        question.answered.wait(LOAD_TIMEOUT)  # not for ever
        with self._changed:
            question.given_up = not question.answered.is_set()
        if question.given_up:
            raise BusyError(NOT_NOW)
        if question.error is not None:
            raise question.error
        return question.record

    # -- under the lock --

    def _expect(self) -> None:
        """See to it that the thread writes in time what is about to wait."""
        if not self._waits():
            self._write_at = max(self._write_at, time.monotonic() + GATHER_TIME)
            self._changed.notify()

    def _hurry(self) -> None:
        """Have what waits written at once, unless it has been tried in vain just now."""
        if not self._failing:
            self._write_at = 0.0

    def _waits(self) -> bool:
        return bool(self._pending or self._given or not self.is_open)

    def _is_stopping(self) -> bool:
        return self._give_up_at < math.inf

    def _is_due(self) -> bool:
        return self._is_stopping() or time.monotonic() >= self._write_at

    def _conclude(self, question: Question) -> None:
        """Tell who waits; if nobody does any more, what has been read is as whole as before."""
        if question.given_up and question.record is not None:
            self._expect()
            self._pending.setdefault(question.room, question.record)
        question.answered.set()

    # -- its thread --

    def _run(self) -> None:
        goes_on = True
        while goes_on:
            try:
                goes_on = self._do_round()
            except BaseException as error:
                insist(self._fail, error)
                time.sleep(GATHER_TIME)
                goes_on = time.monotonic() < self._give_up_at
            self._tried.set()
        self._try(self._database.close)

    def _do_round(self) -> bool:
        """Write and read what waits; return False at the end."""
        batch: dict[str, Record | None] = {}
        given: dict[str, dict[int, Seat]] = {}
        questions: list[Question] = []
        with self._changed:
            if not self._questions and not (self._waits() and self._is_due()):
                if self._is_stopping():
                    return False
                patience = max(self._write_at - time.monotonic(), 0) if self._waits() else None
                self._changed.wait(patience)
            is_due, stopping = self._is_due(), self._is_stopping()
            if is_due:
                batch, self._pending = self._pending, batch
                given, self._given = self._given, given
            questions, self._questions = self._questions, questions
        written = not is_due or self._try(self._write, batch, given)
        if not written:
            insist(self._put_back, batch, given)
        for question in questions:
            self._try(self._answer, question)
        if stopping and not written:
            time.sleep(GATHER_TIME)
            return bool(self._pending or self._given) and time.monotonic() < self._give_up_at
        return not stopping or bool(self._pending or self._given)

    def _try(self, function: Callable[..., None], *args: Any) -> bool:
        """Call a function; return whether it has done all it should, or else say so."""
        try:
            function(*args)
        except BaseException as error:  # neither a bug nor a lack of memory may end the thread
            insist(self._fail, error)
            return False
        return True

    def _write(self, batch: dict[str, Record | None], given: dict[str, dict[int, Seat]]) -> None:
        if not self.is_open:
            self._tell(self._database.open())
            self.is_open = True
        latest = {room: dict(describe_latest(seats)) for room, seats in given.items()}
        latest = {room: said for room, said in latest.items() if said}
        if not batch and not latest:
            return
        began = time.monotonic()
        self._database.write(batch, self.highest, latest)
        if self._failing:
            self._failing = False
            log.warning("rooms are saved again")
        took = time.monotonic() - began
        if took > SLOW_WRITE and not self._was_slow:
            self._was_slow = True
            log.warning("the store is slow: %d rooms took %.1f s", len(batch | latest), took)
        for seats in given.values():
            for seat in seats.values():
                seat.in_store = True
        self._count("rooms_saved", len(batch))

    def _put_back(self, batch: dict[str, Record | None], given: dict[str, dict[int, Seat]]) -> None:
        """Let wait again what has not been written, unless there is something later.

        A room of which nothing is stored need not be removed: of those that come and go while
        nothing can be written there may be any number.
        """
        may_hold = self._database.may_hold
        needed = {name: it for name, it in batch.items() if it is not None or may_hold(name)}
        with self._changed:
            for room, record in self._pending.items():
                if is_removal(record):
                    given.pop(room, None)
            self._pending = needed | self._pending
            for room, seats in given.items():
                seats |= self._given.get(room, {})
                self._given[room] = {number: seats[number] for number in filter_needed(seats)}
                if not self._given[room]:
                    del self._given[room]

    def _fail(self, error: BaseException) -> None:
        """Note what has been raised, which is said once; what waits is tried again in a while."""
        with self._changed:
            self._write_at = time.monotonic() + RETRY_PAUSE
        if not self._failing:
            log.error("rooms cannot be saved, and play goes on: %s", str(error) or repr(error))
            if not isinstance(error, OSError | sqlite3.Error | OverflowError):
                report_failure()
            self._failing = True
        self._count("store_failures")

    def _answer(self, question: Question) -> None:
        try:
            with self._changed:
                if question.given_up:  # and its record is as whole as before
                    return
                waiting = question.room in self._pending
                question.record = self._pending.get(question.room)
                if question.record is not None:
                    self._pending[question.room] = question.record._replace(whole=False)
            if not waiting:
                question.record = self._database.read(question.room)
            question.error = None
        except ValueError as error:
            self._note_damage(question, error)
        except sqlite3.Error as error:
            number = getattr(error, "sqlite_errorcode", 0)  # whose low byte says it in short
            if number & 0xFF == sqlite3.SQLITE_BUSY:
                question.error = BusyError(NOT_NOW)
            raise
        finally:
            with self._changed:
                self._conclude(question)

    def _note_damage(self, question: Question, error: ValueError) -> None:
        """Say what is damaged of a room."""
        question.error = DamageError(str(error))
        log.error("room %s: %s", question.room, error)
        self._count("store_failures")


def is_removal(record: Record | None) -> bool:
    """Whether a room is to be removed with all its seats."""
    return record is None or record is NOTHING


def filter_needed(seats: Mapping[int, Seat]) -> Iterator[int]:
    """Return the IDs of seats of which something is to be written, though that has failed once."""
    for number, seat in seats.items():
        if seat.in_store or not seat.has_left:
            yield number


def describe_latest(seats: Mapping[int, Seat]) -> Iterator[tuple[int, str | None]]:
    """Return the facts of seats as if they were new, by ID; None: its client has left."""
    for number, seat in seats.items():
        if seat.is_stored:  # its room's last record says all of it
            continue
        if seat.has_left:
            yield number, None
        else:
            facts = seat.describe_token() | describe_client(seat.client)
            yield number, json.dumps(facts | {"taken": 0, "late": True, "dropped": False})


# ==== Rooms ==============================================================================


class StoredRoom(LateRoom):
    """A room that is saved; see `Room`."""

    registry: StoredRooms
    is_back = False  # it is brought back from a record
    is_due = False  # it is to be saved when what has happened has been dealt with
    is_lost = False  # what is stored could not be read: it must stay
    _is_too_long = False  # what its game says now: the record before stays
    is_left = False  # something is stored of it, for the next room of this name
    returned: dict[Client, dict[str, Any]]  # who has come back with it, and what was stored of them
    has_tokens = False  # some of its seats may have been stored since it began
    saved_at: object = None  # what `progress` was when it was last saved
    _is_complete = False  # all has been heard, to the end, and the game has said what to save
    _is_trusted = True  # what it was brought back from does not make it fail
    _is_finished = False
    _cut_seats: dict[Seat, tuple[dict[str, Any], bytes]] | None = None  # as its clients lost them
    _code = 0  # how it has ended for its clients
    failure: ConnectionClosed | None = None  # likewise, if it has failed
    _state: str | bytes | None = None
    _past: str | bytes | None = None  # the state from which its game is about to go on

    @property
    def keeps(self) -> bool:
        """Whether it is to outlive its last seat."""
        if isinstance(self.backend, GameBackend):
            return bool(self.backend.game.keep)
        return self.registry.keeps_programs

    @property
    def is_needed(self) -> bool:
        """Whether what is stored of it will outlive it, if it ends now by itself."""
        return self.keeps or self.is_lost or not self._is_trusted

    @property
    def is_stored(self) -> bool:
        """Whether something may be stored of it."""
        return self.has_record or self.has_tokens

    @property
    def has_record(self) -> bool:
        """Whether it has been saved."""
        return self.saved_at is not None or self.is_back

    @property
    def progress(self) -> object:
        """What changes when something happens."""
        ticks = isinstance(self.backend, GameBackend) and self.backend.game.tick_rate
        if ticks:
            return time.monotonic()
        traffic = self.traffic
        seats = len(self.clients), self.visits
        return traffic.messages_in, traffic.messages_out, seats, self.metadata, self.saved

    def join(self, client: Client) -> None:
        """Let a client in; see `Room`."""
        self.registry.note_client(client.id)
        super().join(client)

    def restore(self) -> None:
        """Bring the game back; each seat is there, and its client is not."""
        if not self.is_back:
            return
        assert isinstance(self.backend, GameBackend)
        game, room = self.backend.game, self.backend.game_room
        returned, self.returned = self.returned, {}
        text, self._past = self._past, None
        # Those who came after the game had said what to save.
        late = {it for it, facts in returned.items() if text is not None and facts.get("late")}
        for client in returned:
            if client not in late:
                room.add(client)
        if text is not None:
            game.on_restore(json.loads(text) if isinstance(text, str) else text)
        for client in returned:
            if client in late:
                room.add(client)
            if client in late or text is None:
                game.on_join(client)
        for client, facts in returned.items():
            if text is None or not facts["dropped"]:
                game.on_drop(client)
        self._is_trusted = True

    def bring_back(self, record: Record) -> None:
        """Be what a record says, before it starts."""
        self.is_back = self.is_left = True
        self._is_trusted = False
        self.metadata = record.metadata
        if isinstance(self.backend, GameBackend):
            self._past = record.state
        elif isinstance(record.state, str):
            self.saved = record.state
        history = self.members.history
        if not history.bytes:
            for opcode, payload in split_frames(record.history):
                history.add(opcode, [payload])

    def cut(self) -> None:
        """End it for its clients; see `Room`. Their seats are saved when it has ended by itself.

        What it says from now on they lack, so they are to be told all anew.
        """
        if self.farewell is not None and self._cut_seats is None:
            self._cut_seats = self._describe_seats(whole=True)
        super().cut()

    def end(self, code: int, reason: str, *, last_words: bool = False) -> None:
        """End it; see `Room`."""
        self._code = code
        if code == CloseCode.INTERNAL_ERROR:
            self.failure = ConnectionClosed(code, reason)
        super().end(code, reason, last_words=last_words)

    def _handle(self, events: list[RoomEvent]) -> bool:
        over = super()._handle(events)
        if isinstance(self.backend, ProcessBackend) and self.backend._child is None:
            self._give_back(events)
        if not self._is_trusted and time.monotonic() - self.since > TRIAL_TIME:
            self._is_trusted = True
        if over or self.is_due:
            is_wanted = not over or self.farewell is not None or self.keeps
            if is_wanted and isinstance(self.backend, GameBackend):
                try:
                    self.backend._guard(self._ask_game)
                finally:
                    self.flush()
            self._is_complete = over
            if not over:
                self.is_due = False
                self._save(whole=False)
        return over

    def _give_back(self, events: list[RoomEvent]) -> None:
        """Have clients say again what they have said while there was no program (--respawn)."""
        with self.inbox.lock:
            for event in events:
                if isinstance(event, Messages) and event.client.seat is not None:
                    event.client.seat.taken -= len(event.payloads)

    def _ask_game(self) -> None:
        assert isinstance(self.backend, GameBackend)
        function = self.backend.game.on_save  # by this name net/mistakes.py says where it is
        state = function()
        if isinstance(state, bytearray | memoryview):
            state = bytes(state)
        elif state is not None and not isinstance(state, bytes):
            try:
                state = write_json(state)
            except (TypeError, ValueError) as error:
                raise TypeError(f"on_save returned what JSON cannot hold: {error}") from error
        was_too_long, size = self._is_too_long, len(state or b"")
        self._is_too_long = size > MAX_STATE
        if not self._is_too_long:
            self._state = state
        elif not was_too_long:
            text = "%d bytes are too many to save, and %d the most: the save before stays"
            self.log.error(text, size, MAX_STATE)
            self.registry.count("store_failures")
        closing = self.backend.game_room.closing
        if closing is not None and not self.ending.is_set():
            raise closing

    def _stop_backend(self) -> None:
        super()._stop_backend()
        if not self._is_finished:
            self._is_finished = True
            self._finish()

    def _finish(self) -> None:
        """Save it for the last time, or remove what is stored of it."""
        outlives = self.keeps or (self.farewell is not None and not self.is_abandoned)
        failed = self._code in (CloseCode.INTERNAL_ERROR, CloseCode.TRY_AGAIN_LATER)
        if self._is_complete and outlives:
            self.is_left = True
            self._save(whole=True)
        elif self.is_lost:
            self.is_left = True
        elif failed and self.has_record and (outlives or not self._is_trusted):
            self.is_left = True
            if self._code == CloseCode.INTERNAL_ERROR:
                self._tell_what_stays()
        else:
            self.is_left = False
            self.registry.remove(self)

    def _tell_what_stays(self) -> None:
        """Say from what the next room of this name will begin, lest it fails again unexplained."""
        if self.saved_at is None:
            self.log.error(
                "it failed with what is stored, which stays until one does not; %s", CURE
            )
        else:
            self.log.warning("the next one goes on from what this one has saved last")

    def _save(self, *, whole: bool) -> None:
        self.saved_at = self.progress
        if not isinstance(self.backend, GameBackend):
            self._state = self.saved or None
        if not self.is_lost and not self._is_too_long:
            history = self.members.history.replay(PLAIN)
            kept = self.keeps
            seats = tuple(self._list_seats(whole=whole))
            record = Record(whole, kept, self._state, self.metadata, history, seats)
            self.registry.save(self, record)

    def _describe_seats(self, *, whole: bool) -> dict[Seat, tuple[dict[str, Any], bytes]]:
        """Return what its seats say of themselves; see `Seat.describe`."""
        with self.registry.lock:
            seats = [client.seat for client in self.clients if client.seat is not None]
        described = [(seat, seat.describe(whole=whole)) for seat in seats]
        return {seat: said for seat, said in described if said is not None}

    def _list_seats(self, *, whole: bool) -> Iterator[StoredSeat]:
        """Return all that is to be stored of its seats."""
        cut = self._cut_seats  # looked at once: it may be cut while this runs
        described = self._describe_seats(whole=whole) if cut is None else cut
        waiting: Counter[int] = Counter()  # messages that have come, and not been heard
        late = set()  # clients of whom it has not heard
        with self.inbox.lock:
            for event in self.inbox.events:
                if isinstance(event, Messages):
                    waiting[event.client.id] += len(event.payloads)
                elif isinstance(event, Joined):
                    late.add(event.client)
            taken = {seat: seat.taken - waiting[seat.client.id] for seat in described}
        for seat, (facts, missed) in described.items():
            client = seat.client
            if cut is not None:
                facts |= {"stale": True, "dropped": seat.was_told}
            facts |= {"taken": taken[seat], "late": client in late, **describe_client(client)}
            yield StoredSeat(client.id, json.dumps(facts), missed)


def describe_client(client: Client) -> dict[str, Any]:
    """Return what is stored of a client, which is no header of its request."""
    request = client.request
    return {
        "user": client.user,
        "claims": dict(client.claims),
        "name": vars(client).get("name"),
        "target": request.target,
        "base": request.base,
        "peer": client.peer,
        "local": client.local,
        "secure": client.secure,
    }


def make_client(number: int, room: Room, facts: Mapping[str, Any]) -> Client:
    """Return a client that was stored; its seat will be its connection."""
    target, base = facts["target"], facts["base"]
    request = Request("GET", target, "HTTP/1.1", Headers(), base)
    nobody: Any = None
    peer, local = tuple(facts["peer"]), tuple(facts["local"])
    client = Client(
        number, room.name, request, nobody, peer=peer, local=local, secure=facts["secure"]
    )
    client.user, client.claims = facts["user"], facts["claims"]
    client.room, client.dropped = room, True
    if facts["name"] is not None:
        client.name = facts["name"]
    return client


class Again(Exception):
    """Something else has happened to a room meanwhile."""


class Dormant:
    """A room that is stored and does not run; another object each time."""

    def __init__(self, *, kept: bool) -> None:
        self.kept = kept
        self.since = time.monotonic()


def make_rooms(config: Config, timer: Poller) -> StoredRooms:
    """Return the rooms, which are stored where --store says.

    Raises:
        ConfigError: that cannot be used.
    """
    if "://" in config.store:
        from .shared_rooms import SharedRooms

        return SharedRooms(config, timer)
    return StoredRooms(config, timer)


class StoredRooms(PatientRooms):
    """The rooms, of which some are stored; see `RoomRegistry`."""

    server: Server  # theirs
    room_type = StoredRoom
    ending_time = ROOM_TIMEOUT  # seconds that a client waits for a room to be saved, or read

    def __init__(self, config: Config, timer: Poller) -> None:
        super().__init__(config, timer)
        self._store = self.open_store(config.store)
        self.client_ids = itertools.count(self._store.highest + 1)
        self.keeps_programs = config.cachepersist
        self._patience = max(config.resume, config.linger, RETURN_TIME)
        # These are guarded by the registry's lock.
        self._dormant: dict[str, Dormant] = {}  # the longest unused first
        self._owners: dict[str, StoredRoom] = {}  # the latest room of a name, until it is done
        self._recalled: set[str] = set()  # those whose records are being read

    def open_store(self, place: str) -> Store:
        """Return what writes to the place that --store names, once that is ours."""
        database = SqliteFile(place)
        return Store(database, self.count, database.claim())

    def start(self) -> None:
        """Start the writer, and look up which rooms are stored."""
        self._store.start(self._note_stored)

    def _note_stored(self, rooms: dict[str, bool]) -> None:
        """Note which rooms are stored, before any is made; on the writer's thread."""
        worker = self.server.worker
        own = {name: kept for name, kept in rooms.items() if worker is None or worker.owns(name)}
        with self.lock:
            self._dormant = {name: Dormant(kept=kept) for name, kept in own.items()}
            first = list(self._dormant.items())
        self.timer.call_later(self._patience, lambda: self._give_up(first))
        if first:
            log.info("%d %s stored", len(first), "room is" if len(first) == 1 else "rooms are")

    def stop(self) -> None:
        """Write all that waits, and end the writer."""
        self._store.stop()

    def join(self, client: Client) -> Room:
        """Give a client a seat; see `RoomRegistry`. Its room may have to be brought back first."""
        while True:
            back = self.recall(client)
            with contextlib.suppress(Again):
                return super().join(client)
            if back is not None and back.failure is not None:  # it would fail again
                raise back.failure

    def may_wait(self, name: str) -> bool:
        """Whether to `join` that room may take long; see `RoomRegistry`."""
        is_stored = self.must_be_read(name) or name in self._owners
        return super().may_wait(name) or (is_stored and self.find(name) is None)

    def recall(self, opener: Client) -> StoredRoom | None:
        """Bring a room back if it is stored and not running, and return it; may wait for the store.

        Raises:
            ConnectionClosed: there are too many rooms, or it is still being saved (1013).
        """
        name = opener.room_name
        if not self._begin_recall(name):
            return None
        try:
            with self.lock:
                self._find_place(name)  # or there is no need to read it
            record, is_lost = self.read(name)
            with self.lock:
                room, seats = self._make_again(opener, record, is_lost=is_lost)
        except BaseException:
            made = self.find(name)
            if made is not None:  # it will never run
                made.end(CloseCode.TRY_AGAIN_LATER, "the room could not be brought back")
                self.forget(made)
            raise
        finally:
            with self.lock:
                self._end_recall(name)
        self._start(room)
        now = time.monotonic()
        for seat in seats:
            seat.lose(now)
        if not seats:  # whoever it is for may be refused
            wait = max(self.config.linger, RETURN_TIME)
            self._call_for(room, wait, self._collect)
        return room

    def release(self, client: Client, left: Left) -> bool:
        """Take back a seat; see `RoomRegistry`. Its token is stored no longer."""
        is_first = super().release(client, left)
        if is_first and client.seat is not None:
            client.seat.has_left = True
            self.note_token(client.seat)
        return is_first

    def forget(self, room: Room) -> None:
        """Note that a room's thread is done; see `RoomRegistry`."""
        assert isinstance(room, StoredRoom)
        with self.lock:
            if self._owners.get(room.name) is room:
                self.note_end(room)  # first: it is done again if there is no memory for it
                del self._owners[room.name]
        super().forget(room)

    def refuse_new_rooms(self) -> None:
        """Let those that are there go on; they are saved as they hear of that."""
        super().refuse_new_rooms()
        for room in self.listing():
            assert isinstance(room, StoredRoom)
            room.is_due = True

    def end_all(self, code: int, reason: str) -> None:
        """End every room; see `RoomRegistry`. All will be back, so their clients may come, too."""
        super().end_all(CloseCode.SERVICE_RESTART, RESTARTING)

    # -- a room's side --

    def save(self, room: StoredRoom, record: Record) -> None:
        """Have the record of a room written, unless there is another one of its name."""
        with self.lock:
            if self._owners.get(room.name) is room:
                self._store.put(room.name, record)

    def remove(self, room: StoredRoom) -> None:
        """Have it removed, likewise, if there is one."""
        with self.lock:
            if room.is_stored and self._owners.get(room.name) is room:
                self._store.put(room.name, None)

    def note_token(self, seat: Seat) -> None:
        """Have a token written that a client has just been given, or that it has left.

        Its room may be done by now, and come back from what is stored.
        """
        room = seat.client.room
        assert isinstance(room, StoredRoom)
        with self.lock:
            is_there = self._owners.get(room.name) is room or room.name in self._dormant
            if is_there and not room.is_lost:
                room.has_tokens = True
                self._store.put_token(room.name, seat)

    def note_client(self, number: int) -> None:
        """Note the ID of a client that has come; the lock is held."""
        self._store.highest = max(self._store.highest, number)

    # -- rooms that come back, and where they are meanwhile; the lock is held but for `read` --

    def must_be_read(self, name: str) -> bool:
        """Whether a room is not to be made before `read` has told what is stored of it."""
        return name in self._dormant

    def read(self, name: str) -> tuple[Record | None, bool]:
        """Return the record of a room, and whether there is one that cannot be read now.

        Raises:
            ConnectionClosed: the room cannot be here, or not now (1013).
        """
        try:
            return self._store.read(name), False
        except BusyError as error:
            raise ConnectionClosed(CloseCode.TRY_AGAIN_LATER, str(error)) from None
        except StoreError:
            log.error(BEGINS_ANEW, name)
            return None, True

    def put_back(self, name: str, record: Record | None) -> None:
        """Let a room be as it was, as it is not made after all."""
        if record is not None:
            self._store.put(name, record)

    def begin_anew(self, name: str) -> None:
        """Forget what is stored of a room, as another one of its name begins."""
        self._store.put(name, None)

    def note_end(self, room: StoredRoom) -> None:
        """Note that a room is done, and no other one of its name has begun."""
        if room.is_left:
            self._dormant[room.name] = Dormant(kept=True)
            if len(self._dormant) > MAX_DORMANT:
                oldest = next(name for name in self._dormant if name not in self._recalled)
                del self._dormant[oldest]
                self._store.put(oldest, None)

    def _begin_recall(self, name: str) -> bool:
        """Return whether a room is to be brought back; see `recall`.

        One that is kept, and is ending, or that another client brings back, is waited for.
        """
        with self.lock:
            deadline = time.monotonic() + self.ending_time
            while name not in self._rooms and (self._is_ending(name) or name in self._recalled):
                patience = deadline - time.monotonic()
                if patience <= 0:
                    raise ConnectionClosed(CloseCode.TRY_AGAIN_LATER, "the room is being saved")
                self._idle.wait(patience)
            if not self._store.is_open:  # it is not known what is stored of it
                raise ConnectionClosed(CloseCode.TRY_AGAIN_LATER, "the store cannot be opened")
            if name in self._rooms or not self.must_be_read(name):
                return False
            self._recalled.add(name)
            return True

    def _end_recall(self, name: str) -> None:
        self._recalled.discard(name)
        self._idle.notify_all()

    def _make_again(
        self, opener: Client, record: Record | None, *, is_lost: bool
    ) -> tuple[StoredRoom, list[Seat]]:
        """Make a room that has been read; if that fails, all is as it was but for the room."""
        name = opener.room_name
        dormant = self._dormant.get(name)
        try:
            self._find_place(name)
            self._dormant.pop(name, None)
            room = self._make_own_room(opener)
            room.is_lost = room.is_left = is_lost
            if record is None:
                return room, []
            # To seats that have waited for so long nobody comes back.
            is_late = dormant is not None and time.monotonic() > dormant.since + self._patience
            return room, self._bring_back(room, record._replace(seats=()) if is_late else record)
        except BaseException:
            if dormant is not None:
                self._dormant[name] = dormant
            self.put_back(name, record)
            raise

    def _is_ending(self, name: str) -> bool:
        room = self._owners.get(name)
        return room is not None and room.is_needed

    def _make_room(self, opener: Client) -> Room:
        name = opener.room_name
        if self.must_be_read(name) or self._is_ending(name):
            raise Again
        before = self._owners.get(name)
        room = self._make_own_room(opener)
        if before is not None and before.is_stored:
            self.begin_anew(name)  # it will not do so itself any more
        return room

    def _make_own_room(self, opener: Client) -> StoredRoom:
        """Make a room that is the latest of its name, whatever is stored of that."""
        room = super()._make_room(opener)
        assert isinstance(room, StoredRoom)
        self._owners[room.name] = room
        every = self.config.saveevery
        if every:  # not all of them at the same time
            self._call_for(room, every * random.uniform(0.5, 1), self._remind)
        return room

    def _bring_back(self, room: StoredRoom, record: Record) -> list[Seat]:
        """Give a room that has not started what is stored of it; the lock is held."""
        room.bring_back(record)
        is_game = isinstance(room.backend, GameBackend)
        holder, seats = self.server.seats, []
        room.returned = {}
        for stored in record.seats:
            if holder is None:  # --resume is no longer given
                break
            facts = json.loads(stored.facts)
            client = make_client(stored.id, room, facts)
            seats.append(holder.revive(client, facts, stored.missed, whole=record.whole))
            room.clients.add(client)
            room.members._members[client.id] = client
            if is_game:
                room.returned[client] = facts
                continue
            room.inbox.put(Joined(client))
            if data := holder.announce(client, is_back=False):
                room.inbox.put(Unwritten(client, data, whole=True))
        return seats

    # -- the poller --

    def _call_for(
        self, room: StoredRoom, seconds: float, function: Callable[[StoredRoom], None]
    ) -> None:
        """Have the poller call a function for a room, which it does not keep in memory."""
        find = weakref.ref(room)

        def call() -> None:
            if (there := find()) is not None:
                function(there)

        self.timer.call_later(seconds, call)

    def _remind(self, room: StoredRoom) -> None:
        """Have a room saved if something has happened."""
        if room.ending.is_set():
            return
        if room.progress != room.saved_at:
            room.is_due = True
            room.inbox.put(Called(lambda: None))
        self._call_for(room, self.config.saveevery, self._remind)

    def _give_up(self, first: list[tuple[str, Dormant]]) -> None:
        """Remove what is stored of rooms to which nobody has come back."""
        with self.lock:
            for name, dormant in first:
                is_there = self._dormant.get(name) is dormant and name not in self._recalled
                if is_there and not dormant.kept:
                    del self._dormant[name]
                    self._store.put(name, None)
            later = [(name, dormant) for name, dormant in first if name in self._recalled]
        if later:  # somebody wants them back, perhaps in vain
            self.timer.call_later(self._patience, lambda: self._give_up(later))
