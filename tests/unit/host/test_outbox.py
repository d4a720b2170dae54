"""What a driver gets of the output that was on its way when its connection broke."""

from __future__ import annotations

import asyncio

from bigmachine.host.outbox import KEPT_BYTES, Outbox
from bigmachine.host.spool import BATCH_BYTES, Spool


def lines(*numbers: int) -> list[bytes]:
    return [b"%d\n" % number for number in numbers]


async def take(outbox: Outbox, count: int, taken: int = 0) -> list[bytes]:
    found = []
    follower = outbox.follow(taken)
    async for batch in follower:
        found.append(b"".join(chunk.data for chunk in batch))
        if len(found) == count:
            break
    await follower.aclose()
    return found


def new() -> tuple[Spool, Outbox]:
    spool = Spool(asyncio.Event)
    outbox = Outbox(spool)
    return spool, outbox


def test_a_driver_that_comes_back_gets_what_it_has_not() -> None:
    async def test() -> None:
        spool, outbox = new()
        sent = []
        for number in range(3):
            spool.append("m", "stdout", b"%d\n" % number)
            sent += await take(outbox, 1, number)
        assert sent == lines(0, 1, 2)
        assert await take(outbox, 2, 1) == lines(1, 2)
        spool.append("m", "stdout", b"3\n")
        assert await take(outbox, 2, 2) == lines(2, 3)

    asyncio.run(test())


def test_who_has_left_takes_nothing_along() -> None:
    async def test() -> None:
        spool, outbox = new()
        former = asyncio.ensure_future(take(outbox, 1))
        await asyncio.sleep(0)
        former.cancel()
        await asyncio.wait((former,))
        waiting = asyncio.ensure_future(take(outbox, 1))
        await asyncio.sleep(0)
        spool.append("m", "stdout", b"0\n")
        assert await waiting == lines(0)

    asyncio.run(test())


def test_the_end_is_told_to_everybody() -> None:
    async def test() -> None:
        spool, outbox = new()
        spool.append("m", "stdout", b"0\n")
        spool.end("m")
        spool.close()
        first = await take(outbox, -1)
        assert b"".join(first) == b"0\n"
        assert await take(outbox, -1) == first

    asyncio.run(test())


def test_no_more_is_kept_than_may_be_on_its_way() -> None:
    async def test() -> None:
        spool, outbox = new()
        line = b"x" * (BATCH_BYTES // 2 - 1) + b"\n"
        for number in range(20):
            spool.append("m", "stdout", line)
            await take(outbox, 1, number)
        kept = await take(outbox, len(outbox._kept))
        assert KEPT_BYTES - BATCH_BYTES <= sum(map(len, kept)) <= KEPT_BYTES

    asyncio.run(test())
