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

import contextlib
import os
import select
import threading
import time
import weakref
from _thread import RLock, get_ident
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from bigmachine.errors import UsageError
from bigmachine.rpc.interrupts import Interrupts

if TYPE_CHECKING:
    import asyncio

    from bigmachine.futures import Future

Read = Callable[[], bool]
Idle = Callable[[], bool]

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
        turn: The lock that whoever reads holds; reentrant, so that it knows its thread.
    """

    def __init__(
        self,
        descriptor: int,
        home: asyncio.AbstractEventLoop,
        on_readable: Callable[[], None],
        *,
        turn: RLock,
    ) -> None:
        self._turn = turn
        self._descriptor = descriptor
        self._on_readable = on_readable
        self._home = Watch.of(home)
        self._watch = self._home
        # Reentrant: a finalizer that runs while this thread holds it may make a call.
        self._lock = threading.RLock()
        self._moving = False
        self._wanted: list[asyncio.AbstractEventLoop | None] = []  # by such, in the midst of a move
        self._led = False
        self._parked = False
        self._closed = False
        self._leader = 0
        self._at_rest = False  # the thread that reads waits for something to read
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = self._make_poll()
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
        with self._lock:
            self._wanted.append(loop)
            if self._moving:
                return
            self._moving = True
            try:
                while self._wanted:
                    self._move(self._wanted.pop(0))
            finally:
                self._moving = False

    def _move(self, loop: asyncio.AbstractEventLoop | None) -> None:
        if self._closed:  # its descriptor may be another connection's by now
            return
        watch = self._home if loop is None else Watch.of(loop)
        if watch is not self._watch:
            self._watch.remove(self._descriptor)
            self._watch = watch
            watch.add(self._descriptor, self._on_readable, paused=self._led)
        elif self._parked:
            watch.resume(self._descriptor)
        self._parked = False
        self.away = loop if watch is not self._home else None

    def lead(self, read: Read, future: Future[Any], timeout: float | None, idle: Idle) -> None:
        """Read on this thread until a future is done, or for ``timeout`` seconds.

        Returns at once when another thread does so already. Whoever else ends the future calls
        `ring`.

        Args:
            read: Reads what is there; False when there will be no more.
            future: What is waited for.
            timeout: In seconds; None for no limit.
            idle: Tells whether nothing else is awaited. Then nobody reads until `read_in` says
                who, or a thread leads again: that saves two system calls for each call.

        Raises:
            UsageError: This thread is in the midst of reading.
        """
        if self._turn._is_owned():  # type: ignore[attr-defined]
            raise UsageError(
                "waiting here would never end: a finalizer or a signal handler runs in the midst "
                "of reading what it would wait for; make the call there, but do not wait for it"
            )
        interrupts = Interrupts()
        deferred = interrupts.begin()
        try:
            self._lead(read, future, timeout, idle, interrupts)
        finally:
            if deferred:
                interrupts.end()

    def _lead(
        self,
        read: Read,
        future: Future[Any],
        timeout: float | None,
        idle: Idle,
        interrupts: Interrupts,
    ) -> None:
        with self._lock:
            if self._closed:
                return
            nested = self._led and self._at_rest and self._leader == get_ident()
            if self._led and not nested:
                self.read_in(None)  # it goes on when that thread is done
                return
            self._led = True
            self._leader = get_ident()
            if self._parked:
                self._parked = False
            elif not nested:
                self._watch.pause(self._descriptor)
        if nested:  # a signal handler of the program's, in the midst of a wait of this thread
            waiting, self._poll = self._poll, self._make_poll()  # which cannot wait twice at once
            try:
                self._read_on(read, future, timeout, interrupts)
            finally:
                self._poll = waiting
                self._at_rest = True  # as that wait is still: there may be a next signal
            return
        try:
            with self._turn:  # a loop that was reading when this began has finished then
                pass
            self._read_on(read, future, timeout, interrupts)
        finally:
            with self._lock:
                self._led = False
                if not self._closed:
                    self._parked = True  # before the look: whoever begins a call after it sees this
                    if not idle():
                        self._parked = False
                        self._watch.resume(self._descriptor)

    def _make_poll(self) -> select.poll:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        poll.register(self._bell, select.POLLIN)
        return poll

    def ring(self, _: object = None) -> None:
        """Have the thread that reads look whether it is done; from any thread."""
        if self._led and self._leader != get_ident():
            os.eventfd_write(self._bell, 1)

    def _read_on(
        self, read: Read, future: Future[Any], timeout: float | None, interrupts: Interrupts
    ) -> None:
        poll, bell = self._poll, self._bell
        end = None if timeout is None else time.monotonic() + timeout
        left: float | None = None
        while not future.ended():
            if end is not None:
                left = (end - time.monotonic()) * 1000
                if left <= 0:
                    return
            self._at_rest = True
            try:
                interrupts.allow()
                found = poll.poll(left)
                interrupts.defer()
            finally:
                self._at_rest = False
            for descriptor, _ in found:
                if descriptor != bell:
                    if not read():
                        return
                else:
                    with contextlib.suppress(BlockingIOError):
                        os.eventfd_read(bell)

    def close(self) -> None:
        """Nobody reads any more."""
        with self._lock:
            self._closed = True
            self._watch.remove(self._descriptor)
            self._watch, self.away = self._home, None
        self.ring()

    def __del__(self) -> None:
        os.close(self._bell)
