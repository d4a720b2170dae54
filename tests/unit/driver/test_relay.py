"""Who gives the runtime to whom."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from bigmachine.driver import relay as module
from bigmachine.driver.relay import Member, Relay


async def nothing(address: str, packs: Mapping[str, list[int]]) -> None:
    raise AssertionError("nobody is to be fed here")


def members(relay: Relay, count: int) -> list[Member]:
    return [relay.join(f"h{number}", nothing) for number in range(count)]


def run(test: Any) -> None:
    asyncio.run(asyncio.wait_for(test, 10.0))


def test_the_driver_sends_twice_and_the_third_waits_for_the_first_that_is_up() -> None:
    async def test() -> None:
        relay = Relay()
        first, second, third = members(relay, 3)
        assert [await each.source({"a"}) for each in (first, second)] == [None, None]
        waiting = asyncio.ensure_future(third.source({"a"}))
        await asyncio.sleep(0)
        assert not waiting.done()
        second.is_up({"a", "b"})
        assert await waiting is second
        assert relay.sent == {"a": 2}

    run(test())


def test_whoever_has_least_to_do_gives() -> None:
    async def test() -> None:
        relay = Relay()
        first, second, *others = members(relay, 6)
        for each in (first, second):
            each.is_up({"a"})
        assert [await each.source({"a"}) for each in others] == [first, second, first, second]
        assert not relay.sent

    run(test())


def test_a_host_gives_to_a_few_at_a_time() -> None:
    async def test() -> None:
        relay = Relay()
        giver = relay.join("giver", nothing)
        giver.is_up({"a"})
        takers = members(relay, module.GIVES_AT_ONCE + 1)
        for each in takers[:-1]:
            assert await each.source({"a"}) is giver
        waiting = asyncio.ensure_future(takers[-1].source({"a"}))
        await asyncio.sleep(0)
        assert not waiting.done()
        giver.rest()
        assert await waiting is giver

    run(test())


def test_nobody_is_asked_for_what_he_has_not_or_after_he_has_failed() -> None:
    async def test() -> None:
        relay = Relay()
        first, second, third = members(relay, 3)
        first.is_up({"a"})
        second.is_up({"a", "b"})
        assert await third.source({"a", "b"}) is second
        third.refuse(second)
        assert await third.source({"a", "b"}) is None

    run(test())


def test_who_waits_for_hosts_that_do_not_come_up_gets_it_from_the_driver() -> None:
    async def test() -> None:
        relay = Relay()
        first, second, third = members(relay, 3)
        for each in (first, second):
            await each.source({"a"})
        waiting = asyncio.ensure_future(third.source({"a"}))
        await asyncio.sleep(0)
        relay.leave("h0")
        await asyncio.sleep(0)
        assert not waiting.done()
        relay.leave("h1")
        assert await waiting is None

    run(test())


def test_nobody_waits_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.01)

    async def test() -> None:
        first, second, third = members(Relay(), 3)
        assert [await each.source({"a"}) for each in (first, second, third)] == [None] * 3

    run(test())
