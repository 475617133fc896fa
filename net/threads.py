"""Threads for when memory runs out, and stacks that fit what runs on them.

`threading` waits without end for a thread that finds no memory for its first steps; here, whoever
starts one is told. A game's threads have as much stack as a main thread, all others little. Where
there are many, they interrupt one another less often. What they have freed is the system's again.
"""

from __future__ import annotations

import _thread
import contextlib
import functools
import mmap
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

from scalesocket import (
    KIB,
    MIB,
    OUT_OF_MEMORY,
    OUT_OF_THREADS,
    POSIX,
    SWITCH_INTERVAL,
    ShortageError,
    asks_game,
)

if TYPE_CHECKING:
    from scalesocket import Game, Reader, Server, Session

THREAD_STACK = 512 * KIB  # of a thread that runs our own code alone
GAME_STACK = 8 * MIB  # of one that runs a game's: `sorted(key=…)` that calls itself fills 5 of them
HEADROOM = 1 * MIB  # bytes that there must be, beside its stack, for a thread to start
CHECKED_AT_ONCE = 16  # threads that memory is looked for in one go, as many start at a time
CHECK_AGE = 0.05  # seconds for which it is taken to be there
BEGIN_TIMEOUT = 3.0  # seconds for it to begin; after that it never will
FEW_THREADS = 20  # that may interrupt one another each SWITCH_INTERVAL
UNUSED_HEAP = 2 * MIB  # bytes that the C library may keep for each of its heaps
LONGEST_SWITCH = 0.005  # seconds after which a thread may be interrupted, however many there are

Call: TypeAlias = functools.partial[None]  # of what runs a session

_stack_lock = threading.Lock()  # guards the size of stacks, which is one for the whole process


def set_up(server: Server) -> None:
    """Have a server's threads get stacks that fit, and what they free be the system's again.

    Of one that a game holds up it is told.
    """
    game = server.config.game
    set_stack_size(game)
    server.poller.call_soon(return_memory)  # it need not be waited for
    small = game is not None and not asks_game(game)  # nothing of it runs on a helper
    helpers = Helpers(server.readers.shared, small=small)
    server.readers.start_helper, server.readers.finish = helpers.start, helpers.finish
    if game is not None:
        from .hung import watch

        watch(server)


def set_stack_size(game: type[Game] | None) -> None:
    """Set how much stack the threads get that start from now on.

    A hook that calls itself without end must get its RecursionError, as in any Python program,
    before it is at the end of its stack, which would end the process. Python counts on as much as
    a main thread has. Only what is used of it takes memory.
    """
    size = THREAD_STACK
    if game is not None:
        size = GAME_STACK
        if POSIX:
            import resource

            limit = resource.getrlimit(resource.RLIMIT_STACK)[0]
            if limit != resource.RLIM_INFINITY:
                size = min(max(size, limit // MIB * MIB), 8 * GAME_STACK)
    threading.stack_size(size)


def return_memory() -> None:
    """Have memory that is freed given back to the system from now on.

    The C library of most Linux systems has several heaps, threads sharing them, and keeps the more
    for each the larger the blocks are that have been freed: tens of MB, where a room sent a lot to
    somebody slow (mallopt(3), M_MMAP_THRESHOLD). Others have no such call.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(ImportError, OSError, AttributeError):  # Python or libc without it
        import ctypes

        set_option = ctypes.CDLL(None).mallopt
        set_option(-1, UNUSED_HEAP)  # M_TRIM_THRESHOLD
        set_option(-3, UNUSED_HEAP // 2)  # M_MMAP_THRESHOLD: larger blocks are in no heap


@contextlib.contextmanager
def small_stack() -> Iterator[None]:
    """Let a thread that starts in this context have THREAD_STACK.

    A thread that a game itself starts at the same moment may get it, too.
    """
    with _stack_lock:
        before = threading.stack_size(THREAD_STACK)
        try:
            yield
        finally:
            threading.stack_size(before)


class Headroom:
    """Sees that there is memory for one more thread; without, it might end before it has begun.

    That costs as much as the start of the thread. So what has been there for many threads just now
    is taken to be there for one; if there is not as much, it is looked for each of them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards all below
        self._size = self._left = 0  # bytes for a thread, and how many threads more
        self._until = 0.0

    def check(self) -> None:
        """Look for it.

        Raises:
            ShortageError: there is none.
        """
        size = threading.stack_size() + HEADROOM
        with self._lock:
            is_known = size <= self._size and time.monotonic() < self._until
            if is_known and self._left:
                self._left -= 1
                return
            self._left = 0
            if fits(size * CHECKED_AT_ONCE):
                self._size, self._left = size, CHECKED_AT_ONCE - 1
                self._until = time.monotonic() + CHECK_AGE
            elif not fits(size):
                raise ShortageError(OUT_OF_MEMORY)


def fits(size: int) -> bool:
    """Whether there is as much memory."""
    if not POSIX:
        return True
    try:
        mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except (OSError, MemoryError):
        return False
    return True


headroom = Headroom()


class Turns:
    """Sees how long a thread may go on while others wait for the interpreter lock.

    Each of these wakes up that often to look, so that a thousand would do little else.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards all below
        self._threads = 0

    def count(self, more: int) -> None:
        """Count so many threads more, or less."""
        with self._lock:
            self._threads += more
            if self._threads >= FEW_THREADS:
                share = SWITCH_INTERVAL * self._threads / FEW_THREADS
                sys.setswitchinterval(min(share, LONGEST_SWITCH))


turns = Turns()


class Beginning(threading.Event):
    """Whether a thread has begun its work; or it was given up before, and never will."""

    def __init__(self) -> None:
        super().__init__()
        self._decision = threading.Lock()  # whoever acquires it first decides; never released

    def set(self) -> None:
        """Do nothing: `threading` calls this before it is done with the first steps."""

    def begin(self) -> bool:
        """Tell who waits; return whether the work is to be done. For the new thread."""
        super().set()
        return self._decision.acquire(blocking=False)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has begun. For `threading`.

        Raises:
            RuntimeError: it was given up.
        """
        try:
            if super().wait(BEGIN_TIMEOUT):
                return True
        except (MemoryError, RuntimeError):  # no memory to wait with; it may begin all the same
            pass
        if self._decision.acquire(False):
            raise RuntimeError(OUT_OF_THREADS)
        return True


class Thread(threading.Thread):
    """A thread that begins, or whose `start` raises an error (see `Beginning`)."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._beginning = self._started = Beginning()  # there is no other way in

    def start(self) -> None:
        """Start it.

        Raises:
            ShortageError, RuntimeError, MemoryError: there is none, or no memory for it.
        """
        headroom.check()
        with _stack_lock:
            super().start()

    def run(self) -> None:
        """Do what it is for."""
        if self._beginning.begin():
            turns.count(1)
            try:
                super().run()
            finally:
                turns.count(-1)


class Helpers:
    """Threads that run sessions, and that nobody joins.

    One may end at once, where there is no memory for it; what it was to do is then left for the
    next one.

    Args:
        reader: gets the sessions back.
        small: they have THREAD_STACK.
    """

    def __init__(self, reader: Reader, *, small: bool) -> None:
        self._reader = reader
        self._small = small
        self._waiting: deque[Call] = deque()
        # Not sessions: one may have its next helper while the one before is still on its way out.
        self._calls: set[Call] = set()  # those that wait, and those that are under way

    def start(self, run: Callable[[Session], None], arguments: tuple[Session]) -> None:
        """Have a thread run a session.

        Raises:
            ShortageError, RuntimeError, MemoryError: there is none, or no memory for it.
        """
        headroom.check()
        call = functools.partial(run, *arguments)
        self._calls.add(call)
        try:
            self._waiting.append(call)
        except BaseException:
            self._calls.discard(call)
            raise
        try:
            with small_stack() if self._small else contextlib.nullcontext():
                _thread.start_new_thread(self._run_all, ())
        except BaseException:
            try:
                self._waiting.remove(call)
            except ValueError:  # another thread has taken it up
                return
            self._calls.discard(call)
            raise

    def _run_all(self) -> None:
        with contextlib.suppress(IndexError):  # all have been taken up
            while True:
                call = self._waiting.popleft()
                try:
                    call()
                finally:
                    self._calls.discard(call)

    def finish(self, deadline: float) -> None:
        """Have all of them end; a request that is being answered has until then."""
        while True:
            for call in self._calls.copy():
                with contextlib.suppress(OSError):
                    call.args[0].sock.shutdown(socket.SHUT_RD)  # nothing more is read from it
            if (patience := deadline - time.monotonic()) <= 0:
                return
            if self._calls:
                time.sleep(0.01)
                continue
            has_all = threading.Event()  # what the last ones gave back may want another
            self._reader.call_soon(has_all.set)
            if has_all.wait(patience) and not self._calls:
                return
