"""Other fields of JSON messages than usual, and whose they are (`--idfield`, `--clientroute`).

ScaleSocket 0.1 had one field, `id`, both for who sent a message and for whom one is for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from scalesocket import (
    FLAG,
    JSON_MESSAGES,
    ROUTING_FIELDS,
    FieldNames,
    JsonValue,
    name_fields,
    parser_of,
    refuse_if,
)

from .framings import HintingFraming

if TYPE_CHECKING:
    from scalesocket import Config

parse_field = parser_of(r"[A-Za-z_][A-Za-z0-9_]*", "name of ASCII letters, digits and _", str)
# fmt: off
OPTIONS = (
    ("--idfield", "NAME", parse_field,
     "one JSON field both ways (default _from and _to, or id if --joinmsg says so)"),
    ("--clientroute", "", FLAG,
     "let clients say _to, _except, _meta, _cache and _close, too (JSON framing)"),
)
# fmt: on


def complete_options(options: dict[str, Any]) -> None:
    """Have the messages of --json name the field, too."""
    for name, message in JSON_MESSAGES.items():
        if options.get("idfield") and options.get(name) == message:
            options[name] = message.replace("_from", options["idfield"])


def check_options(config: Config) -> None:
    """Refuse a field that nobody reads or writes, and to let clients say what nobody reads.

    Raises:
        ConfigError: nobody does.
    """
    framings = (config.clientframe, config.serverframe)
    refuse_if(config.idfield and "json" not in framings, "--idfield needs JSON framing")
    is_read = framings == ("json", "json")
    refuse_if(config.clientroute and not is_read, "--clientroute needs JSON framing both ways")


class AnyNames(FieldNames):
    """Names of JSON fields of which not all begin with an underscore."""

    def __init__(self, *names: str) -> None:
        super().__init__(*names)
        self._rest = [f'"{name}"' for name in self._names if name[0] != "_"]

    def find(self, keys: Iterable[str]) -> list[str]:
        """Return which of an object's keys some parser may take for one of these names."""
        lower = '"' + '"'.join(keys).lower() + '"'
        if any([name in lower for name in self._rest]):
            return [key for key in keys if self._is_spelled(key)]
        return super().find(keys)


class IdFraming(HintingFraming):
    """JSON lines with one field that says who sent a message, or whom it is for (`--idfield`).

    Args:
        id_field: its name.
        options: those of `JsonFraming`.
    """

    routing_fields = tuple(name for name in ROUTING_FIELDS if name != "_to")
    names_type = AnyNames
    _marked = False

    def __init__(self, *, id_field: str, **options: Any) -> None:
        self.sender_field = id_field
        super().__init__(**options)
        self._hint = id_field.encode()
        named = rf"""["']{id_field}\\?["']|[{{,]\s*{id_field}\s*:"""
        self._routing = re.compile(f"{name_fields(self.routing_fields)}|{named}".encode())
        self._id_named = re.compile(named)

    def _is_marked(self, item: bytes) -> bool:
        if self._hint in item and self._routing.search(item) is not None:
            return True
        return super()._is_marked(item)

    def _is_addressed(self, text: str, value: JsonValue) -> bool:
        if super()._is_addressed(text, value):
            return True
        # A list of objects that have an `id` is nothing to wonder at.
        return value is None and self._id_named.search(text) is not None

    def _read_to(self, value: JsonValue) -> tuple[int, ...] | None:
        value = value.get(self.sender_field)
        ids = value if isinstance(value, list) else [value]
        # Lua and PHP may have made it a float.
        ids = [int(i) if isinstance(i, float) and i.is_integer() else i for i in ids]
        # Anything else in such a field may mean something else to the game.
        return tuple(ids) if all(type(client_id) is int for client_id in ids) else None
