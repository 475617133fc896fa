"""One address that takes all there is: connections (--maxperaddr), and turns of --auth."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from scalesocket.net import auth, per_address
from scalesocket.net.per_address import AddressLimits, network_of

import scalesocket
from scalesocket import (
    Config,
    ConfigError,
    HandshakeError,
    ShortageError,
    parse_command_line,
    parse_request,
)
from tests.support import (
    PATIENCE,
    HandshakeRefused,
    RawClient,
    ServerProcess,
    http_request,
    serve,
    wait_until,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.uname().sysname != "Linux", reason="127.0.0.2 is ours on Linux only"),
]


def open_from(server: ServerProcess, address: str, port: int = 0) -> socket.socket:
    """Open a TCP connection from one of this machine's addresses."""
    where = ("127.0.0.1", port or server.port)
    return socket.create_connection(where, PATIENCE, source_address=(address, 0))


def join_from(server: ServerProcess, address: str, **headers: str) -> RawClient:
    """Join a room from one of this machine's addresses."""
    client = RawClient(open_from(server, address))
    try:
        client.upgrade(f"localhost:{server.port}", "/room", headers)
    except BaseException:
        client.sock.close()
        raise
    return client


def assert_echoes(client: RawClient, text: str) -> None:
    """Send a message to `cat` and wait until it is back."""
    client.send_text(text)
    while client.receive_text() != text:
        pass


@contextmanager
def crowd(server: ServerProcess, address: str, count: int) -> Iterator[list[socket.socket]]:
    """Open connections that dribble the beginning of a request, as Slowloris does."""
    with ExitStack() as stack:
        socks = []
        for _ in range(count):
            sock = stack.enter_context(open_from(server, address))
            with contextlib.suppress(ConnectionError):
                sock.sendall(b"GET /room HTTP/1.1\r\nHos")
            socks.append(sock)
        yield socks


# ==== Connections =========================================================


def test_one_address_that_opens_all_connections_keeps_nobody_else_out() -> None:
    """All of --maxconns could be one address's; the next player, from elsewhere, was told 503."""
    with serve("--maxconns", "20", "--maxperaddr", "5", "--metrics", "cat") as server:
        with join_from(server, "127.0.0.2") as early, crowd(server, "127.0.0.1", 60):
            wait_until(lambda: refusals(server) > 0)
            with join_from(server, "127.0.0.2") as late:
                assert_echoes(late, "let in")
                assert_echoes(early, "still here")
        assert not any("cannot accept" in line for line in server.log())


def refusals(server: ServerProcess) -> int:
    """Return how often the metrics say that an address had too many, asking from another."""
    with open_from(server, "127.0.0.9") as sock:
        sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    (line,) = [
        line for line in answer.decode().splitlines()
        if line.startswith("scalesocket_address_refusals_total")
    ]  # fmt: skip
    return int(line.split()[1])


def test_who_is_one_too_many_is_told_so_and_a_place_that_is_given_back_is_free() -> None:
    with serve("--maxperaddr", "2", "cat") as server, ExitStack() as stack:
        first, _ = [stack.enter_context(join_from(server, "127.0.0.1")) for _ in range(2)]
        response = http_request(server, path="/health")
        assert response.status == 503
        assert response.body == (b"all 2 connections of your address are in use (--maxperaddr)\n")
        assert response.headers["retry-after"] == "1"
        with pytest.raises(HandshakeRefused) as caught:
            join_from(server, "127.0.0.1")
        assert caught.value.status == 503
        first.close()

        def try_again() -> bool:
            with contextlib.suppress(HandshakeRefused):
                join_from(server, "127.0.0.1").sock.close()
                return True
            return False

        wait_until(try_again)


def test_lines_of_text_are_counted_too() -> None:
    with serve("--maxperaddr", "1", "--tcplisten", "127.0.0.1:0", "cat") as server:
        port = int(server.wait_log(r"lines of text at \S+ on port (\d+)")[1])
        with open_from(server, "127.0.0.1", port) as first:
            first.sendall(b"room\nhello\n")
            assert first.recv(100) == b"hello\n"
            with open_from(server, "127.0.0.1", port) as second:
                assert b"--maxperaddr" in json.loads(second.recv(1000))["error"].encode()
            with open_from(server, "127.0.0.2", port) as other:
                other.sendall(b"room\nhi\n")
                assert other.recv(100) == b"hi\n"


def test_behind_a_proxy_its_clients_are_counted_and_not_the_proxy() -> None:
    with serve("--maxperaddr", "2", "--trustproxy", "127.0.0.1", "cat") as server:
        with ExitStack() as stack:
            for number in range(6):
                told = {"X-Forwarded-For": f"192.0.2.{number // 2}"}
                stack.enter_context(join_from(server, "127.0.0.1", **told))
            with pytest.raises(HandshakeRefused) as caught:
                join_from(server, "127.0.0.1", **{"X-Forwarded-For": "192.0.2.1"})
            assert caught.value.status == 503
            assert http_request(server, path="/health").status == 200
        for _ in range(2):  # those that have gone count no longer, nor does who was refused

            def joins() -> bool:
                with contextlib.suppress(HandshakeRefused):
                    told = {"X-Forwarded-For": "192.0.2.1"}
                    stack.enter_context(join_from(server, "127.0.0.1", **told))
                    return True
                return False

            wait_until(joins)
        stack.close()


def test_with_workers_the_limit_holds_for_each_and_knows_the_address() -> None:
    with serve("--maxperaddr", "3", "--workers", "2", "cat") as server, ExitStack() as stack:
        told = 0
        for _ in range(10):
            try:
                stack.enter_context(join_from(server, "127.0.0.1"))
            except (HandshakeRefused, ConnectionError, EOFError):
                told += 1
        assert told >= 10 - 2 * 3
        with join_from(server, "127.0.0.2") as other:
            assert_echoes(other, "let in")


def test_an_address_counts_as_its_network() -> None:
    assert network_of("192.0.2.7") == network_of("::ffff:192.0.2.7") == "192.0.2.7"
    assert network_of("2001:db8:1:2::3") == network_of("2001:db8:1:2:ffff::1")
    assert network_of("2001:db8:1:2::3") != network_of("2001:db8:1:3::3")
    assert network_of("fe80::1%eth0") == network_of("fe80::2")


def test_by_default_half_may_be_one_addresss_but_this_machine_is_not_counted() -> None:
    limits = AddressLimits(Config(maxconns=10))
    for _ in range(5):
        assert limits.enter("192.0.2.1") == ""
    assert "your address" in limits.enter("192.0.2.1")
    for _ in range(5):
        assert limits.enter("127.0.0.1") == ""
    assert limits.enter("127.0.0.1") == "all 10 connections are in use"


def test_of_those_who_are_too_many_only_some_are_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    most = per_address.MAX_REFUSED_OF_ONE
    monkeypatch.setattr(per_address, "MAX_REFUSED", most + 1)
    limits = AddressLimits(Config(maxconns=4, maxperaddr=2))
    for address, told in (("192.0.2.1", most), ("192.0.2.2", 1)):
        assert [limits.enter(address) for _ in range(2)] == ["", ""]
        assert all("of your address" in limits.enter(address) for _ in range(told))
        with pytest.raises(ConnectionAbortedError):
            limits.enter(address)
    with pytest.raises(scalesocket.ShortageError):
        limits.enter("192.0.2.3")


def test_what_is_counted_is_given_back_whatever_became_of_it() -> None:
    limits = AddressLimits(Config(maxconns=3, maxperaddr=2))
    held: list[tuple[str, str]] = []
    for address in ("192.0.2.1",) * 20 + ("192.0.2.2",) * 20 + ("unix", ""):
        with contextlib.suppress(ShortageError, ConnectionAbortedError):
            held.append((address, limits.enter(address)))
    assert [told for _, told in held].count("") == 3
    for address, told in held:
        limits.leave(address, told)
    assert limits._served == limits._refused == 0
    assert not limits._served_by


@pytest.mark.parametrize("value", ["-1", "many", "1.5"])
def test_what_is_no_number_is_a_usage_error(value: str) -> None:
    with pytest.raises(ConfigError, match="maxperaddr"):
        parse_command_line([f"--maxperaddr={value}", "cat"])


# ==== Turns of --auth =====================================================


def test_one_address_that_holds_commands_up_keeps_nobody_else_out(tmp_path: Path) -> None:
    """Sixteen requests of one address that the command takes long for: nobody else got a turn."""
    command = tmp_path / "auth.sh"
    command.write_text('#!/bin/sh\ntest "$REMOTE_ADDR" = 127.0.0.2 || exec sleep 12345\n')
    command.chmod(0o755)
    with serve("--auth", str(command), "cat") as server, ExitStack() as stack:
        head = (
            b"GET /room HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        for _ in range(40):
            stack.enter_context(open_from(server, "127.0.0.1")).sendall(head)
        wait_until(lambda: len(server.children()) == auth.MAX_AUTH_OF_ONE)
        with join_from(server, "127.0.0.2") as other:
            assert_echoes(other, "let in")
        assert len(server.children()) <= auth.MAX_AUTH_OF_ONE + 1  # and cat


def test_guessing_takes_its_time_and_only_the_guessers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each no costs its address one of its turns for a while."""
    monkeypatch.setattr(auth, "AUTH_TIMEOUT", 0.05)
    monkeypatch.setattr(auth, "AUTH_PENALTY", 60.0)
    timer = scalesocket.Poller("timer")
    command = auth.AuthCommand(parse_command_line(["--auth", "false", "cat"]), timer)
    monkeypatch.setattr(command, "_run", lambda client: int(client.address != "192.0.2.2"))
    request = parse_request(b"GET /room HTTP/1.1\r\nHost: x")

    def ask(address: str) -> int:
        client = scalesocket.Client(
            1, "room", request, cast(Any, None), peer=(address, 1), local=("127.0.0.1", 2)
        )
        try:
            return 200 if command.ask(client) else 401
        except HandshakeError as error:
            return error.status

    assert [ask("192.0.2.1") for _ in range(6)] == [401] * 4 + [503] * 2
    assert [ask("192.0.2.2") for _ in range(50)] == [200] * 50


def test_every_turn_comes_back_however_many_ask_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "AUTH_TIMEOUT", PATIENCE)
    monkeypatch.setattr(auth, "AUTH_PENALTY", 0.0)
    timer = scalesocket.Poller("timer")
    timer.start()
    command = auth.AuthCommand(parse_command_line(["--auth", "false", "cat"]), timer)
    running: list[int] = []
    most: list[int] = []

    def ask(number: int) -> None:
        for turn in range(20):
            network = f"192.0.2.{number % 6}"
            assert command._take_turn(network)
            running.append(1)
            most.append(len(running))
            time.sleep(0)
            running.pop()
            command._end_turn(network, turn % 2 == 0)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    wait_until(lambda: not command._taken_by)
    timer.stop()
    assert command._taken == 0
    assert max(most) <= auth.MAX_AUTH
