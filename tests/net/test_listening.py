"""Where it listens: names with several addresses, and a Unix socket with and without a port."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from scalesocket.net.addresses import listen_at
from scalesocket.net.sockets import open_unix_listener

import scalesocket
from scalesocket import ConfigError, parse_command_line
from tests.support import PATIENCE, RawClient, free_port, http_request, open_files, run_cli, serve

pytestmark = pytest.mark.slow  # servers are started here; --quick leaves them out

ELSEWHERE = "203.0.113.77"  # kept for documentation (RFC 5737): no machine has it


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """A hosts file: what each name means."""
    known: dict[str, list[str]] = {}

    def look_up(host: bytes, port: int, **_options: int) -> list[object]:
        addresses = known[host.decode()]
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (it, port)) for it in addresses]

    monkeypatch.setattr(scalesocket.socket, "getaddrinfo", look_up)
    return known


@contextmanager
def listening(host: str, port: int) -> Iterator[list[tuple[str, int]]]:
    with ExitStack() as opened:
        listeners = listen_at(opened, [(host, port)])
        yield [listener.getsockname() for listener in listeners]


def test_a_name_is_listened_at_where_this_machine_has_it(
    names: dict[str, list[str]], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Case 12: `localhost` was `::1`, too, in the hosts file; without IPv6 it ended with 1."""
    monkeypatch.setattr(scalesocket.log, "propagate", True)
    names["both"] = [ELSEWHERE, "127.0.0.1", "127.0.0.2"]
    port = free_port()
    with caplog.at_level(logging.WARNING), listening("both", port) as found:
        assert found == [("127.0.0.1", port), ("127.0.0.2", port)]
    (record,) = caplog.records
    assert record.getMessage().startswith(f"both is {ELSEWHERE}, too, which this machine has not: ")
    with listening("both", 0) as found:  # the first that can be had, as before
        assert [host for host, _ in found] == ["127.0.0.1"]


def test_a_family_that_the_system_lacks_is_passed_over(
    names: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the kernel knows no IPv6, there is not even a socket of that kind."""
    known = [
        (99, socket.SOCK_STREAM, 0, "", ("::1", 0, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 0)),
    ]
    monkeypatch.setattr(scalesocket.socket, "getaddrinfo", lambda *_, **__: known)
    with listening("localhost", 0) as found:
        assert [host for host, _ in found] == ["127.0.0.1"]


def test_a_name_that_is_elsewhere_alone_is_an_error(names: dict[str, list[str]]) -> None:
    names["far"] = [ELSEWHERE, "198.51.100.77"]
    with pytest.raises(OSError) as caught, ExitStack() as opened:
        listen_at(opened, [("far", 9777)])
    why = f"cannot listen at far:9777: {os.strerror(errno.EADDRNOTAVAIL)}"
    assert (caught.value.errno, caught.value.strerror) == (errno.EADDRNOTAVAIL, why)


@pytest.mark.parametrize("order", [("127.0.0.1", "127.0.0.2"), ("127.0.0.2", "127.0.0.1")])
def test_a_port_in_use_at_one_address_is_an_error_and_leaves_none_open(
    names: dict[str, list[str]], order: tuple[str, str]
) -> None:
    """Half a server would be found by some clients and not by others."""
    names["both"] = [ELSEWHERE, *order]
    with socket.create_server(("127.0.0.2", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError) as caught, ExitStack() as opened:
            listen_at(opened, [("both", port)])
        assert caught.value.errno == errno.EADDRINUSE
        assert str(caught.value.strerror).startswith(f"cannot listen at both:{port}: ")
        socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.parametrize("option", ["--addr", "--tcplisten"])
@pytest.mark.parametrize(
    "host",
    ["127.0.0..1", ".", 64 * "a", f"www.{64 * 'a'}.example", "[..]", "[:..]", f"[{64 * '1'}]"],
)
def test_a_name_that_no_system_can_look_up_is_one_line(host: str, option: str) -> None:
    """A slip of the finger, as in `127.0.0..1`, was answered with a traceback."""
    done = run_cli(option, f"{host}:9000", "cat")
    said = f"argument {option}: '{host}:9000' is no HOST:PORT with a port up to 65535"
    assert (done.returncode, done.stderr) == (2, f"scalesocket: {said} (try --help)\n")


# ==== A Unix socket, and no port ===========================================


@pytest.mark.parametrize("option", ["--unixsocket", "--sslcert", "--sslkey", "--sslca"])
def test_an_empty_path_is_refused_by_its_option(option: str) -> None:
    """It was this folder: all that was said was "cannot listen at ." or "cannot use ."."""
    with pytest.raises(ConfigError, match=f"^argument {option}: '' is no path$"):
        parse_command_line([option, "", "cat"])


def test_a_unix_socket_alone_opens_no_port(tmp_path: Path) -> None:
    """Case 28: `--unixsocket` alone opened port 9000 to the whole network, too."""
    door = tmp_path / "door"
    with serve("--unixsocket", os.fspath(door), "cat", addr=None, ready=False) as server:
        server.wait_log(f"running at {door}")
        assert not [line for line in server.log() if "on port" in line]
        listening = Path(f"/proc/{server.pid}/net/tcp").read_text().splitlines()[1:]
        tcp = {f"socket:[{line.split()[9]}]" for line in listening if line.split()[3] == "0A"}
        assert not tcp & set(open_files(server.pid))
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(os.fspath(door))
            with RawClient(sock) as client:
                client.upgrade("localhost", "/room", {})
                client.send_text("hello")
                assert client.receive_text() == "hello"


def test_a_unix_socket_of_a_busy_server_is_in_use(tmp_path: Path) -> None:
    """Its queue was full, and the second server said "Resource temporarily unavailable"."""
    door = tmp_path / "door"
    with ExitStack() as opened:
        listener = opened.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(os.fspath(door))
        listener.listen(0)
        waiting = opened.enter_context(socket.socket(socket.AF_UNIX))
        waiting.connect(os.fspath(door))
        with pytest.raises(OSError, match="in use"):
            open_unix_listener(opened, door, 0o600)
        assert door.is_socket()


def test_with_addr_there_are_both(tmp_path: Path) -> None:
    door = tmp_path / "door"
    with serve("--unixsocket", os.fspath(door), "cat") as server:
        assert http_request(server, path="/health").status == 200
        server.wait_log(f"running at {door}")


def test_a_script_may_say_one_and_the_command_line_the_other(tmp_path: Path) -> None:
    script = tmp_path / "game.py"
    block = '# /// script\n# [tool.scalesocket]\n# unixsocket = "door"\n# ///\n'
    script.write_text(block)
    assert parse_command_line([os.fspath(script)]).addr == ()
    assert parse_command_line(["--addr", "a:1", os.fspath(script)]).addr == (("a", 1),)
    script.write_text(block.replace('unixsocket = "door"', 'addr = "a:1"'))
    config = parse_command_line(["--unixsocket", "door", os.fspath(script)])
    assert (config.addr, config.unixsocket) == ((("a", 1),), Path("door"))
