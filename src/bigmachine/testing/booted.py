"""Hosts that are booted as strangers are, on this computer: `Booted`.

Each host is a plain process that is fed the boot file, as SSH would, with a home directory and a
cache of its own and nothing of the driver's environment. All that follows is real: mutual TLS, the
runtime's layers, the image, the guardian. Only the network and the disk are this computer's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar, Final

from bigmachine.addresses import Address
from bigmachine.errors import ProvisionError, UsageError
from bigmachine.systems import bootfile
from bigmachine.systems.base import Host, HostRequest, Keepalive, System

__all__ = ["Booted", "BootedHost"]

UP_SECONDS: Final = 20.0
"""How long the boot file may take until it listens."""
END_SECONDS: Final = 2.0
"""How long a host may take to end when it is told to."""
_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
_LOOK_SECONDS: Final = 0.005


class Booted(System):
    """Hosts on this computer that are brought up as hosts elsewhere are.

    Args:
        n_hosts: How many there are.
        machines_per_host: How many machines each of them holds.
        python: The interpreter that runs the boot file: any from 3.8 on.
        directory: Where the hosts' homes are; what was there before is their cache. None: a
            temporary directory, removed when the system is garbage.
        keepalive: How often they are asked for a sign of life, in seconds.
        boot_seconds: How long they have until their supervisor runs; None is the driver's limit.
    """

    name: ClassVar[str] = "booted"

    def __init__(
        self,
        n_hosts: int = 1,
        machines_per_host: int = 64,
        python: str = sys.executable,
        directory: str | None = None,
        keepalive: float | None = None,
        boot_seconds: float | None = None,
    ) -> None:
        if n_hosts < 1 or machines_per_host < 1:
            raise UsageError("Booted: there is at least one host, with at least one machine")
        self.n_hosts = n_hosts
        self.machines_per_host = machines_per_host
        self.python = python
        self.boot_seconds = boot_seconds
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        if directory is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="bigmachine-booted-")
            directory = self._temporary.name
        self.directory = directory
        self._used: dict[int, BootedHost] = {}
        if keepalive is not None:
            self.keepalive = Keepalive.every(keepalive)

    def __repr__(self) -> str:
        return f"<system booted n_hosts={self.n_hosts} in {self.directory}>"

    @property
    def hosts(self) -> list[BootedHost]:
        """The hosts that were launched and have not ended."""
        return [host for host in self._used.values() if not host.has_ended]

    def home(self, number: int) -> str:
        """Return the home directory of a host."""
        return os.path.join(self.directory, f"h{number}")

    async def launch(self, request: HostRequest) -> AsyncIterator[Host]:
        """Start hosts; see `System.launch`."""
        missing = request.machines
        while missing > 0:
            free = [
                n for n in range(self.n_hosts) if n not in self._used or self._used[n].has_ended
            ]
            if not free:
                raise ProvisionError(
                    f"all {self.n_hosts} hosts are in use",
                    system=self.name,
                    requested=request.machines,
                    started=request.machines - missing,
                    remedy="ask for fewer machines, or give Booted more hosts",
                )
            host = BootedHost(self, free[0])
            self._used[free[0]] = host
            boot = dict(request.boot(host.id))
            if self.boot_seconds is not None:
                boot["boot_seconds"] = self.boot_seconds
            try:
                await host.start(boot)
            except BaseException:
                host.kill()
                raise
            missing -= host.capacity
            yield host


class BootedHost(Host):
    """One host: the process of its boot file, and all that comes of it.

    Attributes:
        home: Its home directory.
        port: Where it listens.
        environ: The environment that it begins with.
        process: The boot file's process; it guards the supervisor later.

    Args:
        system: Whose it is.
        number: Which of them, from 0 on.
    """

    def __init__(self, system: Booted, number: int) -> None:
        self.id = f"booted-{number}-{secrets.token_hex(3)}"
        self.capacity = system.machines_per_host
        self.home = system.home(number)
        self.port = 0
        self.environ = {"HOME": self.home, "PATH": _PATH, "LANG": "C.UTF-8"}
        self.process: subprocess.Popen[bytes] | None = None
        self._python = system.python
        self._error = ""

    @property
    def has_ended(self) -> bool:
        """Whether its first process has."""
        return self.process is not None and self.process.poll() is not None

    def begin(self, boot: Mapping[str, Any]) -> None:
        """Start the boot file's process, and feed it.

        Args:
            boot: What ``HostRequest.boot`` gave; with ``listen``, ``port`` and so on if need be.
        """
        os.makedirs(self.home, mode=0o700, exist_ok=True)
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", bootfile.command(self._python)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=self.home,
            env=self.environ,
            start_new_session=True,
        )
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, and has said why
            self.process.stdin.write(bootfile.payload({"listen": "127.0.0.1", **boot}))
            self.process.stdin.flush()

    async def start(self, boot: Mapping[str, Any]) -> Mapping[str, Any]:
        """Start it, wait until it listens, and return what it says of itself.

        Raises:
            ProvisionError: It does not listen.
        """
        self.begin(boot)
        assert self.process is not None
        assert self.process.stdout is not None
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), self.process.stdout
        )
        try:
            async with asyncio.timeout(UP_SECONDS):
                while line := await reader.readline():
                    said = bootfile.read_line(line)
                    if said is not None:
                        break
                else:
                    said = {"error": "it ended at once"}
        except TimeoutError:
            said = {"error": "it says nothing"}
        finally:
            transport.close()
        if "error" in said:
            raise ProvisionError(
                f"{self.id} did not come up: {said['error']}",
                system=Booted.name,
                requested=self.capacity,
                started=0,
                remedy=f"see whether {self._python} works",
            )
        self.port = int(said["port"])
        address = Address(kind="tls", host="127.0.0.1", port=self.port, subject=self.id)
        self.address = str(address)
        return said

    async def connect(self) -> socket.socket:
        """Connect to the port."""
        sock = socket.socket()
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        except BaseException:
            sock.close()
            raise
        return sock

    async def stop(self, timeout: float) -> None:
        """Wait for its end, and force it when that takes too long."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.wait_closed(), timeout)
        self.kill()

    async def wait_closed(self) -> None:
        """Wait for its end."""
        while not self.has_ended:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_SECONDS)

    def kill(self) -> None:
        """End it at once: the guardian kills everything."""
        if self.process is None:
            return
        for number in (signal.SIGUSR2, signal.SIGKILL):
            if self.process.poll() is None:
                self.process.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(END_SECONDS)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def cause(self) -> str:
        """Return how its first process ended, where it has."""
        code = None if self.process is None else self.process.poll()
        if code is None:
            return ""
        if code < 0:
            return f"its guardian was killed by {signal.Signals(-code).name}"
        return f"its guardian ended with exit code {code}"

    def remove_home(self) -> None:
        """Remove the home directory, and with it the cache."""
        shutil.rmtree(self.home, ignore_errors=True)
