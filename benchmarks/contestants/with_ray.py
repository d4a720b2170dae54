"""Ray: one actor for each worker, arguments and replies of size through its shared memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray

from benchmarks.contestants.base import Contestant, Echo, MethodKind
from benchmarks.payloads import PayloadKind


class Ray(Contestant):
    """A local Ray cluster."""

    name = "ray"
    statement = "import ray"
    distribution = "ray"
    max_workers = 64

    def start(self, workers: int) -> None:
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
            object_store_memory=2 << 30,
        )
        # Threads in the actor, so that a call is answered beside one that computes.
        actor = ray.remote(num_cpus=0, max_concurrency=4)(PlainEcho)
        self.actors = [actor.remote() for _ in range(workers)]
        ray.get([a.ping.remote(0) for a in self.actors])
        self.async_actor: Any = None

    def stop(self) -> None:
        ray.shutdown()

    def _actor(self, kind: MethodKind) -> Any:
        """An actor is async or plain as a whole: the async one is started when it is needed."""
        if kind == "plain":
            return self.actors[0]
        if self.async_actor is None:
            self.async_actor = ray.remote(num_cpus=0, max_concurrency=1000)(AsyncEcho).remote()
        return self.async_actor

    def ping(self, value: int, kind: MethodKind) -> int:
        answer: int = ray.get(self._actor(kind).ping.remote(value))
        return answer

    async def aping(self, value: int, kind: MethodKind) -> int:
        answer: int = await self._actor(kind).ping.remote(value)
        return answer

    def prepare(self, kind: PayloadKind, size_bytes: int) -> None:
        ray.get(self.actors[0].prepare.remote(kind, size_bytes))

    def send(self, payload: Any) -> int:
        answer: int = ray.get(self.actors[0].take.remote(payload))
        return answer

    def receive(self) -> Any:
        return ray.get(self.actors[0].give.remote())

    def spin(self, seconds: float) -> Callable[[], object]:
        reference = self.actors[0].spin.remote(seconds)
        return lambda: ray.get(reference)

    def pids(self) -> list[int]:
        pids: list[int] = ray.get([a.pid.remote() for a in self.actors])
        return pids


class PlainEcho:
    """An actor without async methods (one such method would make the whole actor async)."""

    def __init__(self) -> None:
        self.echo = Echo()

    def ping(self, value: int) -> int:
        return value

    def take(self, payload: Any) -> int:
        return self.echo.take(payload)

    def prepare(self, kind: PayloadKind, size_bytes: int) -> None:
        self.echo.prepare(kind, size_bytes)

    def give(self) -> Any:
        return self.echo.give()

    def spin(self, seconds: float) -> int:
        return self.echo.spin(seconds)

    def pid(self) -> int:
        return self.echo.pid()


class AsyncEcho:
    """An async actor."""

    async def ping(self, value: int) -> int:
        return value
