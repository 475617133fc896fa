"""A WebSocket from the command line: lines in, messages out.

    python3 -m client.websocket ws://localhost:9000/lobby

For learning, and for trying out a server.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import math
import os
import select
import ssl
import sys
import threading
from collections.abc import Iterator, Sequence

from scalesocket.net.standard_streams import open_standard_streams

from scalesocket import ScaleSocketError

from .reconnecting import listen
from .websocket import (
    CHUNK,
    DEFAULT_ROOM,
    GOOD_ENDS,
    ConnectionClosed,
    StreamLost,
    WebSocket,
    connect,
    escaped,
    explain,
    make_url,
    own_command,
)

MOMENT = 0.02  # seconds without a message, after which those that have come are all read


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog=own_command("websocket"),
        description="Send lines of standard input as messages; print each message as a line.",
        epilog="Exit status: 0 after a normal end, 1 if there was no connection or it was lost, "
        "or a message could not be read or printed, 2 for wrong arguments, 130 after Ctrl-C.",
    )
    parser.add_argument(
        "url", metavar="URL", help="such as ws://localhost:9000/room, or localhost:9000/room"
    )
    parser.add_argument(
        "--wait",
        type=parse_wait,
        default=0.5,
        metavar="SECONDS",
        help="stay for answers so long after the input has ended (default %(default)s); "
        "inf: until the server closes",
    )
    parser.add_argument(
        "--ping",
        type=parse_wait,
        default=20.0,
        metavar="SECONDS",
        help="ping a server that is silent for so long, and give it up after as long again "
        "(default %(default)g; 0: never)",
    )
    parser.add_argument(
        "--subprotocol", action="append", default=[], metavar="NAME", help="to offer; may repeat"
    )
    parser.add_argument(
        "--header", action="append", default=[], metavar="'K: V'", help="add a header; may repeat"
    )
    parser.add_argument("--compress", action="store_true", help="offer compression")
    parser.add_argument("--cafile", metavar="FILE", help="trust this authority for wss://")
    return parser


def parse_wait(text: str) -> float:
    """Read --wait and --ping; a thread cannot sleep for any other number."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (0 <= seconds <= threading.TIMEOUT_MAX or seconds == math.inf):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds, 0 or more, or inf")
    return seconds


def read_some(descriptor: int) -> bytes:
    """Return what comes next, or b"" at the end."""
    while True:
        try:
            return os.read(descriptor, CHUNK)
        except BlockingIOError:  # another program has made the terminal that we share so
            select.select([descriptor], [], [])


def read_lines(descriptor: int) -> Iterator[str]:
    """Give out lines as they come.

    `sys.stdin` would not do: a thread that waits in it is in the way when Python ends.
    """
    rest = b""
    while data := read_some(descriptor):
        *lines, rest = (rest + data).split(b"\n")
        yield from (line.decode(errors="replace").removesuffix("\r") for line in lines)
    if rest:
        yield rest.decode(errors="replace")


class Speaker(threading.Thread):
    """Sends what is typed, and waits for answers.

    Args:
        ws: where it goes.
        wait: seconds for answers, after the input has ended.
    """

    def __init__(self, ws: WebSocket, wait: float) -> None:
        super().__init__(daemon=True)  # it may wait for a key that nobody presses any more
        self._ws = ws
        self._wait = wait
        self.done = threading.Event()  # there is nothing more to send, nor to wait for
        self.failure: StreamLost | None = None

    def run(self) -> None:
        """Run in a thread of its own."""
        try:
            for line in read_lines(0):
                self._ws.send(line)
        except ConnectionClosed:  # the other thread will say so
            return
        except OSError as error:  # a terminal that is gone
            self.failure = StreamLost(f"the input cannot be read: {error.strerror}")
        else:
            self.done.wait(min(self._wait, threading.TIMEOUT_MAX))  # `sleep` takes less
        self.done.set()


def receive_rest(ws: WebSocket) -> Iterator[str | bytes]:
    """Give out what has come already; to close would drop it."""
    with contextlib.suppress(TimeoutError):
        while True:
            yield ws.receive(MOMENT)


def printable(message: str | bytes) -> str:
    """Return a message as a line; bytes in hexadecimal, and nothing that steers a terminal."""
    if isinstance(message, bytes):
        return f"<{len(message)} bytes> {message.hex(' ')}"
    if not sys.stdout.isatty():
        return message
    return escaped(message, "\n\t")


def show(message: str | bytes) -> None:
    """Print a message.

    Raises:
        BrokenPipeError: whoever reads our output has had enough.
        StreamLost: there is no room for it.
    """
    try:
        print(printable(message), flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is left of it
        if isinstance(error, BrokenPipeError):
            raise
        raise StreamLost(f"the output cannot be written: {error.strerror}") from None


def talk(url: str, arguments: argparse.Namespace, context: ssl.SSLContext | None) -> None:
    """Connect, and go on until one side closes."""
    fields = (header.partition(":") for header in arguments.header)
    with connect(
        url,
        subprotocols=arguments.subprotocol,
        headers=[(name.strip(), value.strip()) for name, _, value in fields],
        ssl_context=context,
        compression=arguments.compress,
    ) as ws:
        print(f"connected to {url}", file=sys.stderr, flush=True)
        speaker = Speaker(ws, arguments.wait)
        speaker.start()
        look_every = min(1.0, max(MOMENT, arguments.wait / 4))
        heard = listen(ws, arguments.ping or math.inf, speaker.done.is_set, look_every)
        try:
            for message in itertools.chain(heard, receive_rest(ws)):
                show(message)
            ws.close()
        except ConnectionClosed as closed:
            if closed.code not in GOOD_ENDS:
                raise
        reason = escaped(ws.close_reason)
        print(f"closed with {ws.close_code} {reason}".rstrip(), file=sys.stderr)
    if speaker.failure is not None:
        raise speaker.failure


def load_authority(path: str | None) -> ssl.SSLContext | None:
    """Return a context that trusts one authority, or None for the system's own."""
    return None if path is None else ssl.create_default_context(cafile=path)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    open_standard_streams()  # else the WebSocket would be what is read as the input
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for what the locale has no letters
    parser = build_parser()
    arguments = parser.parse_args(argv)
    try:
        context = load_authority(arguments.cafile)
    except OSError as error:
        parser.error(f"{arguments.cafile} holds no certificate: {error.strerror}")
    try:
        arguments.url = make_url(arguments.url, DEFAULT_ROOM)
        talk(arguments.url, arguments, context)
    except BrokenPipeError:
        return 1
    except ValueError as error:
        parser.error(str(error))
    except (ScaleSocketError, OSError) as error:
        print(f"client.websocket: {explain(error, arguments.url)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
