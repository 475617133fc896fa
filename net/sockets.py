"""Listening elsewhere than at a port: at a Unix socket, or at what systemd has opened.

A Unix socket (--unixsocket) is a file: it says who may connect by its permissions, stays behind
when a server dies, and must be taken away when one ends. With socket activation systemd opens the
listening sockets and passes them as descriptors, from 3 on (sd_listen_fds(3)).
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scalesocket import Config, parser_of

from .addresses import listen_at

parse_mode = parser_of(r"[0-7]{3,4}", "octal mode such as 660", lambda text: int(text, 8))
parse_path = parser_of(r"(?s).+", "path", Path)  # an empty one would be this folder
# fmt: off
OPTIONS = (
    ("--unixsocket", "PATH", parse_path,
     "listen at a Unix socket; at a port, too, only if --addr is given"),
    ("--unixmode", "MODE", parse_mode, "its permissions (default 660)"),
)
# fmt: on


def complete_options(options: dict[str, Any]) -> None:
    """Listen at no port beside, unless one is given."""
    if "unixsocket" in options:
        options.setdefault("addr", ())


class SocketFile:
    """The file of a Unix socket that this server listens at.

    Args:
        path: where it is.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identity = self._identify()

    def remove(self) -> None:
        """Remove it, unless something else stands there by now."""
        with contextlib.suppress(OSError):  # it is gone, or the folder has been closed to us
            if self._identify() == self._identity:
                self._path.unlink()

    def _identify(self) -> tuple[int, int]:
        """Return what tells a file from any other."""
        facts = self._path.lstat()
        return facts.st_dev, facts.st_ino


def open_unix_listener(opened: contextlib.ExitStack, path: Path, mode: int) -> socket.socket:
    """Listen at a Unix socket; a file that a dead server has left behind is removed.

    Args:
        opened: closes it, and removes its file.
        path: of the socket.
        mode: its permissions: who may connect.

    Raises:
        OSError: a server listens there, or there is a file that is no socket.
    """
    import fcntl  # as POSIX as Unix sockets are

    listener = opened.enter_context(socket.socket(socket.AF_UNIX))
    folder = -1
    try:
        folder = os.open(path.parent, os.O_RDONLY)
        fcntl.flock(folder, fcntl.LOCK_EX)  # or two servers could both find the same file stale
        remove_stale_socket(path)
        before = os.umask(0o777)  # nobody may connect before the mode is set
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        path.chmod(mode)
        listener.listen(4096)
        opened.callback(SocketFile(path).remove)
        return listener
    except OSError as error:
        why = error.strerror or str(error)
        raise OSError(error.errno, f"cannot listen at {path}: {why}") from None
    finally:
        if folder >= 0:
            os.close(folder)


def remove_stale_socket(path: Path) -> None:
    """Remove a Unix socket at which nobody listens.

    Raises:
        OSError: somebody does, or it is no socket.
    """
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except FileNotFoundError:
            return
        except (BlockingIOError, TimeoutError):  # its queue is full: somebody listens
            pass
        except ConnectionRefusedError:
            if not path.is_socket():
                raise OSError(errno.EEXIST, "there is a file that is no socket") from None
            path.unlink()
            return
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def open_sockets(
    opened: contextlib.ExitStack, config: Config, *, passed: bool
) -> list[socket.socket]:
    """Return what systemd has opened, or else what listens at ports, and a Unix socket if wanted.

    Args:
        opened: closes them, and removes the file of the Unix socket.
        config: where they listen.
        passed: systemd has opened some.

    Raises:
        OSError: one of them cannot be had: see `strerror`.
    """
    listeners = [*map(opened.enter_context, take_passed_listeners())] if passed else []
    if not listeners:
        listeners = listen_at(opened, config.addr)
    if config.unixsocket:
        listeners.append(open_unix_listener(opened, config.unixsocket, config.unixmode))
    return listeners


def take_passed_listeners() -> Iterator[socket.socket]:
    """Yield the listening sockets that systemd has opened for this process, if any.

    Raises:
        OSError: a descriptor is no such socket.
    """
    count = os.environ.pop("LISTEN_FDS", "")
    for number in range(3, 3 + int(count)) if re.fullmatch("[0-9]{1,4}", count) else ():
        try:
            listener = socket.socket(fileno=number)
            yield listener
            if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                raise OSError(errno.EINVAL, "it does not listen")
        except OSError as error:
            place = f"descriptor {number} of LISTEN_FDS"
            error.strerror = f"cannot listen at {place}: {error.strerror}"
            raise
        listener.set_inheritable(False)
