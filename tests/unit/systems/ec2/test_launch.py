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
    """Starts hosts in no time, of which some fail as they are told to."""

    def __init__(self, fate: Callable[[int], BaseException | None] = lambda number: None) -> None:
        self.fate = fate
        self.numbers = itertools.count()
        self.started = 0
        self.most = 0
        self.under_way = 0
        self.ended: list[int] = []
        self.plan = self.terminator = self

    def count(self, machines: int) -> int:
        return -(-machines // Host.capacity)

    async def start(self, request: HostRequest) -> Host:
        number = next(self.numbers)
        self.started += 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await asyncio.sleep(0)
            if (error := self.fate(number)) is not None:
                raise error
        finally:
            self.under_way -= 1
        return Host(number)

    def discard(self, host: Host) -> None:
        self.ended.append(host.number)

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


def test_there_are_as_many_as_are_needed_and_no_more_at_a_time_than_is_good() -> None:
    starter = Starter()
    assert len(launched(starter, 2 * AT_ONCE + 21)) == AT_ONCE + 11
    assert starter.most == AT_ONCE
    assert starter.ended == []


def test_what_has_come_up_and_is_not_wanted_any_more_is_ended() -> None:
    starter = Starter()
    kept = launched(starter, 8, wanted=1)
    assert sorted(kept + starter.ended) == list(range(starter.started))


def test_an_instance_of_which_nothing_came_is_replaced() -> None:
    starter = Starter(lambda number: InstanceFailed("ended") if number % 2 else None)
    assert len(launched(starter, 8)) == 4


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
