"""Futures: with everything that waits for one, from every side, in every order."""

from __future__ import annotations

import asyncio
import concurrent.futures as cf
import contextlib
import gc
import logging
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from bigmachine.errors import UsageError
from bigmachine.futures import Future, Wakes, allow_blocking, forbid_blocking

LIMIT = 10.0


def later(action: Callable[[], object]) -> threading.Thread:
    """Do something in another thread, as soon as somebody is likely to wait."""
    thread = threading.Timer(0.01, action)
    thread.start()
    return thread


def test_a_result_arrives() -> None:
    future: Future[int] = Future()
    assert not future.done()
    assert not future.running()
    assert "pending" in repr(future)
    thread = later(lambda: future.set_result(3))
    assert future.result(LIMIT) == 3
    assert future.result() == 3
    assert future.exception() is None
    assert future.done()
    assert not future.cancelled()
    assert "finished" in repr(future)
    thread.join()


def test_an_exception_is_raised_each_time() -> None:
    future: Future[int] = Future()
    future.set_exception(ValueError("v"))
    for _ in range(2):
        with pytest.raises(ValueError, match="v"):
            future.result()
    assert isinstance(future.exception(), ValueError)


def test_what_came_is_made_when_it_is_asked_for_and_once() -> None:
    made = []

    def make() -> int:
        made.append(1)
        return 5

    future: Future[int] = Future()
    future.resolve(undecoded=make)
    assert made == []
    assert (future.result(), future.result(), future.exception()) == (5, 5, None)
    assert made == [1]


def test_what_cannot_be_made_is_the_exception() -> None:
    def fail() -> int:
        raise KeyError("k")

    future: Future[int] = Future()
    future.resolve(undecoded=fail)
    assert isinstance(future.exception(), KeyError)
    with pytest.raises(KeyError):
        future.result()


def test_it_ends_once() -> None:
    future: Future[int] = Future()
    future.set_result(1)
    with pytest.raises(cf.InvalidStateError):
        future.set_result(2)
    with pytest.raises(cf.InvalidStateError):
        future.set_exception(ValueError())
    assert future.resolve(3) is False
    assert future.cancel() is False
    assert future.result() == 1


def test_a_wait_that_runs_out_does_not_end_it() -> None:
    future: Future[int] = Future()
    for timeout in (0, 0.01, -1):
        with pytest.raises(TimeoutError):
            future.result(timeout)
        with pytest.raises(TimeoutError):
            future.exception(timeout)
    future.set_result(1)
    assert future.result(0) == 1


def test_cancelling_ends_it_and_stops_what_would_bring_the_result() -> None:
    stopped = []
    future: Future[int] = Future(lambda: stopped.append(1))
    thread = later(future.cancel)
    with pytest.raises(cf.CancelledError):
        future.result(LIMIT)
    with pytest.raises(cf.CancelledError):
        future.exception()
    thread.join()
    assert future.cancelled()
    assert future.cancel() is True
    assert stopped == [1]
    assert future.set_running_or_notify_cancel() is False


# concurrent.futures


@pytest.mark.parametrize("early", [True, False])
def test_wait_and_as_completed_work_with_it(early: bool) -> None:
    futures: list[Future[int]] = [Future() for _ in range(4)]
    plain: cf.Future[int] = cf.Future()

    def end() -> None:
        futures[2].set_result(2)
        futures[0].set_exception(ValueError())
        futures[1].cancel()
        futures[3].resolve(undecoded=lambda: 3)
        plain.set_result(4)

    thread = threading.Thread(target=end) if early else later(end)
    if early:
        thread.start()
        thread.join()
    done, left = cf.wait([*futures, plain], LIMIT)
    assert (done, left) == ({*futures, plain}, set())
    assert set(cf.as_completed([*futures, plain], LIMIT)) == {*futures, plain}
    thread.join()


def test_wait_returns_at_the_first_that_ends() -> None:
    futures: list[Future[int]] = [Future() for _ in range(3)]
    thread = later(lambda: futures[1].set_result(1))
    done, left = cf.wait(futures, LIMIT, cf.FIRST_COMPLETED)
    assert done == {futures[1]}
    assert len(left) == 2
    thread.join()


def test_wait_returns_at_the_first_exception_even_if_nobody_has_looked_at_it() -> None:
    class Failure:
        is_error = True

        def __call__(self) -> int:
            raise ValueError

    futures: list[Future[int]] = [Future() for _ in range(3)]

    def end() -> None:
        futures[0].resolve(undecoded=lambda: 1)
        futures[1].resolve(undecoded=Failure())

    thread = later(end)
    began = time.monotonic()
    done, left = cf.wait(futures, LIMIT, cf.FIRST_EXCEPTION)
    assert time.monotonic() - began < LIMIT / 2
    assert done == set(futures[:2])
    assert left == {futures[2]}
    thread.join()


def test_as_completed_gives_them_as_they_end() -> None:
    futures: list[Future[int]] = [Future() for _ in range(3)]
    iterator = cf.as_completed(futures, LIMIT)
    for index in (2, 0, 1):
        thread = later(lambda index=index: futures[index].set_result(index))  # type: ignore[misc]
        assert next(iterator).result() == index
        thread.join()


# asyncio


async def awaited(future: Future[Any]) -> Any:
    return await future


def test_gather_wait_for_wrap_future_and_task_groups_work_with_it() -> None:
    async def main() -> None:
        futures: list[Future[int]] = [Future() for _ in range(5)]

        def end() -> None:
            for index, future in enumerate(futures):
                future.set_result(index)

        thread = later(end)
        assert await asyncio.gather(*futures[:2]) == [0, 1]
        assert await asyncio.wait_for(futures[2], LIMIT) == 2
        assert await asyncio.wrap_future(futures[3]) == 3
        async with asyncio.TaskGroup() as group:
            task = group.create_task(awaited(futures[4]))
        assert task.result() == 4
        thread.join()

    asyncio.run(main())


def test_a_wait_for_that_runs_out_cancels_it() -> None:
    future: Future[int] = Future()

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(future, 0.01)
        with pytest.raises(asyncio.CancelledError):
            await future

    asyncio.run(main())
    assert future.cancelled()


def test_cancelling_goes_both_ways() -> None:
    async def main() -> None:
        future: Future[int] = Future()
        task = asyncio.ensure_future(awaited(future))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert future.cancelled()

        future = Future()
        task = asyncio.ensure_future(awaited(future))
        await asyncio.sleep(0)
        thread = later(future.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task
        thread.join()

        future = Future()
        wrapped = asyncio.wrap_future(future)
        wrapped.cancel()
        await asyncio.sleep(0)
        assert future.cancelled()

    asyncio.run(main())


def test_a_task_that_is_cancelled_after_the_result_has_come_leaves_it_alone() -> None:
    async def main() -> None:
        future: Future[int] = Future()
        task = asyncio.ensure_future(awaited(future))
        await asyncio.sleep(0)
        future.set_result(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert future.result() == 1

    asyncio.run(main())


def test_many_loops_and_threads_wait_for_one_future() -> None:
    future: Future[int] = Future()

    async def main() -> list[int]:
        return list(await asyncio.gather(*[awaited(future) for _ in range(5)]))

    with cf.ThreadPoolExecutor(12) as pool:
        loops = [pool.submit(asyncio.run, main()) for _ in range(5)]
        threads = [pool.submit(future.result, LIMIT) for _ in range(5)]
        later(lambda: future.set_result(7)).join()
        assert [job.result(LIMIT) for job in loops] == [[7] * 5] * 5
        assert [job.result(LIMIT) for job in threads] == [7] * 5


def test_a_loop_that_has_closed_is_not_woken() -> None:
    futures: list[Future[int]] = [Future() for _ in range(2)]
    for future in futures:
        loop = asyncio.new_event_loop()
        task = loop.create_task(awaited(future))
        loop.run_until_complete(asyncio.sleep(0))
        task.add_done_callback(lambda _: None)
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.close()
    wakes = Wakes()
    futures[0].resolve(1, wakes=wakes)
    wakes.send()
    futures[1].resolve(1)
    assert [future.result() for future in futures] == [1, 1]


def test_one_wake_for_many_waiters_of_a_loop() -> None:
    class Counting(asyncio.SelectorEventLoop):
        wakes = 0

        def call_soon_threadsafe(self, *args: Any, **kwargs: Any) -> Any:
            self.wakes += 1
            return super().call_soon_threadsafe(*args, **kwargs)

    futures: list[Future[int]] = [Future() for _ in range(50)]
    loop = Counting()
    waiting = asyncio.gather(*[_in(loop, future) for future in futures])
    loop.run_until_complete(asyncio.sleep(0))
    loop.wakes = 0

    def end() -> None:
        wakes = Wakes()
        for future in futures:
            future.resolve(1, wakes=wakes)
        wakes.send()

    thread = later(end)
    assert loop.run_until_complete(waiting) == [1] * 50
    thread.join()
    assert loop.wakes == 1
    loop.close()


def _in(loop: asyncio.AbstractEventLoop, future: Future[int]) -> asyncio.Task[int]:
    return loop.create_task(awaited(future))


# Callbacks


def test_callbacks_are_called_once_with_the_future() -> None:
    called: list[Any] = []
    future: Future[int] = Future()
    future.add_done_callback(called.append)
    future.set_result(1)
    future.add_done_callback(called.append)
    assert called == [future, future]


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_a_callback_that_raises_is_logged_and_harms_nobody(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    def bad(_: Any) -> None:
        raise error

    called: list[Any] = []
    future: Future[int] = Future()
    future.add_done_callback(bad)
    future.add_done_callback(called.append)
    future.set_result(1)
    assert called == [future]
    assert "done-callback" in caplog.text
    assert caplog.records[0].levelno == logging.ERROR


def test_a_callback_may_end_and_add_to_other_futures() -> None:
    first, second = Future[int](), Future[int]()
    first.add_done_callback(lambda f: second.set_result(f.result() + 1))
    second.add_done_callback(lambda f: first.add_done_callback(lambda _: None))
    first.set_result(1)
    assert second.result() == 2


# Where waiting is not allowed


def test_a_loops_thread_must_not_wait_but_may_take_what_is_there() -> None:
    future: Future[int] = Future()
    forbid_blocking(threading.get_ident())
    try:
        with pytest.raises(UsageError, match="await"):
            future.result()
        with pytest.raises(UsageError, match="await"):
            future.exception(1)
        future.set_result(1)
        assert future.result() == 1
    finally:
        allow_blocking(threading.get_ident())


# Races


@pytest.fixture
def quick_switches() -> Any:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def test_of_many_ends_one_wins_and_everybody_hears_of_it(quick_switches: None) -> None:
    for _ in range(60):
        _race()


def _race() -> None:
    future: Future[int] = Future()
    heard: list[Any] = []
    wins: list[bool] = []

    def take() -> None:
        try:
            heard.append(future.result(LIMIT))
        except cf.CancelledError:
            heard.append("cancelled")

    jobs: list[Callable[[], object]] = [
        lambda: wins.append(future.cancel()),
        lambda: wins.append(future.resolve(1)),
        lambda: wins.append(future.resolve(2)),
        lambda: future.add_done_callback(heard.append),
        lambda: future.add_done_callback(heard.append),
        take,
        take,
        lambda: heard.extend(cf.wait([future], LIMIT).done),
    ]
    barrier = threading.Barrier(len(jobs))

    def run(job: Callable[[], object]) -> None:
        barrier.wait()
        job()

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
        assert not thread.is_alive()
    assert len(heard) == 5
    assert sum(wins) == 1


def test_waits_that_run_out_just_then_lose_nothing(quick_switches: None) -> None:
    for _ in range(200):
        future: Future[int] = Future()
        thread = threading.Thread(target=future.set_result, args=(1,))
        thread.start()
        while True:
            try:
                assert future.result(0.00001) == 1
                break
            except TimeoutError:
                continue
        thread.join()


# Memory


def test_what_is_raised_keeps_no_frames_alive_once_it_is_dropped() -> None:
    class Held:
        pass

    def failed() -> Future[int]:
        future: Future[int] = Future()
        future.resolve(undecoded=_fail)
        return future

    def failing() -> Future[int]:
        future: Future[int] = Future()
        asyncio.get_running_loop().call_soon(future.resolve, None, ValueError("v"))
        return future

    # Neither frame has the future in a variable of its own, as nobody's had who just waits for it.
    def from_thread() -> weakref.ref[Held]:
        held = Held()
        with contextlib.suppress(ValueError):
            failed().result()
        return weakref.ref(held)

    async def from_task() -> weakref.ref[Held]:
        held = Held()
        with contextlib.suppress(ValueError):
            await failing()
        return weakref.ref(held)

    gc.collect()
    gc.disable()
    try:
        assert from_thread()() is None
        assert asyncio.run(from_task())() is None
    finally:
        gc.enable()


def _fail() -> int:
    raise ValueError("v")


def test_asyncio_wait_says_what_it_takes_instead_of_sleeping_for_ever() -> None:
    async def main() -> None:
        future: Future[int] = Future()
        with pytest.raises(UsageError, match="wrap_future"):
            await asyncio.wait([future], timeout=LIMIT)  # type: ignore[type-var]
        wrapped = asyncio.wrap_future(future)
        future.set_result(3)
        done, _ = await asyncio.wait([wrapped], timeout=LIMIT)
        assert [each.result() for each in done] == [3]

    asyncio.run(main())


def test_a_finalizer_or_handler_in_its_midst_may_use_futures_too() -> None:
    """It runs on the thread that is in there; a lock that is held is held by that."""
    other = Future[int]()

    class Disturbed(Future[int]):
        """Is looked at while it changes."""

        @property
        def _watched(self) -> None:
            other.add_done_callback(lambda _: None)
            other.set_result(1) if not other.done() else other.cancel()

    ended: list[int] = []

    def use() -> None:
        future = Disturbed()
        future.add_done_callback(lambda each: ended.append(each.result()))
        future.set_result(2)

    thread = threading.Thread(target=use, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert (other.result(), ended) == (1, [2])
