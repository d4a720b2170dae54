"""Threads for plain methods: few when they are quick, many when they wait.

A queue and a pool that grows with need. Quick methods are done by one warm thread after the
other, without a crowd that fights for the interpreter lock. While jobs wait, the pool looks
around every millisecond: where none has begun since, or the process hardly uses its processor,
those that run are evidently waiting for something, and it adds threads, each time twice as many.
So 1,000 calls that sleep all sleep together within some milliseconds, whatever they wait for.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

logger = logging.getLogger(__name__)

LIMIT: Final = 1024
"""How many plain methods run at once at most."""
_CHECK_SECONDS: Final = 0.001
_BUSY: Final = 0.5
"""A process that uses less of a processor than this has threads that wait."""
_LARGEST_STEP: Final = 128
_IDLE_SECONDS: Final = 10.0
_KEEP: Final = 4
"""So many threads stay although idle."""

Job = Callable[[], object]


class Workers:
    """A pool of threads. Jobs are submitted on the loop's thread."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        limit: int = LIMIT,
        name: str = "bigmachine-worker",
    ) -> None:
        self._loop = loop
        self._limit = limit
        self._name = name
        self._jobs: deque[Job] = deque()
        self._ready = threading.Semaphore(0)
        self._sleeping = 0
        self._waking = 0
        self._threads = 0
        self._lock = threading.Lock()
        self._begun = 0
        self._watching = False
        self._closed = False
        self._step = 1
        self._seen = (0, 0.0, 0.0)  # jobs begun, wall clock, processor time at the last look

    def __repr__(self) -> str:
        return f"<Workers {self._threads} threads, {len(self._jobs)} jobs waiting>"

    def submit(self, job: Job) -> None:
        """Have a job done by a thread, as soon as possible. A job must not raise."""
        jobs = self._jobs
        jobs.append(job)
        if self._sleeping and not self._waking and self._wake():
            if len(jobs) == 1:
                return  # it is for the thread that was woken
        elif not self._threads:
            self._grow(1)
        if not self._watching:
            self._watching = True
            self._step = 1
            self._look()

    def close(self) -> None:
        """Have the threads end, each when it has nothing to do; what waits is done first."""
        self._closed = True
        while self._wake():
            continue

    def _wake(self) -> bool:
        """Wake a sleeping thread; False when there is none."""
        with self._lock:
            if not self._sleeping:
                return False
            self._sleeping -= 1
            self._waking += 1
            self._ready.release()  # before a thread whose sleep is over looks for it
        return True

    def _grow(self, count: int) -> None:
        with self._lock:
            count = min(count, self._limit - self._threads)
            self._threads += max(count, 0)
            serial = self._threads
        for index in range(count):
            name = f"{self._name}-{serial - index}"
            try:
                threading.Thread(target=self._work, name=name, daemon=True).start()
            except RuntimeError as error:  # the system has no more: those there are go on
                logger.warning("no more threads for calls than %d: %s", serial - count, error)
                with self._lock:
                    self._threads -= count - index
                return

    def _look(self) -> None:
        self._seen = (self._begun, time.monotonic(), time.process_time())
        self._loop.call_later(_CHECK_SECONDS, self._check)

    def _check(self) -> None:
        """Every millisecond while jobs wait: add threads where those there are stand still."""
        if not self._jobs:
            self._watching = False
            return
        begun, wall, processor = self._seen
        busy = (time.process_time() - processor) / max(time.monotonic() - wall, 1e-6)
        if self._begun == begun or busy < _BUSY:
            woken = sum(self._wake() for _ in range(self._step))
            self._grow(self._step - woken)
            self._step = min(self._step * 2, _LARGEST_STEP)
        self._look()

    def _work(self) -> None:
        jobs = self._jobs
        while True:
            try:
                job = jobs.popleft()
            except IndexError:
                if not self._sleep():
                    return
                continue
            self._begun += 1
            try:
                job()
            except BaseException:
                logger.exception("a job of %r raised", self)
            del job

    def _sleep(self) -> bool:
        """Wait for a job; False when the thread has been idle for long and should end."""
        with self._lock:
            if self._jobs:
                return True
            if self._closed:
                self._threads -= 1
                return False
            self._sleeping += 1
        woken = self._ready.acquire(timeout=_IDLE_SECONDS)
        with self._lock:
            if woken or self._ready.acquire(blocking=False):
                self._waking -= 1
                return True
            self._sleeping -= 1
            if self._threads > _KEEP:
                self._threads -= 1
                return False
        return True
