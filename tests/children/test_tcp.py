"""Children that listen on the TCP port in their variable PORT (--tcp)."""

from __future__ import annotations

import errno
import os
import random
import select
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest
from scalesocket.net.children import PortPool, TcpBackend

from scalesocket import parse_command_line
from tests.support import (
    BINARY,
    PATIENCE,
    TEXT,
    RawClient,
    ServerProcess,
    encode_client_frame,
    encode_client_frames,
    receive_bytes,
    run_cli,
    serve,
    wait_until,
    with_constants,
    worker_number,
)

CHILDREN = "scalesocket.net.children"

pytestmark = pytest.mark.slow  # many servers are started here; --quick leaves them out


# What every child begins with; `accept()` waits for the server.
PROLOGUE = """\
import os, signal, socket, sys, time

signal.signal(signal.SIGINT, signal.SIG_DFL)  # being stopped is worth no traceback

def accept():
    listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
    connection = listener.accept()[0]
    listener.close()
    return connection

"""

ECHO = """\
connection = accept()
while data := connection.recv(65536):
    connection.sendall(data)
"""

# Greets with its port and process ID, then does what its room is named after.
ENDINGS = """\
if os.environ["ROOM"].startswith("unborn"):
    sys.exit(4)
connection = accept()
connection.sendall(f"{os.environ['PORT']} {os.getpid()}\\n".encode())
kind = os.environ["ROOM"].rstrip("0123456789")
if kind == "exit":
    sys.exit(0)
if kind == "fail":
    sys.exit(3)
if kind == "kill":
    os.kill(os.getpid(), 9)
if kind == "hang_up":
    connection.close()
    time.sleep(1000)
if kind == "deaf":
    time.sleep(1000)
while data := connection.recv(65536):
    connection.sendall(data)
"""


def child(source: str) -> tuple[str, ...]:
    """Return the target and arguments that run a Python program, with a quick start."""
    return (sys.executable, "--", "-ISc", PROLOGUE + source)


def tcp(*options: str) -> tuple[str, ...]:
    """Return options of a server that connects to its children as soon as they listen.

    Its ports are its own: another server on this machine would connect to children of this one.
    """
    ports = () if "--tcpports" in options else ("--tcpports", spell(free_ports(20)))
    return ("--tcp", "--delay", "0", *ports, *options)


def free_ports(count: int) -> range:
    """Return a range of ports that can all be had, below those the kernel gives out itself.

    What runs beside this process finds its ports elsewhere: nobody listens at them all the time.
    """
    begin = 20_000 + worker_number() % 10 * 1000
    for _ in range(100):
        first = random.randrange(begin, begin + 900)
        ports = range(first, first + count)
        with ExitStack() as stack:
            try:
                for port in ports:
                    stack.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
        return ports
    raise AssertionError(f"no {count} free ports in a row were found")


def spell(ports: range) -> str:
    """Return a range as --tcpports takes it: both ends included."""
    return f"{ports[0]}:{ports[-1]}"


@pytest.fixture(scope="module")
def echo() -> Iterator[ServerProcess]:
    """A server whose rooms echo lines over TCP."""
    with serve(*tcp("--tcpports", spell(free_ports(20))), *child(ECHO)) as server:
        yield server


def test_messages_go_to_the_child_and_back(echo: ServerProcess) -> None:
    with RawClient.connect(echo, "a") as client:
        for text in ("hello", "", "漢字 🦊", "x" * 300_000):
            client.send_in_background(encode_client_frame(TEXT, text.encode()))
            assert client.receive_text() == text
        burst = [b"%d" % number for number in range(5000)]
        client.send_in_background(encode_client_frames(burst))
        assert client.receive_many(5000) == burst


def test_all_clients_of_a_room_share_one_child_and_one_connection(echo: ServerProcess) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(RawClient.connect(echo, "shared")) for _ in range(3)]
        other = stack.enter_context(RawClient.connect(echo, "another"))
        for client in clients:  # each has come to the room when its own message is back
            client.send_text("here")
            assert client.receive_text() == "here"
        clients[2].send_text("to all")
        for client in clients:
            while client.receive_text() != "to all":
                continue
        other.send_text("apart")
        assert other.receive_text() == "apart"
        wait_until(lambda: len(echo.children()) == 2)  # one of another test may be about to end


def test_the_child_is_given_a_port_of_the_range_in_its_environment() -> None:
    ports = free_ports(2)
    with serve(*tcp("--tcpports", spell(ports)), *child(ENDINGS)) as server, ExitStack() as stack:
        seen = []
        for number in range(2):
            client = stack.enter_context(RawClient.connect(server, f"echo{number}"))
            seen.append(int(client.receive_text().split()[0]))
        assert sorted(seen) == list(ports)


def has_ipv6() -> bool:
    with suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


IPV6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")


@IPV6
def test_a_child_may_listen_at_the_loopback_of_ipv6_alone() -> None:
    """That is what "localhost" is to Node; it was waited for in vain."""
    source = ECHO.replace("accept()", "listener.accept()[0]")
    listen = "socket.create_server(('::1', int(os.environ['PORT'])), family=socket.AF_INET6)"
    with serve(*tcp(), *child(f"listener = {listen}\n{source}")) as server:
        with RawClient.connect(server) as client:
            client.send_text("there")
            assert client.receive_text() == "there"


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=IPV6)])
def test_a_port_that_somebody_else_uses_is_passed_over(host: str) -> None:
    ports = free_ports(2)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with (
        socket.create_server((host, ports[0]), family=family),
        serve(*tcp("--tcpports", spell(ports)), *child(ENDINGS)) as server,
    ):
        for number in range(3):
            with RawClient.connect(server, f"echo{number}") as client:
                assert client.receive_text().split()[0] == str(ports[1])
                client.close()


def test_a_child_that_begins_to_listen_late_is_tried_again() -> None:
    source = "time.sleep(1)\n" + ECHO
    with serve(*tcp(), *child(source)) as server, RawClient.connect(server) as client:
        client.send_text("early")
        assert client.receive_text() == "early"


@pytest.mark.slow
def test_a_child_that_never_listens_ends_the_room() -> None:
    ports = free_ports(1)
    options = tcp("--tcpports", spell(ports))
    soon = with_constants(CHILDREN, TCP_CONNECT_TIMEOUT=2.0)
    with serve(*options, "sleep", "--", "1000", command=soon) as server:
        with RawClient.connect(server) as client:
            code, reason = client.wait_close()
            assert code == 1011
            assert str(ports[0]) in reason
        wait_until(lambda: not server.children())


@pytest.mark.slow
def test_a_client_that_leaves_before_the_child_listens_ends_the_waiting() -> None:
    options = tcp("--tcpports", spell(free_ports(1)))
    lasting = with_constants(CHILDREN, TCP_CONNECT_TIMEOUT=3 * PATIENCE)
    with serve(*options, "sleep", "--", "1000", command=lasting) as server:
        for _ in range(2):
            with RawClient.connect(server) as client:
                wait_until(server.children)
                client.close()
            wait_until(lambda: not server.children(), message="the child that nobody waits for")


def test_a_child_that_ends_before_it_listens_ends_the_room_at_once() -> None:
    lasting = with_constants(CHILDREN, TCP_CONNECT_TIMEOUT=3 * PATIENCE)
    options = (*tcp(), *child("sys.exit(4)"))
    with serve(*options, command=lasting) as server, RawClient.connect(server) as client:
        code, reason = client.wait_close()
        assert code == 1011
        assert "ended before it listened" in reason


def test_a_child_that_resets_the_connection_at_once_has_not_listened_yet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It had listened and ended: the room was refused as if the server lacked something (1013)."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        reset = socket.create_connection(listener.getsockname())
        peer, _ = listener.accept()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        select.select([reset], [], [], PATIENCE)
    monkeypatch.setattr(f"{CHILDREN}.socket.create_connection", lambda *_, **__: reset)
    backend = TcpBackend(parse_command_line(["--tcp", "cat"]), PortPool(9001, 9001))
    assert backend._connect() is None
    assert reset.fileno() == -1


def test_a_lack_of_descriptors_is_no_fault_of_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """After ten seconds the client was told, with 1011, that nothing listened on the port."""

    def fail(*_args: object, **_options: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(f"{CHILDREN}.socket.create_connection", fail)
    backend = TcpBackend(parse_command_line(["--tcp", "cat"]), PortPool(9001, 9001))
    with pytest.raises(OSError, match="Too many open files"):  # which `_launch` tells (1013)
        backend._connect()


def test_what_a_child_prints_before_it_listens_is_in_the_log() -> None:
    source = "sys.exit('no luck today')"
    with serve(*tcp(), *child(source)) as server, RawClient.connect(server) as client:
        assert client.wait_close()[0] == 1011
        server.wait_log("no luck today")


def test_a_child_that_prints_a_lot_before_it_listens_is_not_blocked() -> None:
    source = "print('x' * 199 * 1000 + '\\n', flush=True)\n" + ECHO
    with serve(*tcp(), *child(source)) as server, RawClient.connect(server) as client:
        client.send_text("hello")
        assert client.receive_text() == "hello"


def test_what_the_child_prints_is_for_the_log() -> None:
    source = "print('on stdout', flush=True)\nprint('on stderr', file=sys.stderr)\n" + ECHO
    with serve(*tcp(), *child(source)) as server, RawClient.connect(server, "hall") as client:
        client.send_text("only this")
        assert client.receive_text() == "only this"
        for words in ("on stdout", "on stderr"):
            assert "room=hall" in server.wait_log(f"{words}.*")[0]


# ==== The pool of ports ===================================================


def end_by_closing(client: RawClient) -> None:
    """Leave as a browser does."""
    assert client.close()[0] == 1000


def end_by_reset(client: RawClient) -> None:
    """Leave as a crashed client does."""
    client.reset()


def wait_for_1000(client: RawClient) -> None:
    """Be closed because the child ended well."""
    assert client.wait_close()[0] == 1000


def wait_for_1011(client: RawClient) -> None:
    """Be closed because the child failed."""
    assert client.wait_close()[0] == 1011


def wait_for_any_close(client: RawClient) -> None:
    """Be closed; whether a child that was stopped has failed is not the question here."""
    assert client.wait_close()[0] in (1000, 1011)


END_OF_ROOM: dict[str, Callable[[RawClient], None]] = {
    "echo": end_by_closing,
    "reset": end_by_reset,
    "exit": wait_for_1000,
    "fail": wait_for_1011,
    "kill": wait_for_1011,
    "hang_up": wait_for_any_close,
    "unborn": wait_for_1011,
    "deaf": end_by_closing,
}


def test_a_port_goes_back_to_the_pool_after_every_kind_of_end() -> None:
    ports = free_ports(1)
    with serve(*tcp("--tcpports", spell(ports), "--closegrace=0"), *child(ENDINGS)) as server:
        for kind, end in END_OF_ROOM.items():
            with RawClient.connect(server, kind) as client:
                if kind != "unborn":
                    assert client.receive_text().split()[0] == str(ports[0]), kind
                end(client)
        with RawClient.connect(server, "echo") as client:
            assert client.receive_text().split()[0] == str(ports[0])


def test_a_port_is_not_lost_while_there_are_no_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each room that was asked for meanwhile took one from the pool, for ever."""
    ports = PortPool(9001, 9003)

    def fail(_family: int) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(f"{CHILDREN}.socket.socket", fail)
        for _ in range(3):
            with pytest.raises(OSError, match="Too many open files"):
                ports.take()
    monkeypatch.setattr(PortPool, "_is_usable", lambda *_: True)
    assert sorted(ports.take() for _ in range(3)) == [9001, 9002, 9003]
    assert len(ports) == 0


def test_thirty_rooms_pass_through_a_pool_of_three_ports() -> None:
    ports = free_ports(3)
    kinds = ("echo", "exit", "reset", "fail", "unborn")
    options = tcp("--tcpports", spell(ports), "--maxrooms=3", "-v")
    with serve(*options, *child(ENDINGS)) as server:
        for number in range(0, 30, 3):
            with ExitStack() as stack:
                names = [f"{kinds[(number + n) % 5]}{number + n}" for n in range(3)]
                clients = [stack.enter_context(RawClient.connect(server, name)) for name in names]
                used = set()
                for name, client in zip(names, clients, strict=True):
                    kind = name.rstrip("0123456789")
                    if kind != "unborn":
                        used.add(int(client.receive_text().split()[0]))
                    if kind not in ("echo", "reset"):
                        END_OF_ROOM[kind](client)
                assert used <= set(ports)
                for name, client in zip(names, clients, strict=True):
                    if name.startswith(("echo", "reset")):
                        client.send_text("still here")
                        assert client.receive_text() == "still here"
                        END_OF_ROOM[name.rstrip("0123456789")](client)
                        # Until the server knows of a reset, the room has its place.
                        server.wait_log(rf"left with .*room={name}\b")
        wait_until(lambda: not server.children())


@pytest.mark.slow
def test_when_all_ports_are_in_use_the_next_room_is_refused_and_a_freed_one_works() -> None:
    ports = free_ports(2)
    with serve(*tcp("--tcpports", spell(ports)), *child(ENDINGS)) as server, ExitStack() as stack:
        first, second = (
            stack.enter_context(RawClient.connect(server, f"echo{number}")) for number in range(2)
        )
        for client in (first, second):
            client.receive_text()
        with RawClient.connect(server, "echo2") as third:
            code, reason = third.wait_close()
            assert code == 1013
            assert spell(ports) in reason
        first.close()
        with RawClient.connect(server, "echo3") as fourth:
            fourth.receive_text()
        second.send_text("untouched")
        assert second.receive_text() == "untouched"


# ==== The life of a child =================================================


def test_all_that_a_child_sent_before_it_exited_comes_before_the_close() -> None:
    source = "accept().sendall(b''.join(b'%d\\n' % n for n in range(100_000)) + b'last')\n"
    with serve(*tcp(), *child(source)) as server, RawClient.connect(server) as client:
        assert client.receive_many(100_001) == [b"%d" % n for n in range(100_000)] + [b"last"]
        assert client.wait_close()[0] == 1000


def test_also_when_it_left_unread_what_it_was_sent() -> None:
    # The kernel then ends its connection with a reset.
    source = """\
connection = accept()
while len(connection.recv(100, socket.MSG_PEEK)) < 7:
    continue
connection.sendall(b"bye")
"""
    with serve(*tcp(), *child(source)) as server:
        for _ in range(5):
            with RawClient.connect(server) as client:
                client.send_text("unread")
                assert client.receive_text() == "bye"
                assert client.wait_close()[0] == 1000


def test_the_child_reads_all_that_was_sent_before_its_last_client_left() -> None:
    source = """\
connection, size = accept(), 0
connection.sendall(b"ready\\n")
while data := connection.recv(65536):
    size += len(data)
print(f"read {size} bytes to the end", flush=True)
"""
    with serve(*tcp(), *child(source)) as server:
        with RawClient.connect(server) as client:
            assert client.receive_text() == "ready"
            client.send_bytes(encode_client_frames([b"x" * 999] * 1000))
            client.close()
        server.wait_log("read 1000000 bytes to the end")


@pytest.mark.slow
def test_a_child_that_never_reads_slows_its_clients_and_is_stopped_after_them() -> None:
    with serve(*tcp("--closegrace=0"), *child(ENDINGS)) as server:
        with RawClient.connect(server, "deaf") as client:
            client.receive_text()
            client.send_in_background(encode_client_frames([b"x" * 65536] * 300))
            with RawClient.connect(server, "echo") as other:
                other.receive_text()
                other.send_text("not slowed")
                assert other.receive_text() == "not slowed"
                other.close()
            with suppress(OSError):
                client.reset()
        wait_until(lambda: not server.children())


def test_respawn_starts_the_child_again_on_a_port_of_the_pool() -> None:
    ports = free_ports(1)
    options = tcp("--tcpports", spell(ports), "--respawn", "--joinmsg=join#ID")
    source = """\
connection = accept()
lines = connection.makefile()
print("pid", os.getpid(), lines.readline().strip(), file=connection.makefile("w"), flush=True)
lines.readline()
"""
    with serve(*options, *child(source)) as server, RawClient.connect(server) as client:
        first = client.receive_text()
        assert first.endswith(" join1")
        client.send_text("end")
        second = client.receive_text()
        assert second.endswith(" join1")
        assert second != first


# ==== Framing over TCP ====================================================


def test_json_framing_over_tcp() -> None:
    options = tcp("--json", "--clientroute")
    with serve(*options, *child(ECHO)) as server, RawClient.connect(server) as first:
        assert first.receive_json() == {"t": "Join", "_from": 1}
        with RawClient.connect(server) as second:
            assert first.receive_json() == second.receive_json() == {"t": "Join", "_from": 2}
            first.send_json({"_to": 2, "x": 1})
            assert second.receive_json() == {"_from": 1, "_to": 2, "x": 1}
            second.close()
        assert first.receive_json() == {"t": "Leave", "_from": 2}


def test_gwsocket_framing_over_tcp() -> None:
    with serve(*tcp("--frame=gwsocket"), *child(ECHO)) as server, ExitStack() as stack:
        first, second = (stack.enter_context(RawClient.connect(server)) for _ in "12")
        first.send_text("back to me\n")
        assert first.receive_message() == (TEXT, b"back to me\n")
        second.send_binary(bytes(range(256)) * 1000)
        assert second.receive_message() == (BINARY, bytes(range(256)) * 1000)
    header = struct.pack("!III", 0, 2, 3)
    source = f"connection = accept()\nconnection.sendall({header!r} + b'all')\nconnection.recv(1)"
    with serve(*tcp("--serverframe=gwsocket"), *child(source)) as server:
        with RawClient.connect(server) as client:
            assert client.receive_binary() == b"all"


def test_binary_over_tcp() -> None:
    payload = random.randbytes(2_000_000)
    options = tcp("--binary", "--maxmsg=4M")
    with serve(*options, *child(ECHO)) as server, RawClient.connect(server) as client:
        client.send_in_background(encode_client_frame(BINARY, payload))
        assert receive_bytes(client, len(payload)) == payload


@pytest.mark.parametrize("ports", ["9002:9001", "1:70000", "a:b"])
def test_a_range_that_is_none_is_a_usage_error(ports: str) -> None:
    done = run_cli("--tcp", "--tcpports", ports, "cat")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "--tcpports" in line
