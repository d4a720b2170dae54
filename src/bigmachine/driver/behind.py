"""What stands behind a `Cluster`: the runtime, the connections, and in the driver the fleet.

A driver's cluster has a loop in a thread, hosts and output; a machine's has the machine's own loop
and can dial. Both hold their machines' handles here.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TextIO

from bigmachine.addresses import HOST_TARGET, Address
from bigmachine.death import Death, DeathKind
from bigmachine.driver.dialled import DialledHandle
from bigmachine.driver.fleet import Fleet
from bigmachine.driver.handle import Handle
from bigmachine.driver.lifecycle import Happening, State
from bigmachine.driver.orders import Orders, host_config
from bigmachine.driver.output import Output
from bigmachine.driver.owned import OwnedHandle
from bigmachine.driver.recorder import Recorder
from bigmachine.driver.runtime import Runtime
from bigmachine.errors import UsageError
from bigmachine.futures import Future
from bigmachine.host.messages import Program
from bigmachine.rpc import codec
from bigmachine.rpc.client import Client
from bigmachine.rpc.dialer import Dialer

if TYPE_CHECKING:
    from bigmachine.configfile import ImageTable
    from bigmachine.driver.abroad import Abroad
    from bigmachine.host.messages import MachineIdentity
    from bigmachine.machine import Machine
    from bigmachine.security.authority import Authority
    from bigmachine.systems.base import System


SHUTDOWN_SECONDS: Final = 4.8
"""How long a shutdown takes at most: 5 s were promised."""
_CLOSE_SECONDS: Final = 0.4  # of it, for the last output to be written


class Behind:
    """The machinery of one cluster."""

    def __init__(self, runtime: Runtime, dialer: Dialer) -> None:
        self.runtime = runtime
        self._dialer = dialer
        self._handles: weakref.WeakValueDictionary[str, Handle] = weakref.WeakValueDictionary()
        self._supervisors: dict[Address, Client] = {}
        self._kept: list[Machine] = []
        self._driver: _Driver | None = None

    @classmethod
    def driver(
        cls,
        *,
        name: str,
        system: System,
        program: Program,
        output: Callable[[Any], object] | TextIO | None,
    ) -> Behind:
        """Return what stands behind a driver's cluster."""
        table = None
        if not system.is_here:
            from bigmachine.config import image_table

            table = image_table()
        authority = credentials = None
        if system.transport == "tls":
            from bigmachine.security.authority import Authority

            authority = Authority()
            credentials = authority.issue(f"driver-{secrets.token_hex(4)}")
        runtime = Runtime.in_thread(name)
        behind = cls(runtime, Dialer(credentials))
        behind._driver = _Driver(behind, name, system, program, output, authority, table)
        return behind

    @classmethod
    def machine(cls, identity: MachineIdentity, loop: asyncio.AbstractEventLoop) -> Behind:
        """Return what stands behind a machine's view of its cluster."""
        credentials = None
        if identity.credentials is not None:
            from bigmachine.security.credentials import Credentials

            credentials = Credentials(**identity.credentials)
        if identity.bare:
            codec.send_main_by_value()
        return cls(Runtime(loop, None), Dialer(credentials, gateway=identity.gateway))

    def __repr__(self) -> str:
        return f"<Behind {self.runtime!r}, {len(self._handles)} machines>"

    # Machines.

    def start(self, indexes: list[int], orders: Orders) -> list[OwnedHandle]:
        """Begin to start machines; see `Cluster.start`."""
        assert self._driver is not None
        handles = [
            OwnedHandle(
                self.runtime, self._dialer, unique=f"{index}-{secrets.token_hex(4)}", index=index
            )
            for index in indexes
        ]
        self._driver.start(handles, orders)
        return handles

    def keep(self, machine: Machine) -> Machine:
        """Remember a machine for `machines` while it lives."""
        self._kept = [each for each in self._kept if each._handle._life.state < State.STOPPED]
        self._kept.append(machine)
        return machine

    def machines(self) -> tuple[Machine, ...]:
        """Return the machines that have not stopped."""
        return tuple(each for each in self._kept if each._handle._life.state < State.STOPPED)

    def owned(self, addr: str) -> Machine | None:
        """Return this cluster's own machine at an address, if it is one."""
        for machine in self._kept:
            if machine.owned and machine._handle.addr == addr:
                return machine
        return None

    def dial(self, addr: str, label: str = "", maxprocs: int = 1) -> Handle:
        """Return the handle of a machine at an address, one for each address."""
        address = Address.parse(addr)
        key = str(address)
        handle = self._handles.get(key)
        if handle is None:
            host = address.at(HOST_TARGET)
            supervisor = self._supervisors.get(host)
            if supervisor is None:
                supervisor = self._supervisors[host] = self._client_of(host)
            handle = self._handles[key] = DialledHandle(
                self.runtime,
                self._dialer,
                address,
                label=label or f"m{address.target.partition('-')[0]}",
                maxprocs=maxprocs,
                supervisor=supervisor,
            )
        return handle

    def _client_of(self, address: Address) -> Client:
        dialer = self._dialer
        return Client(
            self.runtime.loop,
            partial(dialer.connect, address),
            timers=self.runtime.timers,
            label=f"the supervisor at {address}",
            tls=lambda: (dialer.tls(address), address.subject or None),
        )

    # The end.

    def shutdown(self) -> Future[None]:
        """End everything, the runtime's thread last; see `Cluster.shutdown`."""
        assert self._driver is not None
        done = self.runtime.spawn(self._driver.shutdown(), "shutdown")
        done.add_done_callback(lambda _: self._wind_down())
        return done

    def _wind_down(self) -> None:
        assert self._driver is not None
        for handle in list(self._handles.values()):
            detail = "the cluster that had dialled it was shut down"
            handle.advance(
                Happening.DIED, Death(kind=DeathKind.SHUTDOWN, machine=handle.label, detail=detail)
            )
        self.disconnect()
        self._driver.close_output(0.0)
        self.runtime.begin_stop()

    def kill(self) -> None:
        """End every host at once."""
        if self._driver is not None:
            self._driver.kill()

    def stop(self) -> None:
        """End the runtime's thread."""
        if self._driver is not None:
            self._driver.close_output(_CLOSE_SECONDS)
        self.disconnect()
        self.runtime.stop()

    def disconnect(self) -> None:
        """Close the connections to machines that others have started; they fail from now on."""
        for handle in list(self._handles.values()):
            handle.client.close()
        for supervisor in list(self._supervisors.values()):
            supervisor.close()

    def disown(self, error: UsageError) -> None:
        """Make everything raise an error: this process was forked from the cluster's own."""
        self.runtime.disown(error)
        for handle in {*(each._handle for each in self._kept), *self._handles.values()}:
            handle.disown(error)
        for supervisor in list(self._supervisors.values()):
            supervisor.disown(error)


class _Driver:
    """What a driver's cluster has beyond a machine's: hosts, output, and the program."""

    def __init__(
        self,
        behind: Behind,
        name: str,
        system: System,
        program: Program,
        output: Callable[[Any], object] | TextIO | None,
        authority: Authority | None,
        table: ImageTable | None,
    ) -> None:
        self._behind = behind
        self._name = name
        self._system = system
        self._program = program
        self._authority = authority
        self._orders: Orders | None = None  # the latest: hosts are launched for them
        self._output = Output(output, name=name)
        self._abroad: Abroad | None = None
        if table is not None:
            from bigmachine.driver.abroad import Abroad

            self._abroad = Abroad(name, system, program, behind.runtime, behind._dialer, table)
        self._recorder = _recorder(name, system, program)
        self._fleet = Fleet(
            name=name,
            system=system,
            runtime=behind.runtime,
            dialer=behind._dialer,
            output=self._output,
            boot=self._boot,
            abroad=self._abroad,
            recorder=self._recorder,
        )

    def start(self, handles: list[OwnedHandle], orders: Orders) -> None:
        self._orders = orders
        if self._abroad is not None:
            self._behind.runtime.spawn(self._abroad.begin(orders.image), "begin")
        self._behind.runtime.spawn(self._fleet.start(handles, orders), "start")

    def _boot(self, host_id: str) -> Mapping[str, Any]:
        """Return what the supervisor of a host is to be given."""
        credentials = None if self._authority is None else self._authority.issue(host_id)
        if self._abroad is not None:
            assert credentials is not None
            return self._abroad.boot_config(host_id, credentials)
        assert self._orders is not None
        return host_config(self._orders, self._system, credentials)

    async def shutdown(self) -> None:
        loop = self._behind.runtime.loop
        end = loop.time() + SHUTDOWN_SECONDS
        # First those to dialled machines: a supervisor stays while anybody is connected to it.
        self._behind.disconnect()
        await self._fleet.shutdown(end - _CLOSE_SECONDS)
        if self._abroad is not None:
            self._abroad.close()
        if self._recorder is not None:
            self._recorder.close()
        await self._output.drained(max(_CLOSE_SECONDS, end - loop.time()))

    def kill(self) -> None:
        self._fleet.kill()
        if self._abroad is not None:
            self._abroad.close()
        if self._recorder is not None:
            self._recorder.close()

    def close_output(self, timeout: float) -> None:
        self._output.close(timeout)


def _recorder(name: str, system: System, program: Program) -> Recorder | None:
    """Return what keeps the record of a cluster; None where there is nothing to be recorded."""
    options = system.recorded()
    if options is None:
        return None
    if program.how == "bare":
        text = os.path.basename(program.argv[0]) if program.argv else ""
    else:
        text = f"-m {program.target}" if program.how == "module" else program.target
    details = {
        "name": name,
        "program": text or "python",
        "system": system.name,
        "options": options,
        "is_here": system.is_here,
    }
    return Recorder(details)
