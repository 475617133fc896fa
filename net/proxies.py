"""What proxies say of the clients behind them: PROXY protocol, X-Forwarded-* (--trustproxy).

Anybody can write such things, so they count only from a peer that the operator trusts.
"""

from __future__ import annotations

import argparse
import re
import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING

from scalesocket import KIB, UNIX_PEER, Want, log

from .config import parse_names

if TYPE_CHECKING:
    from scalesocket import Endpoint, Headers, Life, Server, Session

    from .config import Network

MAX_PROXY_HEADER = 4 * KIB  # bytes of a header of the PROXY protocol
_PROXY_V1 = b"PROXY "
_PROXY_V2 = b"\r\n\r\n\0\r\nQUIT\n"
_PROXY_LINE = re.compile(
    rb"PROXY (?:UNKNOWN[^\r\n]*|TCP(?:4(?! \S*:)|6(?= \S*:)) "
    rb"([0-9A-Fa-f:.]+) [0-9A-Fa-f:.]+ (\d{1,5}) \d{1,5})\r\n"
)
_ADDRESSES = {1: 12, 2: 36, 3: 216}  # bytes of addresses, by family: IPv4, IPv6, Unix
_SSL = 0x20  # type of what a header says of TLS; bit 0 of its first byte: the client spoke it
_FORWARDED = re.compile(r"(?:\[([^\]]+)\]|([0-9.]+|[0-9A-Fa-f:.]+))(?::([0-9]{1,5}))?")


def parse_proxy_header(data: bytes) -> tuple[int, Endpoint | None] | None:
    """Read what a proxy puts before a connection (PROXY protocol, versions 1 and 2).

    Args:
        data: the first bytes of the connection, as many as have come.

    Returns:
        Its size, 0 if there is none, and the client that it names, if it names one. None: more
        bytes are needed.

    Raises:
        ValueError: it is malformed.
    """
    if data.startswith(_PROXY_V1):
        line = data[: data.find(b"\n", 0, 107) + 1]  # 107 bytes are the most (section 2.1)
        if not line and len(data) < 107:
            return None
        match = _PROXY_LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"malformed line {(line or data)[:107]!r}")
        named = check_endpoint(match[1].decode(), match[2]) if match[1] else None
        return len(line), named
    if data.startswith(_PROXY_V2):
        return _parse_proxy_v2(data)
    begins = _PROXY_V1.startswith(data) or _PROXY_V2.startswith(data)
    return None if begins else (0, None)


def _parse_proxy_v2(data: bytes) -> tuple[int, Endpoint | None] | None:
    if len(data) < 16:
        return None
    command, family, length = struct.unpack_from("!BBH", data, 12)
    if command not in (0x20, 0x21):  # LOCAL, as in a health check, and PROXY
        raise ValueError(f"version and command {command:#x}")
    if length > MAX_PROXY_HEADER:
        raise ValueError(f"{length} bytes; {MAX_PROXY_HEADER} is the most")
    end = 16 + length
    if len(data) < end:
        return None
    size = {0x11: 4, 0x21: 16}.get(family, 0)  # of an address: TCP over IPv4, over IPv6
    if command == 0x20 or not size:
        return end, None
    if length < 2 * size + 4:
        raise ValueError(f"{length} bytes of addresses of family {family:#x}")
    port = int.from_bytes(data[16 + 2 * size : 18 + 2 * size], "big")
    return end, (str(read_address(data[16 : 16 + size])), port)


def tells_tls(header: bytes) -> bool:
    """Whether a header of the PROXY protocol says that the client spoke TLS (section 2.2.6)."""
    if not header.startswith(_PROXY_V2) or header[12] != 0x21:
        return False
    at = 16 + _ADDRESSES.get(header[13] >> 4, 0)
    while len(header) >= at + 3:
        kind, size = struct.unpack_from("!BH", header, at)
        at += 3 + size
        if kind == _SSL and size >= 5 and at <= len(header):
            return bool(header[at - size] & 1)
    return False


def read_address(value: str | bytes) -> IPv4Address | IPv6Address:
    """Return an IP address; that of IPv4 for one inside IPv6, as `::ffff:192.0.2.1`.

    Raises:
        ValueError: it is none.
    """
    ip = ip_address(value)
    return getattr(ip, "ipv4_mapped", None) or ip


def check_endpoint(address: str, port: bytes | str) -> Endpoint:
    """Return an IP address in its usual form, and a port.

    Raises:
        ValueError: it is no IP address, or no port.
    """
    if int(port) > 65535 or "%" in address:  # nor does a zone mean anything to us
        raise ValueError(f"{address}, port {int(port)}: no IP address and port up to 65535")
    return str(read_address(address)), int(port)


class TrustedProxies:
    """Peers that are believed when they say who the client is.

    Args:
        members: networks, and `unix` for every peer at a Unix socket.
    """

    def __init__(self, members: Iterable[Network | str]) -> None:
        self._members = frozenset(members)

    def __contains__(self, address: object) -> bool:
        if not self._members or address == UNIX_PEER[0]:
            return address in self._members
        ip = read_address(str(address))
        return any(ip in network for network in self._members if not isinstance(network, str))

    def read_header(self, session: Session) -> Life:
        """Read the word of a trusted peer about who has connected (PROXY protocol).

        Raises:
            ConnectionAbortedError: it is malformed.
        """
        if session.address[0] not in self:
            return
        try:
            while (found := parse_proxy_header(session.rest)) is None:
                piece = yield Want.BYTES
                if not piece:
                    return
                session.rest += piece
        except ValueError as error:
            log.warning("bad PROXY header from %s: %s", session.address[0], error)
            raise ConnectionAbortedError("bad PROXY header") from None
        size, peer = found
        session.proxied, session.rest = session.rest[:size], session.rest[size:]
        session.peer = peer or session.address

    def find_client(self, peer: Endpoint, headers: Headers) -> Endpoint:
        """Return the client: the last in X-Forwarded-For that is no trusted peer itself.

        Args:
            peer: who sent the headers.
            headers: of its request.
        """
        for text in reversed(headers.get("X-Forwarded-For").split(",")):
            if peer[0] not in self:
                break
            match = _FORWARDED.fullmatch(text.strip())
            if match is None:
                break
            try:
                peer = check_endpoint(match[1] or match[2], match[3] or "0")
            except ValueError:
                break
        return peer

    def speaks_tls(self, peer: Endpoint, headers: Headers, proxied: bytes = b"") -> bool:
        """Whether a trusted peer says that the client came to it over TLS.

        Args:
            peer: who sent the headers.
            headers: of its request.
            proxied: its PROXY header, if there was one.
        """
        told = peer[0] in self and headers.tokens("X-Forwarded-Proto")[-1:] == ["https"]
        return told or tells_tls(proxied)


def set_up(server: Server) -> None:
    """Have a server believe its proxies; before all else is hung on it."""
    server.proxies = proxies = TrustedProxies(server.config.trustproxy)
    server.read_header = proxies.read_header
    server.find_client = proxies.find_client
    server.speaks_tls = proxies.speaks_tls


def parse_proxies(text: str) -> tuple[Network | str, ...]:
    """Return networks and `unix`."""
    from ipaddress import ip_network

    try:
        return tuple(
            item if item == "unix" else ip_network(item, strict=False) for item in parse_names(text)
        )
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}; 10.0.0.0/8, ::1 or unix would do") from None


# fmt: off
OPTIONS = (
    ("--trustproxy", "LIST", parse_proxies,
     "believe these peers (addresses, networks, unix) about who the client is: "
     "X-Forwarded-For, PROXY protocol"),
)
# fmt: on
