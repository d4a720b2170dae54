"""The standard library's managers: a proxy with a blocking socket for each calling thread."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from multiprocessing.context import SpawnContext
from multiprocessing.managers import BaseManager
from typing import Any

from benchmarks.contestants.base import Contestant, Echo, MethodKind, Unsupported
from benchmarks.payloads import PayloadKind


class Manager(BaseManager):
    """Serves an echo."""


Manager.register("Echo", Echo)


class Managers(Contestant):
    """A manager's process for each worker."""

    name = "managers"
    statement = "from multiprocessing.managers import BaseManager"
    max_workers = 64

    def start(self, workers: int) -> None:
        self.managers = [Manager(ctx=SpawnContext()) for _ in range(workers)]
        starters = [threading.Thread(target=manager.start) for manager in self.managers]
        for starter in starters:
            starter.start()
        for starter in starters:
            starter.join()
        self.echoes: list[Any] = [manager.Echo() for manager in self.managers]  # type: ignore[attr-defined]
        for echo in self.echoes:
            echo.ping(0)
        self.echo = self.echoes[0]

    def stop(self) -> None:
        for manager in self.managers:
            manager.shutdown()

    def ping(self, value: int, kind: MethodKind) -> int:
        if kind == "async":
            raise Unsupported
        answer: int = self.echo.ping(value)
        return answer

    def prepare(self, kind: PayloadKind, size_bytes: int) -> None:
        self.echo.prepare(kind, size_bytes)

    def send(self, payload: Any) -> int:
        answer: int = self.echo.take(payload)
        return answer

    def receive(self) -> Any:
        return self.echo.give()

    def spin(self, seconds: float) -> Callable[[], object]:
        def compute_until_stopped() -> None:
            with contextlib.suppress(EOFError):
                self.echo.spin(seconds)

        thread = threading.Thread(target=compute_until_stopped)
        thread.start()
        return thread.join

    def pids(self) -> list[int]:
        return [echo.pid() for echo in self.echoes]
