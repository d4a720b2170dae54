"""Threads for plain methods: few for quick ones, many for those that wait, and none for ever."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from bigmachine.rpc import workers
from bigmachine.rpc.workers import Workers

LIMIT = 10.0


def run(test: Callable[[Workers], Awaitable[Any]], **options: Any) -> Any:
    """Run a test on a loop with workers, and see that all its threads end."""
    before = set(threading.enumerate())

    async def main() -> Any:
        pool = Workers(asyncio.get_running_loop(), **options)
        try:
            return await test(pool)
        finally:
            pool.close()

    result = asyncio.run(asyncio.wait_for(main(), LIMIT))
    for thread in set(threading.enumerate()) - before:
        thread.join(LIMIT)
        assert not thread.is_alive(), thread
    return result


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


async def looked_around(pool: Workers, times: int) -> None:
    """Wait until the pool has looked so often whether it should grow."""
    for _ in range(times):
        before = pool._seen
        await until(lambda before=before: pool._seen != before)


def test_quick_jobs_are_done_by_a_few_threads() -> None:
    async def test(pool: Workers) -> list[int]:
        done: list[int] = []
        for _ in range(2000):
            pool.submit(lambda: done.append(threading.get_ident()))
        await until(lambda: len(done) == 2000)
        return done

    assert 1 <= len(set(run(test))) <= 8


def test_one_thread_does_jobs_in_their_order() -> None:
    async def test(pool: Workers) -> list[int]:
        done: list[int] = []
        for index in range(2000):
            pool.submit(lambda index=index: done.append(index))
        await until(lambda: len(done) == 2000)
        return done

    assert run(test, limit=1) == list(range(2000))


def test_a_thousand_that_wait_all_wait_together_soon() -> None:
    async def test(pool: Workers) -> float:
        gate = threading.Event()
        inside: list[int] = []

        def job() -> None:
            inside.append(threading.get_ident())
            gate.wait(LIMIT)

        began = time.monotonic()
        for _ in range(1000):
            pool.submit(job)
        await until(lambda: len(inside) >= 1000)
        took = time.monotonic() - began
        assert len(set(inside)) == 1000
        gate.set()
        return took

    assert run(test) < 1.0 * 4  # as long as on a machine that does other things, too


def test_no_more_threads_than_the_limit() -> None:
    async def test(pool: Workers) -> None:
        gate = threading.Event()
        now = most = ended = 0
        lock = threading.Lock()

        def job() -> None:
            nonlocal now, most, ended
            with lock:
                now += 1
                most = max(most, now)
            gate.wait(LIMIT)
            with lock:
                now -= 1
                ended += 1

        for _ in range(50):
            pool.submit(job)
        await until(lambda: now == 7)
        await looked_around(pool, 10)
        assert most == 7
        gate.set()
        await until(lambda: ended == 50)
        assert most == 7

    run(test, limit=7)


def test_a_job_that_raises_costs_no_thread(caplog: pytest.LogCaptureFixture) -> None:
    async def test(pool: Workers) -> None:
        threads: list[int] = []

        def bad() -> None:
            threads.append(threading.get_ident())
            raise SystemExit(1)

        for _ in range(20):
            pool.submit(bad)
        pool.submit(lambda: threads.append(threading.get_ident()))
        await until(lambda: len(threads) == 21)
        assert len(set(threads)) == 1

    run(test, limit=1)
    assert caplog.text.count("raised") == 20


def test_idle_threads_end_but_for_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_IDLE_SECONDS", 0.05)

    async def test(pool: Workers) -> None:
        gate = threading.Event()
        count = 0

        def job() -> None:
            nonlocal count
            count += 1
            gate.wait(LIMIT)

        for _ in range(40):
            pool.submit(job)
        await until(lambda: count == 40)
        assert threads_of("idle") >= 40
        gate.set()
        await until(lambda: threads_of("idle") <= workers._KEEP)
        done: list[int] = []
        for index in range(10):
            pool.submit(lambda index=index: done.append(index))
        await until(lambda: len(done) == 10)
        assert workers._KEEP <= threads_of("idle") < 40

    run(test, name="idle")


def threads_of(name: str) -> int:
    """Return how many threads a pool has that was given this name."""
    return sum(each.name.startswith(f"{name}-") for each in threading.enumerate())


def test_jobs_that_come_as_threads_fall_asleep_are_all_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workers, "_IDLE_SECONDS", 0.001)

    async def test(pool: Workers) -> None:
        done: list[int] = []
        for round_ in range(300):
            for _ in range(3):
                pool.submit(lambda: done.append(1))
            await until(lambda round_=round_: len(done) == 3 * round_ + 3)
            await asyncio.sleep(0.001)  # as long as threads stay: the next job is just in time
        assert len(done) == 900
        assert pool._sleeping >= 0
        assert pool._waking >= 0

    run(test)


def test_a_system_without_more_threads_is_no_disaster(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start = threading.Thread.start
    allowed = 3

    def limited(self: threading.Thread) -> None:
        nonlocal allowed
        if self.name.startswith("few"):
            if not allowed:
                raise RuntimeError("can't start new thread")
            allowed -= 1
        start(self)

    monkeypatch.setattr(threading.Thread, "start", limited)

    async def test(pool: Workers) -> None:
        gate = threading.Event()
        done: list[int] = []

        def job() -> None:
            gate.wait(LIMIT)
            done.append(1)

        for _ in range(30):
            pool.submit(job)
        await until(lambda: "no more threads" in caplog.text)
        gate.set()
        await until(lambda: len(done) == 30)
        assert pool._threads == threads_of("few") == 3

    run(test, name="few")
    assert "no more threads" in caplog.text


def test_closing_lets_waiting_jobs_be_done() -> None:
    done: list[int] = []

    async def test(pool: Workers) -> None:
        gate = threading.Event()

        def job() -> None:
            gate.wait(LIMIT)
            done.append(1)

        for _ in range(5):
            pool.submit(job)
        pool.close()
        gate.set()

    run(test)
    assert len(done) == 5
