"""Which web pages may use the server (--origin, --sameorigin, --host).

A browser names the origin of the page that asks for a WebSocket (RFC 6455 section 10.2), and sends
the user's cookies along; so a server that any page may use should at least know that. Without these
options a server that only its own machine reaches is used by pages of that machine alone.
"""

from __future__ import annotations

import argparse
import re
import socket
from collections.abc import Callable, Container, Iterable
from typing import TYPE_CHECKING, Any, NoReturn

from scalesocket import (
    FLAG,
    UNIX_PEER,
    HandshakeError,
    LocalPages,
    is_loopback,
    log,
)

from .config import parse_names

if TYPE_CHECKING:
    from scalesocket import Config, Endpoint, Headers, Request, Server

MAX_TOLD = 100  # mistakes of strangers that are logged, each once
# Patterns are compiled when they are first needed, and kept by `re`: it keeps the start short.
_ORIGIN = r"(?:([a-z][a-z0-9+.-]*)://)?(\[[0-9a-f:.]+\]|[a-z0-9._~-]+)(?::([0-9]{1,5}))?"


def split_origin(text: str) -> tuple[str, str, int]:
    """Return scheme, host and port of an origin or a Host header (RFC 6454 section 6.2).

    What is left out is an empty string or 0; the ports of `http` and `https` are filled in. What
    is no origin has no host.
    """
    match = re.fullmatch(_ORIGIN, text.lower())
    if match is None or int(match[3] or 0) > 65535:
        return "", "", 0
    scheme = match[1] or ""
    return scheme, match[2], int(match[3] or {"http": 80, "https": 443}.get(scheme, 0))


_ADDRESS = r"\[[0-9a-f:.]+\]|(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\.?"
_LOOPBACK = r"(?:.+\.)?localhost\.?|127(\.\d+){3}|0\.0\.0\.0|\[::1\]"


def is_address(host: str) -> bool:
    """Whether browsers take a host for an address, in whatever form, and ask no name server."""
    return re.fullmatch(_ADDRESS, host) is not None


def is_own_page(origin: str, named: str, *, secure: bool) -> bool:
    """Whether a page comes from the host and port that it connects to, as `named` in its request.

    Args:
        origin: in lower case.
        named: a Host header in lower case.
        secure: the connection is TLS, so that a Host without a port means 443.
    """
    scheme, host, port = split_origin(origin)
    own = split_origin(("https://" if secure else "http://") + named)
    behind_proxy = origin == f"https://{named}"  # which speaks TLS in our stead
    same = (host, port) == own[1:] or behind_proxy
    return scheme in ("http", "https") and same


def find_forwarded_host(proxies: Container[str], peer: Endpoint, request: Request) -> str:
    """Return the name by which a client has found a trusted peer, if that says so, or nothing.

    A page can write X-Forwarded-Host into any request but that for a WebSocket, and its browser may
    be on the same machine as the proxy: there it counts for WebSockets only.
    """
    if peer[0] not in proxies or not (request.is_upgrade or not is_loopback(peer[0])):
        return ""
    return next(iter(request.headers.tokens("X-Forwarded-Host")[-1:]), "")


# `*.example.com`, or `.example.com`: every name below that one.
_SUBDOMAINS = r"((?:[a-z][a-z0-9+.-]*://)?)\*?\.(?=[a-z0-9_-])(.+)"


def split_pattern(text: str) -> tuple[str, str, int]:
    """Return what `split_origin` does, of an entry of --origin: its host may be `*.example.com`."""
    match = re.fullmatch(_SUBDOMAINS, text.lower())
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


def is_local_page(origin: str) -> bool:
    """Whether a page comes from a server on this machine, such as one for development."""
    scheme, host, _ = split_origin(origin)
    return scheme in ("http", "https") and re.fullmatch(_LOOPBACK, host) is not None


def find_own_names(config: Config) -> frozenset[str]:
    """Return the names that this server has: its machine's, and those that options name."""
    own = socket.gethostname().lower()
    hosts = [host.lower() for host, _ in config.addr]
    nodes = [re.sub(r"^https?://", "", node.lower()).partition("/")[0] for node in config.peers]
    hosts += [split_origin(node)[1] for node in nodes]
    names = {own, own.partition(".")[0] + ".local", *hosts}
    return frozenset(name.rstrip(".") for name in names) - {""}


class ToldOnce:
    """Logs what strangers do wrong: each kind once, and not without end."""

    def __init__(self) -> None:
        self._told: set[str] = set()  # by any thread; a line too many would do no harm

    def warn(self, text: str) -> None:
        """Log it, unless that was done already."""
        if text not in self._told and len(self._told) < MAX_TOLD:
            self._told.add(text)
            log.warning("%s", text)


class PageGuard(LocalPages):
    """Says which web pages may use this server: those of this machine alone, if it is local.

    It knows the names of this server, and what a proxy tells of the name that a client has used.
    With --origin, --host or --sameorigin `ListedPages` takes its place.

    Args:
        config: the options.
        proxies: may know the name by which a client has found them.
        find_client: returns for whom a peer speaks; see `TrustedProxies` in proxies.py.
    """

    def __init__(
        self,
        config: Config,
        proxies: Container[str] = (),
        find_client: Callable[[Endpoint, Headers], Endpoint] = lambda peer, _headers: peer,
    ) -> None:
        self._proxies = proxies
        self._find_client = find_client
        self._careful = config.pty  # a shell is not for any page that comes along
        self._names = find_own_names(config)
        self._told = ToldOnce()

    def check(self, request: Request, peer: Endpoint, *, secure: bool = False) -> None:
        """Refuse what a page may not ask for; see `LocalPages`."""
        if request.is_upgrade:
            self.check_page(request, peer, secure=secure)
        else:
            self.check_host(request, peer)

    def check_host(self, request: Request, peer: Endpoint) -> None:
        """Refuse a request to a name that is not ours: a strange page could read the answer.

        A name without a dot passes: it leads nowhere but within one's own network, where
        containers know each other by it.

        Raises:
            HandshakeError: 403.
        """
        named, is_told = self.find_name(request, peer)
        if self.is_careful(peer) and "." in named and not is_told:
            self.check_name(named)

    def check_page(self, request: Request, peer: Endpoint, *, secure: bool) -> None:
        """Refuse a WebSocket to a page that may have none.

        Raises:
            HandshakeError: 403.
        """
        origin = request.headers.get("Origin").lower()  # if there are two, it is none
        if not self.is_careful(self._find_client(peer, request.headers)):
            return
        if origin and origin != "file://" and not is_local_page(origin):
            self.check_own_page(request, peer, secure=secure)

    def check_own_page(self, request: Request, peer: Endpoint, *, secure: bool) -> None:
        """Refuse a WebSocket to a page that is not from this server itself; see `check_page`."""
        named, is_told = self.find_name(request, peer)
        if not is_own_page(request.headers.get("Origin").lower(), named, secure=secure):
            self.refuse_page(request)
        if not is_told:
            self.check_name(named)

    def check_name(self, named: str) -> None:
        """Refuse what is none of our names, as in a Host header.

        Raises:
            HandshakeError: 403.
        """
        host = split_origin(named)[1]
        known = host and (is_address(host) or re.fullmatch(_LOOPBACK, host))
        if not known and not self.is_named(host.rstrip(".")):
            cure = f"; with --host {host} it would be" if host else ""
            self._refuse(f"{host or named or '(none)'} is no name of this server{cure}")

    def is_named(self, host: str) -> bool:
        """Whether a name is one of this server's."""
        return host in self._names

    def is_careful(self, peer: Endpoint) -> bool:
        """Whether only pages from here may come in, unless an option names others."""
        is_from_here = peer != UNIX_PEER and is_loopback(peer[0])
        return self._careful or (self.is_local and is_from_here)

    def find_name(self, request: Request, peer: Endpoint) -> tuple[str, bool]:
        """Return the name by which a client has found us, and whether a trusted proxy tells it."""
        forwarded = find_forwarded_host(self._proxies, peer, request)
        return forwarded or request.headers.get("Host").lower(), bool(forwarded)

    def refuse_page(self, request: Request) -> NoReturn:
        """Refuse a page because of where it is from.

        Raises:
            HandshakeError: 403.
        """
        origin = request.headers.get("Origin").lower()
        cure = f"; with --origin {origin} it would be" if origin else ""
        kind = " (a file, or a page in a sandbox)" if origin == "null" else ""
        self._refuse(f"origin {origin or '(none)'}{kind} is not allowed{cure}")

    def _refuse(self, reason: str) -> NoReturn:
        """Refuse, and log it once: a page cannot show its user why."""
        self._told.warn(f"refused a page: {reason}")
        raise HandshakeError(403, reason)


class ListedPages(PageGuard):
    """Lets in the pages, and the names of this server, that options list.

    Args:
        config: the options.
        told: by proxies; see `PageGuard`.
    """

    def __init__(self, config: Config, *told: Any) -> None:
        super().__init__(config, *told)
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


def make_guard(config: Config, *told: Any) -> PageGuard:
    """Return what says which web pages may use this server; `told` is as of `PageGuard`."""
    listed = config.origin or config.host or config.sameorigin
    return ListedPages(config, *told) if listed else PageGuard(config, *told)


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


def set_up(server: Server) -> None:
    """Have a server look at where pages are from."""
    server.guard = make_guard(server.config, server.proxies, server.find_client)
    server.warn_once = ToldOnce().warn
