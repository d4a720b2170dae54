"""The services of a supervisor: ``Host``, for the driver, and ``Supervisor``, for everybody.

Plain classes with asynchronous methods, served by the supervisor's `rpc.server.Server` like any
other service. They ask little of the supervisor and its machines (`Hosting`, `Hosted`), so that a
host inside a test's process (`testing.host`) offers the same.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Protocol

from bigmachine.death import Death, DeathKind
from bigmachine.errors import MachineStoppedError, UsageError
from bigmachine.host import parcel
from bigmachine.host.messages import KeepaliveReply, LaunchSpec, MachineEvent
from bigmachine.host.outbox import Outbox
from bigmachine.host.spool import OutputChunk

if TYPE_CHECKING:
    from bigmachine.host.events import EventLog
    from bigmachine.host.messages import Answer, MachineIdentity
    from bigmachine.host.spool import Spool
    from bigmachine.info import DiskInfo, Info, LoadInfo, MemInfo
    from bigmachine.rpc.codec import Payload


class Hosted(Protocol):
    """A machine, as these services need it."""

    @property
    @abstractmethod
    def identity(self) -> MachineIdentity:
        """Who it is."""

    @property
    @abstractmethod
    def pid(self) -> int | None:
        """Its process; None while it has none."""

    @property
    @abstractmethod
    def death(self) -> Death | None:
        """What it died of; None while it lives."""

    @property
    @abstractmethod
    def is_ending(self) -> bool:
        """Whether it has ended, whatever is known of that so far."""

    @property
    @abstractmethod
    def dead(self) -> asyncio.Event:
        """Set when it is dead."""

    def stop(self, grace: float) -> None:
        """Have it end gracefully, at the latest after ``grace`` seconds."""

    def kill(self, reason: DeathKind, detail: str = "") -> None:
        """End it by force."""

    @abstractmethod
    async def ask(
        self, what: Literal["register", "vars", "runtime"], *args: Any, fds: tuple[int, ...] = ()
    ) -> Answer:
        """Ask it something that it alone can answer."""

    @abstractmethod
    def stopped_error(self) -> MachineStoppedError:
        """Return the error that says what it died of."""


class Hosting(Protocol):
    """A supervisor, as these services need it."""

    @property
    @abstractmethod
    def machines(self) -> Mapping[str, Hosted]:
        """Its machines, the dead ones too, by id."""

    @property
    @abstractmethod
    def events(self) -> EventLog:
        """What has happened to them."""

    @property
    @abstractmethod
    def spool(self) -> Spool:
        """What they have written."""

    @property
    @abstractmethod
    def loop(self) -> asyncio.AbstractEventLoop:
        """Its event loop."""

    @property
    @abstractmethod
    def hostname(self) -> str:
        """Its host's name."""

    def launch(self, spec: LaunchSpec) -> None:
        """Start machines."""

    def begin_shutdown(self, grace: float) -> None:
        """Begin to end gracefully, within ``grace`` seconds."""

    async def wait_machines(self) -> None:
        """Wait until all machines are dead."""

    @abstractmethod
    def keepalive(self, period: float) -> KeepaliveReply:
        """Renew the lease."""

    @abstractmethod
    def main_file(self, machine_id: str) -> str:
        """Return the path of a machine's main program; "" when it has none."""


class HostService:
    """What the driver asks of a host."""

    def __init__(self, supervisor: Hosting) -> None:
        self._supervisor = supervisor
        self._outbox: Outbox | None = None

    async def launch(self, spec: LaunchSpec) -> None:
        """Start machines. Returns at once; `events` tells what becomes of them."""
        self._supervisor.launch(spec)

    async def events(self) -> AsyncIterator[MachineEvent]:
        """Tell what happens to machines, from the beginning, until the host has shut down."""
        async for event in self._supervisor.events.follow():
            yield event

    async def output(self, taken: int = 0) -> AsyncIterator[list[OutputChunk]]:
        """Bring what machines write, until the host has shut down and all of it is taken.

        For one caller, which may come again.

        Args:
            taken: How many batches it has got already.
        """
        if self._outbox is None:
            self._outbox = Outbox(self._supervisor.spool)
        async for batch in self._outbox.follow(taken):
            yield batch

    async def tail(self, machine_id: str) -> AsyncIterator[str]:
        """Follow one machine's output, line by line, beginning with its last lines."""
        tail = self._supervisor.spool.tail(machine_id)
        try:
            while (lines := await tail.next_lines()) is not None:
                for line in lines:
                    yield line
        finally:
            tail.close()

    def read(self, path: str) -> BinaryIO:
        """Read a file of this host.

        Raises:
            OSError: It cannot be opened.
        """
        return open(path, "rb")

    async def stop(self, machine_id: str, grace: float) -> None:
        """End a machine gracefully, at the latest after ``grace`` seconds; wait for it."""
        machine = self._supervisor.machines.get(machine_id)
        if machine is not None:
            machine.stop(grace)
            await machine.dead.wait()

    async def kill(self, machine_id: str, reason: str, detail: str = "") -> None:
        """End a machine by force, for a reason (a `DeathKind`); does not wait for it."""
        machine = self._supervisor.machines.get(machine_id)
        if machine is not None:
            machine.kill(DeathKind(reason), detail)

    async def shutdown(self, grace: float) -> None:
        """End all machines gracefully, at the latest after ``grace`` seconds; wait for them.

        `output` and `events` come to their end then; once the driver has closed its connection,
        this process ends.
        """
        self._supervisor.begin_shutdown(grace)
        await self._supervisor.wait_machines()

    async def keepalive(self, period: float) -> KeepaliveReply:
        """Renew the lease.

        Args:
            period: For how long, in seconds.

        Raises:
            ValueError: That is not positive.
        """
        return self._supervisor.keepalive(period)


class SupervisorService:
    """What anybody may ask about a machine, answered also while the machine itself cannot.

    The first argument is the machine's id, which the client adds. The names are the original's.
    """

    def __init__(self, supervisor: Hosting) -> None:
        self._supervisor = supervisor
        self._digests: dict[str, str] = {}

    async def Ping(self, machine_id: str, value: Any = None) -> Any:  # noqa: N802
        """Return the argument.

        Raises:
            MachineStoppedError: The machine is dead. Of all methods here.
        """
        machine = self._living(machine_id)
        if machine.is_ending:
            await machine.dead.wait()
            raise machine.stopped_error()
        return value

    async def Getpid(self, machine_id: str) -> int | None:  # noqa: N802
        """Return the machine's process; None while it has none."""
        return self._living(machine_id).pid

    async def Info(self, machine_id: str) -> Info:  # noqa: N802
        """Describe the machine's platform and program."""
        from bigmachine.info import digest_of, local_info

        self._living(machine_id)
        main = self._supervisor.main_file(machine_id)
        if main not in self._digests:
            self._digests[main] = await asyncio.to_thread(digest_of, main)
        info = local_info(digest=self._digests[main])
        return replace(info, hostname=self._supervisor.hostname)

    async def MemInfo(self, machine_id: str, runtime: bool = False) -> MemInfo:  # noqa: N802
        """Measure the machine's memory and its host's; ``runtime`` asks the machine itself too."""
        from bigmachine.host import sysinfo

        machine = self._living(machine_id)
        figures = None
        if runtime:
            figures = _value(await machine.ask("runtime"))
        if machine.pid is None:
            raise UsageError(f"machine {machine.identity.label} is still starting")
        try:
            return sysinfo.mem_info(machine.pid, runtime=figures)
        except ProcessLookupError:
            await machine.dead.wait()
            raise machine.stopped_error() from None

    async def DiskInfo(self, machine_id: str) -> DiskInfo:  # noqa: N802
        """Measure the file system of the temporary directory."""
        from bigmachine.host import sysinfo

        self._living(machine_id)
        return await asyncio.to_thread(sysinfo.disk_info)

    async def LoadInfo(self, machine_id: str) -> LoadInfo:  # noqa: N802
        """Measure how busy the host is."""
        from bigmachine.host import sysinfo

        self._living(machine_id)
        return sysinfo.load_info()

    async def Keepalive(self, machine_id: str, period: float) -> KeepaliveReply:  # noqa: N802
        """Renew the lease of the host, if it has one."""
        self._living(machine_id)
        return self._supervisor.keepalive(period)

    async def Register(self, machine_id: str, name: str, service: Payload) -> bool:  # noqa: N802
        """Add a service to a running machine; False when its name is taken.

        Raises:
            Exception: Whatever the service's ``init`` raised.
        """
        machine = self._living(machine_id)
        return bool(
            _value(await machine.ask("register", name, fds=(parcel.write_parcel(service),)))
        )

    async def Shutdown(self, machine_id: str, delay: float = 0.0) -> None:  # noqa: N802
        """End the machine gracefully after a delay, in seconds. Does not wait for it."""
        machine = self._living(machine_id)
        from bigmachine.host.supervisor import DEFAULT_GRACE_SECONDS

        self._supervisor.loop.call_later(max(0.0, delay), machine.stop, DEFAULT_GRACE_SECONDS)

    async def Expvars(self, machine_id: str) -> dict[str, Any]:  # noqa: N802
        """Return the machine's published variables."""
        machine = self._living(machine_id)
        return dict(_value(await machine.ask("vars")))

    def _living(self, machine_id: str) -> Hosted:
        machine = self._supervisor.machines.get(machine_id)
        if machine is None:
            detail = f"the host that its address names has no machine {machine_id!r}"
            death = Death(kind=DeathKind.HOST, machine=machine_id, detail=detail)
            raise MachineStoppedError(machine=machine_id, death=death)
        if machine.death is not None:
            raise machine.stopped_error()
        return machine


def _value(answer: Answer) -> Any:
    """Return what a machine answered, or raise what it raised."""
    if answer.error is None:
        return answer.value
    from bigmachine.rpc.exceptions import decode_exception

    raise decode_exception(answer.error)
