"""A launch: instances are started side by side until there is room enough, or it is given up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from bigmachine.errors import ProvisionError, UsageError
from bigmachine.systems.ec2 import errors

if TYPE_CHECKING:
    from bigmachine.systems.base import Host, HostRequest
    from bigmachine.systems.ec2.host import EC2Host
    from bigmachine.systems.ec2.starter import Starter

AT_ONCE: Final = 16
"""How many instances are launched at a time."""
SPARE_FAILURES: Final = 3
"""How many instances may fail in a launch, beyond half of those asked for, until it is given up."""


class Launch:
    """One launch.

    Args:
        starter: Starts hosts.
        request: What the driver asks for.
    """

    def __init__(self, starter: Starter, request: HostRequest) -> None:
        self._starter = starter
        self._request = request
        self._tasks: set[asyncio.Task[EC2Host]] = set()
        self._problems: list[BaseException] = []
        self._room = 0

    def __repr__(self) -> str:
        return f"<Launch of {self._room}/{self._request.machines}, {len(self._tasks)} under way>"

    async def run(self) -> AsyncIterator[Host]:
        """Yield hosts as they run.

        Raises:
            ProvisionError: There was not room enough to be had.
            UsageError: What was asked for makes no sense.
        """
        machines, count = self._request.machines, self._starter.plan.count
        allowed = count(machines) // 2 + SPARE_FAILURES
        while self._room < machines:
            left = count(machines - self._room)
            if len(self._problems) > allowed or not self._may_go_on():
                left = 0
            while len(self._tasks) < min(left, AT_ONCE):
                self._tasks.add(asyncio.ensure_future(self._starter.start(self._request)))
            if not self._tasks:
                raise self._failure()
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in [each for each in self._tasks if each.done()]:
                self._tasks.remove(task)  # no earlier: `close` ends what is not yielded
                if (error := task.exception()) is not None:
                    self._problems.append(error)
                    continue
                host = task.result()
                if self._room >= machines:
                    self._starter.discard(host)
                    continue
                self._room += host.capacity
                yield host

    async def close(self) -> None:
        """End what is under way, and what has come up and was not asked for any more."""
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled() and task.exception() is None:
                self._starter.discard(task.result())
        await self._starter.terminator.wait()

    def _may_go_on(self) -> bool:
        """Whether what went wrong is not bound to go wrong again."""
        return all(
            error.replaceable if isinstance(error, errors.InstanceFailed) else False
            for error in self._problems
        )

    def _failure(self) -> ProvisionError | UsageError:
        """Return why there is not room enough."""
        last = self._problems[-1]
        if isinstance(last, UsageError | ProvisionError):
            return last
        return errors.provision_error(
            "give an instance", last, requested=self._request.machines, started=self._room
        )
