"""One launch: hosts come up side by side, until there is room enough for the machines."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Final

from bigmachine.systems.ssh.host import SSHHost
from bigmachine.systems.ssh.problems import HostError, Problem

if TYPE_CHECKING:
    from bigmachine.systems.base import Host, HostRequest
    from bigmachine.systems.ssh.board import Board
    from bigmachine.systems.ssh.hosts import HostName
    from bigmachine.systems.ssh.system import SSH

logger = logging.getLogger(__name__)

AT_ONCE: Final = 32
"""How many hosts are brought up at a time."""
PREFER_SECONDS: Final = 1.0
"""How long a host waits for those that were named before it and are not up yet."""


class Held:
    """A cluster's switchboard, and its hosts."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.hosts: list[SSHHost] = []
        self.closing = False

    def add(self, host: SSHHost) -> None:
        """Note a host that is in use; those that were let go are forgotten."""
        self.hosts = [each for each in self.hosts if not each.is_released]
        self.hosts.append(host)


class Launch:
    """One launch: hosts come up side by side, until there is room enough.

    Those that were named first are preferred: one that has come up and will not be needed if they
    come up too is held back for a moment.
    """

    def __init__(self, system: SSH, held: Held, request: HostRequest) -> None:
        self._system = system
        self._held = held
        self._request = request
        self._order: list[HostName] = []
        self._tasks: dict[HostName, asyncio.Task[SSHHost]] = {}
        self._ready: dict[HostName, tuple[SSHHost, float]] = {}  # and since when
        self.room = 0
        self.problems: list[Problem] = []

    async def run(self, names: Sequence[HostName]) -> AsyncIterator[Host]:
        """Yield hosts as they come up."""
        self._order = list(names)
        waiting = list(names)
        while self.room < self._request.machines:
            self._begin(waiting)
            if not self._tasks and not self._ready:
                return
            for name in [each for each in self._order if each in self._ready]:
                host, since = self._ready[name]
                if self._is_needed(name, since):
                    del self._ready[name]
                    self.room += host.capacity
                    self._held.add(host)
                    yield host
            if self.room < self._request.machines and self._tasks:
                await self._wait()

    def _begin(self, waiting: list[HostName]) -> None:
        """Begin to bring up as many hosts as may be needed, for all that is known of them."""
        expected = self.room + sum(map(self._system.expect, (*self._tasks, *self._ready)))
        while waiting and expected < self._request.machines and len(self._tasks) < AT_ONCE:
            name = waiting.pop(0)
            expected += self._system.expect(name)
            self._tasks[name] = asyncio.ensure_future(self._bring_up(name))

    def _is_needed(self, name: HostName, since: float) -> bool:
        """Whether a host is to be used now, and not one that was named before it."""
        if self.room >= self._request.machines:
            return False
        before = self._order[: self._order.index(name)]
        coming = sum(self._system.expect(each) for each in before if each in self._tasks)
        waited = asyncio.get_running_loop().time() - since
        return self.room + coming < self._request.machines or waited >= PREFER_SECONDS

    async def _wait(self) -> None:
        """Wait until one more host is up or has failed, or one was held back for long enough."""
        loop = asyncio.get_running_loop()
        ends = [since + PREFER_SECONDS - loop.time() for _, since in self._ready.values()]
        await asyncio.wait(
            self._tasks.values(),
            timeout=max(0.0, min(ends)) if ends else None,
            return_when=asyncio.FIRST_COMPLETED,
        )
        for name, task in list(self._tasks.items()):
            if task.done():
                del self._tasks[name]
                host = self._result(name, task)
                if host is not None:
                    self._ready[name] = host, loop.time()

    def _result(self, name: HostName, task: asyncio.Task[SSHHost]) -> SSHHost | None:
        try:
            return task.result()
        except HostError as error:
            self._system.event("hostFailed", host=name.text, problem=error.problem.kind)
            logger.info("%s", error)
            self.problems.append(error.problem)
        return None

    async def _bring_up(self, name: HostName) -> SSHHost:
        host_id = f"ssh-{name.word}-{secrets.token_hex(4)}"
        order = self._system.order(name, host_id, self._request)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        line = await self._held.board.order(order)
        try:
            up = await line.receive()
            if up is None:
                raise self._held.board.failure(name.text)
            if "problem" in up:
                raise HostError(Problem.from_mapping(up["problem"]))
            host = SSHHost(
                name,
                host_id,
                line,
                up["up"],
                tunnel=self._held.board.gateway,
                lease_seconds=float(order.boot["lease_seconds"]),
            )
            host.capacity, host.maxprocs = self._system.learn(name, int(host.facts["cpus"]))
            await host.find_way(self._system.tunnel)
        except BaseException:
            line.close()
            raise
        host.follow()
        seconds = round(loop.time() - begun, 3)
        self._system.event("launch", host=host_id, seconds=seconds, direct=host.direct)
        return host

    async def close(self) -> None:
        """End what is under way, and what has come up and is not needed any more."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        surplus = [host for host, _ in self._ready.values()]
        surplus += [
            task.result() for task in tasks if not task.cancelled() and task.exception() is None
        ]
        for host in surplus:
            host.kill()
