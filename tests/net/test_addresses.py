"""The addresses of a machine for its pages, and the links and QR codes that are made of them."""

from __future__ import annotations

import fcntl
import ipaddress
import json
import os
import re
import socket
import struct
import sys
import termios
from typing import TYPE_CHECKING

import pytest
import qrcode
from qrcode.constants import ERROR_CORRECT_M
from qrcode.util import MODE_8BIT_BYTE, QRData
from scalesocket.net import addresses
from scalesocket.net.addresses import outward_address, reachable_addresses
from scalesocket.net.qr import Modules, draw_in_terminal, make_code, penalty

from scalesocket import Config
from tests import browser as in_browser
from tests.browser import PAGES, wait_for
from tests.support import PATIENCE, http_request, serve, wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

browser = in_browser.browser

LAN = {socket.AF_INET: "192.168.1.5", socket.AF_INET6: "fd00::5"}


@pytest.mark.parametrize(
    ("hosts", "told"),
    [
        (["0.0.0.0"], ["192.168.1.5"]),
        (["::"], ["192.168.1.5", "fd00::5"]),
        (["0.0.0.0", "::"], ["192.168.1.5", "fd00::5"]),
        (["127.0.0.1", "::1"], []),
        (["127.0.0.1", "10.0.0.9"], ["10.0.0.9"]),
        ([], []),
    ],
)
def test_a_server_is_reached_where_it_listens(
    monkeypatch: pytest.MonkeyPatch, hosts: list[str], told: list[str]
) -> None:
    monkeypatch.setattr(addresses, "outward_address", LAN.get)
    config = Config(addr=tuple((host, 9000) for host in hosts))
    assert reachable_addresses(config) == told


def test_the_address_towards_others_is_one_of_this_machine() -> None:
    address = outward_address(socket.AF_INET)
    if address is None:
        pytest.skip("this machine has no network")
    assert not ipaddress.ip_address(address).is_loopback
    with socket.socket() as sock:
        sock.bind((address, 0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("headers", "is_told"),
    [
        ({"Host": "localhost:9000"}, True),
        ({"Host": "localhost"}, True),
        ({"Host": "127.0.0.1:9000"}, True),
        ({"Host": "[::1]:9000"}, True),
        ({"Host": "[::1]"}, True),
        ({"Host": "192.168.1.5:9000"}, False),
        ({"Host": "127.evil.example"}, False),
        ({"Host": "localhost:9000", "X-Forwarded-For": "203.0.113.7"}, False),
    ],
)
def test_only_a_page_on_this_machine_is_told(headers: dict[str, str], is_told: bool) -> None:
    with serve("--api", "--host", "127.evil.example", "cat") as server:
        about = json.loads(http_request(server, path="/api/", headers=headers).body)
        assert about["target"] == "cat"
        assert about.get("addresses") == ([] if is_told else None)


@pytest.mark.parametrize("path", ["/api/", "/lobby/about.json"])
def test_who_only_says_that_it_is_on_this_machine_is_not_told(path: str) -> None:
    """`Host: localhost` was enough, from anywhere."""
    with serve("--api", "--trustproxy", "127.0.0.1", "cat") as server:
        for peer, is_told in ((b"192.0.2.1", False), (b"127.0.0.1", True)):
            with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as sock:
                sock.sendall(b"PROXY TCP4 %b 192.0.2.2 5000 80\r\n" % peer)
                sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n".encode())
                sock.sendall(b"Connection: close\r\n\r\n")
                answer = sock.makefile("rb").read()
            assert answer.startswith(b"HTTP/1.1 200")
            assert (b'"addresses"' in answer) == is_told


def open_page(browser: Browser, url: str) -> Page:
    page = browser.new_page()
    page.goto(url)
    return page


@pytest.mark.browser
@pytest.mark.slow
def test_the_lobby_shows_a_link_that_another_device_can_open(browser: Browser) -> None:
    """It was http://localhost:9000/, which leads every friend to a machine of their own."""
    with serve("game.py", addr="0.0.0.0:0") as server:
        page = open_page(browser, f"http://localhost:{server.port}/")
        wait_for(page, "document.querySelector('#title').textContent === 'Meadow'")
        address = outward_address(socket.AF_INET)
        if address is None:
            pytest.skip("this machine has no network")
        page.get_by_label("Name of the room").fill("pond")
        link = f"http://{address}:{server.port}/bunny/?room=pond"
        assert page.locator("#link").inner_text() == link
        assert page.get_by_role("img", name="The link as a QR code").is_visible()
        assert not page.locator("#near").is_visible()
        page.goto(link)
        wait_for(page, "window.game?.room === 'pond' && game.me !== null")
        page.close()


@pytest.mark.browser
@pytest.mark.slow
def test_the_lobby_says_if_only_this_machine_can_open_its_link(browser: Browser) -> None:
    with serve("game.py") as server:
        page = open_page(browser, f"http://localhost:{server.port}/")
        page.get_by_text("Only this machine can open it").wait_for()
        assert not page.locator("#qr").is_visible()
        page.close()


@pytest.mark.browser
@pytest.mark.slow
def test_qr_codes_of_pages_are_those_of_the_terminal(browser: Browser) -> None:
    with serve("--staticdir", str(PAGES), "cat") as server:
        page = open_page(browser, server.http("/shared/qr.js"))
        script = """async ([text, mask]) => {
            const { qrCode } = await import("/shared/qr.js");
            return qrCode(text, mask);
        }"""
        for number, length in enumerate(LENGTHS):
            text = ("http://10.0.0.7/é/" + "xyz" * 70).encode()[:length].decode(errors="ignore")
            for mask in (None, number % 8):
                assert page.evaluate(script, [text, mask]) == make_code(text, mask)
        assert page.evaluate(script, ["z" * 214, None]) is None
        page.close()


# ==== QR codes ============================================================

# The shortest and the longest text of each version.
LENGTHS = [1, 14, 15, 26, 27, 42, 43, 62, 63, 84, 85, 106, 107, 122, 123, 152, 153, 180, 181, 213]


def encode_elsewhere(text: str, mask: int) -> Modules:
    """Return the code that another encoder makes of a text."""
    code = qrcode.QRCode(error_correction=ERROR_CORRECT_M, border=0, mask_pattern=mask)
    code.add_data(QRData(text.encode(), mode=MODE_8BIT_BYTE, check_data=False))
    return [[bool(cell) for cell in row] for row in code.get_matrix()]


def test_qr_codes_are_those_of_another_encoder() -> None:
    for number, length in enumerate(LENGTHS):
        text = "ä" + "http://10.0.0.7/" * 14
        text = text.encode()[-length:].decode()
        for mask in (number % 8, (number + 5) % 8):
            assert make_code(text, mask) == encode_elsewhere(text, mask)


def test_the_mask_is_one_that_can_be_read_well() -> None:
    """Corners and long runs that are none would deceive a reader."""
    text = "http://192.168.178.100:9000/"
    points = [penalty(make_code(text, mask)) for mask in range(8)]
    best = points.index(min(points))
    assert make_code(text) == make_code(text, best)
    assert max(points) > min(points)
    assert penalty([[True] * 6] * 6) == 12 * (6 - 2) + 25 * 3 + 100  # runs, squares, imbalance
    assert penalty([[True, False] * 3, [False, True] * 3] * 3) == 0


def test_a_text_that_is_too_long_has_no_qr_code() -> None:
    with pytest.raises(ValueError, match="214 bytes; 213"):
        make_code("z" * 214)


def read_terminal(text: str) -> list[list[bool]]:
    """Return the modules that a terminal shows, from its colours and blocks."""
    rows = []
    for line in text.splitlines():
        if "107m  " in line and "30;" not in line:
            rows.append([cell == "40" for cell in re.findall(r"\x1b\[(40|107)m  ", line)])
            continue
        found = re.fullmatch(r"\x1b\[30;107m(.*)\x1b\[0m", line)
        assert found
        rows.append([cell in "▀█" for cell in found[1]])
        rows.append([cell in "▄█" for cell in found[1]])
    return rows


@pytest.mark.parametrize("encoding", ["utf-8", "UTF8", "iso-8859-1", None])
def test_a_terminal_shows_all_of_a_qr_code_and_a_margin(encoding: str | None) -> None:
    code = make_code("http://192.168.178.100:9000/")
    text = draw_in_terminal(code, encoding)
    assert encoding in ("utf-8", "UTF8") or text.isascii()
    shown = read_terminal(text)[: len(code) + 8]
    assert [row[4:-4] for row in shown[4:-4]] == code
    around = shown[:4] + shown[-4:] + [row[:4] + row[-4:] for row in shown]
    assert not any(map(any, around))


# ==== At the start ========================================================


def addresses_in(log: list[str]) -> list[str]:
    return [line.split(" open ")[1] for line in log if "other devices open" in line]


def test_the_log_says_what_other_devices_open_and_shows_it_as_a_code() -> None:
    address = outward_address(socket.AF_INET)
    if address is None:
        pytest.skip("this machine has no network")
    with serve("--qr", "game.py", addr="0.0.0.0:0", env={"PYTHONIOENCODING": "utf-8"}) as server:
        page = f"http://{address}:{server.port}/"
        drawn = draw_in_terminal(make_code(page), "utf-8").splitlines()
        server.wait_log(re.escape(drawn[-1]))
        wait_until(lambda: server.log()[-len(drawn) :] == drawn)
        assert addresses_in(server.log()) == [page]


def test_an_address_that_the_server_has_said_is_not_said_again() -> None:
    address = outward_address(socket.AF_INET)
    if address is None:
        pytest.skip("this machine has no network")
    with serve("cat", addr=f"{address}:0") as server:
        server.wait_log(f"open .*{re.escape(address)}")
    assert addresses_in(server.log()) == []


def test_who_listens_for_this_machine_alone_shows_no_code() -> None:
    with serve("--qr", "--addr", "[::1]:0", "cat") as server:
        server.wait_log("--qr: no other device reaches the server; see --addr")
        assert addresses_in(server.log()) == []
        assert "\x1b" not in "".join(server.log())


URL = "http://192.168.178.100:9000/"


def show_in_terminal(
    monkeypatch: pytest.MonkeyPatch, columns: int, encoding: str, config: Config
) -> str:
    """Return what a terminal of that width is sent for a code, but for the log."""
    screen, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with open(terminal, "w", encoding=encoding) as stream, open(screen, "rb") as output:
        monkeypatch.setattr(sys, "stderr", stream)
        addresses.show_code(URL, config)
        stream.write("end")
        stream.flush()
        shown = b""
        while not shown.endswith(b"end"):
            shown += os.read(output.fileno(), 10_000)
    return shown.decode(encoding).removesuffix("end")


@pytest.mark.parametrize(("encoding", "width"), [("utf-8", 37), ("ascii", 74)])
def test_a_terminal_that_is_too_narrow_for_the_code_shows_the_address(
    encoding: str, width: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert "\x1b" in show_in_terminal(monkeypatch, width, encoding, Config())
    assert not caplog.records
    assert show_in_terminal(monkeypatch, width - 1, encoding, Config()) == ""
    (record,) = caplog.records
    told = record.getMessage()
    assert f"{width} columns" in told and f"terminal {width - 1}" in told and URL in told


def test_a_terminal_that_does_not_know_its_width_is_shown_the_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "\x1b" in show_in_terminal(monkeypatch, 0, "utf-8", Config())


def test_a_code_that_nobody_reads_keeps_no_server_from_starting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With --qr a log whose reader had gone, or whose disk was full, ended the server."""
    reader, writer = os.pipe()
    os.close(reader)
    stream = open(writer, "w", encoding="utf-8")  # noqa: SIM115  # closing it fails
    monkeypatch.setattr(sys, "stderr", stream)
    addresses.show_code(URL, Config())
    monkeypatch.undo()
    with pytest.raises(BrokenPipeError):
        stream.close()


def test_no_code_stands_in_a_log_of_json() -> None:
    if outward_address(socket.AF_INET) is None:
        pytest.skip("this machine has no network")
    with serve("--qr", "--log", "json", "cat", addr="0.0.0.0:0") as server:
        told = json.loads(server.wait_log("--qr")[0] and server.log()[-1])["message"]
        assert "a log of JSON shows no code; other devices open http://" in told
        assert all(json.loads(line) for line in server.log())
