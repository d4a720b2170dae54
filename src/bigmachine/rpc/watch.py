"""Who reads a connection: the runtime's loop, or whoever waits for the answer.

An answer that crosses from the thread that reads it to the thread that waits for it costs two
switches of the interpreter lock: more than the rest of the call. So a client's connection is not
registered with an event loop but with a `Watch`, an epoll instance inside the loop, from which
the system lets any thread take it out and put it back. Then

- a thread that waits in ``result()`` reads the connection itself, until its answer is there;
- a loop that awaits reads it itself, as long as all pending calls are its own.

Otherwise, and whenever anybody else has an interest, the runtime's loop reads. Where there is no
epoll (macOS) it always does.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # what signal.signal() calls; that takes 8 µs
import contextlib
import os
import select
import signal
import threading
import time
import weakref
from _thread import get_ident
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import asyncio

_MAIN_THREAD = threading.main_thread().ident

available = hasattr(select, "epoll")
"""Whether this system lets a connection change its reader."""


class Watch:
    """The connections that one event loop reads for clients. Made on the loop's thread."""

    _of_loops: ClassVar[weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Watch]] = (
        weakref.WeakKeyDictionary()
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._epoll = select.epoll()
        self._readers: dict[int, Callable[[], None]] = {}
        loop.add_reader(self._epoll.fileno(), self._on_ready)

    def __repr__(self) -> str:
        return f"<Watch of {len(self._readers)} connections>"

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> Watch:
        """Return the watch of a loop. On the loop's thread."""
        watch = cls._of_loops.get(loop)
        if watch is None:
            watch = cls._of_loops[loop] = cls(loop)
        return watch

    def add(
        self, descriptor: int, on_readable: Callable[[], None], *, paused: bool = False
    ) -> None:
        """Have the loop read a connection; from any thread."""
        self._readers[descriptor] = on_readable
        self._epoll.register(descriptor, 0 if paused else select.EPOLLIN)

    def remove(self, descriptor: int) -> None:
        """Stop reading a connection; from any thread."""
        if self._readers.pop(descriptor, None) is not None:
            with contextlib.suppress(OSError, ValueError):
                self._epoll.unregister(descriptor)

    def pause(self, descriptor: int) -> None:
        """Leave a connection to another reader for a while; from any thread."""
        with contextlib.suppress(OSError, ValueError):  # it was closed meanwhile
            self._epoll.modify(descriptor, 0)

    def resume(self, descriptor: int) -> None:
        """Read it again; from any thread."""
        with contextlib.suppress(OSError, ValueError):  # it was closed meanwhile
            self._epoll.modify(descriptor, select.EPOLLIN)

    def _on_ready(self) -> None:
        for descriptor, _ in self._epoll.poll(0):
            on_readable = self._readers.get(descriptor)
            if on_readable is not None:
                on_readable()

    def __del__(self) -> None:
        self._epoll.close()


class Reader:
    """Who reads one connection now. `read` is what its readers call, one at a time.

    Args:
        descriptor: The connection's.
        home: The loop that reads it by default.
        on_readable: Called by loops when there is something to read.
    """

    def __init__(
        self, descriptor: int, home: asyncio.AbstractEventLoop, on_readable: Callable[[], None]
    ) -> None:
        self._descriptor = descriptor
        self._on_readable = on_readable
        self._home = Watch.of(home)
        self._watch = self._home
        self._lock = threading.Lock()
        self._led = False
        self._parked = False
        self._leader = 0
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self._poll.register(self._bell, select.POLLIN)
        self.away: asyncio.AbstractEventLoop | None = None
        self._watch.add(descriptor, on_readable)

    def __repr__(self) -> str:
        return f"<Reader {'a thread' if self._led else self.away or 'home'}>"

    @property
    def parked(self) -> bool:
        """Whether nobody reads, since nothing was awaited when a thread was done reading."""
        return self._parked

    @property
    def led(self) -> bool:
        """Whether a waiting thread reads, so that loops leave it alone."""
        return self._led

    def read_in(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Have another loop read, the one running here; None brings it back, from any thread."""
        watch = self._home if loop is None else Watch.of(loop)
        with self._lock:
            if watch is not self._watch:
                self._watch.remove(self._descriptor)
                self._watch = watch
                watch.add(self._descriptor, self._on_readable, paused=self._led)
            elif self._parked:
                watch.resume(self._descriptor)
            self._parked = False
            self.away = loop if watch is not self._home else None

    def lead(
        self,
        read: Callable[[], bool],
        done: Callable[[], bool],
        timeout: float | None,
        *,
        idle: Callable[[], bool],
    ) -> None:
        """Read on this thread until something is done, or for ``timeout`` seconds.

        Returns at once when another thread does so already. Whoever else brings about what is
        waited for calls `ring`.

        Args:
            read: Reads what is there; False when there will be no more.
            done: Tells when to stop.
            timeout: In seconds; None for no limit.
            idle: Tells whether nothing else is awaited. Then nobody reads until `read_in` says
                who, or a thread leads again: that saves two system calls for each call.
        """
        with self._lock:
            if self._led:
                return
            self._led = True
            self._leader = get_ident()
            if self._parked:
                self._parked = False
            else:
                self._watch.pause(self._descriptor)
        try:
            if self._leader == _MAIN_THREAD:
                self._lead_in_main_thread(read, done, timeout)
            else:
                self._lead(read, done, timeout)
        finally:
            with self._lock:
                self._led = False
                if idle():
                    self._parked = True
                else:
                    self._watch.resume(self._descriptor)

    def ring(self, _: object = None) -> None:
        """Have the thread that reads look whether it is done; from any thread."""
        if self._led and self._leader != get_ident():
            os.eventfd_write(self._bell, 1)

    def _wait(self, milliseconds: float | None) -> bool:
        """Wait for something to read; whether there is."""
        found = self._poll.poll(milliseconds)
        for descriptor, _ in found:
            if descriptor == self._bell:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._bell)
        return len(found) > 1 or (bool(found) and found[0][0] != self._bell)

    def _lead(
        self, read: Callable[[], bool], done: Callable[[], bool], timeout: float | None
    ) -> None:
        end = None if timeout is None else time.monotonic() + timeout
        while not done():
            left = None if end is None else (end - time.monotonic()) * 1000
            if left is not None and left <= 0:
                return
            if self._wait(left) and not read():
                return

    def _lead_in_main_thread(
        self, read: Callable[[], bool], done: Callable[[], bool], timeout: float | None
    ) -> None:
        interrupts = Interrupts()

        def read_whole_frames() -> bool:
            interrupts.busy = True
            try:
                return read()
            finally:
                interrupts.check()

        deferred = interrupts.begin()
        try:
            self._lead(read_whole_frames if deferred else read, done, timeout)
        finally:
            if deferred:
                interrupts.end()

    def close(self) -> None:
        """Nobody reads any more."""
        with self._lock:
            self._watch.remove(self._descriptor)
        self.ring()

    def __del__(self) -> None:
        os.close(self._bell)


class Interrupts:
    """Ctrl-C while the main thread reads a connection: never in the middle of a frame.

    Python runs signal handlers between any two instructions of the main thread, so the default
    one would raise `KeyboardInterrupt` while bytes are taken apart, and the connection would be
    lost. For the time of a wait the handler is ours: it lets the frame be finished, and then does
    what the program's own handler does.
    """

    def __init__(self) -> None:
        self.busy = False
        self._caught: tuple[int, FrameType | None] | None = None
        self._handler: Any = None

    def begin(self) -> bool:
        """Have Ctrl-C wait while `busy`; False where no handler is to be put off.

        Main thread only, like `end`.
        """
        self._handler = _signal.getsignal(signal.SIGINT)
        if not callable(self._handler):
            return False
        _signal.signal(signal.SIGINT, self._on_signal)
        return True

    def end(self) -> None:
        """Give the program its handler back."""
        _signal.signal(signal.SIGINT, self._handler)
        self.check()

    def check(self) -> None:
        """Do what was put off; raises what the program's handler raises."""
        self.busy = False
        if self._caught is not None:
            caught, self._caught = self._caught, None
            self._handler(*caught)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.busy:
            self._caught = (number, frame)
        else:
            self._handler(number, frame)
