"""bigmachine, over Unix sockets and over TLS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import bigmachine as bm
from benchmarks.contestants.base import Contestant, Echo, MethodKind
from benchmarks.payloads import PayloadKind


class Local(Contestant):
    """Machines on this host, over Unix sockets."""

    name = "bigmachine"
    statement = "import bigmachine; bigmachine.start"
    distribution = "bigmachine"
    transport: ClassVar[Literal["unix", "tls"]] = "unix"
    beside = "async"

    def start(self, workers: int) -> None:
        self.cluster = bm.start(bm.systems.Local(transport=self.transport))
        self.machines = self.cluster.start(workers, services={"Echo": Echo()})
        self.machine = self.machines[0]
        for call in self.machines.call(Echo.ping, 0):
            call.result(120)

    def stop(self) -> None:
        self.cluster.shutdown().result(60)

    def ping(self, value: int, kind: MethodKind) -> int:
        if kind == "async":
            return self.machine.call(Echo.async_ping, value).result()
        return self.machine.call(Echo.ping, value).result()

    async def aping(self, value: int, kind: MethodKind) -> int:
        if kind == "async":
            return await self.machine.call(Echo.async_ping, value)
        return await self.machine.call(Echo.ping, value)

    def prepare(self, kind: PayloadKind, size_bytes: int) -> None:
        self.machine.call(Echo.prepare, kind, size_bytes).result()

    def send(self, payload: Any) -> int:
        return self.machine.call(Echo.take, payload).result()

    def receive(self) -> Any:
        return self.machine.call(Echo.give).result()

    def spin(self, seconds: float) -> Callable[[], object]:
        return self.machine.call(Echo.spin, seconds).result

    def pids(self) -> list[int]:
        return [call.result() for call in self.machines.call(Echo.pid)]


class LocalTLS(Local):
    """Machines on this host, over mutual TLS 1.3 on TCP."""

    name = "bigmachine-tls"
    transport = "tls"
    floor = "tls"
