"""What the bundled games share: reading what strangers send.

A client may send anything. What a game cannot use is a `RuleError`, whose text goes back to the
one who sent it; no other exception may come of a message, because that would end the room.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable

MAX_NAME = 16  # characters
BLANKS = "\u115f\u1160\u2800\u3164\uffa0"  # letters and a symbol that look like spaces
# Marks that are not seen by themselves: the joiners, and those that choose a variant.
UNSEEN = re.compile("[\u034f\u17b4\u17b5\u180b-\u180f\u200d\ufe00-\ufe0f\U000e0100-\U000e01ef]")
JOINER = "\u200d"  # makes one picture of two: of a woman and a rocket an astronaut
PICTURE = "[\u2190-\u27ff\u2900-\u2bff\U0001f000-\U0001faff]"  # where emoji are
# A joiner that is not between two pictures; the first may end with the mark for one in colour.
LOOSE = re.compile(f"(?<!{PICTURE})(?<!{PICTURE}\ufe0f){JOINER}|{JOINER}(?!{PICTURE})")


class RuleError(ValueError):
    """A client asked for what cannot be done; the text tells it why."""


def read_object(message: str | bytes) -> dict[str, object]:
    """Return the JSON object in a message.

    Raises:
        RuleError: there is none.
    """
    if isinstance(message, bytes):
        raise RuleError("messages are text, not binary")
    try:
        value = json.loads(message)
    except (ValueError, RecursionError):  # 5,000 digits are a ValueError, too
        raise RuleError("that is not JSON") from None
    if not isinstance(value, dict):
        raise RuleError("messages are JSON objects")
    return value


def new_name(event: dict[str, object], taken: Iterable[str]) -> str:
    """Return the name that a client gives itself.

    Args:
        event: has the name in `name`, or in `username`.
        taken: names that are in use.

    Raises:
        RuleError: it is no name, or taken.
    """
    name = clean_name(event.get("name", event.get("username")))
    if _look(name) in map(_look, taken):
        raise RuleError(f"the name '{name}' is taken")
    return name


def _look(name: str) -> str:
    """Return what two names have in common that look the same."""
    return UNSEEN.sub("", name).casefold()


def clean_name(value: object) -> str:
    """Return a name without what cannot be seen, and not longer than `MAX_NAME`.

    Raises:
        RuleError: nothing is left of it, or it is no string.
    """
    if isinstance(value, str):
        # NFKC, so that two names which look the same are the same.
        text = unicodedata.normalize("NFKC", value[: 10 * MAX_NAME])
        seen = (c if c not in BLANKS else " " for c in printable(text, " "))
        name = " ".join("".join(seen).split())[:MAX_NAME].rstrip(f" {JOINER}")
        if is_seen(name):
            return name
    raise RuleError(f"a name is 1 to {MAX_NAME} printable characters")


def printable(text: str, instead: str = "") -> str:
    """Return a text with something else for whatever cannot be printed; joined pictures stay so."""
    text = "".join(c if c.isprintable() or c == JOINER else instead for c in text)
    return LOOSE.sub(instead, text)


def is_seen(text: str) -> bool:
    """Whether there is anything to see in a text; marks need something to be on."""
    return any(c not in BLANKS and unicodedata.category(c)[0] not in "MCZ" for c in text)
