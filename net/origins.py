"""Which web pages may use the server, as options say (--origin, --sameorigin, --host).

A browser names the origin of the page that asks for a WebSocket (RFC 6455 section 10.2), and sends
the user's cookies along; so a server that any page may use should at least know that. Without these
options a server that only its own machine reaches is used by pages of that machine alone: see
`PageGuard` in scalesocket.py, which this extends.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from scalesocket import FLAG, PageGuard, is_address, parse_names, split_origin

if TYPE_CHECKING:
    from scalesocket import Config, Endpoint, Proxies, Request

# `*.example.com`, or `.example.com`: every name below that one.
_SUBDOMAINS = re.compile(r"((?:[a-z][a-z0-9+.-]*://)?)\*?\.(?=[a-z0-9_-])(.+)")


def split_pattern(text: str) -> tuple[str, str, int]:
    """Return what `split_origin` does, of an entry of --origin: its host may be `*.example.com`."""
    match = _SUBDOMAINS.fullmatch(text.lower())
    scheme, host, port = split_origin(match[1] + match[2] if match else text)
    if match and host:
        host = "" if is_address(host) else f"*.{host}"
    return scheme, "" if host.startswith(".") else host, port


def matches_host(host: str, pattern: str) -> bool:
    """Whether a host is the one that is meant, or one below it."""
    below = pattern.startswith("*.")
    return host.endswith(pattern[1:]) and host[0] != "." if below else host == pattern


def is_listed(origin: str, allowed: Iterable[str]) -> bool:
    """Whether an origin, in lower case, is among those of an option."""
    given_scheme, given_host, given_port = split_origin(origin)
    for item in allowed:
        if item in ("null", "file://"):  # a page from nowhere, as in a sandbox; from a file
            if origin == item:
                return True
            continue
        scheme, host, port = split_pattern(item)
        same = given_scheme and scheme in ("", given_scheme) and port in (0, given_port)
        if same and matches_host(given_host, host):
            return True
    return False


class ListedPages(PageGuard):
    """Lets in the pages, and the names of this server, that options list.

    Args:
        config: the options.
        proxies: may know the name by which a client has found them.
    """

    def __init__(self, config: Config, proxies: Proxies) -> None:
        super().__init__(config, proxies)
        self._lets_any = "any" in config.origin
        self._listed = config.origin
        self._same = config.sameorigin
        self._names_all = bool(config.host)
        # A page that --origin lists need not be told from ours.
        hosts = [split_pattern(item)[1].rstrip(".") for item in (*config.host, *config.origin)]
        self._patterns = frozenset(hosts) - {"", "any", "null"}

    def check_host(self, request: Request, peer: Endpoint) -> None:
        """Refuse a request that looks for somebody else; with --host, whoever sends it."""
        named, is_told = self.find_name(request, peer)
        asks = not self._lets_any and not is_told and (self._same or self.is_careful(peer))
        if "." in named and (self._names_all or asks):
            self.check_name(named)

    def check_page(self, request: Request, peer: Endpoint, *, secure: bool) -> None:
        """Refuse a WebSocket to a page that may have none."""
        if self._names_all:
            self.check_host(request, peer)
        if self._lets_any or is_listed(request.headers.get("Origin").lower(), self._listed):
            return
        if self._same:
            self.check_own_page(request, peer, secure=secure)
        elif self._listed:
            self.refuse_page(request)
        else:
            super().check_page(request, peer, secure=secure)

    def is_named(self, host: str) -> bool:
        """Whether a name is one of this server's, or below one that stands for all below it."""
        return super().is_named(host) or any(matches_host(host, name) for name in self._patterns)


def parse_origins(text: str) -> tuple[str, ...]:
    """Return origins, each with a host at least; or `any`, which must stand alone."""
    origins = parse_names(text.lower())
    for origin in origins:
        if origin != "file://" and not split_pattern(origin)[1]:
            cure = "; any origin is called any" if origin == "*" else ""
            raise argparse.ArgumentTypeError(
                f"{origin!r} is no origin such as https://example.com or *.example.com{cure}"
            )
    if "any" in origins and len(origins) > 1:
        raise argparse.ArgumentTypeError(f"{text!r} lists more than any origin")
    return origins


def parse_hosts(text: str) -> tuple[str, ...]:
    """Return names of hosts, without scheme and port."""
    hosts = parse_names(text.lower())
    for host in hosts:
        scheme, name, port = split_pattern(host)
        if not name or scheme or port:
            raise argparse.ArgumentTypeError(
                f"{host!r} is no name such as game.example.com or *.example.com"
            )
    return hosts


# fmt: off
OPTIONS = (
    ("--origin", "LIST", parse_origins,
     "allow only pages from these, such as https://example.com, *.example.com, file:// or "
     "null; any: all pages (default: all; with --pty, or if only this machine reaches the "
     "server, those of this machine and of the server itself)"),
    ("--sameorigin", "", FLAG, "allow only pages from the host that they connect to"),
    ("--host", "LIST", parse_hosts,
     "answer only who has found the server by one of these names (*.example.com), an "
     "address, localhost or the machine's own name"),
)
# fmt: on
