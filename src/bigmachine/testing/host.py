"""A host inside this process: the part of a supervisor, without processes.

It offers the very services that `host.supervisor` does (`host.services`), on the driver's own
event loop, and hands connections to its machines. Machines' output is not its business: they write
to the process's own streams.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bigmachine.addresses import HOST_TARGET, Address
from bigmachine.death import DeathKind
from bigmachine.host import parcel
from bigmachine.host.events import EventLog
from bigmachine.host.messages import (
    EventKind,
    KeepaliveReply,
    LaunchSpec,
    MachineEvent,
    MachineIdentity,
)
from bigmachine.host.services import HostService, SupervisorService
from bigmachine.host.spool import Spool
from bigmachine.rpc import endpoints
from bigmachine.rpc.server import Server
from bigmachine.testing.faults import Place
from bigmachine.testing.machine import InProcessMachine
from bigmachine.testing.relay import Relay

if TYPE_CHECKING:
    from bigmachine.testing.faults import Faults


class InProcessSupervisor:
    """The supervisor's part. Made and used on the driver's loop, but for what says otherwise.

    Args:
        host_id: The host's name.
        number: Which host of its system it is, counted from 0: as a rule its machine's index.
        faults: What goes wrong on its connections, if anything does.
        changed: Called, on any thread, when a machine has come up or died.
    """

    def __init__(
        self, host_id: str, number: int, faults: Faults | None, changed: Callable[[], None]
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.hostname = os.uname().nodename
        self.address = Address(kind="inproc", path=host_id)
        self.events = EventLog()
        self.spool = Spool(asyncio.Event)
        self.machines: dict[str, InProcessMachine] = {}
        self.is_lost = False
        self._faults = faults
        self._changed = changed
        self._number = number
        self._closed = False
        self._stopping: asyncio.Task[None] | None = None
        self._relays: set[asyncio.Task[None]] = set()
        self._server = Server(name=f"host {host_id}", guard=False)
        self._server.register("Host", HostService(self))
        self._server.register("Supervisor", SupervisorService(self))
        endpoints.open_endpoint(host_id, self.accept)

    def __repr__(self) -> str:
        return f"<InProcessSupervisor {self.address.path}, {len(self.machines)} machines>"

    # Machines

    def launch(self, spec: LaunchSpec) -> None:
        """Start machines, each with a copy of the services of its own."""
        services = parcel.write_parcel(spec.services)
        try:
            for each in spec.machines:
                identity = MachineIdentity(
                    cluster=spec.cluster,
                    id=each.id,
                    index=each.index,
                    address=str(self.address.at(each.id)),
                    maxprocs=spec.maxprocs,
                    hostname=self.hostname,
                    bare=spec.program.is_bare,
                )
                machine = InProcessMachine(identity, self.loop, self._emit)
                self.machines[each.id] = machine
                machine.begin(os.dup(services))
        finally:
            os.close(services)

    def _emit(self, event: MachineEvent) -> None:
        self.events.add(event)
        if event.kind is EventKind.DIED:
            self.spool.end(event.machine_id)
        self._changed()

    def main_file(self, machine_id: str) -> str:
        """Return the path of a machine's main program: this process's."""
        from bigmachine.info import main_file

        del machine_id
        return main_file()

    def keepalive(self, period: float) -> KeepaliveReply:
        """Answer a keepalive. It is the driver that ends a host it gets no answer from."""
        if period <= 0:
            raise ValueError(f"a keepalive for {period} seconds; it has to be positive")
        return KeepaliveReply(accepted=period, healthy=True)

    # Connections, from any thread.

    def accept(self, target: str) -> socket.socket:
        """Return the caller's end of a new connection to a machine, or to the supervisor.

        Raises:
            ConnectionRefusedError: There is no such machine, or faults say so.
        """
        machine = None if target == HOST_TARGET else self.machines.get(target)
        if self._closed or (machine is None and target != HOST_TARGET):
            raise ConnectionRefusedError(f"{self.address.at(target)} is not there")
        fate = None
        if self._faults is not None:
            fate = self._faults.connect(self._place(machine))
            if fate is None:
                raise ConnectionRefusedError("refused by a fault that a test injected")
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        ours.setblocking(False)
        if fate is not None:
            near, far = socket.socketpair()
            near.setblocking(False)
            far.setblocking(False)
            self._on_loop(self._relay, Relay(ours, near, fate))
            ours = far
        if machine is None:
            self._on_loop(self._adopt, ours)
        else:
            machine.adopt(ours)
        return theirs

    def _place(self, machine: InProcessMachine | None) -> Place:
        if machine is None:
            return Place(machine=self._number, where="host", names=self._names)
        identity = machine.identity
        names = (identity.index, identity.id)
        return Place(machine=identity.index, where="calls", names=lambda: names)

    def _names(self) -> set[int | str]:
        """Return what hits this host: its machines, or before it has any its number."""
        identities = [machine.identity for machine in list(self.machines.values())]
        names: set[int | str] = {identity.id for identity in identities}
        return names | ({identity.index for identity in identities} or {self._number})

    def _adopt(self, sock: socket.socket) -> None:
        if self._closed:
            sock.close()
        else:
            self._server.adopt(sock)

    def _relay(self, relay: Relay) -> None:
        if self._closed:
            relay.close()
            return
        task = self.loop.create_task(relay.run(), name="relay")
        self._relays.add(task)
        task.add_done_callback(self._relays.discard)
        task.add_done_callback(lambda _: relay.close())

    def _on_loop(self, function: Callable[..., object], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the driver's loop has ended
            self.loop.call_soon_threadsafe(function, *args)

    # The end

    def begin_shutdown(self, grace: float) -> None:
        """Begin a graceful end of all machines, within ``grace`` seconds. Idempotent."""
        if self._stopping is None:
            self._stopping = self.loop.create_task(self._shut_down(grace), name="shut down")

    async def wait_machines(self) -> None:
        """Wait until all machines are dead."""
        for machine in list(self.machines.values()):
            await machine.dead.wait()

    async def _shut_down(self, grace: float) -> None:
        for machine in list(self.machines.values()):
            machine.stop(grace)
        await self.wait_machines()
        self.spool.close()
        self.events.close()

    def kill(self) -> None:
        """End everything at once. From any thread."""
        endpoints.close_endpoint(self.address.path)
        reason = DeathKind.KEEPALIVE if self.is_lost else DeathKind.HOST
        for machine in list(self.machines.values()):
            machine.kill(reason)
        self._on_loop(self._close)

    async def close(self, timeout: float) -> None:
        """End everything, and wait for the machines' threads, at most ``timeout`` seconds."""
        self.kill()
        self._close()
        for machine in list(self.machines.values()):
            await machine.wait_thread(timeout)
        await asyncio.wait((self._closing, *self._relays), timeout=timeout)

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            self.spool.close()
            self.events.close()
            self._closing = self.loop.create_task(self._server.close(0.0), name="close")
            for relay in self._relays:
                relay.cancel()
