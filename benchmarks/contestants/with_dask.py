"""Dask: an actor on one worker process of a local cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import distributed

from benchmarks.contestants.base import Contestant, Echo, MethodKind, Unsupported
from benchmarks.payloads import PayloadKind


class Dask(Contestant):
    """A ``LocalCluster`` of processes with one thread each."""

    name = "dask"
    statement = "import distributed"
    distribution = "distributed"
    max_workers = 16
    floor = "tcp"
    beside = "async"

    def start(self, workers: int) -> None:
        self.cluster = distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            silence_logs="ERROR",
        )
        self.client = distributed.Client(self.cluster)
        self.client.wait_for_workers(workers)
        self.addresses = list(self.client.scheduler_info(n_workers=-1)["workers"])
        placed = [self.client.submit(Echo, actor=True, workers=[a]) for a in self.addresses]
        self.actors = [future.result() for future in placed]
        for answer in [actor.ping(0) for actor in self.actors]:
            answer.result()
        self.actor = self.actors[0]

    def stop(self) -> None:
        self.client.close()
        self.cluster.close()

    def ping(self, value: int, kind: MethodKind) -> int:
        method = self.actor.async_ping if kind == "async" else self.actor.ping
        answer: int = method(value).result()
        return answer

    def submit(self, value: int, kind: MethodKind) -> Callable[[], int]:
        method = self.actor.async_ping if kind == "async" else self.actor.ping
        result: Callable[[], int] = method(value).result
        return result

    def prepare(self, kind: PayloadKind, size_bytes: int) -> None:
        self.actor.prepare(kind, size_bytes).result()

    def send(self, payload: Any) -> int:
        # Its actors' plain methods wait for each other, so this one would wait for a computing one.
        answer: int = self.actor.async_take(payload).result()
        return answer

    def receive(self) -> Any:
        return self.actor.give().result()

    def spin(self, seconds: float) -> Callable[[], object]:
        result: Callable[[], object] = self.actor.spin(seconds).result
        return result

    def pids(self) -> list[int]:
        raise Unsupported  # its nannies are processes of their own: see the total
