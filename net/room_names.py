"""Which rooms there are, if not any that somebody asks for (`--rooms`)."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from scalesocket import Config, ConfigError, HandshakeError, parse_room_name

from .config import parse_names

if TYPE_CHECKING:
    from scalesocket import Server

OPTIONS = (("--rooms", "LIST", parse_names, "allow only these rooms"),)


def check_options(config: Config) -> None:
    """See that everyone can come into the only rooms that there are.

    Raises:
        ConfigError: nobody can come into one of them, as its name is none.
    """
    for name in config.rooms:
        try:
            parse_room_name("/" + quote(name, safe="", errors="surrogateescape"))
        except HandshakeError as error:
            raise ConfigError(f"nobody could enter {name!r} of --rooms: {error.reason}") from None


def set_up(server: Server) -> None:
    """Have a server let nobody into any other room."""
    rooms, let_in = server.config.rooms, server.check_room

    def check_room(name: str) -> None:
        let_in(name)
        if name not in rooms:
            raise HandshakeError(404, f"there is no room {name!r} here")

    server.check_room = check_room
