"""Names of rooms that nobody could enter, which `--rooms` may have."""

from __future__ import annotations

from urllib.parse import quote

from scalesocket import Config, ConfigError, HandshakeError, parse_room_name


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
