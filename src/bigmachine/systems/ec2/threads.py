"""Threads for calls to AWS, which are there for as long as the interpreter is.

At a program's end there is still to be said which instances are to be terminated. By then
`concurrent.futures` takes nothing any more, and from Python 3.12 on no thread can be started. So
these are started while there is work, stay, and are daemons.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, Final

_NAME: Final = "bigmachine-ec2"

_Job = tuple[Future[Any], Callable[[], Any]]


class Threads:
    """A few threads.

    Args:
        most: How many jobs are done at a time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._count = 0
        self._unfinished = 0

    def __repr__(self) -> str:
        return f"<Threads {self._count}, {self._unfinished} jobs>"

    def submit(self, act: Callable[[], Any]) -> Future[Any]:
        """Have a function called by one of these, from any thread."""
        future: Future[Any] = Future()
        with self._lock:
            self._unfinished += 1
            if self._count < min(self._unfinished, self._most):
                self._start()
        self._jobs.put((future, act))
        return future

    def close(self) -> None:
        """Have the threads end when they have done what was submitted. Idempotent."""
        with self._lock:
            count, self._count = self._count, 0
        for _ in range(count):
            self._jobs.put(None)

    def _start(self) -> None:
        try:
            threading.Thread(target=self._work, name=_NAME, daemon=True).start()
        except RuntimeError:  # the program ends: those there are do it
            if not self._count:
                raise
        else:
            self._count += 1

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, act = job
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(act())
                except BaseException as error:  # whoever waits gets it
                    future.set_exception(error)
            with self._lock:
                self._unfinished -= 1
            del job, future, act
