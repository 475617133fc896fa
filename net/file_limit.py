"""As many open files as this process may have, each client being one; but for its programs.

A program gets the limit that the server was given: one that uses select() relies on it.
"""

from __future__ import annotations

import contextlib
import os

import scalesocket
from scalesocket import POSIX

_given: tuple[int, int] | None = None  # the limit as it was before `raise_file_limit`


def raise_file_limit() -> None:
    """Let this process open as many files as it may."""
    global _given
    if not POSIX:
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else max(soft, 65536)
    with contextlib.suppress(ValueError, OSError):  # macOS has a limit beyond the hard one
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        _given = (soft, hard)


def restore_file_limit(pid: int) -> None:
    """Give a child the limit that we were given."""
    if _given is None:
        return
    import resource

    with contextlib.suppress(AttributeError, OSError):  # prlimit is Linux; it may be gone
        resource.prlimit(pid, resource.RLIMIT_NOFILE, _given)


def count_spare_files(rooms: int) -> int:
    """Return how many connections the limit has room for, beside so many rooms; 0: any number."""
    spare = scalesocket.count_spare_files()
    if POSIX and rooms:  # a child takes up to five
        spare = max(spare, os.sysconf("SC_OPEN_MAX") - 64 - 5 * rooms)
    return spare
