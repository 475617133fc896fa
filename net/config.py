"""The options of the modules of this folder: their defaults, their places in --help, and lists.

`scalesocket.Config` adds those of `scalesocket.py` itself, which can also be copied alone: all of
these are empty there.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Collection, Mapping
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, dataclass_transform

import scalesocket
from scalesocket import MIB

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network
    from pathlib import Path
    from typing import Self, TypeAlias

    from scalesocket import Option

    Network: TypeAlias = IPv4Network | IPv6Network


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Settings:
    """Named values with defaults: a dataclass without the tools, whose import takes its time."""

    def __init__(self, **given: Any) -> None:
        assert all(hasattr(type(self), name) for name in given), given
        vars(self).update(given)

    def replace(self, **given: Any) -> Self:
        """Return a copy with other values for these names."""
        return type(self)(**vars(self) | given)


class NetConfig(Settings):
    """What is given for these options; the value of `--header-ws` is in `header_ws`."""

    about: Mapping[str, str] = MappingProxyType({})  # for the lobby, of a script's own block
    tcplisten: tuple[tuple[str, int], ...] = ()
    spa: str = ""
    basepath: str = ""  # "/ws"
    qr: bool = False
    peers: tuple[str, ...] = ()
    metrics: bool = False
    ping: float = 20.0  # seconds
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
    rooms: tuple[str, ...] = ()
    maxperaddr: int | None = None  # 0: any number; None: see net/per_address.py
    maxrate: int = 0  # messages a second of one client
    resume: float = 0.0  # seconds
    store: str = ""
    saveevery: float = 10.0  # seconds
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

    def call_features(self, function: str, argument: object) -> None:
        """Call a function of the modules whose options have another value than the default."""
        changed = [name for name, it in vars(self).items() if it != getattr(type(self), name)]
        call_features(changed, function, argument)


class OptionsOf(NamedTuple):
    """Options of a module of this folder, whose OPTIONS hold their rows."""

    module: str
    names: str
    also_for: str = ""  # an option of scalesocket.py, of which it makes more

    def is_given(self, given: Collection[str]) -> bool:
        """Whether one of the options is among those that are given."""
        return any(name in given for name in (*self.names.split(), self.also_for))

    def load(self) -> ModuleType:
        """Import the module."""
        return importlib.import_module(f"scalesocket.net.{self.module}")

    def rows(self) -> list[Option]:
        """Return the options themselves."""
        names = set(self.names.split())
        return [option for option in self.load().OPTIONS if names & set(option[0].split())]


ALWAYS = "per_address origins pages descendants threads extensions pings".split()

# Where options stand in --help: behind which one of scalesocket.py, or first in which group.
# How to add one: "A new option" in README.md.
PLACES: dict[str, tuple[OptionsOf, ...]] = {
    "--addr": (
        OptionsOf("lines", "--tcplisten"),
        OptionsOf("sockets", "--unixsocket --unixmode"),
        OptionsOf("tls", "--sslcert --sslkey --sslca"),
    ),
    "--staticdir": (
        OptionsOf("files", "--spa"),
        OptionsOf("basepath", "--basepath"),
        OptionsOf("addresses", "--qr"),
    ),
    "--api": (
        OptionsOf("peers_api", "--peers"),
        OptionsOf("metrics", "--metrics"),
        OptionsOf("deflate", "--compress"),
        OptionsOf("origins", "--origin"),
        OptionsOf("proxies", "--trustproxy"),
        OptionsOf("auth", "--auth --authall"),
        OptionsOf("cors", "--cors"),
        OptionsOf("origins", "--sameorigin --host"),
        OptionsOf("headers", "--subprotocol --header --header-ws --header-http"),
        OptionsOf("pings", "--ping"),
        OptionsOf("drain", "--drain"),
        OptionsOf("workers", "--workers"),
        OptionsOf("reload", "--reload"),
    ),
    "rooms and limits": (OptionsOf("room_names", "--rooms"),),
    "--maxconns": (
        OptionsOf("per_address", "--maxperaddr"),
        OptionsOf("rate", "--maxrate"),
    ),
    "--linger": (
        OptionsOf("seats", "--resume"),
        OptionsOf("store", "--store --saveevery"),
    ),
    "--cache": (
        OptionsOf("history", "--cachepersist --cachebytes", also_for="--cache"),
        OptionsOf("oneshot", "--oneshot"),
    ),
    "--serverframe": (
        OptionsOf("json_fields", "--idfield --clientroute"),
        OptionsOf("gwsocket", "--byteorder"),
    ),
    "--leavemsg": (
        OptionsOf("seats", "--dropmsg --resumemsg"),
        OptionsOf("templates", "--multiline"),
    ),
    "-b --binary": (OptionsOf("delimiters", "--delimiters --null"),),
    "child": (
        OptionsOf("pipes", "--passenv"),
        OptionsOf("streams", "--passstderr"),
        OptionsOf("children", "--tcp --tcpports --pty"),
        OptionsOf("pipes", "--linebuffer --delay"),
    ),
    "--respawn": (OptionsOf("pipes", "--closegrace"),),
    "packet analysis": (
        OptionsOf("tap", "--pcap --pcapsize --pcapfiles --pcapfull --trace"),
        OptionsOf("console", "--console"),
    ),
    "general": (
        OptionsOf("logs", "--log"),
        OptionsOf("proxy_configs", "--print-config"),
    ),
}
REPEATABLE = ("--tcplisten", "--header", "--header-ws", "--header-http")
BARE = {  # options that may stand without a value, and what they mean then
    "--spa": "--spa=index.html",
    "--trace": "--trace=",
    "--console": "--console=127.0.0.0/8,::1,unix",
}


def parse_list(text: str) -> tuple[str, ...]:
    """Return the members of a comma-separated list."""
    return tuple(item.strip() for item in text.split(",") if item.strip())


def parse_names(text: str) -> tuple[str, ...]:
    """Return the members of a list that allows only these: it must not be empty by accident."""
    if not (names := parse_list(text)):
        raise argparse.ArgumentTypeError(f"{text!r} names nothing")
    return names


def list_options(words: Collection[str] | None) -> dict[str, list[Option]]:
    """Return the options by group; those of this folder only if words name them, or without words.

    What a command line does not name need not be imported.
    """
    given = None if words is None else {word.partition("=")[0] for word in words}

    def find_rows(place: str) -> list[Option]:
        found = PLACES.get(place, ())
        return [o for of in found if given is None or of.is_given(given) for o in of.rows()]

    groups = {}
    for title, own in scalesocket.OPTIONS.items():
        groups[title] = find_rows(title)
        for option in own:
            groups[title] += [option, *find_rows(option[0])]
    return groups


def call_features(given: Collection[str], function: str, argument: object) -> None:
    """Call a function of the modules that have it: of ALWAYS, and of options that are given.

    A module may have `complete_options(options)`, which adds what follows from those that are
    given, `check_options(config)`, which refuses what cannot work, and `set_up(server)`, which puts
    what it needs into attributes of the server.
    """
    words = {f"--{name.replace('_', '-')}" for name in given}
    first = ["proxies"] if "--trustproxy" in words else []  # others ask it whom to believe
    always = [*ALWAYS, "mistakes" if "game" in given else "pipes"]  # as a program has that
    wanted = [of.module for place in PLACES.values() for of in place if of.is_given(words)]
    for name in dict.fromkeys(first + always + wanted):
        module = importlib.import_module(f"scalesocket.net.{name}")
        if hasattr(module, function):
            getattr(module, function)(argument)
