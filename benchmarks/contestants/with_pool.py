"""The standard library's process pool: functions, not services, in whichever process is free."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from benchmarks.contestants.base import Contestant, Echo, MethodKind, Unsupported
from benchmarks.payloads import PayloadKind

ECHO = Echo()


def call(method: str, *args: Any) -> Any:
    """Call this process's echo."""
    return getattr(ECHO, method)(*args)


class Pool(Contestant):
    """``ProcessPoolExecutor``, its processes forked."""

    name = "pool"
    statement = "from concurrent.futures import ProcessPoolExecutor"

    def start(self, workers: int) -> None:
        # It starts a process only when there is work for it, so each is given some at once; which
        # process answers cannot be said.
        self.pool = ProcessPoolExecutor(workers, multiprocessing.get_context("fork"))
        for answer in [self.pool.submit(call, "ping", i) for i in range(workers)]:
            answer.result()

    def stop(self) -> None:
        self.pool.shutdown()

    def ping(self, value: int, kind: MethodKind) -> int:
        return self.submit(value, kind)()

    async def aping(self, value: int, kind: MethodKind) -> int:
        if kind == "async":
            raise Unsupported
        return int(await asyncio.wrap_future(self.pool.submit(call, "ping", value)))

    def submit(self, value: int, kind: MethodKind) -> Callable[[], int]:
        if kind == "async":
            raise Unsupported
        return self.pool.submit(call, "ping", value).result

    def prepare(self, kind: PayloadKind, size_bytes: int) -> None:
        self.pool.submit(call, "prepare", kind, size_bytes).result()

    def send(self, payload: Any) -> int:
        answer: int = self.pool.submit(call, "take", payload).result()
        return answer

    def receive(self) -> Any:
        return self.pool.submit(call, "give").result()

    def pids(self) -> list[int]:
        return [process.pid for process in multiprocessing.active_children() if process.pid]
