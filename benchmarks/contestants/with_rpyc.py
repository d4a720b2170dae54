"""RPyC: a server process for each worker, over Unix sockets."""

from __future__ import annotations

import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rpyc
from rpyc.utils.server import ThreadedServer

from benchmarks.contestants.base import Contestant, Echo, MethodKind, Unsupported
from benchmarks.payloads import PayloadKind, make_payload

CONFIG = {"sync_request_timeout": 120}


class Service(rpyc.Service):  # type: ignore[misc]
    """The echo, under RPyC's names."""

    def __init__(self) -> None:
        self.echo = Echo()

    def exposed_ping(self, value: int) -> int:
        return value

    def exposed_take(self, payload: bytes) -> int:
        return len(payload)

    def exposed_prepare(self, kind: PayloadKind, size_bytes: int) -> None:
        self.payload = make_payload(kind, size_bytes)

    def exposed_give(self) -> Any:
        return self.payload

    def exposed_spin(self, seconds: float) -> int:
        return self.echo.spin(seconds)


def serve(path: str) -> None:
    """Serve until terminated, with one thread for each connection."""
    ThreadedServer(Service(), socket_path=path, protocol_config=CONFIG).start()


class Rpyc(Contestant):
    """Servers with a thread for each connection; only bytes travel by value."""

    name = "rpyc"
    statement = "import rpyc"
    distribution = "rpyc"
    max_workers = 64
    in_flight = 100  # with 1,000 both ends block in their sends

    def start(self, workers: int) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="bench-rpyc-"))
        context = multiprocessing.get_context("spawn")
        paths = [str(self.directory / str(i)) for i in range(workers)]
        self.processes = [context.Process(target=serve, args=(path,)) for path in paths]
        for process in self.processes:
            process.start()
        self.connections = [connect(path) for path in paths]
        for connection in self.connections:
            connection.root.ping(0)
        self.root = self.connections[0].root
        self.async_ping = rpyc.async_(self.root.ping)

    def stop(self) -> None:
        for connection in self.connections:
            connection.close()
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.join()
        shutil.rmtree(self.directory)

    def ping(self, value: int, kind: MethodKind) -> int:
        if kind == "async":
            raise Unsupported
        answer: int = self.root.ping(value)
        return answer

    def submit(self, value: int, kind: MethodKind) -> Callable[[], int]:
        if kind == "async":
            raise Unsupported
        result = self.async_ping(value)
        return lambda: int(result.value)

    def prepare(self, kind: PayloadKind, size_bytes: int) -> None:
        if kind != "bytes":
            raise Unsupported  # it would pass a reference
        self.root.prepare(kind, size_bytes)

    def send(self, payload: Any) -> int:
        if not isinstance(payload, bytes):
            raise Unsupported
        answer: int = self.root.take(payload)
        return answer

    def receive(self) -> Any:
        return self.root.give()

    def spin(self, seconds: float) -> Callable[[], object]:
        beside = connect(str(self.directory / "0"))  # a connection is served by one thread
        self.connections.append(beside)
        result = rpyc.async_(beside.root.spin)(seconds)
        return lambda: result.value

    def pids(self) -> list[int]:
        return [process.pid for process in self.processes if process.pid]


def connect(path: str) -> Any:
    """Connect as soon as the server is there."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return rpyc.utils.factory.unix_connect(path, config=CONFIG)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)
