"""How many instances a launch has at a time, which it replaces, and when it is given up."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest

from bigmachine.errors import ProvisionError
from bigmachine.systems.base import HostRequest
from bigmachine.systems.ec2.errors import InstanceFailed
from bigmachine.systems.ec2.launch import AT_ONCE, SPARE_FAILURES, Launch


class Host:
    capacity = 2

    def __init__(self, number: int) -> None:
        self.number = number


class Starter:
    """Starts hosts in no time, of which some fail as they are told to.

    Args:
        fate: Returns why a host does not come up, by its number.
        together: How many boot before any has booted.
    """

    def __init__(
        self, fate: Callable[[int], BaseException | None] = lambda number: None, together: int = 1
    ) -> None:
        self.fate = fate
        self.together = together
        self.numbers = itertools.count()
        self.started = 0
        self.making = 0
        self.most = 0
        self.coming = 0
        self.booted = asyncio.Event()
        self.ended: list[int] = []
        self.plan = self.terminator = self

    def count(self, machines: int) -> int:
        return -(-machines // Host.capacity)

    async def make(self, request: HostRequest) -> int:
        self.started += 1
        self.making += 1
        self.most = max(self.most, self.making)
        await asyncio.sleep(0)
        self.making -= 1
        return next(self.numbers)

    async def bring_up(self, made: int) -> Host:
        self.coming += 1
        if self.coming >= self.together:
            self.booted.set()
        await self.booted.wait()
        if (error := self.fate(made)) is not None:
            raise error
        return Host(made)

    def discard(self, made: int) -> None:
        self.ended.append(made)

    async def wait(self) -> None:
        pass


def launched(starter: Any, machines: int, *, wanted: int = 1_000) -> list[int]:
    """Launch for so many machines, and close the launch once so many hosts are there."""

    async def run() -> list[int]:
        launch = Launch(starter, HostRequest(cluster="c", machines=machines, boot=lambda _: {}))
        found: list[int] = []
        try:
            async with aclosing(launch.run()) as hosts:
                async for host in hosts:
                    found.append(host.number)  # type: ignore[attr-defined]
                    if len(found) == wanted:
                        break
        finally:
            await launch.close()
        return found

    return asyncio.run(run())


def test_as_many_as_are_needed_boot_at_a_time_but_only_some_are_being_made() -> None:
    starter = Starter(together=3 * AT_ONCE)  # the more must boot side by side
    assert len(launched(starter, 3 * AT_ONCE * Host.capacity)) == 3 * AT_ONCE
    assert starter.most == AT_ONCE
    assert starter.ended == []


def test_more_are_made_as_soon_as_more_are_asked_for() -> None:
    starter: Any = Starter(together=3)  # none boots before three do

    async def run() -> list[int]:
        request = HostRequest(cluster="c", machines=2, boot=lambda _: {})
        asyncio.get_running_loop().call_later(0.01, request.grow, 3)
        async with aclosing(Launch(starter, request).run()) as hosts:
            return [host.number async for host in hosts]  # type: ignore[attr-defined]

    async def limited() -> list[int]:
        async with asyncio.timeout(10):
            return await run()

    assert len(asyncio.run(limited())) == 3


def test_what_has_come_up_and_is_not_wanted_any_more_is_ended() -> None:
    starter = Starter()
    kept = launched(starter, 8, wanted=1)
    assert sorted(kept + starter.ended) == list(range(starter.started))


def test_an_instance_of_which_nothing_came_is_replaced() -> None:
    starter = Starter(lambda number: InstanceFailed("ended") if number % 2 else None)
    found = launched(starter, 8)
    assert len(found) == 4
    assert sorted(found + starter.ended) == list(range(starter.started))


def test_there_is_an_end_to_replacing() -> None:
    starter = Starter(lambda number: InstanceFailed("ended", remedy="look there"))
    with pytest.raises(ProvisionError, match="ended") as raised:
        launched(starter, 8)
    allowed = 4 // 2 + SPARE_FAILURES
    assert allowed < starter.started <= allowed + 4
    assert raised.value.remedy == "look there"
    assert raised.value.temporary


def test_one_that_no_other_can_replace_ends_the_launch() -> None:
    def fate(number: int) -> BaseException | None:
        return InstanceFailed("silent", replaceable=False) if number == 1 else None

    starter = Starter(fate)
    with pytest.raises(ProvisionError, match="silent"):
        launched(starter, 8)
    assert starter.started == 4


def test_what_cannot_come_better_ends_the_launch() -> None:
    starter = Starter(lambda number: ValueError("no") if number == 1 else None)
    with pytest.raises(ProvisionError, match="no") as raised:
        launched(starter, 8)
    assert starter.started == 4
    assert (raised.value.requested, raised.value.started) == (8, 6)
