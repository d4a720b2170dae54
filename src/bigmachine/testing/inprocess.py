"""Machines inside this process, for tests: `InProcess`.

Everything but processes is real: services are pickled and rebuilt, calls travel as frames over
socket pairs, the driver's side is the very same. One host holds one machine, so that faults and
missed keepalives can strike a single one.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, ClassVar, Final

from bigmachine.addresses import Address
from bigmachine.death import DeathKind
from bigmachine.driver.lifecycle import State
from bigmachine.errors import UsageError
from bigmachine.futures import check_may_block
from bigmachine.rpc import endpoints
from bigmachine.systems.base import Host, HostRequest, Keepalive, System
from bigmachine.testing.host import InProcessSupervisor

if TYPE_CHECKING:
    import socket

    from bigmachine.machine import Machine
    from bigmachine.testing.faults import Faults
    from bigmachine.testing.machine import InProcessMachine

WAIT_SECONDS: Final = 10.0
"""How long `InProcess.wait` waits unless it is told."""
_NOTICE_SECONDS: Final = 2.0
"""How long `InProcess.kill` waits for the driver to notice: with faults, it may never."""
_LOOK_SECONDS: Final = 0.005

_numbers = itertools.count()


class InProcess(System):
    """Machines inside this process, for unit tests of services and of programs.

    A machine is an event loop in a thread of its own; its plain methods run in further threads.
    What differs from machines that are processes:

    - What it prints goes to this process's own streams, without a prefix: ``output=`` and
      `Machine.tail` bring nothing.
    - ``env=`` and ``args=`` have no effect, modules and their globals are shared, and so are the
      working directory, signal handlers and random generators.
    - ``bm.current()`` and ``bm.is_driver()`` go by the context that methods, ``init`` and ``close``
      run in; a bare thread that a service starts is outside of it.
    - A thread cannot be killed: after `kill` a plain method runs on, ``bm.cancelled()`` being true,
      but nothing that it does reaches the driver or other machines. Async ones are cancelled.
    - A crash, ``os._exit`` or a signal ends the whole process, of course.

    Args:
        machineprocs: The ``maxprocs`` of each machine.
        keepalive: How often each machine's host is asked for a sign of life, in seconds, as short
            as one likes; without an answer for twice as long it is given up (kind ``keepalive``).
            Or a `Keepalive`. None for the default.
        faults: What goes wrong on the way. None: nothing does.

    Raises:
        UsageError: ``machineprocs`` is below 1, or a keepalive is not positive.
    """

    name: ClassVar[str] = "inprocess"
    is_here: ClassVar[bool] = True
    transport = "unix"

    def __init__(
        self,
        machineprocs: int = 1,
        keepalive: float | Keepalive | None = None,
        faults: Faults | None = None,
    ) -> None:
        if machineprocs < 1:
            raise UsageError(f"InProcess(machineprocs={machineprocs}): it is 1 or more")
        self._machineprocs = machineprocs
        if isinstance(keepalive, Keepalive):
            self.keepalive = keepalive
        elif keepalive is not None:
            self.keepalive = Keepalive.every(keepalive)
        self.faults = faults
        self._changed = threading.Condition()  # guards the hosts
        self._hosts: list[InProcessHost] = []
        self._launched = 0
        self._exited = False

    def __repr__(self) -> str:
        return f"<system inprocess {self.n} machines>"

    def recorded(self) -> None:
        """Leave no record of clusters: there is nothing of them that is not in this process."""
        return

    # What tests ask.

    @property
    def n(self) -> int:
        """How many machines run."""
        return len(self.machines)

    @property
    def machines(self) -> tuple[Machine, ...]:
        """The machines that run, as their clusters' drivers hold them, in the order of start."""
        from bigmachine.cluster import clusters_on

        running = [machine.identity.id for machine in self._running()]
        held = {
            getattr(machine._handle, "id", ""): machine
            for cluster in clusters_on(self)
            for machine in cluster.machines
            if machine.owned and machine.state is State.RUNNING
        }
        return tuple(held[each] for each in running if each in held)

    def index(self, i: int) -> Machine:
        """Return the machine at a place in `machines`.

        Raises:
            IndexError: There are not so many.
        """
        return self.machines[i]

    @property
    def exited(self) -> bool:
        """Whether any machine has ended of itself: it was shut down, or raised SystemExit."""
        return self._exited

    def wait(self, n: int, timeout: float = WAIT_SECONDS) -> int:
        """Block until at least ``n`` machines run.

        Args:
            n: How many.
            timeout: How long to wait at most, in seconds.

        Returns:
            How many run.

        Raises:
            TimeoutError: There are not so many in time.
        """
        check_may_block()
        end = time.monotonic() + timeout
        while (running := self.n) < n:
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"{running} machines run after {timeout:g} s, not {n}")
            with self._changed:  # when the driver has heard of it nobody tells: look again
                self._changed.wait(min(left, _LOOK_SECONDS))
        return running

    def kill(self, m: Machine | None = None) -> bool:
        """Kill a machine, as if by SIGKILL; returns when it is gone.

        Its pending calls fail with a `MachineStoppedError`; neither ``close`` nor anything else of
        its services is run.

        Args:
            m: Which; None for any one: the first that runs.

        Returns:
            Whether there was such a machine of this system, alive.
        """
        check_may_block()
        if m is None:
            m = next(iter(self.machines), None)
        victim = None if m is None else self._find(m)
        if m is None or victim is None or victim.death is not None:
            return False
        victim.kill(DeathKind.SIGNAL, signal="SIGKILL")
        end = time.monotonic() + _NOTICE_SECONDS
        with self._changed:
            self._changed.wait_for(lambda: victim.dead.is_set(), _NOTICE_SECONDS)
        if m.owned:
            try:
                m.wait(State.STOPPED).result(max(0.0, end - time.monotonic()))
            except TimeoutError:  # faults keep the news from the driver
                return True
        return True

    # What the driver asks.

    async def launch(self, request: HostRequest) -> AsyncIterator[Host]:
        """Make a host for each machine; see `System.launch`."""
        for _ in range(request.machines):
            with self._changed:
                number, self._launched = self._launched, self._launched + 1
                host = InProcessHost(self, number)
                self._hosts.append(host)
            self.event("launch", host=host.id)
            yield host

    async def keepalive_failed(self, host: Host) -> None:
        """Note why the host is about to be given up."""
        if isinstance(host, InProcessHost):
            host.supervisor.is_lost = True
        await super().keepalive_failed(host)

    def note_change(self) -> None:
        """Look again: a machine has come up or died. From any thread."""
        with self._changed:
            self._exited = self._exited or any(
                machine.ended_itself and machine.death is not None
                for host in self._hosts
                for machine in list(host.supervisor.machines.values())
            )
            self._changed.notify_all()

    def forget(self, host: InProcessHost) -> None:
        """A host is no more. From any thread."""
        with self._changed:
            if host in self._hosts:
                self._hosts.remove(host)
            self._changed.notify_all()

    def _running(self) -> list[InProcessMachine]:
        return [
            machine
            for host in list(self._hosts)
            for machine in list(host.supervisor.machines.values())
            if machine.is_ready and machine.death is None
        ]

    def _find(self, machine: Machine) -> InProcessMachine | None:
        """Return what is behind a driver's or another machine's handle."""
        target = getattr(machine._handle, "id", "")
        if not target and machine.addr:
            target = Address.parse(machine.addr).target
        for host in list(self._hosts):
            found = host.supervisor.machines.get(target)
            if found is not None:
                return found
        return None


class InProcessHost(Host):
    """A host inside this process, for one machine at a time."""

    def __init__(self, system: InProcess, number: int) -> None:
        self.id = f"inprocess-{next(_numbers)}"
        self.capacity = 1
        self.maxprocs = system._machineprocs
        self._system = system
        self.supervisor = InProcessSupervisor(self.id, number, system.faults, system.note_change)
        self.address = str(self.supervisor.address)

    async def connect(self) -> socket.socket:
        """Return a new connection to the supervisor."""
        return endpoints.connect(self.id, self.supervisor.address.target)

    async def stop(self, timeout: float) -> None:
        """End everything; see `Host.stop`."""
        async with asyncio.timeout(timeout + 1.0):
            await self.supervisor.close(timeout)
        self._system.forget(self)

    def kill(self) -> None:
        """End everything at once; see `Host.kill`."""
        self.supervisor.kill()
        self._system.note_change()

    def cause(self) -> str:
        """Return nothing: a host inside this process has no other cause than what is known."""
        return ""
