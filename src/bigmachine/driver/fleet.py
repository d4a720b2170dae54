"""The hosts of one cluster, and which machine goes where.

Machines go to hosts that have room, then to new hosts that the system launches. Everything here
runs on the runtime's loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast

from bigmachine.death import Death, DeathKind
from bigmachine.driver.hostlink import HostLink
from bigmachine.driver.lifecycle import Happening, State
from bigmachine.driver.owned import OwnedHandle
from bigmachine.errors import BigmachineError
from bigmachine.systems.base import HostRequest

if TYPE_CHECKING:
    from bigmachine.driver.abroad import Abroad
    from bigmachine.driver.orders import Orders
    from bigmachine.driver.output import Output
    from bigmachine.driver.recorder import Recorder
    from bigmachine.driver.runtime import Runtime
    from bigmachine.rpc.dialer import Dialer
    from bigmachine.systems.base import Host, System

logger = logging.getLogger(__name__)

_STARTING_SECONDS: Final = 0.5  # for launches that are under way to be given up


@dataclass(eq=False)
class _Batch:
    """Machines that were started together."""

    waiting: list[OwnedHandle]
    orders: Orders
    launches: list[asyncio.Task[None]] = field(default_factory=list)
    placed: asyncio.Future[None] | None = None


class _Growing:
    """A launch that is under way, and all whose machines wait for its hosts."""

    def __init__(self, request: HostRequest, first: _Batch) -> None:
        self._request = request
        self._batches = [first]

    async def join(self, batch: _Batch) -> None:
        """Have hosts launched for further machines too; wait until they are placed.

        Raises:
            Exception: Why the launch has failed.
        """
        batch.placed = asyncio.get_running_loop().create_future()
        self._batches.append(batch)
        self._request.grow(len(batch.waiting))
        await batch.placed

    def settle(self, fill: Callable[[_Batch], None]) -> bool:
        """Give a new host's room to those who have waited longest; whether all have places."""
        for batch in self._batches:
            fill(batch)
            if not batch.waiting and batch.placed is not None and not batch.placed.done():
                batch.placed.set_result(None)
        self._batches = [batch for batch in self._batches if batch.waiting]
        return not self._batches

    def end(self, error: BaseException | None = None) -> None:
        """Let those go who have no places: there are no more hosts, and the error says why."""
        for batch in self._batches:
            if batch.placed is None or batch.placed.done():
                continue
            if error is None:
                batch.placed.set_result(None)
            else:
                batch.placed.set_exception(error)


class Fleet:
    """The hosts of a cluster."""

    def __init__(
        self,
        *,
        name: str,
        system: System,
        runtime: Runtime,
        dialer: Dialer,
        output: Output,
        boot: Callable[[str], Mapping[str, Any]],
        abroad: Abroad | None,
        recorder: Recorder | None = None,
    ) -> None:
        self._name = name
        self._system = system
        self._runtime = runtime
        self._dialer = dialer
        self._output = output
        self._boot = boot
        self._abroad = abroad
        self._recorder = recorder
        self._links: list[HostLink] = []
        self._placing = asyncio.Lock()
        self._growing: _Growing | None = None
        self._starting: set[asyncio.Task[None]] = set()
        self._stopping = False

    def __repr__(self) -> str:
        return f"<Fleet of {self._name}: {self._links!r}>"

    async def start(self, handles: list[OwnedHandle], orders: Orders) -> None:
        """Find hosts for machines and have them started.

        Args:
            handles: The machines.
            orders: What they are to be.
        """
        task = self._runtime.start_task(self._start(handles, orders), "start machines")
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)
        await asyncio.wait((task,))
        # A shutdown may have come before the task had begun, which then never looked at them.
        for handle in handles:
            if handle.state is State.UNSTARTED:
                self._lose(handle, RuntimeError("the cluster was shut down"))

    async def _start(self, handles: list[OwnedHandle], orders: Orders) -> None:
        batch = _Batch(list(handles), orders)
        error: BaseException = RuntimeError("the system launched fewer hosts than were asked for")
        if self._recorder is not None and not self._system.is_here:  # else with the first host
            self._recorder.open()
        try:
            await self._place(batch)
            if batch.launches:
                await asyncio.wait(batch.launches)
        except (BigmachineError, OSError) as failure:
            error = failure
        except asyncio.CancelledError:
            error = RuntimeError("the cluster was shut down")
            raise
        except Exception as failure:  # a system's own code: its machines must not wait for ever
            logger.exception("system %s failed to launch", self._system.name)
            error = failure
        finally:
            for handle in batch.waiting:
                self._lose(handle, error)

    async def _place(self, batch: _Batch) -> None:
        """Find hosts for machines: those there are, then those of a launch."""
        if self._growing is not None:
            self._fill(batch)
            if batch.waiting:
                await self._growing.join(batch)
            return
        async with self._placing:
            self._fill(batch)
            if batch.waiting and not self._stopping:
                await self._launch(batch)

    async def _launch(self, batch: _Batch) -> None:
        """Have the system launch hosts for machines, and for those that are started meanwhile."""
        request = HostRequest(cluster=self._name, machines=len(batch.waiting), boot=self._boot)
        # A system writes it as a generator, which is closed as soon as there are hosts enough.
        launch = cast("AsyncGenerator[Host, None]", self._system.launch(request))
        growing = _Growing(request, batch)
        if self._system.requests_grow:
            self._growing = growing
        try:
            async with contextlib.aclosing(launch) as hosts:
                async for host in hosts:
                    self._links.append(self._link(host))
                    if growing.settle(self._fill):
                        break
                self._growing = None  # whoever comes now needs a launch of their own
        except BaseException as error:
            self._growing = None
            growing.end(error)
            raise
        growing.end()

    def _fill(self, batch: _Batch) -> None:
        """Give machines places on the hosts there are."""
        for link in self._links:
            # Some may have been cancelled while a host was looked for.
            batch.waiting[:] = [each for each in batch.waiting if each.state < State.STOPPED]
            count = min(link.free, len(batch.waiting))
            placed, batch.waiting[:count] = batch.waiting[:count], []
            if placed:
                link.place(placed)
                batch.launches.append(
                    self._runtime.start_task(link.launch(placed, batch.orders), "launch")
                )

    def _link(self, host: Host) -> HostLink:
        if self._recorder is not None:
            self._recorder.add(host.id, host.address)
        return HostLink(
            self._system,
            host,
            self._runtime,
            self._dialer,
            self._output,
            abroad=self._abroad,
            recorder=self._recorder,
        )

    def _lose(self, handle: OwnedHandle, error: BaseException) -> None:
        """A machine will not be: there is no host for it."""
        if self._stopping:
            handle.advance(Happening.DIED, Death(kind=DeathKind.SHUTDOWN, machine=handle.label))
            return
        death = Death(kind=DeathKind.HOST, machine=handle.label, detail=str(error), never_had=True)
        handle.advance(Happening.DIED, death, cause=error)

    async def shutdown(self, end: float) -> None:
        """End every host, in parallel.

        Args:
            end: When all must be over: gracefully until about a second before, then by force
                (the loop's time).
        """
        self._stopping = True
        for task in list(self._starting):
            task.cancel()
        if self._starting:
            await asyncio.wait(self._starting, timeout=_STARTING_SECONDS)
        self._system.abandon(self._name)
        if self._links:
            await asyncio.wait(
                [
                    self._runtime.start_task(link.shutdown(end), "shut down a host")
                    for link in self._links
                ]
            )
        await self._system.shutdown()

    def kill(self) -> None:
        """End every host at once; from any thread."""
        self._stopping = True
        self._system.abandon(self._name)
        for link in self._links:
            link.kill()

    def machines(self) -> list[OwnedHandle]:
        """Return the machines that have not stopped."""
        return [
            handle
            for link in list(self._links)
            for handle in list(link.machines.values())
            if handle.state < State.STOPPED
        ]
