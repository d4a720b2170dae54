"""Lost calls: whatever other threads do meanwhile, each ends."""

from __future__ import annotations

import asyncio
from typing import Any

from bigmachine.errors import TransportError
from bigmachine.futures import Future
from bigmachine.rpc.losses import Calls, Losses
from bigmachine.rpc.pending import Call


class Source:
    """A client, as far as its calls need one."""

    def cancel(self, number: int) -> None:
        raise AssertionError("nobody cancels here")

    def read_until(self, future: Future[Any], timeout: float | None) -> None:
        pass

    def read_in(self, loop: asyncio.AbstractEventLoop | None) -> None:
        pass

    def call_back(self, action: Any) -> None:
        action()


def three_calls() -> dict[int, Call]:
    source = Source()
    return {number: Call(source, number, "M.m") for number in range(3)}


async def unknown() -> BaseException | None:
    return None


async def never() -> BaseException | None:
    await asyncio.Event().wait()
    return None


def test_calls_that_are_taken_out_as_they_end_keep_no_other_from_its_end() -> None:
    async def main() -> None:
        calls = three_calls()
        lost: Calls = dict(calls)
        for call in calls.values():  # as a thread does that cancels it and had found the others
            call.when_done(lambda _: lost.pop(1, None))
        losses = Losses(asyncio.get_running_loop(), "m0", unknown)
        losses.add(lost, "it broke", None, sent=True)
        await asyncio.gather(*losses._judging)
        assert isinstance(calls[0].exception(), TransportError)
        assert isinstance(calls[2].exception(), TransportError)
        assert losses.undecided == []

    asyncio.run(main())


def test_calls_that_are_lost_while_all_of_them_are_failed_wait_for_no_verdict() -> None:
    class Undecided(list[Calls]):
        def append(self, lost: Calls) -> None:
            losses.failed = LookupError("it is dead")  # and whoever failed them has looked here
            super().append(lost)

    losses = Losses(asyncio.new_event_loop(), "m0", never)
    losses._loop.close()
    losses.undecided = Undecided()
    calls = three_calls()
    losses.add(dict(calls), "it broke", None, sent=True)
    assert [type(call.exception()) for call in calls.values()] == [LookupError] * 3


def test_a_call_that_is_cancelled_before_the_verdict_ends_its_streams_too() -> None:
    class Feed:
        stopped = False

        def stop(self) -> None:
            self.stopped = True

    async def main() -> None:
        calls = three_calls()
        feed: Any = Feed()
        calls[1].feeds = [feed]
        losses = Losses(asyncio.get_running_loop(), "m0", never)
        losses.add(dict(calls), "it broke", None, sent=True)
        losses.cancel(1)
        assert feed.stopped
        (task,) = losses._judging
        task.cancel()

    asyncio.run(main())
