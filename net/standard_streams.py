"""stdin, stdout and stderr, where whoever started us has closed them.

A socket would become stderr, and a client would get the log.
"""

from __future__ import annotations

import os
import sys


def open_standard_streams() -> None:
    """Give them a meaning: they say nothing, and take everything."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it takes the lowest number that is free
    sys.stdin = sys.stdin or open(0, closefd=False)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)
    sys.stderr = sys.stderr or open(2, "w", closefd=False)
