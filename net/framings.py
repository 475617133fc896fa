"""All framings that there are: lines and JSON, which the one file has, and those of this folder.

Their modules are imported only where they are used: it keeps the start short.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import scalesocket
from scalesocket import Config, Framing, JsonFraming, Report


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
        json_type: Callable[..., Framing] = JsonFraming
        if config.idfield:
            from .json_fields import IdFraming

            json_type = functools.partial(IdFraming, id_field=config.idfield)
        framing = scalesocket.make_framing(config, mode, report, json_type)
    if config.delimiters != b"\n":
        from .delimiters import set_delimiters

        set_delimiters(framing, config.delimiters)
    return framing
