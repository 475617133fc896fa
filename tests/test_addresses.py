"""The addresses of a machine for its pages, and the links and QR codes that are made of them."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import socket
from typing import TYPE_CHECKING

import pytest
from scalesocket.net import addresses
from scalesocket.net.addresses import outward_address, reachable_addresses

from scalesocket import Config
from tests import browser as in_browser
from tests.browser import PAGES, wait_for
from tests.support import http_request, serve

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


@pytest.mark.parametrize(
    ("headers", "is_told"),
    [
        ({"Host": "localhost:9000"}, True),
        ({"Host": "localhost"}, True),
        ({"Host": "127.0.0.1:9000"}, True),
        ({"Host": "[::1]:9000"}, True),
        ({"Host": "192.168.1.5:9000"}, False),
        ({"Host": "localhost:9000", "X-Forwarded-For": "203.0.113.7"}, False),
    ],
)
def test_only_a_page_on_this_machine_is_told(headers: dict[str, str], is_told: bool) -> None:
    with serve("--api", "cat") as server:
        about = json.loads(http_request(server, path="/api/", headers=headers).body)
        assert about["target"] == "cat"
        assert about.get("addresses") == ([] if is_told else None)


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


CODE = """\
111111101100101111111
100000101110001000001
101110100110101011101
101110101011101011101
101110100101001011101
100000100100001000001
111111101010101111111
000000001000100000000
101101110111101001011
101110001110011110111
111011110001000000111
111000010111110010001
000101111001111101010
000000001110101111110
111111101000010010100
100000101110000000101
101110100100100001110
101110101100101101110
101110101100101101000
100000100001001111001
111111101000001100100"""


@pytest.mark.browser
@pytest.mark.slow
def test_qr_codes_are_those_of_another_encoder(browser: Browser) -> None:
    """What `segno` makes of the same texts, for versions 1, 7 and 10."""
    expected = {
        ("ws://10.0.0.7/", 3): hashlib.sha256(CODE.encode()).hexdigest()[:32],
        ("x" * 122, 5): "d35bc6aed8269bc6a505996ef49881bb",
        ("z" * 213, 6): "165da8211b0de0859be7cc4e950dcd42",
    }
    with serve("--staticdir", str(PAGES), "cat") as server:
        page = open_page(browser, server.http("/shared/qr.js"))
        script = """async ([text, mask]) => {
            const { qrCode } = await import("/shared/qr.js");
            const rows = qrCode(text, mask);
            return rows && rows.map((row) => row.map(Number).join("")).join("\\n");
        }"""
        for (text, mask), wanted in expected.items():
            drawn = page.evaluate(script, [text, mask])
            assert hashlib.sha256(drawn.encode()).hexdigest()[:32] == wanted
        masked = {page.evaluate(script, ["ws://10.0.0.7/", mask]) for mask in range(8)}
        assert page.evaluate(script, ["ws://10.0.0.7/", None]) in masked
        assert page.evaluate(script, ["z" * 214, None]) is None
        page.close()
