"""Captures for tests: made-up sessions, a plain reader of pcapng and of packets, and tshark."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from scalesocket.net.pcapng import Recorder
from scalesocket.net.tap import Address, Event, Flow

from scalesocket import Opcode, accept_key, encode_frame
from tests.support import require_tool

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
MASK = bytes.fromhex("37fa213d")
CLIENT, SERVER = ("192.0.2.1", 50000), ("192.0.2.2", 9000)

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10


# ==== 1. Blocks and packets ===============================================
# Written down from the specifications a second time, so that a fault is not made twice.


class Block(NamedTuple):
    kind: int
    body: bytes


class Packet(NamedTuple):
    """An Enhanced Packet Block, and what its IP and TCP headers say."""

    time_ns: int
    direction: int  # 1 in, 2 out
    comment: str
    source: bytes
    target: bytes
    ports: tuple[int, int]
    number: int
    answer: int
    flags: int
    window: int
    options: bytes
    payload: bytes
    sound: bool  # all checksums are right
    dropped: int  # packets that are missing before it


def read_blocks(data: bytes) -> list[Block]:
    """Return the blocks of a file; it must not break off."""
    blocks = []
    while data:
        kind, length = struct.unpack_from("<II", data)
        assert length % 4 == 0
        assert 12 <= length <= len(data), "the last block breaks off"
        assert struct.unpack_from("<I", data, length - 4) == (length,)
        blocks.append(Block(kind, data[8 : length - 4]))
        data = data[length:]
    return blocks


def whole_blocks(data: bytes) -> bytes:
    """Return a file without the block at its end that breaks off, if one does."""
    size = 0
    while len(data) - size >= 8:
        (length,) = struct.unpack_from("<I", data, size + 4)
        if size + length > len(data):
            break
        size += length
    return data[:size]


def read_options(data: bytes) -> dict[int, bytes]:
    options = {}
    while data:
        code, length = struct.unpack_from("<HH", data)
        if code == 0:
            assert len(data) == 4
            break
        options[code] = data[4 : 4 + length]
        data = data[4 + length + -length % 4 :]
    return options


def add_words(data: bytes) -> int:
    """Return the one's complement sum of RFC 1071, word by word."""
    total = 0
    data += b"\0" * (len(data) % 2)
    for (word,) in struct.iter_unpack("!H", data):
        total += word
        total = (total & 0xFFFF) + (total >> 16)
    return total


def read_packet(body: bytes) -> Packet:
    interface, high, low, captured, original = struct.unpack_from("<IIIII", body)
    assert interface == 0 and captured == original
    data = body[20 : 20 + captured]
    options = read_options(body[20 + captured + -captured % 4 :])
    direction = int.from_bytes(options[2], "little")
    comment = options.get(1, b"").decode()
    dropped = int.from_bytes(options.get(4, b""), "little")
    if data[0] >> 4 == 4:
        assert data[0] == 0x45 and int.from_bytes(data[2:4], "big") == len(data) and data[9] == 6
        sound = add_words(data[:20]) == 0xFFFF
        source, target, tcp = data[12:16], data[16:20], data[20:]
    else:
        assert data[0] >> 4 == 6 and int.from_bytes(data[4:6], "big") == len(data) - 40
        assert data[6] == 6
        sound = True
        source, target, tcp = data[8:24], data[24:40], data[40:]
    sound = sound and add_words(source + target + struct.pack("!II", 6, len(tcp)) + tcp) == 0xFFFF
    a, b, number, answer, words, window, _, urgent = struct.unpack_from("!HHIIHHHH", tcp)
    size = (words >> 12) * 4
    assert urgent == 0
    found = (source, target, (a, b), number, answer, words & 0x1FF, window)
    ends = (tcp[20:size], tcp[size:], sound, dropped)
    return Packet((high << 32) + low, direction, comment, *found, *ends)


def read_packets(path: Path) -> list[Packet]:
    """Return the packets in a file."""
    blocks = read_blocks(path.read_bytes())
    return [read_packet(block.body) for block in blocks if block.kind == 6]


def read_stream(packets: Sequence[Packet], direction: int) -> bytes:
    """Return what one side has sent; the sequence numbers must have no gap and no overlap."""
    expected = None
    data = b""
    for packet in packets:
        if packet.direction != direction:
            continue
        if expected is not None:
            assert packet.number == expected
        data += packet.payload
        steps = len(packet.payload) + bool(packet.flags & SYN) + bool(packet.flags & FIN)
        expected = (packet.number + steps) & 0xFFFFFFFF
    return data


# ==== 2. Sessions =========================================================


class Session:
    """A connection of a made-up client, told to a recorder or a tracer."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow

    def receive(self, data: bytes) -> None:
        """Let the client send bytes."""
        self.flow.received(data)

    def send(self, data: bytes) -> None:
        """Let the server send bytes."""
        self.flow.sent(data)

    def upgrade(self, path: str = "/lobby", protocol: str = "", extensions: str = "") -> None:
        """Make the opening handshake."""
        more = f"Sec-WebSocket-Protocol: {protocol}\r\n" if protocol else ""
        more += f"Sec-WebSocket-Extensions: {extensions}\r\n" if extensions else ""
        both = f"Upgrade: websocket\r\nConnection: Upgrade\r\n{more}"
        key = f"Host: test\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n"
        self.receive(f"GET {path} HTTP/1.1\r\n{key}{both}\r\n".encode())
        accept = f"Sec-WebSocket-Accept: {accept_key(KEY)}\r\n"
        self.send(f"HTTP/1.1 101 Switching Protocols\r\n{accept}{both}\r\n".encode())

    def close(self, code: int = 1000) -> None:
        """Make the closing handshake, and end TCP."""
        payload = struct.pack("!H", code)
        self.receive(from_client(Opcode.CLOSE, payload))
        self.send(encode_frame(Opcode.CLOSE, payload))
        for event in (Event.ENDED, Event.PEER_ENDED, Event.CLOSED):
            self.flow.note(event)


def from_client(opcode: int, payload: bytes, *, fin: bool = True, rsv: int = 0) -> bytes:
    """Return a masked frame."""
    return encode_frame(opcode, payload, fin=fin, rsv=rsv, masking_key=MASK)


def open_session(
    recorder: Recorder, client: Address = CLIENT, server: Address | None = SERVER
) -> Session:
    return Session(recorder.open(client, server))


@contextmanager
def recording(path: Path, **options: Any) -> Iterator[Recorder]:
    """Record into a file for the length of a `with` block."""
    recorder = Recorder(str(path), **options)
    try:
        yield recorder
    finally:
        recorder.close()


# ==== 3. tshark ===========================================================

LUA_FILE = Path(__file__).parent.parent / "net" / "scalesocket.lua"
# Their TCP ports are among those that the system gives to clients and to `--addr :0`: once in some
# thousand captures tshark would take our bytes for theirs (`tshark -G decodes`).
NEIGHBOURS = ("ecatf", "pcp", "pmproxy", "enip", "cbsp", "ams", "irc")


def run_tshark(capture: Path, *arguments: str, lua: bool = False) -> list[str]:
    """Return the lines that tshark prints for a capture; it must have nothing to complain about.

    Args:
        capture: a file.
        arguments: for tshark, beside `-r` and the checking of checksums.
        lua: load our dissector, which tshark does not do for root.
    """
    tshark = require_tool("tshark")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        for file in (capture, LUA_FILE):
            shutil.copyfile(file, folder / file.name)
            (folder / file.name).chmod(0o644)
        checks = ("-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE")
        disabled = [f"--disable-protocol={name}" for name in NEIGHBOURS]
        file = str(folder / capture.name)
        command = [tshark, "-n", *checks, *disabled, "-r", file, *arguments]
        if lua:
            command[1:1] = ["-X", f"lua_script:{folder / LUA_FILE.name}"]
            if os.geteuid() == 0:
                command = ["runuser", "-u", "nobody", "--", *command]
        environment = {**os.environ, "HOME": name, "XDG_CONFIG_HOME": name, "LC_ALL": "C.UTF-8"}
        environment["WIRESHARK_CONFIG_DIR"] = name
        done = subprocess.run(command, capture_output=True, env=environment, timeout=60)
    complaints = [line for line in done.stderr.decode().splitlines() if "Running as" not in line]
    assert done.returncode == 0 and not complaints, complaints
    return done.stdout.decode().splitlines()


def read_fields(capture: Path, *fields: str, wanted: str = "", lua: bool = False) -> list[str]:
    """Return the values of fields, joined by `|`, for each packet that a filter lets pass.

    A field with several values has them separated by `;`.
    """
    names = [word for field in fields for word in ("-e", field)]
    form = ("-T", "fields", "-E", "separator=|", "-E", "aggregator=;")
    found = run_tshark(capture, *(("-Y", wanted) if wanted else ()), *form, *names, lua=lua)
    return [line for line in found if line.strip("|")]


def find_faults(capture: Path, *, lua: bool = False, wanted: str = "") -> list[str]:
    """Return what tshark's experts have to say that is worse than a note.

    Args:
        wanted: a display filter for the packets that they are asked about.
    """
    about = f"expert,warn,{wanted}" if wanted else "expert,warn"
    lines = run_tshark(capture, "-q", "-z", about, lua=lua)
    return [line for line in lines if line.strip()]
