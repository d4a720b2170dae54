"""One host as the driver sees it: its control connection, and what comes over it.

Events and output of the host's machines arrive as streams; keepalives go out. What always holds:
when the host is lost, its machines are STOPPED with a death of kind ``host``, and the host is
ended. It is lost with its connection, unless its system says that it is reached again: then each
event and each piece of output comes once, over whatever connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final

from bigmachine.death import Death, DeathKind
from bigmachine.driver.lifecycle import Happening, State
from bigmachine.driver.owned import OwnedHandle
from bigmachine.errors import BigmachineError
from bigmachine.host.messages import EventKind, MachineEvent, MachineSpec
from bigmachine.rpc.client import Client
from bigmachine.rpc.exceptions import decode_exception

if TYPE_CHECKING:
    from bigmachine.driver.abroad import Abroad
    from bigmachine.driver.orders import Orders
    from bigmachine.driver.output import Output
    from bigmachine.driver.recorder import Recorder
    from bigmachine.driver.runtime import Runtime
    from bigmachine.host.spool import OutputChunk
    from bigmachine.rpc.dialer import Dialer
    from bigmachine.systems.base import Host, System

logger = logging.getLogger(__name__)

_KEPT_REPLY_TIMES: Final = 10
# Of the time for a shutdown, the last seconds are for what does not end by itself.
_FORCE_SECONDS: Final = 1.2  # for the supervisor to have killed its machines
_DRAIN_SECONDS: Final = 0.8  # for the last events and output to arrive
_STOP_SECONDS: Final = 0.3  # for the supervisor to end


class HostLink:
    """The driver's side of one host. Used on the runtime's loop."""

    def __init__(
        self,
        system: System,
        host: Host,
        runtime: Runtime,
        dialer: Dialer,
        output: Output,
        *,
        abroad: Abroad | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self.system = system
        self.host = host
        self.machines: dict[str, OwnedHandle] = {}
        self.lost = False
        self._runtime = runtime
        self._output = output
        self._abroad = abroad
        self._recorder = recorder
        self._stopping = False
        self._unanswered = 0  # launches: with one a host is lost when its connection breaks
        self._rejoining: asyncio.Task[bool] | None = None
        self._reply_times: deque[float] = deque(maxlen=_KEPT_REPLY_TIMES)
        subject = host.id
        self.control = Client(
            runtime.loop,
            host.connect if abroad is None else partial(abroad.connect, host),
            timers=runtime.timers,
            label=f"the supervisor of {host.id}",
            tls=lambda: (dialer.context() if system.transport == "tls" else None, subject),
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._up: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        if abroad is None:
            self._follow()
        else:
            self._up = runtime.start_task(self._come_up(abroad), f"bring up {host.id}")

    def __repr__(self) -> str:
        return f"<HostLink {self.host.id}, {len(self.machines)} machines>"

    @property
    def free(self) -> int:
        """How many more machines the host holds."""
        if self.lost or self._stopping:
            return 0
        living = sum(handle.state < State.STOPPED for handle in self.machines.values())
        return self.host.capacity - living

    def place(self, handles: list[OwnedHandle]) -> None:
        """Give machines their places here; `launch` has them started."""
        for handle in handles:
            handle.control = self.control
            handle.maxprocs = self.host.maxprocs
            self.machines[handle.id] = handle

    async def launch(self, handles: list[OwnedHandle], orders: Orders) -> None:
        """Have machines started that have their places; what becomes of them arrives as events."""
        asked = False
        try:
            if self._up is not None:
                await asyncio.shield(self._up)
            if self.lost:
                return  # and its machines are
            if self._abroad is not None:
                orders = await self._abroad.settle(self, orders)
                assert orders.image is not None
                for handle in handles:
                    handle.image_digest = orders.image.digest
            # In one step with the call: what is asked of them from then on arrives after it.
            handles = [handle for handle in handles if handle.state < State.STOPPED]
            for handle in handles:
                handle.advance(Happening.PLACED)
            if not handles:
                return
            specs = tuple(MachineSpec(id=each.id, index=each.index) for each in handles)
            spec = orders.launch_spec(specs, maxprocs=self.host.maxprocs)
            self._unanswered += 1
            asked = True
            await self.control.call("Host.launch", (spec,))
            self._unanswered -= 1
        except Exception as error:  # whatever it was, they must not wait for ever
            for handle in handles:
                death = Death(
                    kind=DeathKind.HOST,
                    machine=handle.label,
                    detail=str(error),
                    never_had=not asked,
                )
                handle.advance(Happening.DIED, death, cause=error)

    async def shutdown(self, end: float) -> None:
        """End the host and its machines; output arrives first.

        Args:
            end: When it must be over, by force if need be (the loop's time).
        """
        self._stopping = True
        if self._watching is not None:
            self._watching.cancel()

        def left(reserve: float) -> float:
            return max(0.1, end - reserve - self._runtime.loop.time())

        if self._up is not None and not self._up.done():
            self._up.cancel()
            await asyncio.wait((self._up,), timeout=left(_DRAIN_SECONDS))
        if self._tasks:
            self._tasks[-1].cancel()
        if not self.lost and self._tasks:
            try:
                async with asyncio.timeout(left(_DRAIN_SECONDS)):
                    await self.control.call("Host.shutdown", (left(_FORCE_SECONDS),))
            except (BigmachineError, TimeoutError) as error:
                if not self.lost:  # killed meanwhile
                    logger.warning("%s did not shut down in time: %s", self.host.id, error)
        if self._tasks:
            await asyncio.wait(self._tasks[:-1], timeout=left(_STOP_SECONDS))
        self._end(DeathKind.SHUTDOWN, "")
        self.control.close()  # the supervisor, which has nothing more to say, waits for that
        self._part()
        await self.host.stop(left(0.0))
        for task in (*self._tasks, *filter(None, (self._rejoining,))):
            task.cancel()

    def kill(self) -> None:
        """End the host at once; from any thread."""
        self.lost = True
        self.host.kill()

    # The beginning.

    async def _come_up(self, abroad: Abroad) -> None:
        """Have the supervisor of a host elsewhere started, and listen to it."""
        try:
            await abroad.bring_up(self)
        except (BigmachineError, OSError) as error:
            await self._lose(str(error), error=error)
        except Exception as error:  # a fault of ours: its machines must not wait for ever
            logger.exception("%s could not be brought up", self.host.id)
            await self._lose(str(error), error=error)
        else:
            self._follow()
            self._watching = self._runtime.start_task(self._watch(), f"watch {self.host.id}")

    async def _watch(self) -> None:
        """Give the host up as soon as its system knows that it has ended, whatever is heard."""
        await self.host.wait_closed()
        await self._lose("the host has ended")

    def _follow(self) -> None:
        """Begin to listen to the supervisor; the keepalives come last."""
        start, name = self._runtime.start_task, self.host.id
        self._tasks = [
            start(self._follow_events(), f"events of {name}"),
            start(self._follow_output(), f"output of {name}"),
            start(self._keep_alive(), f"keepalive of {name}"),
        ]

    # What comes over the connection.

    async def _follow_events(self) -> None:
        """Take each event once, over one connection after another."""
        seen = 0
        while True:
            number = 0
            try:
                async for event in self.control.stream("Host.events"):
                    number += 1
                    if number > seen:
                        seen = number
                        self._on_event(event)
                reason = "its supervisor ended"
                break
            except BigmachineError as error:
                reason = str(error)
            if not await self._is_back():
                break
        if not self._stopping:
            await self._lose(reason)

    async def _is_back(self) -> bool:
        """Wait, where the connection has broken and the host may live on, until it is reached."""
        if self._rejoining is None or self._rejoining.done():
            if self.lost or self._stopping or self._unanswered:
                return False
            self._rejoining = self._runtime.start_task(self.host.rejoin(), f"rejoin {self.host.id}")
        is_back = await asyncio.shield(self._rejoining)
        if is_back:
            logger.info("%s is reached again", self.host.id)
        return is_back and not self.lost

    def _on_event(self, event: MachineEvent) -> None:
        if event.kind is EventKind.NOTICE:
            self.host.take_notice(event.notice)
            return
        handle = self.machines.get(event.machine_id)
        if handle is None:
            return
        if event.kind is EventKind.STARTED:
            handle.pid = event.pid
        elif event.kind is EventKind.READY:
            handle.ready(event.address, event.hostname, event.maxprocs)
        elif event.death is not None:
            cause = None if event.init_error is None else decode_exception(event.init_error)
            handle.advance(Happening.DIED, self._known_better(event.death), cause=cause)
            self._output.finish(handle.label)

    def _known_better(self, death: Death) -> Death:
        """Return a death with what only the system knows of the host's."""
        if death.kind is DeathKind.HOST and (kind := self.host.death_kind()) is not None:
            return dataclasses.replace(death, kind=kind)
        return death

    async def _follow_output(self) -> None:
        """Take each batch once, over one connection after another."""
        taken = 0
        while True:
            try:
                async for batch in self.control.stream("Host.output", (taken,)):
                    taken += 1
                    self._take(batch)
                    await self._output.room()
                return
            except BigmachineError as error:
                logger.debug("output of %s ended: %s", self.host.id, error)
            if not await self._is_back():
                return

    def _take(self, batch: list[OutputChunk]) -> None:
        for chunk in batch:
            handle = self.machines.get(chunk.machine_id)
            if handle is not None:
                self._output.feed(handle.label, chunk.stream, chunk.data)

    async def _keep_alive(self) -> None:
        config = self.system.keepalive
        while not self.lost:
            due = self._runtime.loop.time() + config.period
            await self._beat(config.timeout)
            for handle in self.machines.values():
                handle.keepalive_reply_times = tuple(self._reply_times)
                handle.next_keepalive = time.time() + config.period
            await asyncio.sleep(max(0.0, due - self._runtime.loop.time()))

    async def _beat(self, timeout: float) -> None:
        """Send one keepalive, and give the host up when it does not answer.

        The limit is for the host, not for this process: where the loop itself stood still (a C
        call that held the interpreter lock), the answer may be waiting to be read, so the time
        begins anew.
        """
        sent = time.monotonic()
        reply = self.control.call("Host.keepalive", (timeout,))
        while True:
            before = time.monotonic()
            done, _ = await asyncio.wait((asyncio.wrap_future(reply),), timeout=timeout)
            if done or time.monotonic() - before <= timeout * 1.5:
                break
        if not done:
            reply.cancel()
            await self.system.keepalive_failed(self.host)
            await self._lose(f"no answer to a keepalive for {timeout:g} s", DeathKind.KEEPALIVE)
            return
        if reply.exception() is None:
            self._reply_times.appendleft(time.monotonic() - sent)

    def _part(self) -> None:
        """Have the host forgotten by those who keep it alive."""
        if self._abroad is not None:
            self._abroad.part(self)
        if self._recorder is not None and not self._stopping:  # else it ends with the cluster
            self._recorder.remove(self.host.id)

    async def _lose(
        self,
        reason: str,
        kind: DeathKind = DeathKind.HOST,
        *,
        error: BaseException | None = None,
    ) -> None:
        if self.lost or self._stopping:
            return
        self.lost = True
        # The keepalive's task may be this one.
        if self._tasks and self._tasks[-1] is not asyncio.current_task():
            self._tasks[-1].cancel()
        self._part()
        # Its connection breaks a moment before it can be seen how it ended.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.host.wait_closed(), self.host.cause_seconds)
        cause = self.host.cause()
        kind = self.host.death_kind() or kind
        self._end(kind, "; ".join(filter(None, (cause, reason))), error)
        self.control.close()
        self.host.kill()
        self.host.reap([handle.pid for handle in self.machines.values() if handle.pid])

    def _end(self, kind: DeathKind, detail: str, error: BaseException | None = None) -> None:
        never_up = not self._tasks  # nobody has listened to its supervisor yet
        for handle in self.machines.values():
            death = Death(kind=kind, machine=handle.label, detail=detail, never_had=never_up)
            handle.advance(Happening.DIED, death, cause=error)
