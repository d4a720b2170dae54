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
    from bigmachine.systems.ec2.starter import Made, Starter

AT_ONCE: Final = 16
"""How many instances are being made at a time. How many boot at a time is AWS's affair."""
SPARE_FAILURES: Final = 3
"""How many instances may fail in a launch, beyond half of those asked for, until it is given up."""


class Launch:
    """One launch. Whatever it has had made and has not yielded, it ends.

    Args:
        starter: Starts hosts.
        request: What the driver asks for; it may grow.
    """

    def __init__(self, starter: Starter, request: HostRequest) -> None:
        self._starter = starter
        self._request = request
        self._making: set[asyncio.Task[Made]] = set()
        self._coming: dict[asyncio.Task[EC2Host], Made] = {}
        self._problems: list[BaseException] = []
        self._room = 0

    def __repr__(self) -> str:
        under_way = len(self._making) + len(self._coming)
        return f"<Launch of {self._room}/{self._request.machines}, {under_way} under way>"

    async def run(self) -> AsyncIterator[Host]:
        """Yield hosts as they come up.

        Raises:
            ProvisionError: There was not room enough to be had.
            UsageError: What was asked for makes no sense.
        """
        grown: asyncio.Task[None] | None = None
        try:
            while self._room < self._request.machines:
                self._make()
                if not self._making and not self._coming:
                    raise self._failure()
                if grown is None or grown.done():
                    grown = asyncio.create_task(self._request.more_than(self._request.machines))
                under_way = [*self._making, *self._coming, grown]
                await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                self._follow_made()
                for task in [each for each in self._coming if each.done()]:
                    if (host := self._host(task)) is not None:
                        self._room += host.capacity
                        yield host
        finally:
            if grown is not None:
                grown.cancel()

    async def close(self) -> None:
        """End what is under way, and what has come up and was not asked for any more."""
        tasks = [*self._making, *self._coming]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        # What is still made for a task that was cancelled is the maker's to end.
        finished = [each for each in self._making if not each.cancelled() and not each.exception()]
        for made in (*(each.result() for each in finished), *self._coming.values()):
            self._starter.discard(made)
        self._making.clear()
        self._coming.clear()
        await self._starter.terminator.wait()

    def _make(self) -> None:
        """Have as many made as are missing, a few at a time."""
        if not self._may_go_on():
            return
        left = self._starter.plan.count(self._request.machines - self._room)
        while len(self._making) < AT_ONCE and len(self._making) + len(self._coming) < left:
            self._making.add(asyncio.ensure_future(self._starter.make(self._request)))

    def _follow_made(self) -> None:
        """Have those that are made come up: as many side by side as there are."""
        for task in [each for each in self._making if each.done()]:
            self._making.remove(task)
            if (error := task.exception()) is not None:
                self._problems.append(error)
                continue
            made = task.result()
            self._coming[asyncio.ensure_future(self._starter.bring_up(made))] = made

    def _host(self, task: asyncio.Task[EC2Host]) -> EC2Host | None:
        """Return a host that has come up, if it has and is still needed."""
        made = self._coming.pop(task)
        if (error := task.exception()) is not None:
            self._problems.append(error)
        elif self._room < self._request.machines:
            return task.result()
        self._starter.discard(made)
        return None

    def _may_go_on(self) -> bool:
        """Whether what went wrong is not bound to go wrong again, and has not too often."""
        allowed = self._starter.plan.count(self._request.machines) // 2 + SPARE_FAILURES
        return len(self._problems) <= allowed and all(
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
