"""A crowd of random clients for minutes, after which every message is accounted for.

    python3 -m tests.bench.soak 20

Clients come, talk, stop reading for a while, send nonsense, vanish in every way there is; rooms
crash, empty and return. Two real servers bear it: one whose rooms are programs, one whose rooms
are in-process games. Whatever a room hears it numbers, writes to its journal and tells its
clients, so that afterwards each client's whole life can be held against the journal of its room.

It prints what happened, and exits with 1 and the discrepancies if a message is not accounted
for, or if a server is not back to what it was: memory, threads, descriptors, children.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import operator
import os
import random
import selectors
import signal
import socket
import struct
import sys
import tempfile
import time
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tests.support import (
    CLOSE,
    PING,
    PONG,
    TEXT,
    ServerProcess,
    close_status,
    encode_client_frame,
    serve,
    wait_until,
)

# ==== 1. The room =========================================================
# The same logic as a program and as an in-process game, written to a folder for the servers.
# A line of the journal is on disk before anybody is told of it, and `printed N` follows when the
# first N sayings are with the server; so a room may be killed at any moment and there is still a
# lower and an upper bound for what its clients must have heard.

RELAY = '''
import json, os, signal, sys, time
from itertools import count

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "journals")
serial = count()


class Relay:
    """Numbers what it hears, notes it, and says what is to be told to whom."""

    def __init__(self, room):
        self.name = f"{room}-{os.getpid()}-{next(serial)}"
        self.file = os.open(os.path.join(FOLDER, self.name), os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        self.order = 0
        self.notes = []
        self.death = None  # how it is to die, once somebody has asked for that

    def hear(self, kind, who, event):
        """Return the messages that follow from an event."""
        if kind == "Leave":
            self.notes.append(f"leave {who}")
            return []
        speaker, number, to = event.get("c", 0), event.get("n", 0), event.get("to", 0)
        self.notes.append(f"{kind.lower()} {who} {speaker} {number} {to}")
        saying = {"i": self.name, "o": self.order, "f": who, "c": speaker, "n": number}
        saying["pad"] = event.get("pad", "")
        self.order += 1
        if kind == "Join":
            return [{**saying, "_to": [who]}]
        if "die" in event:
            self.death = event["die"]
        told = [{**saying, "_to": [to, who]} if to else saying]
        return told + [{"_close": {"code": 4002, "reason": "bye"}, "_to": [who]}] * ("bye" in event)

    def note(self, *more):
        text = "".join(f"{line}\\n" for line in [*self.notes, *more])
        self.notes.clear()
        os.write(self.file, text.encode())


def main():
    relay, rest = Relay(os.environ["ROOM"]), b""
    while data := os.read(0, 65536):
        *lines, rest = (rest + data).split(b"\\n")
        told = []
        for line in lines:
            event = json.loads(line)
            told += relay.hear(event.get("t", "Chat"), event["_from"], event)
            if relay.death is not None:
                break
        relay.note()
        output = b"".join(json.dumps(saying).encode() + b"\\n" for saying in told)
        while output:
            output = output[os.write(1, output) :]
        relay.note(f"printed {relay.order}")
        if relay.death == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if relay.death is not None:
            os._exit(relay.death)
    relay.note("end")


if __name__ == "__main__":
    main()
else:
    from scalesocket import Game

    class Room(Game):
        def on_create(self, room):
            self.room, self.relay = room, Relay(room.id)

        def on_dispose(self):
            if self.relay.death is None:
                self.relay.note("end")
            os.close(self.relay.file)

        def on_join(self, client):
            self.tell(self.relay.hear("Join", client.id, {}))

        def on_leave(self, client, code):
            self.tell(self.relay.hear("Leave", client.id, {}))

        def on_message(self, client, message):
            if message.startswith("{"):
                self.tell(self.relay.hear("Chat", client.id, json.loads(message)))

        def tell(self, told):
            self.relay.note()
            for saying in told:
                to, end = saying.pop("_to", list(self.room.clients)), saying.pop("_close", None)
                for client in [self.room.clients[i] for i in set(to) if i in self.room.clients]:
                    client.close(**end) if end else client.send(json.dumps(saying))
            self.relay.note(f"printed {self.relay.order}")
            if self.relay.death is not None:
                self.room.close(1000 if self.relay.death == 0 else 1011, "as it was asked to")
'''

# ==== 2. The accountant ===================================================
# A saying as 64 bits: its number in the room, who said it, and as which of their messages.

ORDER_SHIFT, SPEAKER_SHIFT = 40, 20


def word(order: int, speaker: int, number: int) -> int:
    """Return a saying as one number; a life of minutes has many thousands of them."""
    return order << ORDER_SHIFT | speaker << SPEAKER_SHIFT | number


class Saying(NamedTuple):
    """What a room told: to everyone, or with `to` only to that client and its speaker."""

    word: int
    who: int  # ID of the client that spoke, or joined
    to: int  # 0: everyone


@dataclass
class Journal:
    """What one room heard and told from its start to its end."""

    said: list[Saying] = field(default_factory=list)  # in the one order of the room
    joins: dict[int, int] = field(default_factory=dict)  # client ID: place in that order
    heard: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    printed: int = 0  # so many sayings had certainly been handed over
    ended: bool = False  # it came to the end of its input; otherwise it crashed
    left: set[int] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)

    @classmethod
    def parse(cls, lines: Iterable[str]) -> Journal:
        """Read what a relay wrote; a line that a kill cut off is none."""
        journal = cls()
        for line in lines:
            if line.endswith("\n"):
                kind, *numbers = line.split()
                journal._note(kind, [int(number) for number in numbers])
        return journal

    def _note(self, kind: str, numbers: list[int]) -> None:
        match kind, numbers:
            case "printed", [count]:
                self.printed = count
            case "end", []:
                self.ended = True
            case "leave", [who]:
                self._expect(who in self.joins and who not in self.left, f"leave of {who}")
                self.left.add(who)
            case "join" | "chat", [who, speaker, number, to]:
                if kind == "join":
                    self._expect(who not in self.joins, f"second join of {who}")
                    self.joins[who] = len(self.said)
                    to = who
                else:
                    self._expect(who in self.joins and who not in self.left, f"word of {who}")
                    self.heard[who].append(number)
                self.said.append(Saying(word(len(self.said), speaker, number), who, to))

    def _expect(self, condition: bool, what: str) -> None:
        if not condition:
            self.faults.append(f"{what}, who was not there or had been there already")


@dataclass(slots=True)
class Life:
    """What one client said, heard, and how it ended."""

    speaker: int
    id: int = 0  # from its Welcome; 0: it never had one
    journal: str = ""
    sent: int = 0  # messages, numbered from 1
    received: array[int] = field(default_factory=lambda: array("Q"))
    ending: str = ""  # one of ENDINGS


ENDINGS = {
    "closed": "had heard its last word and closed",
    "bye": "was closed by the room as it had asked",
    "room": "the room ended or crashed",
    "fin": "closed its side of TCP",
    "bad": "sent a bad frame and was told so",
    "reset": "vanished by RST",
    "silent": "answered nothing and was dropped",
    "slow": "read nothing and was closed with 1008",
}
HEARD_OUT = {"closed", "bye", "fin", "bad"}  # all that they sent must have been heard


class Account:
    """The comparison of all lives with all journals.

    Attributes:
        faults: what is not accounted for.
        counts: what was checked, and what was lost with those who ended.
    """

    def __init__(self, journals: Mapping[str, Journal], lives: Iterable[Life]) -> None:
        self.faults: list[str] = []
        self.counts: Counter[str] = Counter()
        by_journal: dict[str, list[Life]] = defaultdict(list)
        for life in lives:
            by_journal[life.journal].append(life)
            self.counts[life.ending] += 1
        for life in by_journal.pop("", []):
            self._check_stranger(life)
        for name in sorted(journals.keys() | by_journal.keys()):
            if name not in journals:
                self.faults.append(f"nobody knows the room {name}")
                continue
            self.faults += [f"{name}: {fault}" for fault in journals[name].faults]
            self._check_room(name, journals[name], by_journal[name])

    def _check_stranger(self, life: Life) -> None:
        """Check a client that was told nothing at all."""
        self.counts["heard nothing"] += 1
        if life.ending in ("closed", "bye"):
            self.faults.append(f"client {life.speaker} has been told nothing")

    def _check_room(self, name: str, journal: Journal, lives: Sequence[Life]) -> None:
        # What one client got of a room that crashed, all others must have got, too.
        got = max((life.received[-1] >> ORDER_SHIFT for life in lives), default=-1) + 1
        told = max(got, journal.printed)
        self.counts["told by rooms"] += len(journal.said)
        for life in lives:
            where = f"{name}: client {life.speaker} (id {life.id}, {life.ending})"
            for fault in (
                find_fault_in_received(journal, life, told),
                find_fault_in_sent(journal, life),
            ):
                self.faults += [f"{where} {fault}"] if fault else []
            self.counts["deliveries checked"] += len(life.received)
            self.counts["sent"] += life.sent
            lost = life.sent - len(journal.heard[life.id])
            self.counts["sent, but ended before"] += lost
        if not journal.ended:
            self.counts["crashes"] += 1
            self.counts["told, but crashed before"] += len(journal.said) - told


def find_fault_in_received(journal: Journal, life: Life, told: int) -> str:
    """Compare what a client got with what concerned it: one unbroken run of its room's order.

    Args:
        told: so many sayings all those must have got who were there when the room ended.
    """
    said = journal.said
    first, last = life.received[0] >> ORDER_SHIFT, life.received[-1] >> ORDER_SHIFT
    if first > journal.joins.get(life.id, first):
        return f"was told of {first} first, but joined at {journal.joins[life.id]}"
    if last >= len(said):
        return f"was told of {last}, but the room knows {len(said)} only"
    if life.ending == "room":
        if journal.ended:
            return "lost its room, which did not crash"
        last = told - 1
    if life.ending == "bye" and life.received[-1] != word(last, life.speaker, life.sent):
        return f"was told of {last} last, which was not its own end"
    who = life.id
    run = said[first : last + 1]
    wanted = array("Q", [s.word for s in run if not s.to or s.to == who or s.who == who])
    return "" if wanted == life.received else describe_difference(wanted, life.received)


def describe_difference(wanted: array[int], received: array[int]) -> str:
    """Say what is wrong first: lost, duplicated, out of order, or something else."""
    pairs = itertools.zip_longest(wanted, received)
    place, (want, got) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
    number = None if want is None else want >> ORDER_SHIFT
    if got in received[:place]:
        what = f"got {got >> ORDER_SHIFT} twice"
    elif want is not None and want in received[place:]:
        what = f"got {got >> ORDER_SHIFT} before {number}"
    elif want is None:
        what = f"got {got >> ORDER_SHIFT}, which was not for it"
    else:
        what = f"lost {number}"
    return f"{what}, as number {place} of {len(wanted)} wanted, {len(received)} received"


def find_fault_in_sent(journal: Journal, life: Life) -> str:
    """Compare what a client sent with what its room heard of it: all, or the start of it."""
    heard = journal.heard[life.id]
    if heard != list(range(1, len(heard) + 1)):
        return f"was heard in this order: {shorten(heard)}"
    if len(heard) > life.sent:
        return f"was heard {len(heard)} times, but sent {life.sent}"
    if len(heard) < life.sent and life.ending in HEARD_OUT and journal.ended:
        return f"was heard {len(heard)} times only, but sent {life.sent}"
    return ""


def shorten(numbers: Sequence[int]) -> str:
    """Return where numbers stop counting up from 1."""
    wrong = next(i for i, number in enumerate(numbers) if number != i + 1)
    return f"… {', '.join(map(str, numbers[max(wrong - 2, 0) : wrong + 3]))} …"


# ==== 3. A client =========================================================
# No thread of its own: one selector drives all. What it does is drawn from one seeded generator;
# what becomes of it then depends on the machine's timing, too.

PING_INTERVAL = 3  # seconds, of the servers
STALL = 2  # seconds, of the servers
PATIENCE = 30.0  # seconds for anything that a client waits for
SILENCE = 2 * PING_INTERVAL + 10  # seconds after which a silent client must have been dropped
MEAN_LIFE = 12  # seconds
KILL_INTERVAL = 5  # seconds on average between two kills of a room's program
CLOSING, KICKED = 4001, 4002  # our own close codes, so that they say who closed
HANDSHAKE = (
    "GET /{} HTTP/1.1\r\nHost: soak\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
STRANGERS = (
    b"",
    b"GET /r1 HTTP/1.1\r\nHost: soak\r\nUpgr",
    b"\x16\x03\x01 this is no HTTP\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: soak\r\nConnection: close\r\n\r\n",
    b"GET /r1 HTTP/1.1\r\nHost: soak\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
)
BAD_FRAMES = {
    encode_client_frame(3, b"reserved opcode"): 1002,
    encode_client_frame(TEXT, b"not masked", mask=False): 1002,
    encode_client_frame(TEXT, b"reserved bit", rsv=2): 1002,
    encode_client_frame(PING, b"x" * 126): 1002,
    encode_client_frame(TEXT, b"not UTF-8 \xff"): 1007,
    b"\x82\xff\x00\x00\x00\x01\x00\x00\x00\x00mask": 1009,
}
ACTS = {"say": 80, "whisper": 9, "ping": 4, "nonsense": 2, "pause": 3, "burst": 2}
FATES = {
    "close": 38,
    "bye": 18,
    "reset": 12,
    "fin": 9,
    "bad": 8,
    "silent": 3,
    "deaf": 1,
    "die": 2,
    "stranger": 9,
}


def parse_frame(buffer: bytearray, start: int) -> tuple[int, bytes, int] | None:
    """Return opcode and payload of a frame, and where the next begins; None if it is not whole."""
    if len(buffer) < start + 2:
        return None
    size, body = buffer[start + 1], start + 2
    if size >= 126:
        body += 2 if size == 126 else 8
        size = int.from_bytes(buffer[start + 2 : body], "big")
    if len(buffer) < body + size:
        return None
    return buffer[start] & 15, bytes(buffer[body : body + size]), body + size


class Wire:
    """A WebSocket client on a selector, with no thread; subclasses say what messages mean.

    Args:
        selector: calls `on_event` with what the socket is ready for, by way of whoever drives it.
        address: host and port of the server.
        request: sent at once.
        receive_buffer: bytes that the kernel may hold for it; 0: as many as it likes.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        address: tuple[str, int],
        request: bytes,
        *,
        receive_buffer: int = 0,
    ) -> None:
        self.done = False
        self._selector = selector
        self._open = False  # the handshake is over
        self._buffer = bytearray()
        self._unsent = bytearray(request)
        self._shut = False  # nothing more is sent, once all is
        self._interest = 0  # what the selector looks for
        self._deaf_until = 0.0
        self.sock = socket.socket()
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.setblocking(False)
        self.sock.connect_ex(address)
        self._watch(selectors.EVENT_READ | selectors.EVENT_WRITE)

    # ---- what it means

    def on_message(self, payload: bytes) -> None:
        """Take a text message."""

    def on_close(self, code: int, reason: str) -> None:
        """Take the server's Close frame."""

    def on_end(self, what: str) -> None:
        """Take the end of TCP, or an answer that is no WebSocket."""

    # ---- what comes in

    def on_event(self, mask: int) -> None:
        """Do what the socket is ready for."""
        if mask & selectors.EVENT_WRITE:
            self._flush()
        if mask & selectors.EVENT_READ and not self.done:
            self._read()

    def _read(self) -> None:
        try:
            data = self.sock.recv(256 * 1024)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._buffer += data
        if not data:
            self.on_end("was cut off without a Close frame")
        elif self._open or b"\r\n\r\n" in self._buffer:
            self._parse()

    def _parse(self) -> None:
        start = 0
        if not self._open:
            if not self._buffer.startswith(b"HTTP/1.1 101 "):
                return self.on_end(f"was refused: {bytes(self._buffer[:200])!r}")
            self._open = True
            start = self._buffer.index(b"\r\n\r\n") + 4
        while not self.done and (found := parse_frame(self._buffer, start)):
            opcode, payload, start = found
            if opcode == TEXT:
                self.on_message(payload)
            elif opcode == CLOSE:
                self.on_close(*close_status(payload))
            elif opcode == PING:
                self.send(PONG, payload)
        del self._buffer[:start]

    # ---- what goes out

    def send(self, opcode: int, payload: bytes) -> None:
        """Send a frame, when the socket takes it."""
        self.push(encode_client_frame(opcode, payload))

    def push(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._unsent += data
        self._flush()

    def shut(self) -> None:
        """Send no more than what still waits."""
        self._shut = True
        self._flush()

    def _flush(self) -> None:
        try:
            while self._unsent:
                del self._unsent[: self.sock.send(self._unsent)]
            if self._shut:
                self.sock.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            pass
        except OSError:  # what the server sent before it closed is still to be read
            self._unsent.clear()
        if self._interest:
            self._watch(self._interest | selectors.EVENT_WRITE)

    # ---- what it looks for

    def stop_reading(self, seconds: float) -> None:
        """Read nothing for so long; `read_again` is to be called then."""
        self._deaf_until = time.monotonic() + seconds
        self._watch(selectors.EVENT_WRITE)

    def read_again(self) -> None:
        """Read, if it is time for that."""
        if not self.done and time.monotonic() >= self._deaf_until:
            self._watch(selectors.EVENT_READ | selectors.EVENT_WRITE)

    def _watch(self, events: int) -> None:
        """Say what the selector is to look for; writing only while there is something."""
        if not self._unsent:
            events &= ~selectors.EVENT_WRITE
        before, self._interest = self._interest, events
        if events == before:
            return
        if not before:
            self._selector.register(self.sock, events, self)
        elif not events:
            self._selector.unregister(self.sock)
        else:
            self._selector.modify(self.sock, events, self)

    def end(self) -> None:
        """Close the socket."""
        self.done = True
        self._watch(0)
        self.sock.close()

    def reset(self) -> None:
        """Close the socket by RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.end()


class Player(Wire):
    """A client, from its connecting to its end.

    Args:
        crowd: whom it belongs to.
        server: where it goes.
        room: the room that it asks for.
        fate: how it will end, one of FATES.
        life: what it says and hears.
    """

    def __init__(
        self, crowd: Crowd, server: ServerProcess, room: str, fate: str, life: Life
    ) -> None:
        self.crowd, self.fate, self.life = crowd, fate, life
        self._rng = crowd.rng
        self._acquaintances: list[int] = []
        self._echoed = 0  # number of its own latest message that came back
        self._leaving = False
        self._torn = False  # it has got half a line, as from a killed program
        self._bad_code = 0  # what its bad frame is to be answered with
        request = HANDSHAKE.format(room).encode()
        super().__init__(
            crowd.selector,
            (server.host, server.port),
            self._rng.choice(STRANGERS) if fate == "stranger" else request,
            receive_buffer=4096 if fate == "deaf" else 0,
        )
        if fate == "stranger":
            crowd.later(self._rng.uniform(0.1, 3), self._vanish)
        else:
            crowd.later(PATIENCE, self._check_welcome)

    # ---- what it does

    def begin(self) -> None:
        """Live, now that it has been welcomed."""
        self.crowd.counts["joins"] += 1
        self.crowd.later(self._rng.expovariate(self.crowd.pace), self._act)
        lifetime = 0 if self.crowd.leaving else min(self._rng.expovariate(1 / MEAN_LIFE), 60)
        self.crowd.later(lifetime, self.leave)

    def _act(self) -> None:
        if self._leaving or self.done:
            return
        act = self._rng.choices(list(ACTS), list(ACTS.values()))[0]
        getattr(self, f"_act_{act}")()
        self.crowd.counts[act] += 1
        self.crowd.later(self._rng.expovariate(self.crowd.pace), self._act)

    def _act_say(self) -> None:
        self.say(pad="x" * self._rng.choice((0, 5, 50, 120, 130, 700)))

    def _act_whisper(self) -> None:
        if self._acquaintances:
            self.say(to=self._rng.choice(self._acquaintances))

    def _act_ping(self) -> None:
        self.send(PING, b"?")

    def _act_nonsense(self) -> None:
        """Send what is no JSON object: it is dropped, and nothing else happens."""
        self.send(TEXT, self._rng.choice((b"nonsense", b"[1]", b"")))

    def _act_pause(self) -> None:
        self._pause(self._rng.uniform(0.2, STALL * 0.75))

    def _act_burst(self) -> None:
        for _ in range(self._rng.randrange(10, 40)):
            self.say(pad="burst" * 200)

    def _pause(self, seconds: float) -> None:
        self.stop_reading(seconds)
        self.crowd.later(seconds, self.read_again)

    def say(self, **more: object) -> None:
        """Send the next numbered message."""
        self.life.sent += 1
        message = {"c": self.life.speaker, "n": self.life.sent, **more}
        self.send(TEXT, json.dumps(message).encode())

    # ---- how it ends

    def leave_in_peace(self) -> None:
        """Begin to end, whatever its fate was to be."""
        if not self._leaving and self.fate != "stranger":
            self.fate = "close"
            self.leave()

    def leave(self) -> None:
        """Begin to end as it is its fate."""
        if self._leaving or self.done or not self.life.id:
            return
        self._leaving = True
        self._deaf_until = 0.0
        self.read_again()
        getattr(self, f"_leave_{self.fate}")()
        self.crowd.later(PATIENCE, self._run_out)

    def _leave_close(self) -> None:
        """Close, but not before it has heard its own last word."""
        if self._echoed == self.life.sent:
            self.send(CLOSE, struct.pack("!H", CLOSING))

    def _leave_bye(self) -> None:
        self.say(bye=True)

    def _leave_die(self) -> None:
        self.say(die=self._rng.choice(("kill", 0, 3)))

    def _leave_reset(self) -> None:
        """Vanish, often in the middle of a frame."""
        frame = encode_client_frame(TEXT, b'{"never":"heard"}')
        self.push(frame[: self._rng.randrange(len(frame))])
        self._vanish()

    def _leave_fin(self) -> None:
        self.shut()

    def _leave_bad(self) -> None:
        frame, self._bad_code = self._rng.choice(list(BAD_FRAMES.items()))
        self.push(frame)

    def _leave_silent(self) -> None:
        """Be there, and neither read nor write: as good as a peer behind a cut cable."""
        self._pause(SILENCE)

    def _leave_deaf(self) -> None:
        """Ask for more than the kernels hold, and do not read it until it is too late."""
        for _ in range(120):
            self.say(to=self.life.id, pad="x" * 60_000)
        self._pause(2 * STALL + 1)

    def _vanish(self) -> None:
        if not self.done:
            self.reset()
            self._end("reset")

    def _run_out(self) -> None:
        """Complain: whatever it waits for should have happened long ago."""
        if not self.done:
            said = f"said {self.life.sent}, heard {self._echoed} of that back"
            self._complain(f"waited {PATIENCE:g} s for its end; {said}")

    def _check_welcome(self) -> None:
        if not self.done and not self.life.id:
            self._complain(f"was not welcomed within {PATIENCE:g} s")

    def _complain(self, what: str) -> None:
        name = f"client {self.life.speaker} ({self.fate}, id {self.life.id})"
        self.crowd.faults.append(f"{name} in {self.life.journal or 'no room'} {what}")
        self._end("reset")

    def _end(self, ending: str) -> None:
        self.end()
        self.life.ending = ending
        self.crowd.counts["half a line"] += self._torn
        self.crowd.dismiss(self)

    # ---- what comes in

    def on_end(self, what: str) -> None:
        """Find out whether it had asked for this end."""
        endings = {"stranger": "reset", "fin": "fin", "silent": "silent", "deaf": "slow"}
        if self.fate in endings and (self._leaving or self.fate == "stranger"):
            self._end(endings[self.fate])
        else:
            self._complain(what)

    def on_message(self, payload: bytes) -> None:
        """Note what the room says."""
        if self._torn:
            return self._complain("got more behind half a line")
        try:
            saying = json.loads(payload)
        except ValueError:  # right only as the last thing that a killed program says
            self._torn = True
            return
        life, speaker, number = self.life, saying["c"], saying["n"]
        life.received.append(word(saying["o"], speaker, number))
        life.journal = life.journal or saying["i"]
        if saying["i"] != life.journal:
            self._complain(f"is told of {saying['i']}")
        elif not speaker and not life.id:
            life.id = saying["f"]
            self.begin()
        elif speaker == life.speaker:
            self._echoed = number
            if self._leaving and self.fate in ("close", "deaf"):
                self._leave_close()
        elif speaker and len(self._acquaintances) < 5:
            self._acquaintances.append(saying["f"])

    def on_close(self, code: int, reason: str) -> None:
        """Find out who ended it, and why."""
        if code != CLOSING:  # it is not the answer to our own
            with suppress(OSError):
                self.sock.send(encode_client_frame(CLOSE, struct.pack("!H", code)))
        silent = reason.startswith("silent")
        fate = self.fate if self._leaving else ""
        if code in (1000, 1011) and not silent:
            self._end("room")
        elif self._torn:
            self._complain("got half a line, but its room lives on")
        elif code == CLOSING and fate in ("close", "deaf"):
            self._end("closed")
        elif code == KICKED and fate == "bye":
            self._end("bye")
        elif code == self._bad_code and fate == "bad":
            self._end("bad")
        elif code == 1008 and fate in ("deaf", "silent"):
            self._end("slow")
        elif code == 1011 and fate == "silent":
            self._end("silent")
        else:
            self._complain(f"was closed with {code} {reason!r}")


# ==== 4. The servers ======================================================


class Figures(NamedTuple):
    """What a server holds; children include those that nobody has waited for."""

    rss: int  # bytes
    threads: int
    descriptors: int
    children: int


class Watch:
    """An eye on one server.

    Attributes:
        begin, peak, end: what it held at rest, at the most, and at rest again.
        cpu: seconds that it took between the two.
    """

    def __init__(self, name: str, server: ServerProcess) -> None:
        self.name, self.server = name, server
        self.begin = self.peak = self.end = self._measure()
        self.cpu = 0.0

    def _measure(self) -> Figures:
        server = self.server
        children = len(server.children())
        return Figures(server.rss(), server.threads(), server.descriptors(), children)

    def observe(self) -> None:
        """Note what it holds if that is more than ever."""
        self.peak = Figures(*map(max, self.peak, self._measure()))

    def start(self) -> None:
        """Take what it holds now, at rest, for what it must come back to."""
        wait_until(self._is_steady, PATIENCE, f"{self.name} does not come to rest")
        self.begin = self.peak = self._measure()
        self.cpu = -cpu_seconds(self.server.pid)

    def finish(self, tolerance: int) -> list[str]:
        """Return what has not come back to what it was."""
        self.cpu += cpu_seconds(self.server.pid)
        with suppress(AssertionError):
            wait_until(lambda: self._is_back() and self._is_steady(), PATIENCE)
        self.end = self._measure()
        faults = []
        for what, begin, end in zip(Figures._fields, self.begin, self.end, strict=True):
            if end > begin + (tolerance if what == "rss" else 0):
                faults.append(f"{self.name}: {what} were {begin} and are {end}")
        return faults

    def _is_back(self) -> bool:
        return all(map(operator.le, self._measure()[1:], self.begin[1:]))

    def _is_steady(self) -> bool:
        """Whether nothing changes for half a second, and no child is left."""
        before = self._measure()
        time.sleep(0.5)
        return before[1:] == self._measure()[1:] and not before.children


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has taken so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ==== 5. The crowd ========================================================


class Crowd:
    """All clients of all servers, and the one loop that drives them.

    Args:
        watches: the servers.
        rooms: how many each of them has; the first are the busiest.
        rng: where all chance comes from.
        size: clients at the same time.
        pace: what each of them does, per second.

    Attributes:
        lives: what every client said and heard, also those that have ended.
        faults: what a client saw and should not have seen.
        leaving: nobody comes any more.
    """

    def __init__(
        self,
        watches: Sequence[Watch],
        rng: random.Random,
        *,
        rooms: int,
        size: int,
        pace: float,
    ) -> None:
        self.rng, self.pace = rng, pace
        self.selector = selectors.DefaultSelector()
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self.lives: list[Life] = []
        self.leaving = False
        self._watches = watches
        self._weights = [1 / (number + 1) for number in range(rooms)]
        self._size = size
        self._players: set[Player] = set()
        self._calls: list[tuple[float, int, Callable[[], None]]] = []
        self._speakers = itertools.count(1)
        self._order = itertools.count()  # calls of the same time keep their order

    def later(self, seconds: float, function: Callable[[], None]) -> None:
        """Call a function after that many seconds."""
        due = time.monotonic() + seconds
        heapq.heappush(self._calls, (due, next(self._order), function))

    def dismiss(self, player: Player) -> None:
        """Forget a client that has ended."""
        self._players.discard(player)

    def live(self, seconds: float) -> None:
        """Let clients come and go for so long, then let all leave."""
        self.leaving = False
        for function in (self._invite, self._kill_a_child, self._observe):
            self.later(0, function)
        self._run(seconds, until_empty=False)
        self.leaving = True
        for player in list(self._players):
            player.leave_in_peace()
        self._run(2 * PATIENCE, until_empty=True)
        self.faults += [f"client {player.life.speaker} is still there" for player in self._players]
        self._calls.clear()

    def _observe(self) -> None:
        for watch in self._watches:
            watch.observe()
        if not self.leaving:
            self.later(1, self._observe)

    def _run(self, seconds: float, *, until_empty: bool) -> None:
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end and not (until_empty and not self._players):
            due = self._calls[0][0] if self._calls else end
            for key, mask in self.selector.select(max(0, min(due, end) - now)):
                key.data.on_event(mask)
            while self._calls and self._calls[0][0] <= time.monotonic():
                heapq.heappop(self._calls)[2]()

    def _invite(self) -> None:
        """Let a few more come, until there are as many as there should be."""
        if self.leaving:
            return
        for _ in range(min(self._size - len(self._players), self._size // 20 + 1)):
            fate = self.rng.choices(list(FATES), list(FATES.values()))[0]
            life = Life(next(self._speakers))
            if fate == "stranger":
                self.counts["strangers"] += 1
            else:
                self.lives.append(life)
            watch = self.rng.choice(self._watches)
            number = self.rng.choices(range(len(self._weights)), self._weights)[0]
            room = f"{watch.name}-{number}"
            self._players.add(Player(self, watch.server, room, fate, life))
        self.later(0.1, self._invite)

    def _kill_a_child(self) -> None:
        """Kill some room's program, which did not ask for it, and may be doing anything."""
        children = [pid for watch in self._watches for pid in watch.server.children()]
        if children:
            with suppress(ProcessLookupError):
                os.kill(self.rng.choice(children), signal.SIGKILL)
            self.counts["killed"] += 1
        if not self.leaving:
            self.later(self.rng.expovariate(1 / KILL_INTERVAL), self._kill_a_child)


# ==== 6. The soak =========================================================

# With so much grace no program is interrupted only because the machine is busy.
OPTIONS = ("--ping", str(PING_INTERVAL), "--stall", str(STALL), "--backlog", "256K")
OPTIONS += ("--closegrace", "5")
# With an arena per thread glibc keeps tens of megabytes of what was freed, and more with time. So
# that a leak shows, it is told to give back.
MALLOC = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "131072",
}
WARM_UP = 20.0  # seconds at the most, after which servers have what they keep for good


def soak(options: argparse.Namespace) -> list[str]:
    """Run it, print what happened, and return what is wrong."""
    faults: list[str] = []
    crowd: Crowd | None = None
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        (folder / "relay.py").write_text(RELAY)
        (folder / "journals").mkdir()
        try:
            with (
                serve("--json", *OPTIONS, "relay.py", cwd=folder, env=MALLOC) as programs,
                serve(*OPTIONS, "relay:Room", cwd=folder, env=MALLOC) as games,
            ):
                watches = [Watch("programs", programs), Watch("games", games)]
                crowd = run_crowd(watches, options, faults)
        except AssertionError as error:  # of `serve`: a traceback, a process left behind
            faults.append(str(error))
        if crowd is None:
            return faults
        journals = read_journals(folder / "journals")
    account = Account(journals, crowd.lives)
    print_report(watches, crowd.counts, account)
    return faults + crowd.faults + account.faults


def run_crowd(watches: list[Watch], options: argparse.Namespace, faults: list[str]) -> Crowd:
    """Let a crowd warm the servers up, then live for the time that was asked for."""
    rng = random.Random(options.seed)
    crowd = Crowd(watches, rng, rooms=options.rooms, size=options.clients, pace=options.pace)
    seconds = options.minutes * 60
    crowd.live(min(WARM_UP, seconds / 4))
    for watch in watches:
        watch.start()
    crowd.live(seconds)
    for watch in watches:
        faults += watch.finish(options.tolerance * 1024 * 1024)
    return crowd


def read_journals(folder: Path) -> dict[str, Journal]:
    """Read what every room has noted."""
    journals = {}
    for path in folder.iterdir():
        with path.open() as lines:
            journals[path.name] = Journal.parse(lines)
    return journals


def print_report(watches: Sequence[Watch], counts: Counter[str], account: Account) -> None:
    """Print what happened, in figures."""
    for title, counter in (("the crowd", counts), ("the account", account.counts)):
        print(f"\n{title}")
        for what, count in sorted((ENDINGS.get(what, what), n) for what, n in counter.items()):
            print(f"  {what:<48} {count:>10,}")
    print(f"\n{'':<24} {'begin':>10} {'peak':>10} {'end':>10}")
    for watch in watches:
        for what in Figures._fields:
            figures = [getattr(f, what) for f in (watch.begin, watch.peak, watch.end)]
            if what == "rss":
                figures = [size // 1024 for size in figures]
            name = f"{watch.name}: {what}{', KiB' if what == 'rss' else ''}"
            print(f"{name:<24} " + " ".join(f"{figure:>10,}" for figure in figures))
        print(f"{watch.name}: cpu, s{watch.cpu:>{45 - len(watch.name)}.1f}")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = argparse.ArgumentParser(
        prog="python3 -m tests.bench.soak",
        description="Let a crowd of random clients live, and account for every message.",
        allow_abbrev=False,
    )
    parser.add_argument("minutes", metavar="MINUTES", type=float)
    parser.add_argument("--seed", metavar="NUM", type=int, default=1, help="of all chance (1)")
    parser.add_argument("--clients", metavar="NUM", type=int, default=200, help="at a time (200)")
    parser.add_argument("--rooms", metavar="NUM", type=int, default=12, help="of a server (12)")
    parser.add_argument("--pace", metavar="NUM", type=float, default=1.5, help="acts/s (1.5)")
    parser.add_argument(
        "--tolerance", metavar="MIB", type=int, default=24, help="growth of memory (24)"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the soak; return 1 if anything was wrong."""
    options = build_parser().parse_args(arguments)
    print(f"soak: {options}", flush=True)
    faults = soak(options)
    for fault in faults[:50]:
        print(f"FAULT: {fault}")
    print(f"\n{len(faults)} faults" if faults else "\nevery message is accounted for")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
