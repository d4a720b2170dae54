"""A stand-in for the driver of hosts that are booted: `driver.bootstrap` is the real one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from bigmachine.addresses import Address
from bigmachine.driver.bootstrap import bootstrap
from bigmachine.host.messages import HostReady
from bigmachine.image.runtime import runtime_layers
from bigmachine.rpc.client import Client
from bigmachine.rpc.dialer import Dialer
from bigmachine.rpc.timers import Timers
from bigmachine.security.authority import Authority
from bigmachine.security.tls import client_context
from bigmachine.systems.bootfile import read_line
from bigmachine.testing.booted import Booted, BootedHost

LIMIT_SECONDS = 20.0
"""How long anything here may take before the test fails."""


class Cluster:
    """The authority of a cluster, its driver's credentials, and hosts that belong to it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = Authority()
        self.driver = self.authority.issue("driver-1a2b")
        self.hosts: list[BootedHost] = []

    def close(self) -> None:
        """End what has not ended."""
        for host in self.hosts:
            host.kill()

    @cached_property
    def tls(self) -> ssl.SSLContext:
        return client_context(self.driver)

    def host(self, **options: Any) -> BootedHost:
        """Make a host, which is not started."""
        system = Booted(directory=str(self.directory), n_hosts=100, **options)
        host = BootedHost(system, len(self.hosts))
        self.hosts.append(host)
        return host

    def config(self, host: BootedHost, **changes: Any) -> dict[str, Any]:
        """What the boot file is given."""
        config = {
            "cluster": "bigpi-4f1c",
            "id": host.id,
            "credentials": asdict(self.authority.issue(host.id)),
            "boot_seconds": LIMIT_SECONDS,
            "lease_seconds": LIMIT_SECONDS,
        }
        return {**config, **changes}

    async def listening(self, **changes: Any) -> BootedHost:
        """Start a host, which listens then."""
        host = self.host()
        await host.start(self.config(host, **changes))
        return host

    async def bring_up(self, host: BootedHost, **changes: Any) -> HostReady:
        """Have its supervisor started, as the driver does."""
        options: dict[str, Any] = {
            "tls": self.tls,
            "subject": host.id,
            "config": {"cluster": "bigpi-4f1c", "lease_seconds": LIMIT_SECONDS},
            "layers": runtime_layers(),
            "seconds": LIMIT_SECONDS,
            "system": "booted",
        }
        return await bootstrap(host, **{**options, **changes})

    async def call(self, ready: HostReady, method: str, *args: Any) -> Any:
        """Call the supervisor, over a connection of its own."""
        with contextlib.closing(self.client(ready)) as client:
            return await asyncio.wait_for(asyncio.wrap_future(client.call(method, args)), 20)

    def client(self, ready: HostReady) -> Client:
        """A connection to the supervisor."""
        address = Address.parse(ready.address)
        loop = asyncio.get_running_loop()
        return Client(
            loop,
            lambda: Dialer(self.driver).connect(address),
            timers=Timers(loop),
            tls=lambda: (self.tls, address.subject),
        )


def cache_of(host: BootedHost) -> Path:
    return Path(host.home) / ".cache" / "bigmachine"


def clusters_in(cache: Path) -> list[str]:
    """The private directories of clusters that are there."""
    return sorted(os.listdir(cache / "clusters")) if (cache / "clusters").is_dir() else []


def processes_below(directory: Path) -> list[int]:
    """The processes whose home is below a directory."""
    found = []
    mark = f"HOME={directory}".encode()
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError):
                if mark in Path("/proc", name, "environ").read_bytes():
                    found.append(int(name))
    return found


def wait_until(condition: Callable[[], bool], seconds: float = LIMIT_SECONDS) -> None:
    """Wait for a condition that nobody tells of."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.005)


def wait_end(host: BootedHost, seconds: float = LIMIT_SECONDS) -> int:
    """Wait for the end of a host's first process; return its exit code."""
    assert host.process is not None
    return host.process.wait(seconds)


def said_by(host: BootedHost) -> list[dict[str, Any]]:
    """What a host has said, when it has ended."""
    assert host.process is not None
    assert host.process.stdout is not None
    lines = map(read_line, host.process.stdout)
    return [each for each in lines if each is not None]


def environ_of(pid: int) -> dict[str, str]:
    """The environment that a process began with."""
    text = Path(f"/proc/{pid}/environ").read_text()
    pairs = [each.partition("=") for each in text.split("\0") if each]
    return {name: value for name, _, value in pairs}


def connected(host: BootedHost) -> socket.socket:
    """A connection to a host's port, as anybody can make one."""
    return socket.create_connection(("127.0.0.1", host.port), timeout=LIMIT_SECONDS)


def pythons() -> Iterator[tuple[str, str]]:
    """The Pythons of this computer that the boot file runs on: version, path."""
    places = [Path(sys.base_prefix).parent.glob("3.*/bin"), [Path("/usr/bin")]]
    seen = set()
    for place in (each for some in places for each in some):
        for minor in range(6, 20):
            path = place / f"python3.{minor}"
            if path.exists() and minor not in seen:
                seen.add(minor)
                yield f"3.{minor}", str(path)


def run(test: Any) -> Any:
    """Run a coroutine with a limit."""
    return asyncio.run(asyncio.wait_for(test, 3 * LIMIT_SECONDS))


__all__ = [
    "LIMIT_SECONDS",
    "Cluster",
    "cache_of",
    "clusters_in",
    "connected",
    "environ_of",
    "processes_below",
    "pythons",
    "run",
    "said_by",
    "wait_end",
    "wait_until",
]
