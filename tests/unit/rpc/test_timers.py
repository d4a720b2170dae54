"""Deadlines, many of them, on one timer of the loop."""

from __future__ import annotations

import asyncio
import threading
from time import monotonic

import pytest

from bigmachine.rpc.timers import Timers

LIMIT = 10.0


def test_they_fire_in_the_order_of_their_times_and_cancelled_ones_do_not() -> None:
    async def main() -> None:
        timers, fired, end = Timers(asyncio.get_running_loop()), [], asyncio.Event()
        now = monotonic()
        timers.at(now + 0.03, lambda: (fired.append("last"), end.set()))
        timers.at(now + 0.02, lambda: fired.append("second"))
        timer = timers.at(now + 0.015, lambda: fired.append("cancelled"))
        timers.at(now + 0.01, lambda: fired.append("first"))
        timers.at(now - 1, lambda: fired.append("past"))
        timer.cancel()
        timer.cancel()
        assert timer.cancelled
        async with asyncio.timeout(LIMIT):
            await end.wait()
        assert fired == ["past", "first", "second", "last"]

    asyncio.run(main())


def test_they_are_set_and_cancelled_by_many_threads() -> None:
    async def main() -> None:
        timers, fired = Timers(asyncio.get_running_loop()), []

        def work() -> None:
            for index in range(2000):
                timer = timers.at(
                    monotonic() + (5 if index % 2 else 0.001), lambda: fired.append(1)
                )
                if index % 2:
                    timer.cancel()

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        async with asyncio.timeout(LIMIT):
            while len(fired) < 4000:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        for thread in threads:
            thread.join()
        assert len(timers._heap) <= 4000 + 1000

    asyncio.run(main())


def test_cancelled_ones_do_not_pile_up() -> None:
    async def main() -> None:
        timers = Timers(asyncio.get_running_loop())
        for _ in range(20_000):
            timers.at(monotonic() + 1000, lambda: None).cancel()
        assert len(timers._heap) < 3000

    asyncio.run(main())


def test_one_that_fails_takes_no_other_along(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        timers, end = Timers(asyncio.get_running_loop()), asyncio.Event()
        now = monotonic()
        timers.at(now - 2, lambda: 1 // 0)
        timers.at(now - 1, lambda: timers.at(now, end.set))
        async with asyncio.timeout(LIMIT):
            await end.wait()

    asyncio.run(main())
    assert "at a deadline failed" in caplog.text


def test_a_finalizer_may_set_one_while_another_is_set() -> None:
    async def main() -> None:
        timers, end = Timers(asyncio.get_running_loop()), asyncio.Event()

        class Count:
            """Numbers; taking one does what a finalizer may do at that moment."""

            taken = 0

            def __next__(self) -> int:
                self.taken += 1
                if self.taken == 1:
                    timers.at(monotonic(), end.set)
                return self.taken

        timers._count = Count()  # type: ignore[assignment]

        def use() -> None:
            timers.at(monotonic() + LIMIT, print)

        thread = threading.Thread(target=use, daemon=True)
        thread.start()
        async with asyncio.timeout(LIMIT):
            await end.wait()
        thread.join(LIMIT)
        assert not thread.is_alive()

    asyncio.run(main())
