"""What the parts of a message's way cost, each by itself, in microseconds.

    python3 -m tests.bench.parts
    python3 -m tests.bench.parts ../other/scalesocket.py    with another version beside it

The best of some repetitions: what is left when nothing interrupts. Versions are measured in turn.
"""

from __future__ import annotations

import _thread
import argparse
import importlib.util
import inspect
import itertools
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from tests.support import ROOT, encode_client_frame

Work = Callable[[], object]
TEXT = b"x" * 64
JSON = b'{"t":"move","x":12,"y":345,"name":"somebody","text":"hello there"}'
HEAD = (
    b"GET /room HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
)
REPETITIONS = 7
TIME = 0.02  # seconds for each of them


def best(work: Work) -> float:
    """Return the seconds that one call takes when nothing interrupts it."""
    count = 1
    while (seconds := run(work, count)) < TIME / 2:
        count *= 2
    return min(seconds, *(run(work, count) for _ in range(REPETITIONS))) / count


def run(work: Work, count: int) -> float:
    """Return the seconds that so many calls take."""
    start = time.perf_counter()
    for _ in itertools.repeat(None, count):
        work()
    return time.perf_counter() - start


def load(path: Path, name: str) -> ModuleType:
    """Import a version of the server."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def parts(server: Any) -> Iterator[tuple[str, Work]]:
    """Yield the parts of a version, in the order of a message's way."""
    yield "request parsed", lambda: server.parse_request(HEAD)
    request = server.parse_request(HEAD)
    yield "opening handshake", lambda: server.answer_handshake(request)
    protocol = server.WebSocketProtocol(server.Role.SERVER, max_message=1 << 20)
    frame, frames = encode_client_frame(1, TEXT), encode_client_frame(1, TEXT) * 500
    yield "frame parsed", lambda: protocol.receive(frame)
    yield "500 frames parsed", lambda: protocol.receive(frames)
    long = TEXT.ljust(1 << 16, b"x")
    yield "64 KiB unmasked", lambda: server.apply_mask(long, b"\x37\xfa\x21\x3d")
    yield "JSON tagged", tagger(server)
    lines = make_framing(server.Framing)
    yield "line of a program read", lambda: lines.feed(TEXT + b"\n")
    routed = make_framing(server.JsonFraming)
    line = b'{"_to":7,' + JSON[1:] + b"\n"
    yield "JSON line routed", lambda: routed.feed(line)
    yield "frame made", frame_maker(server)
    for count in (1, 200):
        yield f"fan-out to {count}, without sending", fan_out(server, count)


def ignore(client_id: int | None, what: str) -> None:
    """Take a report of what was dropped."""


def make_framing(kind: Any) -> Any:
    """Return a framing of lines; those of older versions are told that they are."""
    older = {"binary": False, "delimiters": b"\n"}
    wanted = inspect.signature(kind).parameters
    return kind(report=ignore, **{name: older[name] for name in older.keys() & wanted.keys()})


def tagger(server: Any) -> Work:
    """Return what tags a JSON message with its sender."""
    framing = make_framing(server.JsonFraming)
    messages = server.Messages(1, [JSON], len(JSON))
    return lambda: framing.encode(7, messages)


def frame_maker(server: Any) -> Work:
    """Return what makes a frame of a text."""
    if not hasattr(server, "PLAIN"):  # an older version
        return lambda: server.encode_run(1, [TEXT], 0)
    return lambda: server.PLAIN.encode_run(1, [TEXT])


def fan_out(server: Any, count: int) -> Work:
    """Return what delivers a message to so many clients, whose connections do nothing."""
    config = server.Config(command=("cat",))
    registry = server.RoomRegistry(config, server.Poller("timer"))
    backend = SimpleNamespace(in_order=False)
    if "name" in inspect.signature(server.Room).parameters:  # an older version
        kept = (
            hasattr(server.History, "limit") or "limit" in server.History.__init__.__annotations__
        )
        history = server.History(0, tagged=False) if kept else server.History()
        room = server.Room("room", registry, backend, None, history=history, stall=5.0)
    else:
        registry.make_backend = lambda: backend
        room = server.Room(registry, SimpleNamespace(room_name="room"))
    plain = getattr(server, "PLAIN", None)  # in older versions a coding of 0
    connection = SimpleNamespace(encoding=plain, coding=0, is_full=False, send=lambda data: True)
    members = getattr(room, "members", room)  # in older versions the room itself does that
    add = members.add if hasattr(members, "add") else members.admit
    for number in range(count):
        add(SimpleNamespace(id=number, connection=connection, departed=False))
    message = [server.Route(1, [TEXT])]
    return lambda: room.deliver(message)


def start_thread() -> None:
    """Start a thread as `threading` does, and wait for its end."""
    threading.Thread(target=ignore, args=(None, "")).start()


def system() -> Iterator[tuple[str, Work]]:
    """Yield what is not ours, to compare with."""
    yield "threading.Thread started", start_thread
    yield "bare thread started", lambda: _thread.start_new_thread(ignore, (None, ""))
    decoder = json.JSONDecoder()
    text = JSON.decode()
    yield "JSONDecoder.decode", lambda: decoder.decode(text)
    yield "JSONDecoder.scan_once", lambda: decoder.scan_once(text, 0)  # type: ignore[attr-defined]


def main(others: Sequence[str]) -> None:
    """Print a table with a column for each version."""
    paths = [ROOT / "scalesocket.py", *map(Path, others)]
    versions = [parts(load(path, f"version_{n}")) for n, path in enumerate(paths)]
    print(
        f"{'microseconds':36}" + "".join(f"{path.parent.name or path.name:>12}" for path in paths)
    )
    for rows in zip(*versions, strict=True):
        times = "".join(f"{best(work) * 1e6:12.2f}" for _, work in rows)
        print(f"{rows[0][0]:36}{times}", flush=True)
    for name, work in system():
        print(f"{name:36}{best(work) * 1e6:12.2f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python3 -m tests.bench.parts")
    parser.add_argument("file", nargs="*", metavar="FILE", help="another version, in turn")
    main(parser.parse_args().file)
