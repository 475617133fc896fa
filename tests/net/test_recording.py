"""--pcap: what a real server has recorded is read by Wireshark as if it had been sniffed."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from scalesocket.net.pcapng import DECRYPTION_SECRETS, ENHANCED_PACKET, INTERFACE_STATISTICS
from websockets.sync.client import connect

from scalesocket import ConfigError, parse_command_line
from tests import browser as in_browser
from tests.browser import PATIENCE, wait_for
from tests.capture import (
    FIN,
    KEY,
    SYN,
    Packet,
    find_faults,
    read_blocks,
    read_fields,
    read_options,
    read_packet,
    read_packets,
    read_stream,
    run_tshark,
    whole_blocks,
)
from tests.certificates import Certificates
from tests.support import (
    CONTINUATION,
    PONG,
    ROOT,
    SCRIPT,
    TEXT,
    RawClient,
    ServerProcess,
    encode_client_frames,
    http_request,
    open_socket,
    request_head,
    require_tool,
    run_cli,
    serve,
    wait_until,
)
from tests.support import PATIENCE as WAIT
from tests.wire.test_tls import join as join_securely

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow  # tshark takes a second to start

browser = in_browser.browser

INBOUND, OUTBOUND = 1, 2
MIB = 1024 * 1024


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "play.pcapng"


def echo(client: RawClient, text: str) -> None:
    client.send_text(text)
    assert client.receive_text() == text


def echo_much(client: RawClient, count: int, size: int) -> None:
    """Have many long messages come back, while both sides send."""
    payloads = [b"%06d" % number + b"x" * (size - 6) for number in range(count)]
    client.send_in_background(encode_client_frames(payloads))
    assert client.receive_many(count) == payloads


def opening(packets: list[Packet]) -> Packet:
    """Return the first packet of the only connection."""
    (first,) = [packet for packet in packets if packet.flags == SYN]
    return first


def texts(path: Path) -> list[str]:
    """Return all texts, which must have no semicolon."""
    lines = read_fields(path, "websocket.payload.text")
    return [text for line in lines for text in line.split(";")]


def frames(path: Path) -> list[str]:
    """Return for each frame: the port it came from, FIN, opcode, MASK."""
    columns = ("tcp.srcport", "websocket.fin", "websocket.opcode", "websocket.mask")
    found = []
    for line in read_fields(path, *columns, wanted="websocket"):
        port, *values = line.split("|")
        columns_of_all = [value.split(";") for value in values]  # they may come in one piece
        found += ["|".join((port, *bits)) for bits in zip(*columns_of_all, strict=True)]
    return found


# ==== 1. What is recorded =================================================


def test_a_session_reads_back_frame_by_frame(path: Path) -> None:
    with serve("--pcap", str(path), "cat") as server:
        with RawClient.connect(server, "lobby") as client:
            ports = (client.sock.getsockname()[1], server.port)
            echo(client, "héllo")
            client.send_frame(TEXT, b"in ", fin=False)
            client.ping(b"?")
            assert client.receive() == (PONG, b"?")
            client.send_frame(CONTINUATION, b"two")
            assert client.receive_text() == "in two"
            assert client.close(3000, "bye") == (3000, "")
    assert find_faults(path) == []
    packets = read_packets(path)
    assert opening(packets).ports == ports
    assert opening(packets).source == opening(packets).target == bytes((127, 0, 0, 1))
    assert all(packet.sound for packet in packets)
    accept = client.response.headers["sec-websocket-accept"]
    assert read_fields(path, "http.request.uri", "http.sec_websocket_accept") == [
        "/lobby|",
        f"|{accept}",
    ]
    there, back = ports
    assert frames(path) == [
        f"{there}|1|1|1",
        f"{back}|1|1|0",
        f"{there}|0|1|1",
        f"{there}|1|9|1",
        f"{back}|1|10|0",
        f"{there}|1|0|1",
        f"{back}|1|1|0",
        f"{there}|1|8|1",
        f"{back}|1|8|0",
    ]
    assert texts(path) == ["héllo", "héllo", "in two", "in two"]
    close = ("websocket.payload.close.status_code", "websocket.payload.close.reason")
    assert read_fields(path, *close) == ["3000|bye", "3000|"]


def test_binary_messages_are_recorded_byte_for_byte(path: Path) -> None:
    sent = bytes(range(256)) * 300
    received = b""
    with (
        serve("--pcap", str(path), "--binary", "cat") as server,
        RawClient.connect(server) as client,
    ):
        client.send_binary(sent)
        while len(received) < len(sent):
            received += client.receive_binary()
        client.close()
    assert received == sent
    assert find_faults(path) == []
    for wanted in (f"tcp.dstport == {server.port}", f"tcp.srcport == {server.port}"):
        found = read_fields(path, "data.data", wanted=f"websocket.opcode == 2 and {wanted}")
        assert bytes.fromhex("".join(found).replace(";", "")) == sent
    assert read_fields(path, "websocket.opcode", wanted="websocket.mask == 1") == ["2", "8"]


def test_ipv6_is_recorded_as_such(path: Path) -> None:
    with serve("--pcap", str(path), "cat", addr="[::1]:0") as server:
        with RawClient.connect(server) as client:
            ports = (client.sock.getsockname()[1], server.port)
            echo(client, "six")
            client.close()
    assert find_faults(path) == []
    first = opening(read_packets(path))
    assert first.source == first.target == bytes(15) + b"\1"
    assert first.ports == ports
    assert texts(path) == ["six", "six"]


def test_a_unix_socket_is_recorded_as_a_loopback_connection(path: Path) -> None:
    door = path.with_name("door")
    with (
        serve("--pcap", str(path), "--unixsocket", str(door), "cat"),
        socket.socket(socket.AF_UNIX) as sock,
    ):
        sock.connect(str(door))
        client = RawClient(sock)
        client.upgrade("localhost", "/room", {})
        echo(client, "local")
        client.close()
    assert find_faults(path) == []
    assert "Unix socket" in opening(read_packets(path)).comment
    assert texts(path) == ["local", "local"]


def test_lines_of_text_are_recorded(path: Path) -> None:
    with serve("--pcap", str(path), "--tcplisten", "127.0.0.1:0", "cat") as server:
        port = int(server.wait_log(r"lines of text at \S+ on port (\d+)")[1])
        with open_socket((server.host, port)) as sock, sock.makefile("rb") as lines:
            sock.sendall(b"room\nhello\n")
            assert lines.readline() == b"hello\n"
        server.wait_log("room closed")  # until then, it could be told that the server stops
    assert find_faults(path) == []
    packets = read_packets(path)
    assert opening(packets).ports[1] == port
    assert read_stream(packets, INBOUND) == b"room\nhello\n"
    assert read_stream(packets, OUTBOUND) == b"hello\n"


def test_files_are_recorded_with_all_their_bytes(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    body = os.urandom(300_000)
    (folder / "big.bin").write_bytes(body)
    with serve("--pcap", str(path), "--staticdir", str(folder), "cat") as server:
        assert http_request(server, path="/big.bin").body == body
        assert http_request(server, path="/absent").status == 404
    assert find_faults(path) == []
    assert read_fields(path, "http.request.uri") == ["/big.bin", "/absent"]
    assert read_fields(path, "http.response.code") == ["200", "404"]
    (length,) = read_fields(path, "http.content_length", wanted="http.response.code == 200")
    assert length == "300000"
    assert body in b"".join(p.payload for p in read_packets(path) if p.direction == OUTBOUND)


def test_compressed_messages_can_be_read(path: Path) -> None:
    with serve("--pcap", str(path), "--compress", "cat") as server:
        with connect(server.url("room"), proxy=None) as client:
            client.send("so " * 200)
            assert client.recv(WAIT) == "so " * 200
    assert find_faults(path) == []
    columns = ("websocket.pmc", "websocket.mask")
    assert read_fields(path, *columns, wanted="websocket.opcode == 1") == ["1|1", "1|0"]
    assert texts(path) == ["so " * 200] * 2
    assert b"so so" not in path.read_bytes()


def test_behind_a_proxy_the_connection_is_the_clients(path: Path) -> None:
    with (
        serve("--pcap", str(path), "--trustproxy", "127.0.0.1", "cat") as server,
        open_socket(server) as sock,
    ):
        sock.sendall(b"PROXY TCP4 203.0.113.9 203.0.113.1 4711 80\r\n")
        client = RawClient(sock)
        client.upgrade("example.com", "/room", {})
        echo(client, "from afar")
        client.close()
    assert find_faults(path) == []
    packets = read_packets(path)
    assert opening(packets).source == bytes((203, 0, 113, 9))
    assert opening(packets).ports == (4711, server.port)
    assert read_stream(packets, INBOUND).startswith(b"GET /room HTTP/1.1\r\n")
    assert texts(path) == ["from afar", "from afar"]


class Wire:
    """A client that keeps all bytes, and reads when it is told to."""

    def __init__(self, server: ServerProcess, room: str) -> None:
        self.sock = open_socket(server)
        self.port: int = self.sock.getsockname()[1]
        self.sent = self.received = b""
        fields = {"Host": "x", "Upgrade": "websocket", "Connection": "Upgrade"}
        fields |= {"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": KEY}
        self.send(request_head("GET", f"/{room}", fields))
        while b"\r\n\r\n" not in self.received:
            self.received += self.sock.recv(4096)

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)
        self.sent += data

    def receive(self, size: int) -> None:
        size += self.received.index(b"\r\n\r\n") + 4
        while len(self.received) < size:
            data = self.sock.recv(1 << 16)
            assert data, "the server has closed"
            self.received += data


def test_each_stream_is_what_its_client_has_seen_byte_for_byte(path: Path) -> None:
    """Also where several send at the same time, and are read only when the server has to wait."""
    messages = [os.urandom(5000).hex().encode() for _ in range(100)]
    frames = encode_client_frames(messages)
    with serve("--pcap", str(path), "cat") as server, contextlib.ExitStack() as stack:
        clients = [Wire(server, "room") for _ in range(4)]
        for client in clients:
            stack.enter_context(client.sock)
        for client in clients[:3]:
            client.send(frames)
        for client in clients:
            client.receive(3 * 100 * (4 + 10_000))
    assert find_faults(path) == []
    packets = read_packets(path)
    for client in clients:
        stream = [packet for packet in packets if client.port in packet.ports]
        assert read_stream(stream, INBOUND) == client.sent
        assert read_stream(stream, OUTBOUND).startswith(client.received)


def test_routed_json_is_named_by_the_dissector(path: Path) -> None:
    with serve("--pcap", str(path), "--json", "cat") as server:
        with RawClient.connect(server) as client:
            client.receive_json()  # its own join
            client.send_json({"t": "Say", "text": "hi"})
            assert client.receive_json() == {"t": "Say", "text": "hi", "_from": 1}
            client.close()
    assert find_faults(path, lua=True) == []
    columns = ("scalesocket.type", "scalesocket.from")
    assert read_fields(path, *columns, wanted="scalesocket", lua=True) == [
        "Join|1",
        "Say|",
        "Say|1",
    ]


# ==== 2. TLS ==============================================================


def echo_tls(server: ServerProcess, trust: ssl.SSLContext, text: str) -> None:
    with join_securely(server, trust) as client:
        client.send_text(text)
        assert client.receive_text() == text


def secrets(path: Path) -> list[bytes]:
    """Return the lines of all keys in a file."""
    blocks = read_blocks(path.read_bytes())
    return [
        line
        for block in blocks
        if block.kind == DECRYPTION_SECRETS
        for line in block.body[8:].rstrip(b"\0").splitlines()
    ]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_is_decrypted_by_the_file_alone(
    path: Path, certs: Certificates, version: ssl.TLSVersion
) -> None:
    trust = certs.trust()
    trust.minimum_version = trust.maximum_version = version
    with serve("--pcap", str(path), *certs.options(), "cat") as server:
        echo_tls(server, trust, "hidden " * 3000)
        echo_tls(server, trust, "hidden again")
    assert b"hidden" not in path.read_bytes()
    assert find_faults(path) == []
    assert texts(path) == ["hidden " * 3000] * 2 + ["hidden again"] * 2
    assert read_fields(path, "http.request.uri") == ["/room", "/room"]


def test_a_tls_handshake_that_fails_is_recorded(path: Path, certs: Certificates) -> None:
    stranger = ssl.create_default_context(cafile=certs.cert("stranger"))
    with serve("--pcap", str(path), *certs.options(), "cat") as server:
        with pytest.raises(ssl.SSLCertVerificationError), join_securely(server, stranger):
            pass
        echo_tls(server, certs.trust(), "hidden")
    assert read_fields(path, "tls.handshake.type", wanted="tcp.stream == 0")[0] == "1"
    assert texts(path) == ["hidden", "hidden"]


def test_a_key_log_of_the_environment_gets_the_keys_too(path: Path, certs: Certificates) -> None:
    keys = path.with_name("keys")
    arguments = ("--pcap", str(path), *certs.options(), "cat")
    with serve(*arguments, env={"SSLKEYLOGFILE": str(keys)}) as server:
        echo_tls(server, certs.trust(), "hidden")
    lines = [line for line in keys.read_bytes().splitlines() if not line.startswith(b"#")]
    assert len(lines) >= 5
    assert sorted(lines) == sorted(secrets(path))
    assert texts(path) == ["hidden", "hidden"]


def test_after_new_certificates_are_read_it_still_decrypts(
    path: Path, certs: Certificates, tmp_path: Path
) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "cert.key"

    def use(name: str) -> None:
        shutil.copy(certs.cert(name), cert)
        shutil.copy(certs.key(name), key)

    use("server")
    files = ("--sslcert", str(cert), "--sslkey", str(key))
    with serve("--pcap", str(path), *files, "cat") as server:
        echo_tls(server, certs.trust(), "before")
        use("renewed")
        server.process.send_signal(signal.SIGHUP)
        server.wait_log("certificates read again")
        echo_tls(server, certs.trust(), "after")
    assert find_faults(path) == []
    assert texts(path) == ["before", "before", "after", "after"]


# ==== 3. How it ends ======================================================


def test_the_end_of_the_server_ends_every_connection_in_the_file(path: Path) -> None:
    with serve("--pcap", str(path), "cat") as server:
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(RawClient.connect(server, f"r{n}")) for n in range(3)]
            for client in clients:
                echo(client, "x")
            server.process.send_signal(signal.SIGTERM)
            assert [client.wait_close()[0] for client in clients] == [1001] * 3
            server.wait()
    assert find_faults(path) == []
    codes = read_fields(path, "tcp.stream", "websocket.payload.close.status_code")
    assert sorted(code for code in codes if code.endswith("1001")) == sorted(
        [f"{n}|1001" for n in range(3)] * 2
    )
    ends = [packet for packet in read_packets(path) if packet.flags & FIN]
    assert len({(packet.ports, packet.direction) for packet in ends}) == 6
    last = read_blocks(path.read_bytes())[-1]
    assert last.kind == INTERFACE_STATISTICS
    assert read_options(last.body[12:])[1] == b"Nothing was lost."


def test_a_killed_server_leaves_a_file_that_can_be_read(path: Path) -> None:
    with serve("--pcap", str(path), "cat") as server, RawClient.connect(server) as client:
        client.send_in_background(encode_client_frames([b"x" * 3000] * 20_000))
        client.receive_many(100)
        # Inbound they are masked. Those of a block that is being written do not count.
        wait_until(lambda: whole_blocks(path.read_bytes()).count(b"x" * 3000) > 10)
        server.process.kill()
        server.wait()
    data = path.read_bytes()
    path.write_bytes(whole_blocks(data))
    assert 0 <= len(data) - path.stat().st_size < 66_000, "more than one block is missing"
    packets = read_packets(path)
    assert len(packets) > 10
    assert find_faults(path) == []
    assert read_stream(packets, OUTBOUND).count(b"x" * 3000) > 10


# ==== 4. Where it goes ====================================================


CHATTY = """\
# /// script
# [tool.scalesocket]
# game = "Chatty"
# ///
from scalesocket import Game


class Chatty(Game):
    def on_message(self, client, message):
        print("a game heard", message, flush=True)
        client.send(message)
"""


def into(file: Path) -> list[str]:
    """Return a command that runs this folder's server with its standard output in a file."""
    script = 'out=$1; shift; exec "$@" >"$out"'
    return ["sh", "-c", script, "sh", str(file), sys.executable, str(SCRIPT)]


def test_standard_output_can_be_read_while_it_is_written(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    fields = ("-l", "-n", "-T", "fields", "-e", "websocket.payload.text")
    command = [require_tool("tshark"), "-r", "-", "-Y", "websocket.opcode == 1", *fields]
    reader = subprocess.Popen(
        ["sh", "-c", 'exec "$@" <"$0"', str(pipe), *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert reader.stdout is not None
    with (
        reader,
        serve("--pcap", "-", "cat", command=into(pipe)) as server,
        RawClient.connect(server) as client,
    ):
        for text in ("one", "two"):
            echo(client, text)
            assert [reader.stdout.readline() for _ in range(2)] == [f"{text}\n"] * 2
        client.close()
        server.stop()
        assert reader.stdout.read() == ""
    assert reader.returncode == 0


def test_what_a_game_prints_does_not_get_between_the_blocks(tmp_path: Path) -> None:
    game = tmp_path / "chatty.py"
    game.write_text(CHATTY)
    out = tmp_path / "out.pcapng"
    with serve("--pcap", "-", str(game), command=into(out)) as server:
        with RawClient.connect(server) as client:
            echo(client, "hello")
            client.close()
        server.stop()
        assert "a game heard hello" in server.log()
    assert find_faults(out) == []
    assert texts(out) == ["hello", "hello"]


def test_a_script_can_ask_for_standard_output(tmp_path: Path) -> None:
    script = tmp_path / "echo.py"
    block = ["# /// script", "# [tool.scalesocket]", '# pcap = "-"', "# ///"]
    code = ["import sys", "for line in sys.stdin:", "    print(line, end='', flush=True)", ""]
    script.write_text("\n".join([*block, *code]))
    out = tmp_path / "out.pcapng"
    with serve(str(script), command=into(out)) as server, RawClient.connect(server) as client:
        echo(client, "hello")
        client.close()
    assert texts(out) == ["hello", "hello"]
    assert sorted(tmp_path.iterdir()) == sorted([script, out])


def test_full_files_are_kept_in_turn(path: Path) -> None:
    options = ("--pcapsize", "100K", "--pcapfiles", "3")
    with serve("--pcap", str(path), *options, "cat") as server, RawClient.connect(server) as client:
        for _ in range(20):
            echo(client, "x" * 20_000)
        client.close()
    names = ["play.2.pcapng", "play.1.pcapng", "play.pcapng"]
    files = [path.with_name(name) for name in names]
    assert sorted(path.parent.iterdir()) == sorted(files)
    assert all(file.stat().st_size <= 100_000 * 1.024 for file in files)
    packets = [packet for file in files for packet in read_packets(file)]
    assert packets[-1].flags & FIN or packets[-2].flags & FIN
    assert len(read_stream(packets, OUTBOUND)) > 100_000
    for file in files:
        assert len(run_tshark(file)) == len(read_packets(file))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a disk that is always full")
def test_on_a_full_disk_play_goes_on() -> None:
    with serve("--pcap", "/dev/full", "cat") as server, RawClient.connect(server) as client:
        server.wait_log("the recording ends: .*No space left")
        echo_much(client, 10, 1000)
        client.close()
        server.stop()
        assert len([line for line in server.log() if "recording" in line]) == 1


def test_a_file_that_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    door = tmp_path / "door"
    where = str(tmp_path / "absent" / "play.pcapng")
    done = run_cli("--pcap", where, "--unixsocket", str(door), "cat")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"--pcap {where}: No such file or directory" in line
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_a_name_is_refused() -> None:
    """As of a variable that is not set, `--pcap "$FILE"`: nothing was recorded, nothing said."""
    with pytest.raises(ConfigError, match="argument --pcap: '' is no FILE"):
        parse_command_line(["--pcap", "", "cat"])


def test_a_file_that_is_no_capture_is_left_alone(tmp_path: Path) -> None:
    """As of a forgotten name: `--pcap game.py cat` emptied the script."""
    script = tmp_path / "game.py"
    script.write_text("print('precious')\n")
    done = run_cli("--addr", "127.0.0.1:0", "--pcap", str(script), "cat")
    assert done.returncode == 2
    assert done.stderr == f"scalesocket: --pcap {script}: it is a file of something else\n"
    assert script.read_text() == "print('precious')\n"


def test_a_pipe_that_nobody_reads_is_told_in_one_line(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    done = run_cli("--addr", "127.0.0.1:0", "--pcap", str(pipe), "cat")
    assert done.returncode == 2
    assert f"--pcap {pipe}: " in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_server_that_cannot_listen_leaves_the_capture_of_another_alone(path: Path) -> None:
    path.write_bytes(b"precious")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run_cli("--addr", address, "--pcap", str(path), "cat")
    assert done.returncode == 1
    assert path.read_bytes() == b"precious"


# ==== 5. When nobody takes it =============================================


class Pipe:
    """A named pipe that is open for reading, and is read when `drain` is called."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self._found: list[bytes] = []
        self._thread = threading.Thread(target=self._read, name="pipe")

    def drain(self) -> None:
        """Begin to read."""
        os.set_blocking(self._reader, True)
        self._thread.start()

    def _read(self) -> None:
        while data := os.read(self._reader, 1 << 20):
            self._found.append(data)

    def found(self) -> bytes:
        """Return what has been read so far."""
        return b"".join(self._found)

    def finish(self) -> bytes:
        """Read no more, unless `drain` was called: then wait for the end; return what was read."""
        if self._thread.ident is not None:
            self._thread.join(WAIT)
        os.close(self._reader)
        return self.found()


def test_what_a_reader_is_too_slow_for_is_counted_and_play_goes_on(path: Path) -> None:
    pipe = Pipe(path.with_name("pipe"))
    options = ("--pcap", str(pipe.path), "--pcapfull", "drop")
    with serve(*options, "cat") as server, RawClient.connect(server) as client:
        echo_much(client, 12, MIB)  # 24 MiB on the wire; 16 MiB may wait
        pipe.drain()
        wait_until(lambda: echo(client, "more") or b"were lost" in pipe.found())
        client.close()
        server.stop()
        told = server.wait_log(r"recording: (\d+) records of (\d+) bytes were lost")
    path.write_bytes(pipe.finish())
    blocks = read_blocks(path.read_bytes())
    lost = int.from_bytes(read_options(blocks[-1].body[12:])[5], "little")
    assert lost == int(told[1]) > 0
    packets = [read_packet(block.body) for block in blocks if block.kind == ENHANCED_PACKET]
    comments = [packet.comment for packet in packets if "were lost" in packet.comment]
    assert sum(int(comment.split()[0]) for comment in comments) == int(told[2])
    assert sum(packet.dropped for packet in packets) == lost
    recorded = sum(len(packet.payload) for packet in packets)
    assert recorded + int(told[2]) > 24 * MIB
    assert run_tshark(path, "-Y", "_ws.malformed") == []


def find_gaps(path: Path) -> list[str]:
    """Return what tshark's analysis of TCP has to say of packets that are not there."""
    missing = "tcp.analysis.lost_segment || tcp.analysis.ack_lost_segment"
    wrong = "tcp.analysis.out_of_order || tcp.analysis.retransmission || frame.time_delta < 0"
    return run_tshark(path, "-Y", f"{missing} || {wrong}", "-c", "1000000")


def test_one_long_message_is_recorded_whole(path: Path) -> None:
    """Case 22: of one message of 20 MB that was echoed, megabytes were missing."""
    message = os.urandom(10_000_000).hex()
    with serve("--pcap", str(path), "--maxmsg", "32M", "--backlog", "64M", "tee") as server:
        with RawClient.connect(server, "lobby") as client:
            client.send_in_background(encode_client_frames([message[:15_000_000]]))
            assert client.receive_many(1) == [message[:15_000_000].encode()]
            client.close()
        server.stop()
        assert not any("lost" in line for line in server.log())
    packets = read_packets(path)
    assert message[:15_000_000].encode() in read_stream(packets, OUTBOUND)
    assert len(read_stream(packets, INBOUND)) > 15_000_000
    times = [packet.time_ns for packet in packets]
    assert times == sorted(times)
    assert find_gaps(path) == [] and find_faults(path) == []


def test_many_clients_that_all_talk_are_recorded_whole(path: Path) -> None:
    """Case 22: of 50 clients with 2,000 messages of 1 KiB each, megabytes were missing."""
    count, size, clients = 500, 1024, 20
    with serve("--pcap", str(path), "cat") as server, contextlib.ExitStack() as stack:
        talkers = [stack.enter_context(RawClient.connect(server, "one")) for _ in range(4)]
        talkers += [
            stack.enter_context(RawClient.connect(server, f"room-{n}")) for n in range(clients - 4)
        ]
        payloads = [b"%06d" % n + b"x" * (size - 6) for n in range(count)]
        sending = [c.send_in_background(encode_client_frames(payloads)) for c in talkers]
        hearing = [
            threading.Thread(target=client.receive_many, args=(count * (4 if at < 4 else 1), 100))
            for at, client in enumerate(talkers)
        ]
        for thread in (*hearing, *sending):
            if thread.ident is None:
                thread.start()
        for thread in (*hearing, *sending):
            thread.join()
        for client in talkers:
            client.close()
        server.stop()
        assert not any("lost" in line for line in server.log())
    packets = read_packets(path)
    out = b"".join(packet.payload for packet in packets if packet.direction == OUTBOUND)
    assert out.count(b"x" * (size - 6)) == count * (4 * 4 + clients - 4)
    times = [packet.time_ns for packet in packets]
    assert times == sorted(times)
    assert find_gaps(path) == [] and find_faults(path) == []


def test_a_second_server_at_a_file_is_refused_in_one_line(path: Path) -> None:
    """Case 22: the second one emptied the file under the first, and both wrote into it."""
    with serve("--pcap", str(path), "cat") as server, RawClient.connect(server) as client:
        echo(client, "before")
        done = run_cli("--addr", "127.0.0.1:0", "--pcap", str(path), "cat")
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1] == (
            f"scalesocket: --pcap {path}: another server records into this file"
        )
        echo(client, "after")
        client.close()
    assert texts(path) == ["before", "before", "after", "after"]
    with serve("--pcap", str(path), "cat"):  # once it has ended the file is free
        pass


def test_a_hung_disk_holds_play_up_but_once_and_the_file_says_what_is_missing(path: Path) -> None:
    """A recording waits for its disk, but one that takes nothing must not hang play for ever."""
    pipe = Pipe(path.with_name("pipe"))
    with serve("--pcap", str(pipe.path), "cat") as server, RawClient.connect(server) as client:
        echo_much(client, 12, MIB)  # 24 MiB on the wire; 16 MiB may wait
        pipe.drain()
        wait_until(lambda: echo(client, "more") or b"were lost" in pipe.found())
        client.close()
        server.stop()
        told = server.wait_log(r"recording: (\d+) records of (\d+) bytes were lost")
    path.write_bytes(pipe.finish())
    packets = read_packets(path)
    assert sum(packet.dropped for packet in packets) == int(told[1]) > 0


def test_a_reader_that_has_stopped_does_not_keep_the_server_from_ending(tmp_path: Path) -> None:
    pipe = Pipe(tmp_path / "pipe")
    command = into(pipe.path)
    with serve("--pcap", "-", "cat", command=command) as server:
        with RawClient.connect(server) as client:
            echo_much(client, 12, MIB)
            client.close()
        assert server.stop() == 0
        server.wait_log("the recording breaks off: whoever takes it has stopped")
        server.wait_log(r"recording: \d+ records of \d+ bytes were lost")
    pipe.finish()


def test_the_benchmark_of_what_it_costs_runs() -> None:
    command = [sys.executable, "-m", "tests.bench.overhead", "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    names = ("nothing", "--pcap", "--trace", "both")
    rows = [re.split(r" *\| *", line)[1:-1] for line in done.stdout.splitlines()[2:]]
    assert [row[0] for row in rows] == list(names)
    assert [row[-2] for row in rows] == ["0"] * 4


# ==== 6. A browser that plays =============================================


@pytest.mark.browser
@pytest.mark.parametrize("options", [(), ("--compress",)], ids=["plain", "compressed"])
def test_a_browser_that_plays_over_wss_reads_as_the_games_packets(
    path: Path, certs: Certificates, browser: Browser, options: tuple[str, ...]
) -> None:
    with serve("--pcap", str(path), *certs.options(), *options, "sandbox") as server:
        with browser.new_context(ignore_https_errors=True) as context:
            context.set_default_timeout(PATIENCE)
            page = context.new_page()
            page.goto(f"https://localhost:{server.port}/sandbox/?room=island")
            page.get_by_label("Your name").fill("Ann")
            page.get_by_role("button", name="Play").click()
            wait_for(page, "game.players[game.me] !== undefined")
            x = page.evaluate("game.players[game.me].x")
            key = "d" if x < 3000 else "a"
            page.keyboard.down(key)
            wait_for(page, "Math.abs(game.players[game.me].x - value) > 40", x)
            page.keyboard.up(key)
            page.keyboard.press("Enter")
            page.keyboard.type("hello there")
            page.keyboard.press("Enter")
            wait_for(page, "game.players[game.me].words === 'hello there'")
            sid = page.evaluate("game.me")
    assert b"hello there" not in path.read_bytes()
    # A browser that is closed may reset what it has open, which Wireshark warns of.
    assert find_faults(path, lua=True, wanted="not tcp.flags.reset == 1") == []
    assert run_tshark(path, "-Y", "_ws.malformed or moo.malformed", lua=True) == []
    assert bool(read_fields(path, "websocket.pmc", wanted="websocket.pmc == 1")) == bool(options)
    script = "".join(read_fields(path, "_ws.col.Info", wanted="moo", lua=True))
    story = (
        '> {"_seat":{}}',
        '< {"_seat":',
        "< Hello client 1",
        '> Spawn as "Ann"',
        f"< Spawned as #{sid}",
        "> Move 0" if key == "d" else "> Move 3.1",
        "< Players ",
        "> Move null",
        '> Chat "hello there"',
        f'< Said #{sid}: "hello there"',
    )
    for line in story:
        _, told, script = script.partition(line)
        assert told, f"{line!r} does not come, or too early"
