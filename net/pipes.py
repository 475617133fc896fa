"""The options of programs on pipes (`--linebuffer`, `--delay`), and when linebuffer.py is loaded.

That is once the server listens, as nobody needs it before the first room. What any program is given
of the environment, and of time, is chosen here, too (`--passenv`, `--closegrace`).
"""

from __future__ import annotations

import contextlib
import functools

from scalesocket import (
    PASSED,
    POSIX,
    Config,
    ProcessBackend,
    Server,
    parse_seconds,
    refuse_if,
)

from .config import parse_list


def parse_variables(text: str) -> tuple[str, ...]:
    """Return names of environment variables; a list that begins with `+` adds to the default."""
    names = parse_list(text.lstrip().removeprefix("+"))
    return PASSED + names if text.lstrip().startswith("+") else names


# fmt: off
OPTIONS = (
    ("--passenv", "LIST", parse_variables,
     "environment variables to pass on, such as PATH,LC_*; +LIST: beside the default (PATH, "
     "library paths, locale, TZ, HOME)"),
    ("--linebuffer", "WHEN", ("auto", "on", "off"),
     "have TARGET print line by line: auto (default) finds a way for its kind, on gives it a "
     "pseudo-terminal for stdout, off leaves it alone"),
    ("--delay", "SECONDS", parse_seconds, "wait before using TARGET (default 0; 1 with --tcp)"),
    ("--closegrace", "SECONDS", parse_seconds,
     "added to each step of stopping TARGET (default 0.1)"),
)
# fmt: on


def check_options(config: Config) -> None:
    """Refuse a pseudo-terminal where there are no lines, or none can be had.

    Raises:
        ConfigError: another option, or the system, is in the way.
    """
    if config.linebuffer == "on":
        for name in ("tcp", "pty", "binary"):
            refuse_if(getattr(config, name), f"--{name} and --linebuffer=on exclude each other")
        refuse_if(not POSIX, "--linebuffer=on needs a POSIX system")


def set_up(server: Server) -> None:
    """Have a server's program on pipes print line by line, as far as it can be made to."""
    config = server.config
    if config.command:
        server.registry.make_backend = functools.partial(make_backend, config)
        server.poller.call_soon(load)


def load() -> None:
    """Load what the first room would have to wait for; where no file can be opened, it does."""
    with contextlib.suppress(OSError, ImportError):
        from . import linebuffer  # noqa: F401  # only loaded


def make_backend(config: Config) -> ProcessBackend:
    """Return the backend of a room."""
    from .linebuffer import make_backend

    return make_backend(config)
