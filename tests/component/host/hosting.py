"""A stand-in for the driver: starts a real supervisor, and talks to it and its machines."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from bigmachine.addresses import Address
from bigmachine.death import Death
from bigmachine.host.entry import supervisor_command
from bigmachine.host.messages import (
    EventKind,
    HostConfig,
    LaunchSpec,
    MachineEvent,
    MachineSpec,
    Program,
    TemplateSpec,
)
from bigmachine.rpc import codec
from bigmachine.rpc.client import Client
from bigmachine.rpc.timers import Timers
from bigmachine.security.credentials import Credentials
from bigmachine.security.tls import client_context
from bigmachine.values import as_mapping

LIMIT_SECONDS = 30.0
"""How long anything here may take before the test fails."""

SLACK = 4
"""By how much a limit of time is exceeded before a test fails: other tests run beside this one."""

BARE = Program(how="bare", executable=sys.executable, sys_path=tuple(sys.path))


def script(path: Path, *args: str, flags: tuple[str, ...] = ()) -> Program:
    """A program that is a script."""
    return Program(
        how="script",
        target=str(path),
        executable=sys.executable,
        flags=flags,
        argv=(str(path), *args),
        orig_argv=(sys.executable, *flags, str(path), *args),
        directory=str(path.parent),
    )


class Hosting:
    """A supervisor, as its driver sees it."""

    def __init__(
        self, process: subprocess.Popen[bytes], boot: socket.socket, tls: Credentials | None
    ) -> None:
        self.process = process
        self.loop = asyncio.get_running_loop()
        self.timers = Timers(self.loop)
        self.boot = boot
        self._tls = tls
        self.events: dict[str, list[MachineEvent]] = {}
        self.output: dict[tuple[str, str], bytearray] = {}
        self.ready: dict[str, Any] = {}
        self._changed = asyncio.Event()
        self._clients: dict[str, Client] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def begin(self) -> None:
        """Wait for the supervisor, and follow its events and output."""
        self.ready = json.loads(await self._receive())
        assert self.ready["ok"], self.ready
        self.host = self._client(self._control, "host")
        follow = [self._follow_events(), self._follow_output()]
        self._tasks = [asyncio.create_task(each) for each in follow]

    async def launch(
        self, n: int, services: Mapping[str, Any], program: Program = BARE, **options: Any
    ) -> list[str]:
        """Have machines started; return their ids."""
        specs = tuple(MachineSpec(id=f"{i}-{os.urandom(4).hex()}", index=i) for i in range(n))
        payloads = {name: codec.encode(service) for name, service in services.items()}
        # A program's path would be its driver's; this process only stands in for that.
        options.setdefault("sys_path", tuple(sys.path) if program.is_bare else ())
        spec = LaunchSpec(
            machines=specs,
            cluster="test",
            program=program,
            services=codec.encode(payloads),
            **options,
        )
        await self.call_host("Host.launch", spec)
        return [each.id for each in specs]

    async def call_host(self, method: str, *args: Any) -> Any:
        """Call the supervisor."""
        return await asyncio.wait_for(_wrap(self.host.call(method, args)), LIMIT_SECONDS)

    async def call(self, machine_id: str, method: str, *args: Any) -> Any:
        """Call a machine."""
        return await asyncio.wait_for(_wrap(self.client(machine_id).call(method, args)), 20)

    def client(self, machine_id: str) -> Client:
        """The connection to a machine."""
        if machine_id not in self._clients:

            async def connect() -> socket.socket:
                return await connect_to(Address.parse(self.ready["address"]).at(machine_id))

            self._clients[machine_id] = self._client(connect, machine_id)
        return self._clients[machine_id]

    async def wait_event(self, machine_id: str, kind: EventKind) -> MachineEvent:
        """Wait for an event of a machine."""

        async def find() -> MachineEvent:
            while True:
                self._changed.clear()
                for event in self.events.get(machine_id, ()):
                    if event.kind is kind:
                        return event
                await self._changed.wait()

        return await asyncio.wait_for(find(), LIMIT_SECONDS)

    async def wait_ready(self, *machine_ids: str) -> list[MachineEvent]:
        """Wait until machines serve."""
        return [await self.wait_event(each, EventKind.READY) for each in machine_ids]

    async def wait_death(self, machine_id: str) -> Death:
        """Wait until a machine has died, and return its death."""
        event = await self.wait_event(machine_id, EventKind.DIED)
        assert event.death is not None
        return event.death

    async def wait_output(self, machine_id: str, text: str, stream: str = "stdout") -> None:
        """Wait until a machine has written this."""

        async def find() -> None:
            while True:
                self._changed.clear()
                if text.encode() in self.output.get((machine_id, stream), b""):
                    return
                await self._changed.wait()

        await asyncio.wait_for(find(), LIMIT_SECONDS)

    async def shutdown(self, grace: float = 5.0) -> None:
        """Have everything end gracefully, and wait for the supervisor's end."""
        await self.call_host("Host.shutdown", grace)
        await asyncio.wait_for(asyncio.gather(*self._tasks), LIMIT_SECONDS)
        self.close()
        await self.wait_end()

    async def wait_end(self) -> int:
        """Wait for the supervisor's end, and return its exit code."""
        wait = asyncio.to_thread(self.process.wait, LIMIT_SECONDS)
        return await wait

    def close(self) -> None:
        """Close all connections."""
        for client in [*self._clients.values(), self.host]:
            client.close()

    async def abandon(self) -> None:
        """At the end of a test: nothing is left running, however it went."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if hasattr(self, "host"):
            self.close()
            await asyncio.sleep(0)  # closing happens on the loop
            await asyncio.sleep(0)
        self.boot.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self.process.wait, 10)
        self.process.kill()
        self.process.wait()

    def _client(self, connect: Callable[[], Awaitable[socket.socket]], label: str) -> Client:
        tls = None
        if self._tls is not None:
            context = client_context(self._tls)
            subject = Address.parse(self.ready["address"]).subject
            tls = lambda: (context, subject)  # noqa: E731
        return Client(self.loop, connect, timers=self.timers, tls=tls, label=label)

    async def _control(self) -> socket.socket:
        if self._tls is not None:
            return await connect_to(Address.parse(self.ready["address"]))
        sock = self.boot.dup()
        self.boot.close()  # the connection alone is to keep the socket open
        sock.setblocking(False)
        return sock

    async def _receive(self) -> bytes:
        async def exactly(count: int) -> bytes:
            data = b""
            while len(data) < count:
                more = await self.loop.sock_recv(self.boot, count - len(data))
                assert more, "the supervisor has gone"
                data += more
            return data

        async with asyncio.timeout(LIMIT_SECONDS):
            return await exactly(int.from_bytes(await exactly(4), "big"))

    async def _follow_events(self) -> None:
        async for event in self.host.stream("Host.events"):
            self.events.setdefault(event.machine_id, []).append(event)
            self._changed.set()

    async def _follow_output(self) -> None:
        async for batch in self.host.stream("Host.output"):
            for chunk in batch:
                key = (chunk.machine_id, chunk.stream)
                self.output.setdefault(key, bytearray()).extend(chunk.data)
            self._changed.set()


@contextlib.asynccontextmanager
async def hosting(
    template: TemplateSpec | None = None, *, tls: Credentials | None = None, **options: Any
) -> AsyncIterator[Hosting]:
    """Start a supervisor whose driver this process is."""
    with tempfile.TemporaryDirectory() as parent:
        options.setdefault("driver_pid", os.getpid())
        config = HostConfig(
            cluster="test",
            directory=f"{parent}/host",
            sys_path=tuple(sys.path),
            template=template,
            **options,
        )
        process, boot = start_supervisor(config)
        host = Hosting(process, boot, tls)
        try:
            await host.begin()
            yield host
        finally:
            await host.abandon()


def start_supervisor(config: HostConfig) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a supervisor's process, and tell it what it is to be."""
    near, far = socket.socketpair()
    process = subprocess.Popen(
        supervisor_command(sys.executable, far.fileno()),
        pass_fds=[far.fileno()],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        # For programs: the services for tests.
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    far.close()
    body = json.dumps(config.to_mapping()).encode()
    near.sendall(len(body).to_bytes(4, "big") + body)
    near.setblocking(False)
    return process, near


async def connect_to(address: Address) -> socket.socket:
    """Connect to somebody on a host."""
    loop = asyncio.get_running_loop()
    unix = address.kind == "unix"
    sock = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
    sock.setblocking(False)
    try:
        await loop.sock_connect(sock, address.path if unix else (address.host, address.port))
        await loop.sock_sendall(sock, f"bigmachine/1 {address.target}".encode().ljust(64, b"\0"))
    except BaseException:
        sock.close()
        raise
    return sock


async def _wrap(future: Any) -> Any:
    return await future


def as_json(value: Any) -> dict[str, Any]:
    """A message as a mapping."""
    return as_mapping(value)
