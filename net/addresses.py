"""Where this server listens, and where other devices find it.

The latter is for the log, and for links that pages show (`--api`). A page that was opened at
`localhost` cannot know any other name of the machine, and a link to `localhost` leads every friend
to a machine of their own.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import socket
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from scalesocket import AF_UNIX, FLAG, is_loopback, log

from .origins import is_address, split_origin

if TYPE_CHECKING:
    from scalesocket import Config, Request

# Addresses that are for documentation (RFC 5737, RFC 3849): nothing is sent to them. To connect a
# socket of UDP only asks the system by which of its own addresses it would go there.
ELSEWHERE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
WILDCARDS = {"0.0.0.0": (socket.AF_INET,), "::": (socket.AF_INET, socket.AF_INET6)}
OPTIONS = (("--qr", "", FLAG, "show the address that other devices open as a QR code"),)
# Errors that are not the operator's: `localhost` has an IPv6 address also where IPv6 is missing.
_NOT_OURS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT)
_FORWARDED = ("X-Forwarded-For", "X-Forwarded-Host", "Forwarded", "Via")


def open_listeners(
    opened: contextlib.ExitStack, config: Config
) -> tuple[list[socket.socket], list[socket.socket]]:
    """Listen wherever the options say, or at what systemd has opened; see `listen_at`.

    Returns:
        What is for HTTP and WebSockets, and what is for lines of text (`--tcplisten`).

    Raises:
        OSError: one cannot be had: see `strerror`.
    """
    lines = listen_at(opened, config.tcplisten, "--tcplisten")
    passed = os.environ.pop("LISTEN_PID", "") == str(os.getpid())  # sd_listen_fds(3)
    if passed or config.unixsocket:
        from . import sockets

        return sockets.open_sockets(opened, config, passed=passed), lines
    return listen_at(opened, config.addr), lines


def listen_at(
    opened: contextlib.ExitStack, addresses: Sequence[tuple[str, int]], option: str = "--addr"
) -> list[socket.socket]:
    """Listen at all addresses of the hosts that this machine has; log those that it has not.

    Args:
        opened: closes them, unless they are taken from it.
        addresses: a name or an address each, and a port; 0 for any that is free, at the first of
            the addresses that a name stands for. `[::]` means IPv4, too, if it is the only one.
        option: which chooses them.

    Raises:
        OSError: no address of a host can be had, or one is in use or forbidden: see `strerror`.
    """
    listeners: list[socket.socket] = []
    for host, port in addresses:
        here: list[socket.socket] = []
        missing: list[tuple[str, OSError]] = []
        try:
            sought = host.encode() if host.isascii() else host  # so encodings.idna is not loaded
            found = socket.getaddrinfo(
                sought, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            for family, _, _, _, address in found:
                alone = len(addresses) == len(found) == 1 and family == socket.AF_INET6
                both = alone and socket.has_dualstack_ipv6()
                try:
                    listener = socket.create_server(
                        address, family=family, backlog=4096, dualstack_ipv6=both
                    )
                except OSError as error:
                    error.strerror = os.strerror(error.errno or 0)  # without the address
                    if error.errno not in _NOT_OURS:
                        raise
                    missing.append((str(address[0]), error))
                    continue
                here.append(opened.enter_context(listener))
                if not port:
                    break
            if missing and not here:
                raise missing[-1][1]
        except OSError as error:
            at = f"[{host}]:" if ":" in host else f"{host}:"
            error.strerror = f"cannot listen at {at}{port}: {error.strerror}"
            if error.errno == errno.EADDRINUSE:
                error.strerror += f"; another port: {option} {at}{port % 65535 + 1}"
            raise
        for name, why in missing:
            log.warning("%s is %s, too, which this machine has not: %s", host, name, why.strerror)
        listeners += here
    return listeners


def outward_address(family: socket.AddressFamily) -> str | None:
    """Return this machine's address towards others, or None if it has none of this family."""
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect((ELSEWHERE[family], 9))
        address = str(sock.getsockname()[0])
        return None if is_loopback(address) else address
    return None


def addresses_of(host: str) -> list[str]:
    """Return the addresses at which other devices reach what listens at a host; IPv4 first."""
    if host in WILDCARDS:
        return list(filter(None, map(outward_address, WILDCARDS[host])))
    return [] if is_loopback(host) else [host]


def reachable_addresses(config: Config) -> list[str]:
    """Return the addresses at which other devices reach the server; IPv4 comes first."""
    found = [address for host, _ in config.addr for address in addresses_of(host)]
    return list(dict.fromkeys(found))


def describe_listener(listener: socket.socket) -> str:
    """Return where it listens, for the log."""
    if listener.family == AF_UNIX:
        return str(listener.getsockname())
    return "{} on port {}".format(*listener.getsockname())


def tell_operator(
    listeners: Sequence[socket.socket], lines: Sequence[socket.socket], config: Config
) -> None:
    """Log where it listens, and what to open here and on other devices; show that as a QR code.

    Args:
        listeners: for HTTP and WebSockets.
        lines: for lines of text (`--tcplisten`).
        config: whether there is to be a code (`--qr`).
    """
    for listener in listeners:
        log.info("running at %s", describe_listener(listener))
    for listener in lines:
        log.info("lines of text at %s", describe_listener(listener))
    places = [sock.getsockname()[:2] for sock in listeners if sock.family in ELSEWHERE]
    told = {describe_url(host, port, config) for host, port in places[:1]}
    if listeners[0].family in ELSEWHERE:
        log.info("open %s", *told)
    urls = [
        describe_url(address, port, config)
        for host, port in places
        for address in addresses_of(host)
    ]
    for url in dict.fromkeys(urls):
        if url not in told:
            log.info("other devices open %s", url)
    if config.qr and urls:
        show_code(urls[0], config)
    elif config.qr:
        log.warning("--qr: no other device reaches the server; see --addr")


def describe_url(host: str, port: int, config: Config) -> str:
    """Return what to open in a browser."""
    name = {"0.0.0.0": "localhost", "::": "localhost"}.get(host, host)
    name = f"[{name}]" if ":" in name else name
    secure = "s" if config.sslcert else ""
    return f"http{secure}://{name}:{port}{config.basepath}/"


def show_code(url: str, config: Config) -> None:
    """Show an address as a QR code, beside the log; say it alone where no camera could read that.

    What is no terminal, such as the log of a container, may still be read in one.
    """
    from .qr import draw_in_terminal, make_code, width_in_terminal

    try:
        code = make_code(url)
    except ValueError as error:
        log.warning("--qr: %s", error)
        return
    width, columns = width_in_terminal(code, sys.stderr.encoding), terminal_columns()
    if config.log == "json":
        log.info("--qr: a log of JSON shows no code; other devices open %s", url)
    elif columns < width:
        text = "--qr: the code is %d columns wide, the terminal %d; other devices open %s"
        log.warning(text, width, columns, url)
    else:
        with contextlib.suppress(OSError):  # whoever reads the log has gone, or the disk is full
            print(draw_in_terminal(code, sys.stderr.encoding), end="", file=sys.stderr, flush=True)


def terminal_columns() -> float:
    """Return how wide the terminal is that shows the log; any width, if that is none."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or math.inf
    except (OSError, ValueError):  # it is none, or has no descriptor
        return math.inf


def tell_addresses(config: Config, request: Request) -> dict[str, list[str]]:
    """Return what `/api/` adds for a page on this machine; nobody else is told.

    Who asks at another name of it has a link that others can open, and any client may say
    `Host: localhost`. A proxy on this machine is one, too, unless it says for whom it asks.
    """
    name = split_origin(request.headers.get("Host"))[1]
    is_ours = name == "localhost" or (is_address(name) and is_loopback(name.strip("[]")))
    is_here = request.from_here and is_ours
    if not is_here or any(request.headers.get(field) for field in _FORWARDED):
        return {}
    return {"addresses": reachable_addresses(config)}
