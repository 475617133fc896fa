"""All framings that there are: lines and JSON, which the one file has, and those of this folder.

Their modules are imported only where they are used: it keeps the start short.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Collection

import scalesocket
from scalesocket import (
    ROUTING_FIELDS,
    Config,
    Framing,
    JsonFraming,
    Report,
    json_checker,
    log,
)

_scan_string = json.decoder.scanstring  # type: ignore[attr-defined]  # typeshed lacks it
_JSON_SPACE = re.compile(r"[ \t\n\r]*")


def remove_members(text: str, names: Collection[str]) -> str:
    """Return a JSON object without its top-level members of those names; it must be valid.

    All else keeps its bytes.
    """

    def skip(index: int) -> int:
        match = _JSON_SPACE.match(text, index)
        assert match is not None
        return match.end()

    kept = []
    index = skip(text.index("{") + 1)
    while text[index] != "}":
        start = index
        key, index = _scan_string(text, index + 1, True)
        _, end = json_checker.raw_decode(text, skip(skip(index) + 1))
        if key not in names:
            kept.append(text[start:end])
        index = skip(end)
        if text[index] == ",":
            index = skip(index + 1)
    return "{" + ",".join(kept) + "}"


class HintingFraming(JsonFraming):
    """JSON lines; the log tells of the first field that routes and was taken from a client."""

    _told = False

    def _strip(self, text: str, names: list[str]) -> bytes:
        routing = next((name for name in names if name in ROUTING_FIELDS), None)
        if routing is not None and not self._told:
            self._told = True  # whoever comes from ScaleSocket may have relied on it
            log.warning("%s of a client's message was left out; --clientroute keeps it", routing)
        return super()._strip(text, names)


def make_framing(config: Config, mode: str, report: Report) -> Framing:
    """Return the framing of one direction: `json`, `gwsocket` or none."""
    framing: Framing
    if mode == "gwsocket":
        from .gwsocket import GwsocketFraming

        framing = GwsocketFraming(report=report, order=config.byteorder)
    elif config.binary:
        from .binary import BinaryFraming

        framing = BinaryFraming(report=report)
    else:
        json_type: Callable[..., Framing] = HintingFraming
        if config.idfield:
            from .json_fields import IdFraming

            json_type = functools.partial(IdFraming, id_field=config.idfield)
        framing = scalesocket.make_framing(config, mode, report, json_type)
        if config.delimiters != b"\n":
            from .delimiters import set_delimiters

            set_delimiters(framing, config.delimiters)
    return framing
