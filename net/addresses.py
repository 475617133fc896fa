"""Where other devices find this server: for the link that a page on this machine shows (`--api`).

A page that was opened at `localhost` cannot know any other name of the machine, and a link to
`localhost` leads every friend to a machine of their own.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

from scalesocket import is_loopback

if TYPE_CHECKING:
    from scalesocket import Config, Request

# Addresses that are for documentation (RFC 5737, RFC 3849): nothing is sent to them. To connect a
# socket of UDP only asks the system by which of its own addresses it would go there.
ELSEWHERE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
WILDCARDS = {"0.0.0.0": (socket.AF_INET,), "::": (socket.AF_INET, socket.AF_INET6)}
_FORWARDED = ("X-Forwarded-For", "X-Forwarded-Host", "Forwarded", "Via")


def outward_address(family: socket.AddressFamily) -> str | None:
    """Return this machine's address towards others, or None if it has none of this family."""
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect((ELSEWHERE[family], 9))
        address = str(sock.getsockname()[0])
        return None if is_loopback(address) else address
    return None


def reachable_addresses(config: Config) -> list[str]:
    """Return the addresses at which other devices reach the server; IPv4 comes first."""
    found: list[str] = []
    for host, _ in config.addr:
        if host in WILDCARDS:
            found += filter(None, map(outward_address, WILDCARDS[host]))
        elif not is_loopback(host):
            found.append(host)
    return list(dict.fromkeys(found))


def tell_addresses(config: Config, request: Request) -> dict[str, list[str]]:
    """Return what `/api/` adds for a page on this machine; nobody else is told."""
    name = request.headers.get("Host").rpartition(":")[0] or request.headers.get("Host")
    is_here = name == "localhost" or is_loopback(name.strip("[]"))
    if not is_here or any(request.headers.get(field) for field in _FORWARDED):
        return {}
    return {"addresses": reachable_addresses(config)}
