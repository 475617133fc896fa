"""Capture files: that they are valid, that what is in them is true, and that they never get in
the way."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import resource
import select
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scalesocket.net.pcapng import (
    INBOUND,
    MAX_HELD,
    MAX_SEGMENT,
    MIN_FILE_SIZE,
    OUTBOUND,
    CaptureFile,
    KeyLog,
    Recorder,
    TcpStream,
    encode_packet,
    open_capture,
)
from scalesocket.net.tap import Event, Flow, Record, Tape, TappedSocket, Taps
from scalesocket.net.tls import TlsSocket

from scalesocket import Opcode, encode_frame
from tests.capture import (
    ACK,
    CLIENT,
    FIN,
    PSH,
    RST,
    SERVER,
    SYN,
    Packet,
    Session,
    find_faults,
    from_client,
    open_session,
    read_blocks,
    read_fields,
    read_options,
    read_packet,
    read_packets,
    read_stream,
    recording,
    run_tshark,
    whole_blocks,
)
from tests.certificates import Certificates
from tests.support import PATIENCE, ROOT, wait_until

SECRETS, STATISTICS, PACKET = 0x0A, 5, 6


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "play.pcapng"


def flags_of(packets: list[Packet]) -> list[tuple[int, int]]:
    return [(packet.direction, packet.flags) for packet in packets]


# ==== 1. The file =========================================================


def test_a_file_begins_with_its_version_and_an_interface_of_bare_ip_in_nanoseconds(
    path: Path,
) -> None:
    with recording(path):
        pass
    section, interface, *_ = read_blocks(path.read_bytes())
    assert section.kind == 0x0A0D0D0A
    assert struct.unpack_from("<IHHq", section.body) == (0x1A2B3C4D, 1, 0, -1)
    assert interface.kind == 1
    assert struct.unpack_from("<HH", interface.body) == (101, 0)
    assert read_options(interface.body[8:])[9] == b"\x09"


def test_a_file_ends_by_saying_that_nothing_was_lost(path: Path) -> None:
    with recording(path) as recorder:
        open_session(recorder).close()
    last = read_blocks(path.read_bytes())[-1]
    assert last.kind == STATISTICS
    options = read_options(last.body[12:])
    assert int.from_bytes(options[5], "little") == 0
    assert options[1] == b"Nothing was lost."


def test_only_the_owner_may_read_a_file(path: Path) -> None:
    with recording(path):
        pass
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_older_file_of_that_name_is_replaced(path: Path) -> None:
    path.write_bytes(b"\n\r\r\n" + b"x" * 100_000)
    with recording(path):
        pass
    assert len(read_blocks(path.read_bytes())) == 3


def test_a_file_that_cannot_be_opened_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Recorder(str(tmp_path / "absent" / "play.pcapng"))


# ==== 2. Packets ==========================================================


def test_a_connection_opens_with_three_packets_and_ends_with_three(path: Path) -> None:
    with recording(path) as recorder:
        session = open_session(recorder)
        session.receive(b"question")
        session.send(b"answer")
        for event in (Event.ENDED, Event.PEER_ENDED, Event.CLOSED):
            session.flow.note(event)
    assert flags_of(read_packets(path)) == [
        (1, SYN),
        (2, SYN | ACK),
        (1, ACK),
        (1, PSH | ACK),
        (2, PSH | ACK),
        (2, FIN | ACK),
        (1, FIN | ACK),
        (2, ACK),
    ]


def test_addresses_and_ports_are_those_of_the_connection(path: Path) -> None:
    with recording(path) as recorder:
        open_session(recorder).send(b"x")
    packets = read_packets(path)
    there = (b"\xc0\0\2\1", b"\xc0\0\2\2", (50000, 9000))
    back = (b"\xc0\0\2\2", b"\xc0\0\2\1", (9000, 50000))
    for packet in packets:
        assert packet[3:6] == (there if packet.direction == INBOUND else back)


@pytest.mark.parametrize(
    ("client", "server", "packed"),
    [
        ("2001:db8::1", "2001:db8::2", "20010db8000000000000000000000001"),
        ("fe80::1%eth0", "fe80::2%eth0", "fe800000000000000000000000000001"),
        ("::ffff:192.0.2.7", "::ffff:192.0.2.2", "c0000207"),
        ("192.0.2.7", "::ffff:192.0.2.2", "c0000207"),
        ("192.0.2.7", "2001:db8::2", "00000000000000000000ffffc0000207"),
    ],
)
def test_every_kind_of_address_is_recorded(
    path: Path, client: str, server: str, packed: str
) -> None:
    with recording(path) as recorder:
        session = open_session(recorder, (client, 50000), (server, 9000))
        session.receive(b"odd")
        session.close()
    packets = read_packets(path)
    assert packets[0].source.hex() == packed
    assert all(packet.sound for packet in packets)


def test_each_client_of_a_unix_socket_gets_an_address_of_its_own(path: Path) -> None:
    with recording(path) as recorder:
        for _ in range(3):
            open_session(recorder, ("unix", 0), None)
    opening = [packet for packet in read_packets(path) if packet.flags == SYN]
    assert len({(packet.source, packet.ports) for packet in opening}) == 3
    assert all(packet.source[0] == packet.target[0] == 127 for packet in opening)
    assert all("Unix socket" in packet.comment for packet in opening)


def test_times_are_those_of_the_wall_clock(path: Path) -> None:
    before = time.time_ns()
    with recording(path) as recorder:
        open_session(recorder)
    after = time.time_ns()
    slack = 2_000_000  # a smaller step of the clock is not followed
    for packet in read_packets(path):
        assert before - slack <= packet.time_ns <= after + slack


@pytest.mark.slow
def test_packets_stand_in_the_order_of_time_whoever_notes_them(path: Path) -> None:
    """Case 22: packets stood up to 176 ms out of order, as only what waited together was sorted."""
    with recording(path) as recorder:
        sessions = [open_session(recorder, client=("192.0.2.1", 50000 + n)) for n in range(8)]
        begin = threading.Barrier(len(sessions))

        def talk(session: Session) -> None:
            begin.wait()
            for number in range(500):
                (session.send if number % 2 else session.receive)(b"x" * 200)

        threads = [threading.Thread(target=talk, args=(session,)) for session in sessions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    times = [packet.time_ns for packet in read_packets(path)]
    assert len(times) > 4000 and times == sorted(times)


def test_when_the_clock_is_set_back_times_follow_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with recording(path) as recorder:
        session = open_session(recorder)
        session.send(b"before")
        wait_until(lambda: b"before" in path.read_bytes())
        real = time.time_ns
        monkeypatch.setattr(time, "time_ns", lambda: real() - 3_600_000_000_000)
        session.send(b"after")
    *_, before, after = [packet.time_ns for packet in read_packets(path)]
    assert before - after > 3_000_000_000_000


def test_long_data_is_cut_into_segments_that_ip_can_carry(path: Path) -> None:
    data = os.urandom(200_001)
    with recording(path) as recorder:
        open_session(recorder).send(data)
    sizes = [len(packet.payload) for packet in read_packets(path) if packet.payload]
    assert sizes == [MAX_SEGMENT, MAX_SEGMENT, MAX_SEGMENT, 200_001 - 3 * MAX_SEGMENT]
    assert read_stream(read_packets(path), OUTBOUND) == data


def test_sequence_numbers_begin_again_at_zero_after_the_last() -> None:
    first = (2**32 - 5, 2**32 - 1)
    stream = TcpStream(CLIENT, SERVER, first)
    made = [*stream.open(), *stream.send(INBOUND, b"0123456789"), *stream.send(INBOUND, b"rest")]
    made += stream.send(OUTBOUND, b"answer")
    packets = [read_packet(encode_packet(packet, 0)[8:-4]) for packet in made]
    assert [packet.number for packet in packets] == [2**32 - 5, 2**32 - 1, 2**32 - 4] + [
        2**32 - 4,
        6,
        0,
    ]
    assert packets[-1].answer == 10
    assert read_stream(packets, INBOUND) == b"0123456789rest"
    assert all(packet.sound for packet in packets)


def test_what_flows_one_way_only_is_acknowledged_now_and_then(path: Path) -> None:
    with recording(path) as recorder:
        session = open_session(recorder)
        for _ in range(100):
            session.send(bytes(10_000))
    packets = read_packets(path)
    pure = [packet for packet in packets[3:] if packet.direction == INBOUND]
    assert 10 <= len(pure) <= 20
    assert all(packet.flags == ACK and not packet.payload for packet in pure)


@pytest.mark.parametrize(
    ("events", "last"),
    [
        ([Event.PEER_ENDED, Event.ENDED, Event.CLOSED], (1, ACK)),
        ([Event.PEER_RESET, Event.CLOSED], (1, RST | ACK)),
        ([Event.RESET], (2, RST | ACK)),
        ([Event.ENDED, Event.RESET], (2, RST | ACK)),
        ([Event.CLOSED], (2, FIN | ACK)),
        ([Event.PEER_ENDED, Event.ENDED, Event.RESET], (1, ACK)),
    ],
)
def test_each_way_to_end_looks_as_it_was(
    path: Path, events: list[Event], last: tuple[int, int]
) -> None:
    with recording(path) as recorder:
        session = open_session(recorder)
        for event in events:
            session.flow.note(event)
    assert flags_of(read_packets(path))[-1] == last


step = st.tuples(st.sampled_from([INBOUND, OUTBOUND]), st.integers(0, 70_000))


@settings(max_examples=25)
@given(st.lists(step, max_size=12), st.booleans(), st.integers(0, 2**32 - 1))
def test_any_streams_are_what_their_packets_carry(
    steps: list[tuple[int, int]], version6: bool, first: int
) -> None:
    ends = ("2001:db8::1", "2001:db8::2") if version6 else ("192.0.2.1", "192.0.2.2")
    stream = TcpStream((ends[0], 1), (ends[1], 2), (first, 7))
    made = list(stream.open())
    wanted = {INBOUND: b"", OUTBOUND: b""}
    for direction, size in steps:
        data = bytes(range(256)) * (size // 256) + bytes(size % 256)
        wanted[direction] += data
        made += stream.send(direction, data)
    made += [*stream.end(INBOUND), *stream.end(OUTBOUND)]
    packets = [read_packet(encode_packet(packet, 0)[8:-4]) for packet in made]
    assert all(packet.sound for packet in packets)
    for direction in (INBOUND, OUTBOUND):
        assert read_stream(packets, direction) == wanted[direction]


# ==== 3. When it is too much ==============================================


class Valve:
    """Lets a tape's thread consume when it is opened."""

    def __init__(self, limit: int, patience: float = 0.0) -> None:
        self.open = threading.Event()
        self.busy = threading.Event()
        self.records: list[Record] = []
        self.tape = Tape("valve", self._consume, limit=limit, patience=patience)
        self.tape.start()

    def _consume(self, records: list[Record]) -> None:
        self.busy.set()
        assert self.open.wait(PATIENCE)
        self.records += records


@pytest.fixture
def valve() -> Iterator[Valve]:
    valve = Valve(limit=10_000)
    yield valve
    valve.open.set()
    valve.tape.stop()


def test_what_does_not_fit_on_a_tape_is_counted_and_nobody_waits(valve: Valve) -> None:
    flow = Flow(valve.tape)
    for _ in range(100):
        flow.sent(bytes(1000))
    assert valve.tape.is_behind
    assert valve.tape.lost_records == 92
    assert valve.tape.lost_bytes == 92_000


def test_the_next_record_of_a_flow_says_what_was_lost_before(valve: Valve) -> None:
    flow, other = Flow(valve.tape), Flow(valve.tape)
    flow.sent(bytes(9000))
    flow.sent(bytes(3000))
    flow.received(bytes(1000))
    flow.received(bytes(1000))
    valve.open.set()
    wait_until(lambda: len(valve.records) == 1)
    wait_until(lambda: not valve.tape.is_behind)
    other.sent(b"other")
    flow.received(b"next")
    flow.received(b"last")
    wait_until(lambda: len(valve.records) == 4)
    losses = [(record[3], record[4]) for record in valve.records[1:]]
    assert losses == [
        (b"other", {}),
        (b"next", {Event.SENT: (1, 3000), Event.RECEIVED: (2, 2000)}),
        (b"last", {}),
    ]


def test_a_tape_that_was_full_takes_again_when_there_is_room(valve: Valve) -> None:
    flow = Flow(valve.tape)
    for _ in range(20):
        flow.sent(bytes(1000))
    lost = valve.tape.lost_records
    valve.open.set()
    wait_until(lambda: not valve.tape.is_behind)
    flow.sent(bytes(1000))
    wait_until(lambda: len(valve.records) == 21 - lost)
    assert valve.tape.lost_records == lost


@pytest.mark.slow
def test_a_loss_leaves_a_gap_in_the_sequence_numbers_and_is_told(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with recording(path, tape_size=100_000, waits=False) as recorder:
        session = open_session(recorder)
        session.send(b"before")
        session.send(bytes(200_000))
        session.receive(bytes(150_000))
        session.send(b"after")
    before, after = [packet for packet in read_packets(path) if packet.payload]
    assert after.payload == b"after"
    assert after.number == before.number + len(b"before") + 200_000
    assert after.answer == before.answer + 150_000
    assert after.comment == "350000 bytes before this packet were lost."
    assert after.dropped == 2 and before.dropped == 0
    statistics = read_options(read_blocks(path.read_bytes())[-1].body[12:])
    assert int.from_bytes(statistics[5], "little") == 2
    assert b"2 records of 350000 bytes were lost" in statistics[1]
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == [
        "recording: 2 records of 350000 bytes were lost; they came too fast"
    ]
    assert "wasn't captured" in "".join(find_faults(path))


def test_a_loss_is_told_by_the_next_packet_also_if_an_event_without_one_comes_first(
    path: Path,
) -> None:
    """Case 22: the comment went with the record behind the gap, which may make no packet."""
    with recording(path, tape_size=100_000, waits=False) as recorder:
        session = open_session(recorder)
        session.send(bytes(200_000))
        session.flow.note(Event.SECURED)
        session.receive(b"after")
    (after,) = [packet for packet in read_packets(path) if packet.payload]
    assert (after.comment, after.dropped) == ("200000 bytes before this packet were lost.", 1)


def test_who_brings_more_than_fits_waits_and_nothing_is_lost() -> None:
    """Case 22: a message of 20 MB left a hole of megabytes in the recording."""
    valve = Valve(limit=10_000, patience=PATIENCE)
    flow = Flow(valve.tape)
    sender = threading.Thread(target=lambda: [flow.sent(bytes(1000)) for _ in range(100)])
    sender.start()
    wait_until(lambda: valve.tape.is_behind)
    assert sender.is_alive()
    valve.open.set()
    sender.join()
    valve.tape.stop()
    assert (len(valve.records), valve.tape.lost_records) == (100, 0)


def test_what_is_larger_than_a_tape_fits_on_an_empty_one() -> None:
    valve = Valve(limit=10_000, patience=PATIENCE)
    valve.open.set()
    flow = Flow(valve.tape)
    for _ in range(3):
        flow.sent(bytes(50_000))
    valve.tape.stop()
    assert (len(valve.records), valve.tape.lost_records) == (3, 0)


def test_a_disk_that_takes_nothing_is_waited_for_but_once() -> None:
    """A hung disk must not hang play for ever: after that wait all is lost, told, at once."""
    valve = Valve(limit=10_000, patience=0.2)
    flow = Flow(valve.tape)
    for _ in range(1000):  # with a wait for each of them this would take 200 s
        flow.sent(bytes(1000))
    assert valve.tape.lost_records == 992
    valve.open.set()
    wait_until(lambda: not valve.tape.is_behind)
    flow.received(b"next")
    valve.tape.stop()
    assert valve.records[-1][3:] == (b"next", {Event.SENT: (992, 992_000)})


def test_the_end_of_a_recording_lets_go_who_waits() -> None:
    valve = Valve(limit=10_000, patience=PATIENCE * 10)
    flow = Flow(valve.tape)
    sender = threading.Thread(target=lambda: [flow.sent(bytes(1000)) for _ in range(100)])
    sender.start()
    wait_until(lambda: valve.tape.is_behind)
    stopper = threading.Thread(target=valve.tape.stop)
    stopper.start()
    sender.join(PATIENCE)
    assert not sender.is_alive()
    valve.open.set()
    stopper.join()


def test_ends_of_connections_are_recorded_also_when_data_is_lost(valve: Valve) -> None:
    flow = Flow(valve.tape)
    flow.sent(bytes(9500))
    flow.sent(bytes(1000))
    flow.note(Event.CLOSED)
    valve.open.set()
    wait_until(lambda: len(valve.records) == 2)
    assert valve.records[-1][2] is Event.CLOSED


def test_a_second_recorder_is_refused_and_the_first_goes_on(path: Path) -> None:
    """Case 22: two servers at one file wrote into each other's blocks."""
    for options in ({}, {"max_size": 100_000, "max_files": 3}):
        with recording(path, **options) as recorder:
            session = open_session(recorder)
            session.send(b"before")
            with pytest.raises(OSError, match="another server records into this file"):
                Recorder(str(path))
            session.send(b"after")
        assert [p.payload for p in read_packets(path) if p.payload] == [b"before", b"after"]


def test_a_file_in_turn_is_locked_before_and_after_it_is_turned_over(path: Path) -> None:
    with recording(path, max_size=100_000, max_files=3) as recorder:
        session = open_session(recorder)
        for number in range(30):
            session.send(bytes([number]) * 10_000)
            with pytest.raises(OSError, match="another server"):
                Recorder(str(path))
        wait_until(lambda: path.with_name("play.2.pcapng").exists())
        with pytest.raises(OSError, match="another server"):
            Recorder(str(path))


@pytest.mark.slow
def test_nobody_takes_the_file_while_it_is_turned_over(path: Path) -> None:
    """Between its old name and its new one there was none, and whoever came then had it."""
    taken: list[int] = []
    done = threading.Event()

    def try_on() -> None:
        while not done.is_set():
            with contextlib.suppress(OSError):
                taken.append(open_capture(path))

    file = CaptureFile(str(path), b"header", max_size=MIN_FILE_SIZE, max_files=3)
    rival = threading.Thread(target=try_on)
    rival.start()
    try:
        for number in range(400):
            file.write(bytes([number % 256]) * MIN_FILE_SIZE)
    finally:
        done.set()
        rival.join()
        file.close()
    assert taken == []
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "play.1.pcapng",
        "play.2.pcapng",
        "play.pcapng",
    ]


def test_no_recorder_turns_over_a_file_that_another_writes(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with recording(path.with_name("play.1.pcapng")) as other:
        with pytest.raises(OSError, match="another server"):
            Recorder(str(path), max_size=100_000, max_files=2)
        open_session(other).send(b"mine")
    assert [p.payload for p in read_packets(path.with_name("play.1.pcapng")) if p.payload]
    with recording(path, max_size=100_000, max_files=2) as recorder:
        session = open_session(recorder)
        with recording(path.with_name("play.1.pcapng")) as other:
            for _ in range(30):
                session.send(bytes(10_000))
            wait_until(lambda: recorder._failed)
            open_session(other).send(b"mine")
    assert read_packets(path.with_name("play.1.pcapng"))[-1].payload == b"mine"
    assert "another server records into this file" in caplog.text


def test_files_are_written_in_turn_and_the_oldest_is_thrown_away(path: Path) -> None:
    with recording(path, max_size=100_000, max_files=3) as recorder:
        session = open_session(recorder)
        for number in range(60):
            session.send(bytes([number]) * 10_000)
    names = sorted(p.name for p in path.parent.iterdir())
    assert names == ["play.1.pcapng", "play.2.pcapng", "play.pcapng"]
    newest_last = [path.with_name(name) for name in ("play.2.pcapng", "play.1.pcapng")] + [path]
    sizes = [p.stat().st_size for p in newest_last]
    assert max(sizes) <= 100_000 and min(sizes[:2]) > 80_000
    packets = [packet for p in newest_last for packet in read_packets(p)]
    payloads = [packet.payload for packet in packets if packet.payload]
    numbers = [payload[0] for payload in payloads]
    assert numbers == list(range(numbers[0], 60))
    assert read_stream(packets, OUTBOUND) == b"".join(payloads)


def test_a_pipe_cannot_be_turned_over_and_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.pcapng"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(OSError, match="only a file can be turned over"):
            Recorder(str(pipe), max_size=64 * 1024, max_files=2)
        with recording(pipe, max_size=64 * 1024) as recorder:
            open_session(recorder)
        assert len(read_blocks(os.read(reader, 100_000))) > 3
    finally:
        os.close(reader)


def test_files_in_turn_stand_where_a_link_leads(tmp_path: Path) -> None:
    """Else the rest of a recording fills the disk that the link stands on."""
    disk = tmp_path / "large disk"
    disk.mkdir()
    link = tmp_path / "play.pcapng"
    link.symlink_to(disk / "today.pcapng")
    with recording(link, max_size=100_000, max_files=2) as recorder:
        session = open_session(recorder)
        for _ in range(30):
            session.send(bytes(10_000))
    assert sorted(p.name for p in disk.iterdir()) == ["today.1.pcapng", "today.pcapng"]
    assert sorted(tmp_path.iterdir()) == [disk, link] and link.is_symlink()


def test_one_file_that_is_full_ends_the_recording_and_that_is_said_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with recording(path, max_size=100_000) as recorder:
        session = open_session(recorder)
        for _ in range(3):
            for _ in range(20):
                session.send(bytes(10_000))
            wait_until(lambda: recorder._failed)
    assert [p.name for p in path.parent.iterdir()] == ["play.pcapng"]
    assert 80_000 < path.stat().st_size <= 100_000
    assert len(read_packets(path)) > 8
    comment = read_options(read_blocks(path.read_bytes())[-1].body[12:])[1]
    assert comment == b"The file is full: the recording ends here, the traffic did not."
    told = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert told == [f"the recording ends: {path} has reached its size"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a disk that is always full")
def test_a_full_disk_ends_the_recording_and_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    recorder = Recorder("/dev/full")
    session = open_session(recorder)
    wait_until(lambda: recorder._failed)
    session.send(b"play goes on")
    recorder.close()
    told = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(told) == 1 and "No space left" in told[0]


def test_without_memory_the_recording_ends_and_nobody_waits_for_it(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread was gone, play stood still for the disk, and what was lost was told as nothing."""
    recorder = Recorder(str(path), tape_size=100_000)
    session = open_session(recorder)
    session.send(b"recorded")
    wait_until(lambda: len(read_packets(path)) == 4)
    with monkeypatch.context() as patch:
        patch.setattr(CaptureFile, "write", Mock(side_effect=MemoryError))
        session.send(b"not recorded")
        wait_until(lambda: recorder._tape._stopping)
    for _ in range(100):
        session.send(bytes(10_000))
    assert recorder._tape.lost_records == 0, "it was still put on the tape, or waited for"
    recorder.close()
    assert [packet.payload for packet in read_packets(path)[3:]] == [b"recorded"]
    told = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert told == ["the recording ends: the system is out of memory"]


def run_recorder(path: str, code: str, **options: object) -> subprocess.Popen[bytes]:
    """Start a process that has a `recorder` and a `session`, and runs some code."""
    program = (
        "import sys, time\n"
        "from tests.capture import open_session\n"
        "from net.pcapng import Recorder\n"
        f"recorder = Recorder({path!r})\n"
        f"session = open_session(recorder)\n{code}"
    )
    return subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, **options)  # type: ignore


@pytest.mark.slow
def test_a_block_that_did_not_fit_on_the_disk_is_taken_back(path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    code = "for _ in range(300): session.send(bytes(1000)); time.sleep(0.001)\nrecorder.close()"
    process = run_recorder(str(path), code, preexec_fn=limit, stderr=subprocess.PIPE)
    _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert told.count(b"the recording ends") == 1
    assert len(read_packets(path)) > 10


@pytest.mark.slow
def test_whole_blocks_for_which_a_disk_has_room_are_kept(path: Path) -> None:
    """Up to 256 KiB are handed over in one piece: the last things that fitted were taken back."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    code = "session.send(bytes(1000))\n" * 300 + "recorder.close()"
    process = run_recorder(str(path), code, preexec_fn=limit, stderr=subprocess.PIPE)
    _, told = process.communicate(timeout=PATIENCE)
    assert told.count(b"the recording ends") == 1
    assert len(read_packets(path)) > 80


@pytest.mark.slow
def test_a_file_is_valid_after_a_kill(path: Path) -> None:
    code = "while True: session.send(bytes(3000)); time.sleep(0.0001)"
    process = run_recorder(str(path), code)
    try:
        wait_until(lambda: path.exists() and path.stat().st_size > 500_000, timeout=PATIENCE)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE)
    path.write_bytes(whole_blocks(path.read_bytes()))  # the last may break off
    assert set(read_stream(read_packets(path), OUTBOUND)) == {0}


@pytest.mark.slow
def test_a_capture_can_go_to_standard_output() -> None:
    code = "session.send(b'x' * 300_000)\nrecorder.close()"
    process = run_recorder("-", code, stdout=subprocess.PIPE)
    data, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    packets = [read_packet(block.body) for block in read_blocks(data) if block.kind == PACKET]
    assert read_stream(packets, OUTBOUND) == b"x" * 300_000


@pytest.mark.slow
def test_when_the_reader_of_a_pipe_goes_the_recording_ends_and_the_process_does_not() -> None:
    code = (
        "import logging; logging.basicConfig()\n"
        "while not recorder._failed: session.send(bytes(10_000)); time.sleep(0.001)\n"
        "recorder.close()"
    )
    process = run_recorder("-", code, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    told = process.stderr.read()
    process.stderr.close()
    assert process.wait(PATIENCE) == 0
    assert told.count(b"the recording ends") == 1 and b"Traceback" not in told


def test_a_full_file_keeps_room_for_its_last_block(path: Path) -> None:
    file = CaptureFile(str(path), bytes(100), max_size=100_000, max_files=2)
    file.write(bytes(99_644))
    file.write_trailer(bytes(256))
    file.close()
    assert path.stat().st_size == 100_000
    assert list(path.parent.iterdir()) == [path]


def test_of_many_files_only_those_that_are_there_are_turned_over(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --pcapfiles 100000, to keep all, each full file held up play for seconds."""
    ages: list[int] = []
    older = CaptureFile._older

    def count(file: CaptureFile, age: int) -> Path:
        ages.append(age)
        return older(file, age)

    monkeypatch.setattr(CaptureFile, "_older", count)
    file = CaptureFile(str(path), b"header", max_size=MIN_FILE_SIZE, max_files=1000)
    for number in range(1, 5):
        file.write(bytes([number]) * (MIN_FILE_SIZE // 2 + 1))
    file.flush()
    file.close()
    names = ["play.pcapng", "play.1.pcapng", "play.2.pcapng", "play.3.pcapng"]
    assert [path.with_name(name).read_bytes()[6] for name in names] == [4, 3, 2, 1]
    assert max(ages) < 10


def test_no_file_is_larger_than_the_smallest_that_is_allowed(path: Path) -> None:
    """One full packet was longer than that: alone in its file, it made that too large."""
    with recording(path, max_size=MIN_FILE_SIZE, max_files=10) as recorder:
        open_session(recorder, ("2001:db8::9", 1)).send(bytes(200_000))
    files = list(path.parent.iterdir())
    assert max(file.stat().st_size for file in files) <= MIN_FILE_SIZE
    packets = [packet for file in sorted(files) for packet in read_packets(file)]
    assert sum(len(packet.payload) for packet in packets) == 200_000


def count_waiting(pipe: IO[bytes]) -> int:
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


@pytest.mark.slow
def test_an_output_that_does_not_wait_is_waited_for() -> None:
    """Who had started the server had made it so, and the recording ended as soon as it was full."""
    code = (
        "import logging, os\nlogging.basicConfig()\n"
        "assert not os.get_blocking(recorder._file._descriptor)\n"
        "session.send(b'x' * 300_000)\nrecorder.close()"
    )
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    process = run_recorder("-", code, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert process.stderr is not None
    with process.stderr, open(reader, "rb") as output:
        wait_until(lambda: count_waiting(output) > 60_000)
        data = output.read()
        assert process.stderr.read() == b""
    assert process.wait(PATIENCE) == 0
    packets = [read_packet(block.body) for block in read_blocks(data) if block.kind == PACKET]
    assert read_stream(packets, OUTBOUND) == b"x" * 300_000


# ==== 4. Taps =============================================================


class Ends:
    """A connection: what the server has of it is tapped, and recorded into a file."""

    def __init__(self, path: Path, context: ssl.SSLContext | None = None) -> None:
        self.path = path
        self.recorder = Recorder(str(path))
        self.taps = Taps(recorder=self.recorder)
        if context is not None:
            self.taps.watch(context)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.client = socket.create_connection(listener.getsockname())
            sock, self.peer = listener.accept()
        self.server = self.taps.wrap(sock)
        self._finished = False

    def begin(self) -> None:
        self.taps.begin(self.server, self.peer)

    def finish(self) -> list[Packet]:
        """Close all, and return what was recorded."""
        self.server.close()
        self.client.close()
        if not self._finished:
            self.taps.close()
        self._finished = True
        return read_packets(self.path)


@pytest.fixture
def ends(path: Path) -> Iterator[Ends]:
    ends = Ends(path)
    yield ends
    ends.finish()


def test_a_tapped_socket_records_all_ways_to_send_and_to_receive(
    ends: Ends, tmp_path: Path
) -> None:
    ends.begin()
    ends.client.sendall(b"question")
    assert ends.server.recv(100) == b"question"
    assert ends.server.send(b"one ") == 4
    assert ends.server.send(memoryview(b"two ")) == 4
    ends.server.sendall(bytearray(b"three "))
    assert ends.server.sendmsg([b"fo", b"ur "], (), socket.MSG_DONTWAIT) == 5
    file = tmp_path / "file"
    file.write_bytes(b"--five --")
    with file.open("rb") as opened:
        assert ends.server.sendfile(opened, 2, 5) == 5
    assert ends.client.recv(100) == b"one two three four five "
    packets = ends.finish()
    assert read_stream(packets, INBOUND) == b"question"
    assert read_stream(packets, OUTBOUND) == b"one two three four five "


def test_only_what_the_kernel_took_is_recorded(ends: Ends) -> None:
    ends.begin()
    ends.server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 10_000)
    data = os.urandom(8_000_000)
    sent = ends.server.send(data, socket.MSG_DONTWAIT)
    assert 0 < sent < len(data)
    with contextlib.suppress(BlockingIOError):
        sent += ends.server.sendmsg([data[sent:], data], (), socket.MSG_DONTWAIT)
    ends.client.setblocking(True)
    ends.server.shutdown(socket.SHUT_WR)
    received = b""
    while piece := ends.client.recv(1_000_000):
        received += piece
    assert read_stream(ends.finish(), OUTBOUND) == received


def test_without_memory_for_a_record_nothing_is_sent_twice(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error came when the kernel had the bytes already, and so they were sent once more."""
    ends.begin()
    put, failures = Tape.put, iter((MemoryError, None, RuntimeError("can't allocate lock")))

    def put_later(tape: Tape, flow: Flow, event: Event, data: bytes) -> None:
        if event is Event.SENT and (failure := next(failures, None)) is not None:
            raise failure
        put(tape, flow, event, data)

    monkeypatch.setattr(Tape, "put", put_later)
    assert ends.server.sendmsg([memoryview(b"one "), bytearray(b"two ")], (), 0) == 8
    assert ends.server.send(b"three ") == 6
    ends.server.sendall(b"four ")
    assert ends.server.send(b"five ") == 5
    assert ends.client.recv(100) == b"one two three four five "
    packets = [packet for packet in ends.finish() if packet.payload]
    assert [packet.payload for packet in packets] == [b"three ", b"five "]
    assert [packet.dropped for packet in packets] == [1, 1]
    assert packets[1].number - packets[0].number == len(b"three four ")


@pytest.mark.slow
def test_an_answer_stands_behind_what_it_answers_however_fast_it_comes(ends: Ends) -> None:
    """Case 22: what one thread sends is answered before that thread has noted what it has sent."""
    ends.begin()
    rounds = 2000

    def answer() -> None:
        for _ in range(rounds):
            ends.client.sendall(ends.client.recv(100))

    def send() -> None:
        for number in range(rounds):
            turn.acquire()
            ends.server.send(b"%6d" % number, socket.MSG_DONTWAIT)

    turn = threading.Semaphore(1)
    threads = [threading.Thread(target=answer), threading.Thread(target=send)]
    for thread in threads:
        thread.start()
    for _ in range(rounds):
        ends.server.recv(100)
        turn.release()
    for thread in threads:
        thread.join()
    talk = [packet for packet in ends.finish() if packet.payload]
    assert [packet.direction for packet in talk] == [OUTBOUND, INBOUND] * rounds
    assert [packet.payload for packet in talk[::2]] == [packet.payload for packet in talk[1::2]]


def test_what_came_before_the_tap_is_recorded_as_received(ends: Ends) -> None:
    ends.taps.begin(ends.server, ("192.0.2.9", 7), early=b"early ")
    ends.client.sendall(b"late")
    ends.server.recv(100)
    packets = ends.finish()
    assert read_stream(packets, INBOUND) == b"early late"
    assert packets[0].source == b"\xc0\0\2\x09".rjust(len(packets[0].source), b"\0")


def test_a_peer_that_ends_is_told_from_one_that_resets(path: Path) -> None:
    for linger, flag in ((0, FIN | ACK), (1, RST | ACK)):
        ends = Ends(path)
        ends.begin()
        ends.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", linger, 0))
        ends.client.close()
        with contextlib.suppress(ConnectionResetError):
            assert ends.server.recv(100) == b""
        assert (1, flag) in flags_of(ends.finish())


@pytest.mark.parametrize("way", ["send", "sendall", "sendmsg"])
def test_a_reset_of_which_sending_tells_is_recorded_as_one(ends: Ends, way: str) -> None:
    """The kernel tells but once: to who received after that, the peer had closed its side."""
    ends.begin()
    ends.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    ends.client.close()
    with pytest.raises(ConnectionResetError):
        getattr(ends.server, way)([b"x"] if way == "sendmsg" else b"x")
    assert ends.server.recv(100) == b""
    ends.server.close()
    assert flags_of(ends.finish())[3:] == [(1, RST | ACK)]


def test_a_reset_behind_the_end_of_the_peer_is_recorded_as_one(ends: Ends) -> None:
    """Of this one the kernel tells by a broken pipe, as of what we send behind our own end."""
    ends.begin()
    ends.client.close()
    ends.server.send(b"x")
    wait_until(lambda: is_hung_up(ends.server))
    with pytest.raises(BrokenPipeError):
        ends.server.send(b"y")
    ends.server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    ends.server.close()
    assert flags_of(ends.finish())[3:] == [(2, PSH | ACK), (1, RST | ACK)]


def break_off(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.parametrize("way", ["close", "break off", "close behind our end"])
def test_a_reset_that_nobody_has_heard_of_is_the_peers(ends: Ends, way: str) -> None:
    """Nothing was received or sent behind it: it was recorded as our end, or as our reset."""
    ends.begin()
    if way == "close behind our end":
        ends.server.shutdown(socket.SHUT_WR)
    break_off(ends.client)
    wait_until(lambda: is_hung_up(ends.server))
    if way == "break off":
        break_off(ends.server)
    ours = [(2, FIN | ACK)] if way == "close behind our end" else []
    assert flags_of(ends.finish())[3:] == [*ours, (1, RST | ACK)]


def test_a_reset_behind_an_end_of_which_nobody_has_heard_is_recorded_with_it(ends: Ends) -> None:
    ends.begin()
    ends.client.close()
    ends.server.send(b"x")
    wait_until(lambda: is_hung_up(ends.server))
    ends.server.close()
    assert flags_of(ends.finish())[3:] == [(2, PSH | ACK), (1, FIN | ACK), (1, RST | ACK)]


def test_a_reset_of_which_the_end_of_our_side_tells_is_the_peers(ends: Ends) -> None:
    """It came between our last use of the connection and our end: it was recorded as our reset."""
    ends.begin()
    ends.client.close()
    assert ends.server.recv(100) == b""
    ends.server.send(b"x")
    wait_until(lambda: is_hung_up(ends.server))
    with pytest.raises(OSError):
        ends.server.shutdown(socket.SHUT_RDWR)
    break_off(ends.server)
    assert flags_of(ends.finish())[3:] == [(1, FIN | ACK), (2, PSH | ACK), (1, RST | ACK)]


def test_an_end_of_the_peer_that_nobody_has_received_stands_before_ours(ends: Ends) -> None:
    ends.begin()
    ends.client.shutdown(socket.SHUT_WR)
    wait_until(lambda: can_be_read(ends.server))
    assert flags_of(ends.finish())[3:] == [(1, FIN | ACK), (2, FIN | ACK), (1, ACK)]


@pytest.mark.skipif(sys.platform != "linux", reason="others close with a FIN")
def test_to_close_with_bytes_unread_is_recorded_as_the_reset_that_it_is(ends: Ends) -> None:
    ends.begin()
    ends.client.sendall(b"never read")
    wait_until(lambda: can_be_read(ends.server))
    ends.server.close()
    with pytest.raises(ConnectionResetError):
        ends.client.recv(100)
    assert flags_of(ends.finish())[3:] == [(2, RST | ACK)]


def can_be_read(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 0)[0])


def is_hung_up(sock: socket.socket) -> bool:
    poller = select.poll()
    poller.register(sock, 0)
    return bool(poller.poll(0))


def test_what_is_sent_behind_our_own_end_is_no_reset(ends: Ends) -> None:
    ends.begin()
    ends.server.shutdown(socket.SHUT_WR)
    with pytest.raises(BrokenPipeError):
        ends.server.send(b"x")
    assert flags_of(ends.finish())[3:] == [(2, FIN | ACK)]


def test_our_own_end_is_not_taken_for_the_peers(ends: Ends) -> None:
    ends.begin()
    ends.server.shutdown(socket.SHUT_RDWR)
    assert ends.server.recv(100) == b""
    assert flags_of(ends.finish())[3:] == [(2, FIN | ACK)]


def test_a_connection_that_we_break_off_ends_with_a_reset(ends: Ends) -> None:
    ends.begin()
    ends.server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    ends.server.close()
    ends.server.close()
    assert flags_of(ends.finish())[3:] == [(2, RST | ACK)]


def test_before_it_begins_a_tapped_socket_records_nothing(ends: Ends) -> None:
    ends.client.sendall(b"PROXY header")
    ends.server.recv(100)
    assert ends.finish() == []


def test_a_tapped_socket_keeps_the_descriptor(ends: Ends) -> None:
    plain, other = socket.socketpair()
    number = plain.fileno()
    with other, TappedSocket(plain) as tapped:
        assert tapped.fileno() == number and plain.fileno() == -1


def test_who_shuts_the_receiving_side_waits_for_no_sender() -> None:
    """At the server's end, that of a slow client held the end up for as long as it was sent to."""
    ours, theirs = socket.socketpair()
    has_shut = threading.Event()
    with theirs, TappedSocket(ours) as tapped:

        def send() -> None:
            with contextlib.suppress(OSError):
                tapped.sendall(bytes(1 << 28))  # more than any buffer takes

        def shut() -> None:
            tapped.shutdown(socket.SHUT_RD)
            has_shut.set()

        threads = [threading.Thread(target=function) for function in (send, shut)]
        threads[0].start()
        assert theirs.recv(1) == b"\0"
        threads[1].start()
        in_time = has_shut.wait(PATIENCE)
        theirs.close()
        for thread in threads:
            thread.join()
    assert in_time


# ==== 5. TLS ==============================================================


def make_context(certs: Certificates) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certs.cert("server"), certs.key("server"))
    return context


class TlsEnds(Ends):
    """A connection that speaks TLS, its handshake made."""

    def __init__(self, path: Path, certs: Certificates, version: ssl.TLSVersion) -> None:
        self.context = make_context(certs)
        super().__init__(path, self.context)
        trust = certs.trust()
        trust.maximum_version = version
        self.server_tls, self.client_tls = self.shake_hands(self.server, self.client, trust)

    def shake_hands(
        self, server: socket.socket, client: socket.socket, trust: ssl.SSLContext
    ) -> tuple[TlsSocket, ssl.SSLSocket]:
        done: list[TlsSocket] = []

        def serve() -> None:
            tls = self.taps.begin(server, self.peer, self.context)
            assert tls is not None
            is_over = False
            while not is_over:
                is_over, reply = tls.advance_handshake(server.recv(65536))
                server.sendall(reply)
            done.append(TlsSocket(server, tls))

        thread = threading.Thread(target=serve)
        thread.start()
        wrapped = trust.wrap_socket(client, server_hostname="localhost")
        thread.join(PATIENCE)
        return done[0], wrapped

    def exchange(self, data: bytes, *, back: bytes = b"") -> None:
        """Let the client send data, and the server answer."""
        self.client_tls.sendall(data)
        received = b""
        while len(received) < len(data):
            received += self.server_tls.recv(65536)
        assert received == data
        self.server_tls.sendall(back)
        received = b""
        while len(received) < len(back):
            received += self.client_tls.recv(65536)
        assert received == back

    def finish(self) -> list[Packet]:
        self.client_tls.close()
        return super().finish()


class Tunnel(Session):
    """A session whose bytes go through TLS."""

    def __init__(self, ends: TlsEnds) -> None:
        self._ends = ends

    def receive(self, data: bytes) -> None:
        self._ends.exchange(data)

    def send(self, data: bytes) -> None:
        self._ends.exchange(b"", back=data)


@pytest.mark.slow
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_is_recorded_with_its_keys_and_can_be_read(
    path: Path, certs: Certificates, version: ssl.TLSVersion
) -> None:
    ends = TlsEnds(path, certs, version)
    tunnel = Tunnel(ends)
    tunnel.upgrade("/secret")
    tunnel.receive(from_client(Opcode.TEXT, b"hidden question"))
    tunnel.send(encode_frame(Opcode.TEXT, b"hidden answer " + b"x" * 70_000))
    ends.finish()
    assert b"hidden" not in path.read_bytes()
    kinds = [block.kind for block in read_blocks(path.read_bytes())]
    assert kinds[2] == SECRETS and kinds[3:-1] == [PACKET] * (len(kinds) - 4)
    assert find_faults(path) == []
    assert read_fields(path, "http.request.uri") == ["/secret"]
    texts = read_fields(path, "websocket.payload.text")
    assert texts[0] == "hidden question"
    assert texts[1].startswith("hidden answer xxx")


@pytest.mark.slow
def test_keys_of_connections_that_overlap_stand_before_each_ones_packets(
    path: Path, certs: Certificates
) -> None:
    ends = TlsEnds(path, certs, ssl.TLSVersion.TLSv1_3)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        sock, ends.peer = listener.accept()
    Tunnel(ends).upgrade("/first")
    wait_until(lambda: b"TRAFFIC_SECRET" in path.read_bytes())
    server = ends.taps.wrap(sock)
    first = (ends.server_tls, ends.client_tls)
    second = ends.shake_hands(server, client, certs.trust())
    ends.server_tls, ends.client_tls = second
    Tunnel(ends).upgrade("/second")
    ends.server_tls, ends.client_tls = first
    Tunnel(ends).receive(from_client(Opcode.TEXT, b"and back"))
    second[1].close()
    server.close()
    ends.finish()
    assert read_fields(path, "http.request.uri") == ["/first", "/second"]
    assert len([block for block in read_blocks(path.read_bytes()) if block.kind == SECRETS]) == 2
    assert find_faults(path) == []


def test_a_key_log_of_the_environment_gets_the_keys_too(
    path: Path, certs: Certificates, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    context = make_context(certs)
    monkeypatch.delenv("SSLKEYLOGFILE")
    monkeypatch.setattr(sys.modules[__name__], "make_context", lambda certs: context)
    ends = TlsEnds(path, certs, ssl.TLSVersion.TLSv1_3)
    ends.exchange(b"x")
    ends.finish()
    secrets = [b.body[8:] for b in read_blocks(path.read_bytes()) if b.kind == SECRETS]
    lines = [line for line in (tmp_path / "keys").read_bytes().splitlines() if line[:1] != b"#"]
    assert len(lines) == 5
    assert b"\n".join(lines) in secrets[0]


def test_a_tls_handshake_that_never_ends_is_written_when_the_connection_does(
    path: Path,
) -> None:
    with recording(path) as recorder:
        recorder.log_keys(ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))
        flow = recorder.open(CLIENT, SERVER, tls=True)
        session = Session(flow)
        session.receive(b"\x16\x03\x01 a hello")
        open_session(recorder, ("192.0.2.3", 1)).send(b"meanwhile")
        flow.note(Event.CLOSED)
    payloads = [packet.payload for packet in read_packets(path) if packet.payload]
    assert payloads == [b"meanwhile", b"\x16\x03\x01 a hello"]


def test_packets_of_a_tls_handshake_are_not_held_back_without_limit(path: Path) -> None:
    with recording(path) as recorder:
        recorder.log_keys(ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))
        session = Session(recorder.open(CLIENT, SERVER, tls=True))
        session.receive(bytes(MAX_HELD + 1))
        wait_until(lambda: path.stat().st_size > MAX_HELD)
        session.receive(b"more")
    assert read_packets(path)[-1].payload == b"more"


def test_what_is_held_back_at_the_end_is_written(path: Path) -> None:
    with recording(path) as recorder:
        recorder.log_keys(ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))
        Session(recorder.open(CLIENT, SERVER, tls=True)).receive(b"hello?")
    assert read_packets(path)[-1].payload == b"hello?"


def test_what_is_held_back_at_the_end_and_does_not_fit_is_told_in_the_file(path: Path) -> None:
    """The file broke off there, as if the server had been killed."""
    with recording(path, max_size=MIN_FILE_SIZE) as recorder:
        recorder.log_keys(ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))
        Session(recorder.open(CLIENT, SERVER, tls=True)).receive(bytes(10_000))
        open_session(recorder).send(bytes(60_000))
    last = read_blocks(path.read_bytes())[-1]
    assert last.kind == STATISTICS
    comment = read_options(last.body[12:])[1]
    assert comment == b"The file is full: the recording ends here, the traffic did not."
    assert path.stat().st_size <= MIN_FILE_SIZE


def write_keys(context: ssl.SSLContext, certs: Certificates) -> bytes:
    """Make a TLS handshake in memory; return what the client sends first."""
    buffers = [ssl.MemoryBIO() for _ in range(4)]
    server = context.wrap_bio(buffers[0], buffers[1], server_side=True)
    client = certs.trust().wrap_bio(buffers[2], buffers[3], server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    hello = buffers[3].read()
    buffers[0].write(hello)
    for _ in range(3):
        for side, output, peer in ((server, 1, 2), (client, 3, 0)):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
            buffers[peer].write(buffers[output].read())
    return hello


def test_in_each_file_stand_the_keys_of_the_handshakes_that_stand_there(
    path: Path, certs: Certificates
) -> None:
    """Keys stood before the first handshake that ended, maybe in a file before that of their own:
    whoever had that one alone could not decrypt it."""
    context = make_context(certs)
    with recording(path, max_size=100_000, max_files=3) as recorder:
        recorder.log_keys(context)
        early, late = (Session(recorder.open((CLIENT[0], n), SERVER, tls=True)) for n in (1, 2))
        hellos = [write_keys(context, certs) for _ in range(2)]
        for session, hello in zip((early, late), hellos, strict=True):
            session.receive(hello)
        early.flow.note(Event.SECURED)
        early.send(bytes(60_000))
        early.send(bytes(60_000))
        wait_until(path.with_name("play.1.pcapng").exists)
        late.flow.note(Event.SECURED)
    for name, hello in zip(("play.1.pcapng", "play.pcapng"), hellos, strict=True):
        blocks = read_blocks(path.with_name(name).read_bytes())
        keys = b"".join(block.body[8:] for block in blocks if block.kind == SECRETS)
        assert keys.count(hello[11:43].hex().encode()) == keys.count(b"\n") == 5


def test_keys_that_come_too_late_for_their_packets_are_written_all_the_same(path: Path) -> None:
    """They were left to the next handshake, and lost if there was none."""
    hello = bytes(11) + bytes(range(32))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    with recording(path) as recorder:
        recorder.log_keys(context)
        session = Session(recorder.open(CLIENT, SERVER, tls=True))
        session.receive(hello + bytes(MAX_HELD))
        wait_until(lambda: path.stat().st_size > MAX_HELD)
        lines = [b"SECRET %b 00\n" % name for name in (hello[11:].hex().encode(), b"ab" * 32)]
        with open(context.keylog_filename, "ab") as file:
            file.write(b"".join(lines))
        session.flow.note(Event.SECURED)
        session.send(b"more")
    blocks = read_blocks(path.read_bytes())
    keys = [block.body[8:].rstrip(b"\0") for block in blocks if block.kind == SECRETS]
    assert keys == lines


def test_the_key_log_gives_each_key_once_and_is_emptied_when_nobody_writes(
    certs: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scalesocket.net.pcapng.KEYS_SIZE", 1000)
    keys = KeyLog()
    context = make_context(certs)
    keys.watch(context)
    size = lambda: os.fstat(keys._file.fileno()).st_size  # noqa: E731
    keys.begin()
    keys.begin()
    write_keys(context, certs)
    keys.end()
    first = keys.take()
    assert first.count(b"\n") == 5 and keys.take() == b""
    write_keys(context, certs)
    second = keys.take()
    assert size() > 1000, "it may be written to"
    keys.end()
    write_keys(context, certs)
    third = keys.take()
    assert size() == 0
    write_keys(context, certs)
    assert len({first, second, third, keys.take()}) == 4
    keys.close()


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file that can have holes")
def test_the_key_log_does_not_grow_while_some_handshake_is_always_under_way(
    certs: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With files in turn (--pcapfiles) the keys of weeks filled the disk on a busy server."""
    monkeypatch.setattr("scalesocket.net.pcapng.KEYS_SIZE", 20_000)
    keys = KeyLog()
    context = make_context(certs)
    keys.watch(context)
    keys.begin()
    found = set()
    for _ in range(80):
        write_keys(context, certs)
        found.add(keys.take())
    facts = os.fstat(keys._file.fileno())
    assert facts.st_size > 60_000 and facts.st_blocks * 512 < 40_000
    assert len(found) == 80 and all(lines.count(b"\n") == 5 for lines in found)
    keys.close()


def test_when_the_recording_has_ended_keys_go_to_the_environments_file_alone(
    path: Path, certs: Certificates, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """They went there no more, and filled a file without a name for as long as the server ran."""
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    context = make_context(certs)
    monkeypatch.delenv("SSLKEYLOGFILE")  # which clients have, too
    monkeypatch.setattr("scalesocket.net.pcapng.KEYS_SIZE", 3_000)
    with recording(path, max_size=100_000) as recorder:
        recorder.log_keys(context)
        open_session(recorder).send(bytes(150_000))
        wait_until(lambda: recorder._keys is not None and recorder._keys._left)
        for number in range(20):
            flow = recorder.open(("192.0.2.3", number + 1), SERVER, tls=True)
            write_keys(context, certs)
            flow.note(Event.SECURED)
        assert recorder._keys is not None
        assert os.fstat(recorder._keys._file.fileno()).st_size < 4_000
    lines = [line for line in (tmp_path / "keys").read_bytes().splitlines() if line[:1] != b"#"]
    assert len(lines) == len(set(lines)) == 20 * 5


def test_the_key_log_leaves_no_file_behind(certs: Certificates, tmp_path: Path) -> None:
    previous, tempfile.tempdir = tempfile.tempdir, str(tmp_path)
    try:
        keys = KeyLog()
    finally:
        tempfile.tempdir = previous
    keys.watch(make_context(certs))
    assert list(tmp_path.iterdir()) == []
    keys.close()


# ==== 6. As Wireshark sees it =============================================


@pytest.mark.slow
@pytest.mark.parametrize(
    ("client", "server"),
    [(CLIENT, SERVER), (("2001:db8::1", 50000), ("2001:db8::2", 9123)), (("unix", 0), None)],
)
def test_wireshark_finds_every_frame_and_no_fault(
    path: Path, client: tuple[str, int], server: tuple[str, int] | None
) -> None:
    with recording(path) as recorder:
        session = open_session(recorder, client, server)
        session.upgrade()
        session.receive(from_client(Opcode.TEXT, b"frag", fin=False))
        session.receive(from_client(Opcode.CONTINUATION, b"ment", fin=True))
        session.send(encode_frame(Opcode.BINARY, bytes(70_000)))
        session.receive(from_client(Opcode.PING, b"?"))
        session.send(encode_frame(Opcode.PONG, b"?"))
        session.close(3000)
    assert find_faults(path) == []
    assert read_fields(path, "websocket.opcode", "websocket.mask", "websocket.payload_length") == [
        "1|1|4",
        "0|1|4",
        "2|0|127",
        "9|1|1",
        "10|0|1",
        "8|1|2",
        "8|0|2",
    ]
    assert read_fields(path, "websocket.payload.close.status_code") == ["3000", "3000"]


@pytest.mark.slow
def test_wireshark_tells_connections_apart_that_overlap(path: Path) -> None:
    with recording(path) as recorder:
        sessions = [open_session(recorder, ("192.0.2.1", 50000 + n)) for n in range(3)]
        for number, session in enumerate(sessions):
            session.upgrade(f"/room{number}")
        for _ in range(3):
            for number, session in enumerate(sessions):
                session.send(encode_frame(Opcode.TEXT, b"%d" % number))
        for session in reversed(sessions):
            session.close()
    assert find_faults(path) == []
    found = read_fields(
        path, "tcp.stream", "websocket.payload.text", wanted="websocket.opcode == 1"
    )
    assert found == ["0|0", "1|1", "2|2"] * 3
    follow = run_tshark(path, "-q", "-z", "follow,tcp,ascii,1")
    assert any("GET /room1" in line for line in follow)
