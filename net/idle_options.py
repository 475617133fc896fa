"""Options that mean nothing to what is served, or let in more than a program can print."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from scalesocket import MAX_OUTPUT_ITEM, Config, list_options, log


def warn_of_options(config: Config, words: Sequence[str]) -> None:
    """Say which options mean nothing, or let in more than a program can print.

    And which of a script's own are not read, as they are a comment.
    """
    if config.game is None:
        if (config.joinmsg or config.leavemsg) and not config.clientframe:
            cure = "" if config.binary else ": use --frame=json"
            log.warning("a client can write what looks like --joinmsg or --leavemsg%s", cure)
        if config.command[:2] == (sys.executable, "-u"):  # see `command_for`
            from .programs import find_lost_block

            if lost := "".join(map(find_lost_block, map(Path, config.command[2:3]))):
                log.warning("%s", lost)
        if config.maxmsg > MAX_OUTPUT_ITEM:
            text = "--maxmsg is over %d bytes: a program that prints more in one piece ends a room"
            log.warning(text, MAX_OUTPUT_ITEM)
        for text in find_idle_options(config):
            log.warning("%s", text)
        return
    from .script_options import read_script_table

    script = sys.modules.get(f"{config.target} (game)")  # see `load_game_file`
    table = read_script_table(Path(script.__file__)) if script and script.__file__ else {}
    own = [f"--{name}" for name in table]
    groups = list_options([*own, *words])
    known = {name for row in (*groups["messages"], *groups["child"]) for name in row[0].split()}
    if config.auth:  # a program, too
        known.discard("--passenv")
    at = words.index("--") if "--" in words else len(words)
    given = [*own, *(word.partition("=")[0] for word in words[:at])]
    found = [name for name in given if name in known]
    if any(Path(word).stem != Path(config.target).stem for word in words[at + 1 :]):
        found.append("-- ARGS")
    if found:
        log.warning("means nothing to a Game, only to a program: %s", ", ".join(found))


def find_idle_options(config: Config) -> Iterator[str]:
    """Yield which options mean nothing to a program; ScaleSocket takes them, so they are taken."""
    raw = "--pty" if config.pty else "--binary" if config.binary else ""
    if config.serverframe == "gwsocket":
        raw = "gwsocket framing"
    if raw and config.delimiters != Config().delimiters:
        yield f"--delimiters and --null mean nothing with {raw}"
    if config.tcpports != Config().tcpports and not config.tcp:
        yield "--tcpports means nothing without --tcp"
