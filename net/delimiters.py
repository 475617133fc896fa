"""Other ends of a program's messages than a newline (`--delimiters`, `--null`)."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from scalesocket import FLAG, Framing


def parse_delimiters(text: str) -> bytes:
    """Return single bytes, each of which ends an item."""
    if not text or not text.isascii():
        raise argparse.ArgumentTypeError(f"{text!r} is not one or more ASCII characters")
    return bytes(dict.fromkeys(text.encode()))


# fmt: off
OPTIONS = (
    ("--delimiters", "CHARS", parse_delimiters,
     "any of CHARS ends a message of TARGET (default newline)"),
    ("--null", "", FLAG, "so does a null byte, alone or with --delimiters"),
)
# fmt: on


def complete_options(options: dict[str, Any]) -> None:
    """Count the null byte of --null among the delimiters."""
    if options.pop("null", False):
        options["delimiters"] = options.get("delimiters", b"") + b"\0"


def set_delimiters(framing: Framing, delimiters: bytes) -> None:
    """Have each of these bytes end a message, in all that one program prints."""
    if b"\n" in delimiters:  # it comes first, so that \r\n can be told from it
        delimiters = b"\n" + delimiters.replace(b"\n", b"")
    framing.delimiter = delimiters[:1]
    if len(delimiters) > 1:
        unify, feed = make_unifier(delimiters), framing.feed
        framing.feed = lambda data: feed(unify(data))  # type: ignore[method-assign]  # of this one


def make_unifier(delimiters: bytes) -> Callable[[bytes], bytes]:
    r"""Return what makes each delimiter the first of them.

    `\r\n` is one delimiter if both of them are some, also where a read has cut it.
    """
    same = bytes.maketrans(delimiters[1:], delimiters[:1] * len(delimiters[1:]))
    pairs = b"\n" in delimiters and b"\r" in delimiters
    after_cr = False  # what came last was a \r: a \n now belongs to it

    def unify(data: bytes) -> bytes:
        nonlocal after_cr
        if pairs:
            if after_cr:
                data = data.removeprefix(b"\n")
            after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n")
        return data.translate(same)

    return unify
