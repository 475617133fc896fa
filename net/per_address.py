"""How many connections one address may have (--maxperaddr), so that nobody takes all there are.

An address of IPv6 counts as its /64, which one household or host has. By default one has half of
--maxconns, and this machine any number. Whoever comes through a proxy that is trusted counts by its
own address, once that is known.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from scalesocket import (
    MAX_REFUSED,
    UNIX_PEER,
    ConnectionLimits,
    HandshakeError,
    ShortageError,
    is_loopback,
    parse_count,
)

from .file_limit import count_spare_files

if TYPE_CHECKING:
    from collections.abc import Container

    from scalesocket import Config, Server, Session

# fmt: off
OPTIONS = (
    ("--maxperaddr", "NUM", parse_count,
     "connections of one address, or /64 of IPv6; beyond it 503 (by default half of "
     "--maxconns, and any number from this machine; 0: any number)"),
)
# fmt: on
MAX_REFUSED_OF_ONE = 4  # connections of one address beyond --maxperaddr that are answered


def network_of(address: str) -> str:
    """Return what an address counts as: of IPv6 the 64 bits that one household or host has."""
    if ":" not in address:
        return address
    from ipaddress import ip_address  # where it is used: it keeps the start short

    ip = ip_address(address.partition("%")[0])
    mapped = getattr(ip, "ipv4_mapped", None)
    return str(mapped) if mapped else ip.packed[:8].hex()


class AddressLimits(ConnectionLimits):
    """Counts connections also by their address.

    Args:
        config: how many are served, and how many of one address.
        proxies: whose connections are not counted by their address, but by those of their clients.
        count: is called with a name for each that is too many for its address.
    """

    def __init__(
        self,
        config: Config,
        proxies: Container[str] = (),
        count: Callable[[str], None] = lambda name: None,
    ) -> None:
        super().__init__(config)
        self._limit = config.maxconns or count_spare_files(config.maxrooms)
        self._served = 0  # guarded by the lock, as all that follows
        self._refused = 0  # those that are being told so
        of_one = config.maxperaddr
        self.of_one = max(1, self._limit // 2) if of_one is None else of_one
        self._spares_own = of_one is None
        self._proxies = proxies
        self.name = functools.lru_cache(1024)(self._find_name)  # asked twice for each connection
        self._served_by: Counter[str] = Counter()  # both kinds, by network
        self._count = count

    def enter(self, address: str) -> str:
        """Count one more; see `ConnectionLimits`."""
        network = self.name(address)
        with self._lock:
            of_one = self._served_by[network] - self.of_one if network else -1
            if of_one >= 0:
                self._count("refused_by_address")
                if of_one >= MAX_REFUSED_OF_ONE or self._refused >= MAX_REFUSED:
                    raise ConnectionAbortedError(f"far over --maxperaddr: {address}")
            elif self._served >= self._limit and self._refused >= MAX_REFUSED:
                raise ShortageError(f"far over the {self._limit} connections of --maxconns")
            if network:
                self._served_by[network] += 1
            if of_one < 0 and self._served < self._limit:
                self._served += 1
                return ""
            self._refused += 1
        if of_one >= 0:
            return self._describe()
        return f"all {self._limit} connections are in use"

    def leave(self, address: str, over_limit: str) -> None:
        """Count one less of those for whom `enter` returned that."""
        network = self.name(address)  # first, as there may be no memory for it
        with self._lock:
            if over_limit:
                self._refused -= 1
            else:
                self._served -= 1
            self._uncount(network)

    def enter_behind(self, session: Session, address: str) -> None:
        """Count a client that a proxy has told of, until the end of its session.

        Raises:
            HandshakeError: 503, there are too many of its address.
        """
        network = self.name(address)
        with self._lock:
            if network and self._served_by[network] >= self.of_one:
                self._count("refused_by_address")
                raise HandshakeError(503, self._describe(), ("Retry-After", "1"))
            session.at_end.append(functools.partial(self._leave_behind, network))
            self._served_by[network] += 1

    def _leave_behind(self, network: str) -> None:
        with self._lock:
            self._uncount(network)

    def _describe(self) -> str:
        return f"all {self.of_one} connections of your address are in use (--maxperaddr)"

    def _uncount(self, network: str) -> None:
        self._served_by[network] -= 1
        if self._served_by[network] <= 0:
            del self._served_by[network]

    def _find_name(self, address: str) -> str:
        """Return what is counted for an address; nothing if that is not."""
        if not self.of_one or address in ("", UNIX_PEER[0]) or address in self._proxies:
            return ""
        return "" if self._spares_own and is_loopback(address) else network_of(address)


def set_up(server: Server) -> None:
    """Have a server count connections by their address."""
    server.limits = limits = AddressLimits(server.config, server.proxies, server.registry.count)
    server.enter_behind = limits.enter_behind
