"""The options that mean something only to modules of this folder, with their defaults.

`scalesocket.Config` adds those that `scalesocket.py` itself looks at.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from scalesocket import MIB

if TYPE_CHECKING:
    from pathlib import Path

    from scalesocket import Network


@dataclass(frozen=True, slots=True, kw_only=True)
class NetConfig:
    """What is given for these options; see `scalesocket.Config`."""

    about: dict[str, str] = field(default_factory=dict)  # for the lobby, of a script's own block
    spa: str = ""
    basepath: str = ""  # "/ws"
    qr: bool = False
    peers: tuple[str, ...] = ()
    metrics: bool = False
    drain: float = 0.0  # seconds
    workers: int = 1
    compress: bool = False
    auth: tuple[str, ...] = ()  # a command
    origin: tuple[str, ...] = ()  # or ("any",)
    sameorigin: bool = False
    host: tuple[str, ...] = ()
    cors: tuple[str, ...] = ()
    authall: bool = False
    unixmode: int = 0o660
    sslcert: Path | None = None
    sslkey: Path | None = None
    sslca: Path | None = None
    maxperaddr: int | None = None  # 0: any number; None: see net/per_address.py
    resume: float = 0.0  # seconds
    saveevery: float = 10.0  # seconds
    cache: tuple[int, bool] = (0, False)  # messages, and whether only those that are marked
    cachepersist: bool = False
    cachebytes: int = 64 * MIB
    dropmsg: str = ""
    resumemsg: str = ""
    byteorder: str = "big"  # or "little"
    tcpports: tuple[int, int] = (9001, 9999)
    linebuffer: str = "auto"  # or "on", "off"
    pcapsize: int = 0  # bytes; 0: any number
    pcapfiles: int = 1
    pcapfull: str = "wait"  # or "drop"
    log: str = "text"  # or "json"
    console: tuple[Network | str, ...] | None = None
