"""One host as the driver sees it: its control connection, and what comes over it.

Events and output of the host's machines arrive as streams; keepalives go out. What always holds:
when the connection is lost, its machines are STOPPED with a death of kind ``host``, and the host
is ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from bigmachine.death import Death, DeathKind
from bigmachine.driver.handle import OwnedHandle
from bigmachine.driver.lifecycle import Happening, State
from bigmachine.errors import BigmachineError
from bigmachine.host.messages import EventKind, LaunchSpec, MachineEvent
from bigmachine.rpc.client import Client
from bigmachine.rpc.exceptions import decode_exception

if TYPE_CHECKING:
    from bigmachine.driver.output import Output
    from bigmachine.driver.runtime import Runtime
    from bigmachine.rpc.dialer import Dialer
    from bigmachine.systems.base import Host, System

logger = logging.getLogger(__name__)

_KEPT_REPLY_TIMES: Final = 10
_CAUSE_SECONDS: Final = 0.05  # for the system to see how a host ended
# Of the time for a shutdown, the last seconds are for what does not end by itself.
_FORCE_SECONDS: Final = 1.2  # for the supervisor to have killed its machines
_DRAIN_SECONDS: Final = 0.8  # for the last events and output to arrive
_STOP_SECONDS: Final = 0.3  # for the supervisor to end


class HostLink:
    """The driver's side of one host. Used on the runtime's loop."""

    def __init__(
        self, system: System, host: Host, runtime: Runtime, dialer: Dialer, output: Output
    ) -> None:
        self.system = system
        self.host = host
        self.machines: dict[str, OwnedHandle] = {}
        self.lost = False
        self._runtime = runtime
        self._output = output
        self._stopping = False
        self._ended = False
        self._reply_times: deque[float] = deque(maxlen=_KEPT_REPLY_TIMES)
        subject = host.id
        self.control = Client(
            runtime.loop,
            host.connect,
            timers=runtime.timers,
            label=f"the supervisor of {host.id}",
            tls=lambda: (dialer.context() if system.transport == "tls" else None, subject),
        )
        self._tasks = [
            runtime.start_task(self._follow_events(), f"events of {host.id}"),
            runtime.start_task(self._follow_output(), f"output of {host.id}"),
            runtime.start_task(self._keep_alive(), f"keepalive of {host.id}"),
        ]

    def __repr__(self) -> str:
        return f"<HostLink {self.host.id}, {len(self.machines)} machines>"

    @property
    def free(self) -> int:
        """How many more machines the host holds."""
        if self.lost or self._stopping:
            return 0
        living = sum(handle.state < State.STOPPED for handle in self.machines.values())
        return self.host.capacity - living

    async def launch(self, handles: list[OwnedHandle], spec: LaunchSpec) -> None:
        """Have machines started; what becomes of them arrives as events."""
        for handle in handles:
            handle.control = self.control
            handle.maxprocs = self.host.maxprocs
            self.machines[handle.id] = handle
            handle.advance(Happening.PLACED)
        try:
            await self.control.call("Host.launch", (spec,))
        except Exception as error:  # whatever it was, they must not wait for ever
            for handle in handles:
                death = Death(kind=DeathKind.HOST, machine=handle.label, detail=str(error))
                handle.advance(Happening.DIED, death, cause=error)

    async def shutdown(self, end: float) -> None:
        """End the host and its machines; output arrives first.

        Args:
            end: When it must be over, by force if need be (the loop's time).
        """
        self._stopping = True
        events, output, keepalive = self._tasks
        keepalive.cancel()

        def left(reserve: float) -> float:
            return max(0.1, end - reserve - self._runtime.loop.time())

        if not self.lost:
            try:
                async with asyncio.timeout(left(_DRAIN_SECONDS)):
                    await self.control.call("Host.shutdown", (left(_FORCE_SECONDS),))
            except (BigmachineError, TimeoutError) as error:
                if not self.lost:  # killed meanwhile
                    logger.warning("%s did not shut down in time: %s", self.host.id, error)
        await asyncio.wait((events, output), timeout=left(_STOP_SECONDS))
        self._end(DeathKind.SHUTDOWN, "")
        self.control.close()  # the supervisor, which has nothing more to say, waits for that
        await self.host.stop(left(0.0))
        for task in self._tasks:
            task.cancel()

    def kill(self) -> None:
        """End the host at once; from any thread."""
        self.lost = True
        self.host.kill()

    # What comes over the connection.

    async def _follow_events(self) -> None:
        try:
            async for event in self.control.stream("Host.events"):
                self._on_event(event)
            reason = "its supervisor ended"
        except BigmachineError as error:
            reason = str(error)
        if not self._stopping:
            await self._lose(reason)

    def _on_event(self, event: MachineEvent) -> None:
        handle = self.machines.get(event.machine_id)
        if handle is None:
            return
        if event.kind is EventKind.STARTED:
            handle.pid = event.pid
        elif event.kind is EventKind.READY:
            handle.ready(event.address, event.hostname, event.maxprocs)
        elif event.death is not None:
            cause = None if event.init_error is None else decode_exception(event.init_error)
            handle.advance(Happening.DIED, event.death, cause=cause)
            self._output.finish(handle.label)

    async def _follow_output(self) -> None:
        try:
            async for batch in self.control.stream("Host.output"):
                for chunk in batch:
                    handle = self.machines.get(chunk.machine_id)
                    if handle is not None:
                        self._output.feed(handle.label, chunk.stream, chunk.data)
                await self._output.room()
        except BigmachineError as error:
            logger.debug("output of %s ended: %s", self.host.id, error)

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

    async def _lose(self, reason: str, kind: DeathKind = DeathKind.HOST) -> None:
        if self.lost or self._stopping:
            return
        self.lost = True
        if self._tasks[2] is not asyncio.current_task():  # the keepalive's, which may be this one
            self._tasks[2].cancel()
        # Its connection breaks a moment before it can be seen how it ended.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.host.wait_closed(), _CAUSE_SECONDS)
        cause = self.host.cause()
        self._end(kind, "; ".join(filter(None, (cause, reason))))
        self.control.close()
        self.host.kill()
        self.host.reap([handle.pid for handle in self.machines.values() if handle.pid])

    def _end(self, kind: DeathKind, detail: str) -> None:
        for handle in self.machines.values():
            death = Death(kind=kind, machine=handle.label, detail=detail)
            handle.advance(Happening.DIED, death)
