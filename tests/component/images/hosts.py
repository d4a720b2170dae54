"""Hosts with stores of their own, inside one process: real servers, clients and connections."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from linking import LIMIT, LoopThread

from bigmachine.addresses import Address
from bigmachine.driver.images import ImageServer, Prepared
from bigmachine.driver.runtime import Runtime
from bigmachine.futures import Future
from bigmachine.host.images import ImagesService
from bigmachine.image.build import Image
from bigmachine.image.prune import make_room
from bigmachine.image.store import Store
from bigmachine.rpc import endpoints
from bigmachine.rpc.client import Client
from bigmachine.rpc.dialer import Dialer
from bigmachine.rpc.server import Server


class Host:
    """One host: a store, a server, and a door that can be shut."""

    def __init__(self, name: str, root: Path, home: LoopThread, driver: Runtime) -> None:
        self.name = name
        self.home = home
        self.root = root
        self.address = Address(kind="inproc", path=f"{name}-{uuid.uuid4().hex[:6]}")
        self.server = home.do(lambda: Server(name=name, guard=False))
        dialer = Dialer()
        self.service = home.do(
            lambda: ImagesService(
                lambda: Store(str(root), room=make_room),
                lambda address: Client(
                    home.loop,
                    lambda: dialer.connect(address),
                    timers=self.server.timers,
                    label=f"the supervisor at {address}",
                ),
                dialer,
            )
        )
        home.do(lambda: self.server.register("Images", self.service))
        endpoints.open_endpoint(self.address.path, self.accept)
        self.control = Client(
            driver.loop, self.connect, timers=driver.timers, label=f"the supervisor of {name}"
        )

    def accept(self, target: str) -> socket.socket:
        mine, theirs = socket.socketpair()
        mine.setblocking(False)
        self.home.loop.call_soon_threadsafe(self.server.adopt, theirs)
        return mine

    async def connect(self) -> socket.socket:
        return self.accept("host")

    def shut_door(self) -> None:
        """Let no other host reach this one from now on."""
        endpoints.close_endpoint(self.address.path)

    def cut(self) -> None:
        """Cut all connections to this host."""
        for session in list(self.server._sessions):
            session.channel._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.shut_door()
        self.control.close()
        self.home.do(self.service.close)
        self.home.run(self.server.close(1.0))


class Cluster:
    """A driver and its hosts."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.runtime = Runtime.in_thread("images")
        self.home = LoopThread("hosts")
        self.hosts: list[Host] = []

    def add(self, count: int = 1, *, name: str = "h") -> list[Host]:
        new = []
        for _ in range(count):
            label = f"{name}{len(self.hosts)}"
            new.append(Host(label, self.directory / label, self.home, self.runtime))
            self.hosts.append(new[-1])
        return new

    def restart(self, host: Host) -> Host:
        """End a host's supervisor and start another one with the same cache."""
        host.close()
        self.hosts.remove(host)
        again = Host(host.name, host.root, self.home, self.runtime)
        self.hosts.append(again)
        return again

    def server(self, image: Image) -> ImageServer:
        return ImageServer(self.runtime, image, system="test")

    def begin(self, server: ImageServer, host: Host) -> Future[Prepared]:
        return self.runtime.spawn(
            server.provide(host.control, str(host.address), host.name), f"provide {host.name}"
        )

    def provide(self, server: ImageServer, hosts: list[Host]) -> list[Prepared]:
        futures = [self.begin(server, host) for host in hosts]
        return [future.result(LIMIT) for future in futures]

    def run(self, coroutine: Any) -> Any:
        return self.runtime.spawn(coroutine, "test").result(LIMIT)

    def close(self) -> None:
        for host in self.hosts:
            host.close()
        self.runtime.stop()
        self.home.run(self.home.loop.shutdown_default_executor())
        self.home.stop()


@contextmanager
def cluster_in(directory: Path) -> Iterator[Cluster]:
    """Run a cluster, and end it."""
    cluster = Cluster(directory)
    try:
        yield cluster
    finally:
        cluster.close()
