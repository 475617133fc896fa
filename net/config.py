"""The options of the modules of this folder, with their defaults.

`scalesocket.Config` adds those of `scalesocket.py` itself, which can also be copied alone: all of
these are empty there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from scalesocket import MIB

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network
    from pathlib import Path

    Network: TypeAlias = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class NetConfig:
    """What is given for these options; the value of `--header-ws` is in `header_ws`."""

    about: dict[str, str] = field(default_factory=dict)  # for the lobby, of a script's own block
    tcplisten: tuple[tuple[str, int], ...] = ()
    spa: str = ""
    basepath: str = ""  # "/ws"
    qr: bool = False
    peers: tuple[str, ...] = ()
    metrics: bool = False
    oneshot: bool = False
    drain: float = 0.0  # seconds
    workers: int = 1
    reload: bool = False
    compress: bool = False
    trustproxy: tuple[Network | str, ...] = ()
    auth: tuple[str, ...] = ()  # a command
    origin: tuple[str, ...] = ()  # or ("any",)
    sameorigin: bool = False
    host: tuple[str, ...] = ()
    cors: tuple[str, ...] = ()
    authall: bool = False
    subprotocol: tuple[str, ...] = ()
    header: tuple[tuple[str, str], ...] = ()
    header_ws: tuple[tuple[str, str], ...] = ()  # … to handshakes alone
    header_http: tuple[tuple[str, str], ...] = ()  # … to all other responses
    unixsocket: Path | None = None
    unixmode: int = 0o660
    sslcert: Path | None = None
    sslkey: Path | None = None
    sslca: Path | None = None
    maxperaddr: int | None = None  # 0: any number; None: see net/per_address.py
    maxrate: int = 0  # messages a second of one client
    resume: float = 0.0  # seconds
    store: str = ""
    saveevery: float = 10.0  # seconds
    cache: tuple[int, bool] = (0, False)  # messages, and whether only those that are marked
    cachepersist: bool = False
    cachebytes: int = 64 * MIB
    dropmsg: str = ""
    resumemsg: str = ""
    multiline: bool = False
    idfield: str = ""
    clientroute: bool = False
    delimiters: bytes = b"\n"
    byteorder: str = "big"  # or "little"
    passstderr: bool = False
    tcp: bool = False
    pty: bool = False
    tcpports: tuple[int, int] = (9001, 9999)
    linebuffer: str = "auto"  # or "on", "off"
    delay: float = 0.0  # seconds
    pcap: str = ""
    trace: tuple[str, ...] | None = None  # rooms and kinds; of all, if it is empty
    pcapsize: int = 0  # bytes; 0: any number
    pcapfiles: int = 1
    pcapfull: str = "wait"  # or "drop"
    log: str = "text"  # or "json"
    console: tuple[Network | str, ...] | None = None
