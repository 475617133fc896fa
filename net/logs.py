"""The log: as JSON (`--log=json`), in colour, and so that nobody waits for whoever reads it.

A log that goes into a pipe which nobody reads would stop the server, since every thread logs. So
the handler is used whenever it is there.
"""

from __future__ import annotations

import _thread
import contextlib
import functools
import json
import logging
import os
import socket
import stat
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from scalesocket import (
    MIB,
    OUT_OF_MEMORY_PAUSE,
    JsonValue,
    T,
    TextFormatter,
    log,
    wait_writable,
)

OPTIONS = (("--log", "FMT", ("text", "json"), "log as text (default) or json"),)
MAX_LOG_WAITING = 1 * MIB  # bytes of the log that nobody has read yet
LOG_PATIENCE = 1.0  # seconds for them to be read at the end


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for a record."""
        entry: dict[str, JsonValue] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        for name in ("room", "client"):
            if getattr(record, name, None) is not None:
                entry[name] = getattr(record, name)
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        text = json.dumps(entry, ensure_ascii=False)
        return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


class ColourFormatter(TextFormatter):
    """Lines as `TextFormatter` has them, for a terminal."""

    def join(self, level: str, message: str, where: str) -> str:
        """Return what a line says as the line."""
        code = {"ERROR": 31, "WARN": 33, "INFO": 32, "DEBUG": 36}.get(level, 0)
        where = f"\x1b[2m{where}\x1b[0m" if where else ""
        return f"\x1b[{code}m[{level}]\x1b[0m {message}{where}"


def keep_trying(function: Callable[..., T], *args: Any) -> T:
    """Call a function until there is memory for it; as `insist`, but that logs."""
    while True:
        try:
            return function(*args)
        except MemoryError:
            time.sleep(OUT_OF_MEMORY_PAUSE)


def make_formatter(kind: str) -> logging.Formatter:
    """Return what makes a line of a record, as `--log` says."""
    if kind == "json":
        return JsonFormatter()
    colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    return ColourFormatter() if colour else TextFormatter()


def open_without_waiting(descriptor: int) -> Callable[[bytes], int] | None:
    """Return what writes to a descriptor, and raises BlockingIOError where it would have to wait.

    Return None if the system has no way to do that. The descriptor itself cannot be made
    non-blocking: whoever started us has it, too, and does not expect that.
    """
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind):
        return functools.partial(os.write, descriptor)
    if stat.S_ISSOCK(kind) and hasattr(socket, "MSG_DONTWAIT"):  # systemd's journal
        sock = socket.socket(fileno=os.dup(descriptor))
        return lambda data: sock.send(data, socket.MSG_DONTWAIT)
    try:  # Linux: the same pipe or terminal, opened once more
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY
        return functools.partial(os.write, os.open(f"/proc/self/fd/{descriptor}", flags))
    except (OSError, AttributeError):
        return None


class LogHandler(logging.Handler):
    """Writes the log; no thread that logs ever waits for whoever reads it.

    A line is written at once if the descriptor takes it. Otherwise it waits, and a thread writes
    it; that thread may block, and ends when nothing waits any more. At most MAX_LOG_WAITING bytes
    wait. Lines beyond that are dropped and counted, and a line in their place says how many.

    Args:
        descriptor: of the log.
        encoding: of its lines.
    """

    def __init__(self, descriptor: int, encoding: str) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._encoding = encoding
        self._write_now = open_without_waiting(descriptor)
        # The handler's own lock guards all below. It may be taken twice by one thread, as the
        # handler of a signal may log.
        self._process = os.getpid()
        self._waiting: deque[bytes] = deque()
        self._size = 0  # bytes
        self._missing = 0  # lines dropped since the last that was taken
        self._has_thread = False
        self.dropped = 0  # lines, in all

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record's line, or let it wait (see `logging.Handler`)."""
        try:
            self._put(self._encode(record))
        except MemoryError:
            self._drop()
        except Exception:
            self.handleError(record)

    def finish(self) -> None:
        """Wait up to LOG_PATIENCE seconds until everything has been written."""
        deadline = time.monotonic() + LOG_PATIENCE
        while self._waiting and time.monotonic() < deadline:
            time.sleep(0.005)

    def _encode(self, record: logging.LogRecord) -> bytes:
        is_json = isinstance(self.formatter, JsonFormatter)  # which is UTF-8 (RFC 8259 section 8.1)
        encoding = "utf-8" if is_json else self._encoding
        return f"{self.format(record)}\n".encode(encoding, "backslashreplace")

    # -- under the lock --

    def _put(self, line: bytes) -> None:
        if self._process != os.getpid():  # we are a worker now; the rest is for our parent to write
            self._process = os.getpid()
            self._waiting.clear()
            self._size, self._missing, self._has_thread = 0, 0, False
        if not self._waiting and not self._missing:
            line = line[self._write(line) :]
            if not line:
                return
        if self._waiting and self._size + len(line) > MAX_LOG_WAITING:
            self._drop()
            return
        self._tell_missing()
        self._append(line)
        if not self._has_thread:
            with contextlib.suppress(RuntimeError):  # no thread to be had: the next line tries it
                # Not `start_thread`, which waits, and which a signal may have interrupted.
                _thread.start_new_thread(self._write_waiting, ())
                self._has_thread = True

    def _append(self, line: bytes) -> None:
        self._waiting.append(line)
        self._size += len(line)

    def _drop(self) -> None:
        self._missing += 1
        self.dropped += 1

    def _tell_missing(self) -> None:
        """Say how many lines are missing here, if any are."""
        if self._missing:
            reason = "nobody read them, or there was no memory"
            text = f"{self._missing} lines of the log were dropped here: {reason}"
            self._append(
                self._encode(log.makeRecord(log.name, logging.WARNING, "", 0, text, (), None))
            )
            self._missing = 0

    def _write(self, data: bytes) -> int:
        """Write what can be written now; return how much that was."""
        if self._write_now is None:
            return 0
        try:
            return self._write_now(data)
        except BlockingIOError:
            return 0
        except OSError:  # whoever read it has gone, or the disk is full
            return len(data)

    # -- its thread: as none would replace it, it does not end when memory runs out --

    def _write_waiting(self) -> None:
        while (data := keep_trying(self._first)) is not None:
            keep_trying(self._advance, keep_trying(self._write_patiently, data))

    def _write_patiently(self, data: bytes) -> int:
        """Wait until something can be written, and write it; return how much that was."""
        if self._write_now is None:
            try:
                return os.write(self._descriptor, data[:512])
            except OSError:
                return len(data)
        wait_writable(self._descriptor, 1.0)
        size = self._write(data)
        if not size:
            time.sleep(0.01)
        return size

    def _first(self) -> bytes | None:
        """Return what comes next; None: nothing does, and the thread ends."""
        with self._locked():
            if not self._waiting:
                self._tell_missing()
            self._has_thread = bool(self._waiting)
            return self._waiting[0] if self._waiting else None

    def _advance(self, size: int) -> None:
        with self._locked():
            data = self._waiting[0]
            if len(data) > size:
                self._waiting[0] = data[size:]
            else:
                self._waiting.popleft()
            self._size -= size

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.acquire()
        try:
            yield
        finally:
            self.release()


def log_failure(failed: threading.ExceptHookArgs) -> None:
    """Log what has ended a thread, as one of a game's own: Python would write among the lines."""
    error, name = failed.exc_value, failed.thread.name if failed.thread else "?"
    if error is not None and not isinstance(error, SystemExit):  # as Python has it
        why = ""
        with contextlib.suppress(OSError, MemoryError):  # out of descriptors, which it is read by
            from .mistakes import explain_failure

            why = explain_failure(error)
        log.error("thread %s has failed%s", name, why, exc_info=error)


def log_unawaited(show: Callable[..., None], message: Warning | str, *about: Any) -> None:
    """Log that an `async def` was called and has done nothing; show any other warning.

    Args:
        show: what has shown warnings so far.
        message: what is said.
        about: see `warnings.showwarning`.
    """
    if "was never awaited" not in str(message):
        show(message, *about)
        return
    log.error("%s, so it did nothing: functions and hooks of a game are plain `def`", message)


def make_handler(stream: TextIO) -> logging.Handler:
    """Return what writes the log to a stream; threads that fail are told of there, too."""
    threading.excepthook = log_failure
    if not isinstance(warnings.showwarning, functools.partial):
        warnings.showwarning = functools.partial(log_unawaited, warnings.showwarning)
    try:
        return LogHandler(stream.fileno(), stream.encoding)
    except (OSError, ValueError):  # it is no file: a test captures it
        return logging.StreamHandler(stream)


def finish_log() -> None:
    """Wait a little until the log has been written; before the process ends."""
    for handler in log.handlers:
        if isinstance(handler, LogHandler):
            handler.finish()
