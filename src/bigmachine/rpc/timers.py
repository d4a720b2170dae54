"""Deadlines of calls, many of them: one timer of the event loop for all.

Most calls end long before their deadline, so setting one has to be cheap from any thread: a heap,
and a wake-up of the loop only where the new deadline is the earliest.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import logging
import threading
from collections.abc import Callable
from typing import Final

logger = logging.getLogger(__name__)

_SPARE: Final = 1000
"""So many cancelled entries are carried along before the heap is cleaned."""


class Timer:
    """One deadline; `cancel` it when it is no longer needed."""

    __slots__ = ("_action", "_owner")

    def __init__(self, owner: Timers, action: Callable[[], object]) -> None:
        self._owner = owner
        self._action: Callable[[], object] | None = action

    def cancel(self) -> None:
        """Forget it; idempotent, from any thread."""
        if self._action is not None:
            self._action = None
            self._owner.note_cancelled()

    @property
    def cancelled(self) -> bool:
        """Whether it is no longer needed."""
        return self._action is None

    def fire(self) -> None:
        """Do what was to be done, once."""
        action, self._action = self._action, None
        if action is not None:
            action()


class Timers:
    """All deadlines that one event loop watches."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._heap: list[tuple[float, int, Timer]] = []
        self._count = itertools.count()
        self._lock = threading.RLock()  # a finalizer may make a call while it is held
        self._cancelled = 0
        self._handle: asyncio.TimerHandle | None = None

    def at(self, when: float, action: Callable[[], object]) -> Timer:
        """Have an action done on the loop's thread at a time (`time.monotonic`, seconds)."""
        timer = Timer(self, action)
        with self._lock:
            if self._cancelled > _SPARE and self._cancelled * 2 > len(self._heap):
                old, self._heap = self._heap, []
                self._heap += [entry for entry in old if not entry[2].cancelled]
                heapq.heapify(self._heap)
                self._cancelled = 0
            heapq.heappush(self._heap, (when, next(self._count), timer))
            first = self._heap[0][2] is timer
        if first:
            with contextlib.suppress(RuntimeError):  # a closed loop: its calls have failed
                self._loop.call_soon_threadsafe(self._schedule)
        return timer

    def note_cancelled(self) -> None:
        """Count one that stays in the heap although nobody needs it."""
        self._cancelled += 1

    def _schedule(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        with self._lock:
            if self._heap:
                self._handle = self._loop.call_at(self._heap[0][0], self._fire)

    def _fire(self) -> None:
        now = self._loop.time()
        due = []
        with self._lock:
            while self._heap and self._heap[0][0] <= now:
                due.append(heapq.heappop(self._heap)[2])
        for timer in due:
            try:
                timer.fire()
            except Exception:  # which must not take the others along
                logger.exception("what was to be done at a deadline failed")
        self._schedule()
