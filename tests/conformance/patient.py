"""kosoku with time for a busy machine: `python -m tests.conformance.patient SECONDS OPTIONS...`.

Its cases give a server 0.5 to 10 s, and fail it then. Among the tests that run side by side a
server may get no processor for so long. The cases need not be so strict about it: what they are
about is what is said, and in which order. A good server never waits for a limit, so that more time
costs nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

LAST_STEP = "B"  # so the cases 6.4.* name it


class Patient:
    """The connection of a case, as kosoku hands it to the case, with longer limits."""

    def __init__(self, connection: Any, seconds: float) -> None:
        self.__dict__.update(_connection=connection, _seconds=seconds)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._connection, name, value)

    def killAfter(self, seconds: float) -> None:
        """Drop the connection if the server has not ended it."""
        self._connection.killAfter(max(seconds, self._seconds))

    def closeAfter(self, seconds: float) -> None:
        """Close the connection if the server has not ended it."""
        self._connection.closeAfter(max(seconds, self._seconds))

    def continueLater(self, seconds: float, step: Callable[[], None], tag: str = "") -> None:
        """Go on with the next step of a case.

        Most such pauses are part of the case. In 6.4.* a server has until the last step to reject
        what is no UTF-8.
        """
        if tag == LAST_STEP:
            seconds = max(seconds, self._seconds)
        self._connection.continueLater(seconds, step, *([tag] if tag else []))


def be_patient(seconds: float) -> None:
    """Give a server so many seconds in each case."""
    import kosoku.cases  # noqa: F401 - lets the next line find it
    from case import Case

    init = Case.__init__
    Case.__init__ = lambda case, connection: init(case, Patient(connection, seconds))


def main() -> None:
    """Run kosoku."""
    from kosoku._cli import main

    be_patient(float(sys.argv.pop(1)))
    main()


if __name__ == "__main__":
    main()
