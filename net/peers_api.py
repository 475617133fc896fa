"""The API of a node that has peers (`--peers`): their rooms, beside its own."""

from __future__ import annotations

import urllib.parse

from scalesocket import Config, RoomRegistry, RoomsApi, Server, log, refuse_if

from .config import parse_names
from .peers import Peers
from .relay import Relays

# fmt: off
OPTIONS = (
    ("--peers", "LIST", parse_names,
     "other nodes (HOST:PORT or URLs): a client goes to the one that has its room, and --api "
     "lists the rooms of all"),
)
# fmt: on


def check_options(config: Config) -> None:
    """Refuse to list the rooms of others where none are listed.

    Raises:
        ConfigError: none are.
    """
    refuse_if(not config.api, "--peers needs --api")


class PeersApi(RoomsApi):
    """Answers for this node and its peers, and tells the registry how rooms on them are found.

    Args:
        registry: of this node's rooms.
        config: which the peers are.

    Raises:
        ConfigError: what names a peer is no address.
    """

    def __init__(self, registry: RoomRegistry, config: Config) -> None:
        super().__init__(registry, config)
        self._peers = Peers(config.peers, log.warning, base=config.basepath)
        self._relays = registry.relays = Relays(self._peers, registry.find, config.ping)

    def list_rooms(self, query: str) -> list[str]:
        """Return this node's rooms, and those of its peers unless only `local` ones are wanted.

        A peer that looks for one `room` is told whether it is here.
        """
        match urllib.parse.parse_qs(query):
            case {"local": [asker], "room": [name]}:
                return self._relays.describe(name, asker)
        if self._peers.is_asked_by_itself(query):
            return []
        rooms = super().list_rooms(query)
        return rooms if query.partition("=")[0] == "local" else rooms + self._peers.rooms()

    def describe(self, name: str) -> dict[str, str]:
        """Return the metrics of a room here or, failing that, of one on a peer."""
        return super().describe(name) or self._peers.describe(name)


def set_up(server: Server) -> None:
    """Have a server list the rooms of its peers, too, and lead clients to them."""
    server.site.api = PeersApi(server.registry, server.config)
    relays = server.registry.relays
    assert relays is not None
    server.takers.append(relays.take)
