"""Calls between two loops in one process: every kind of method, every way to end."""

from __future__ import annotations

import asyncio
import concurrent.futures as cf
import contextvars
import functools
import gc
import logging
import select
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from linking import LIMIT, Link, linked, until

import bigmachine.calls
from bigmachine import deadlines
from bigmachine.errors import (
    CallTimeoutError,
    NoSuchMethodError,
    NoSuchServiceError,
    PayloadError,
    RemoteError,
    TransportError,
    UsageError,
    is_remote,
)
from bigmachine.futures import Future
from bigmachine.rpc import watch
from bigmachine.rpc.hurry import SWITCH_SECONDS
from bigmachine.rpc.run import Run

marker: contextvars.ContextVar[str] = contextvars.ContextVar("marker", default="clean")


def passing(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator as users write them: plain, whatever it decorates."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


class OddError(Exception):
    def __init__(self, code: int, *, why: str) -> None:
        super().__init__(code)
        self.code, self.why = code, why


class Methods:
    """Methods of every kind."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)
        self.ended: list[str] = []
        self.link: Link | None = None

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("services are not copied here")

    def plain(self, *args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    async def later(self, *args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(0)
        return args, kwargs

    def many(self, count: int) -> Iterator[int]:
        yield from range(count)

    async def many_later(self, count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number

    @staticmethod
    def static(value: int) -> int:
        return value + 1

    @classmethod
    def of_class(cls, value: int) -> tuple[str, int]:
        return cls.__name__, value

    @passing
    def decorated(self, value: int) -> int:
        return value

    @passing
    async def decorated_later(self, value: int) -> int:
        await asyncio.sleep(0)
        return value

    @passing
    def decorated_many(self, count: int) -> Iterator[int]:
        yield from range(count)

    @passing
    async def decorated_many_later(self, count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number

    @property
    def moody(self) -> int:
        raise ValueError("not today")

    def _hidden(self) -> int:
        return 1

    def lock(self) -> Any:
        return {"f": threading.Lock()}

    def wait(self, seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    def hold(self) -> bool:
        self.entered.release()
        self.gate.wait(LIMIT)
        return bigmachine.calls.cancelled()

    def until_cancelled(self) -> None:
        self.entered.release()
        while not bigmachine.calls.cancelled():
            self.gate.wait(0.002)
        self.ended.append("plain")

    async def until_cancelled_later(self) -> None:
        self.entered.release()
        try:
            await asyncio.sleep(LIMIT)
        except asyncio.CancelledError:
            self.ended.append("async")
            raise

    async def stubborn(self) -> str:
        self.entered.release()
        try:
            await asyncio.sleep(LIMIT)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
        return "stayed"

    async def stubborn_at_length(self) -> list[str]:
        return [await self.stubborn()]

    def left(self) -> float | None:
        return deadlines.remaining()

    async def left_later(self) -> float | None:
        return deadlines.remaining()

    def hop(self, method: str) -> Any:
        assert self.link is not None
        return self.link.client.call(method).result(LIMIT)

    async def hop_later(self, method: str) -> Any:
        assert self.link is not None
        return await self.link.client.call(method)

    def mark(self) -> str:
        before = marker.get()
        marker.set("dirty")
        return before

    async def mark_later(self) -> str:
        before = marker.get()
        marker.set("dirty")
        return before

    def fail(self, kind: str) -> None:
        raise FAILURES[kind]()

    async def fail_later(self, kind: str) -> None:
        raise FAILURES[kind]()


FAILURES: dict[str, Callable[[], BaseException]] = {
    "value": lambda: ValueError("wrong", 3),
    "stop": lambda: StopIteration(4),
    "stop async": lambda: StopAsyncIteration(4),
    "exit": lambda: SystemExit(3),
    "interrupt": KeyboardInterrupt,
    "generator exit": GeneratorExit,
    "odd": lambda: OddError(7, why="because"),
    "group": lambda: ExceptionGroup("several", [ValueError(1), KeyError("k")]),
    "cancelled": asyncio.CancelledError,
    "payload": lambda: PayloadError("mine", path="x.y"),
    "usage": lambda: UsageError("mine"),
}


@pytest.fixture
def methods() -> Methods:
    return Methods()


@pytest.fixture
def link(methods: Methods) -> Iterator[Link]:
    with linked(M=methods) as link:
        methods.link = link
        yield link
        methods.gate.set()


# What comes back.


@pytest.mark.parametrize("method", ["M.plain", "M.later"])
def test_arguments_and_results_arrive(link: Link, method: str) -> None:
    assert link.call(method) == ((), {})
    assert link.call(method, 1, "zwei", [3.0], x=None) == ((1, "zwei", [3.0]), {"x": None})


@pytest.mark.parametrize("method", ["M.plain", "M.later"])
@pytest.mark.parametrize("size", [0, 65_535, 65_536, 70_000, 1_048_575, 1_048_576, 5_000_001])
def test_large_bytes_go_and_come_in_their_own_kind(link: Link, method: str, size: int) -> None:
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    args, kwargs = link.call(method, data, [data], x=bytearray(data))
    assert args == (data, [data])
    assert kwargs == {"x": data}
    assert type(args[0]) is bytes
    assert type(kwargs["x"]) is bytearray
    kwargs["x"] += b"it is the receiver's own"


def test_a_bytearray_may_be_resized_by_the_method_that_gets_it(link: Link) -> None:
    class Resizer:
        async def grow(self, data: bytearray) -> int:
            data += b"more"
            return len(data)

        def grow_plain(self, data: bytearray) -> int:
            data += b"more"
            return len(data)

    link.home.do(lambda: link.server.register("R", Resizer()))
    for size in (100_000, 2_000_000):
        for method in ("R.grow", "R.grow_plain"):
            assert link.call(method, bytearray(size)) == size + 4


def test_arrays_arrive_writable_whatever_their_size(link: Link) -> None:
    np = pytest.importorskip("numpy")
    for count in (3, 10_000, 300_000):
        array = np.arange(count, dtype="f8")
        (arrived,), _ = link.call("M.later", array)
        assert (arrived == array).all()
        arrived[0] = 7
        (nested,), _ = link.call("M.plain", {"a": [np.ones((count, 2), order="F")]})
        nested["a"][0][0, 1] = 2
    (strided,), _ = link.call("M.plain", np.arange(100_000)[::2])
    strided[0] = 1


def test_more_arrays_than_a_message_has_parts_arrive(link: Link) -> None:
    np = pytest.importorskip("numpy")
    one = np.zeros(8192)
    (arrived,), _ = link.call("M.plain", [one + number for number in range(4200)])
    assert [array[0] for array in arrived] == list(range(4200))


def test_static_class_and_decorated_methods_are_called(link: Link) -> None:
    assert link.call("M.static", 1) == 2
    assert link.call("M.of_class", 1) == ("Methods", 1)
    assert link.call("M.decorated", 5) == 5
    assert link.call("M.decorated_later", 6) == 6
    assert list(link.client.stream("M.decorated_many", (3,))) == [0, 1, 2]
    assert list(link.client.stream("M.decorated_many_later", (3,))) == [0, 1, 2]


def test_a_hundred_calls_at_once_are_each_answered(link: Link) -> None:
    calls = [link.client.call("M.later", (number,)) for number in range(100)]
    assert [call.result(LIMIT) for call in calls] == [((number,), {}) for number in range(100)]


def test_a_thousand_large_replies_at_once_arrive(link: Link) -> None:
    data = bytes(70_000)
    calls = [link.client.call("M.plain", (data,)) for _ in range(1000)]
    assert all(call.result(LIMIT) == ((data,), {}) for call in calls)


# What goes wrong.


@pytest.mark.parametrize("method", ["M.fail", "M.fail_later"])
@pytest.mark.parametrize("kind", FAILURES)
def test_what_a_method_raises_is_raised_here(link: Link, method: str, kind: str) -> None:
    with pytest.raises(Exception) as caught:
        link.call(method, kind)
    error = caught.value
    assert is_remote(error)
    if kind in ("value", "group", "payload", "usage"):
        assert type(error) is type(FAILURES[kind]())
    elif kind == "odd":
        assert isinstance(error, (OddError, RemoteError))
        assert "7" in str(error)
    elif kind == "cancelled":
        assert not isinstance(error, asyncio.CancelledError)
    elif kind == "stop" and method == "M.fail_later":
        assert isinstance(error, RuntimeError)  # as Python has it
    else:
        assert type(error) is RemoteError
        assert error.type_name.endswith(type(FAILURES[kind]()).__name__)
    assert link.call("M.plain", 1) == ((1,), {})


@pytest.mark.parametrize("method", ["M.fail", "M.fail_later"])
@pytest.mark.parametrize(
    ("exit_with", "code"), [(None, 0), (3, 3), ("words", 1), (True, 1), (1.5, 1)]
)
def test_a_system_exit_is_the_machines_end(
    link: Link, method: str, exit_with: Any, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FAILURES, "exit", lambda: SystemExit(exit_with))
    codes: list[int] = []
    link.server.on_exit = codes.append
    call = link.client.call(method, ("exit",))
    until(lambda: bool(codes))
    assert codes == [code]
    assert not call.done()  # the machine's end will be the answer
    link.server.on_exit = None
    assert call.cancel()
    link.home.do(lambda: [session.runs.clear() for session in link.server._sessions])


def test_what_is_not_there_is_said(link: Link) -> None:
    with pytest.raises(NoSuchServiceError, match="M"):
        link.call("Missing.plain")
    with pytest.raises(NoSuchServiceError):
        link.call(".plain")
    with pytest.raises(NoSuchServiceError, match=r'give "Service\.method"'):
        link.call("plain")
    with pytest.raises(NoSuchMethodError, match="missing"):
        link.call("M.missing")
    for name in ("M._hidden", "M.__init__", "M.__class__", "M._", "M."):
        with pytest.raises(NoSuchMethodError):
            link.call(name)
    with pytest.raises(NoSuchMethodError, match="begin with _"):
        link.call("M._hidden")


@pytest.mark.parametrize("name", ["Missing.plain", "M.missing", "M.lock", "plain", "M.many"])
def test_what_the_library_itself_refuses_shows_none_of_its_frames(link: Link, name: str) -> None:
    error = link.client.call(name).exception(LIMIT)
    while error is not None:
        assert "bigmachine/" not in "".join(getattr(error, "__notes__", ()))
        error = error.__cause__


def test_a_property_that_raises_fails_its_call_alone(link: Link) -> None:
    with pytest.raises(ValueError, match="not today"):
        link.call("M.moody")
    assert link.call("M.static", 1) == 2
    assert link.dialled == 1


def test_a_name_of_a_method_that_is_far_too_long_is_refused_here(link: Link) -> None:
    with pytest.raises(UsageError):
        link.call("M." + "x" * 100_000)
    assert link.call("M.static", 1) == 2


def test_generators_are_not_called_and_plain_methods_not_streamed(link: Link) -> None:
    for method in ("M.many", "M.many_later", "M.decorated_many", "M.decorated_many_later"):
        with pytest.raises(UsageError, match=r"stream\(\)"):
            link.call(method, 3)
    for method, args in (("M.static", (3,)), ("M.left_later", ())):
        with pytest.raises(UsageError, match=r"call\(\)"):
            next(link.client.stream(method, args))
    assert link.call("M.static", 1) == 2


def test_an_argument_that_cannot_be_sent_leaves_the_connection_usable(link: Link) -> None:
    with pytest.raises(PayloadError) as caught:
        link.call("M.plain", {"f": threading.Lock()})
    assert caught.value.path == "args[0]['f']"
    assert caught.value.method == "M.plain"
    assert not is_remote(caught.value)
    with pytest.raises(PayloadError) as caught:
        link.call("M.plain", 1, x=[threading.Lock()])
    assert caught.value.path == "kwargs['x'][0]"
    assert link.call("M.static", 1) == 2
    assert link.dialled == 1


def test_a_reply_that_cannot_be_sent_names_its_part(link: Link) -> None:
    with pytest.raises(PayloadError) as caught:
        link.call("M.lock")
    assert caught.value.path == "reply['f']"
    assert not is_remote(caught.value)
    assert link.call("M.static", 1) == 2


def test_a_reply_that_cannot_be_rebuilt_here_is_a_payload_error(link: Link) -> None:
    class Unbuildable:
        def __reduce__(self) -> Any:
            return int, ("not a number",)

    with pytest.raises(PayloadError, match="rebuilt"):
        link.call("M.plain", Unbuildable())
    link.home.do(
        lambda: link.server.register("U", type("U", (), {"get": lambda s: Unbuildable()})())
    )
    with pytest.raises(PayloadError, match="rebuilt"):
        link.call("U.get")
    assert link.call("M.static", 1) == 2


def test_a_wrong_call_says_so(link: Link) -> None:
    with pytest.raises(TypeError, match="positional"):
        link.call("M.static")
    with pytest.raises(TypeError, match="unexpected"):
        link.call("M.static", 1, y=1)


# Cancellation.


def test_cancelling_a_plain_call_tells_its_method(link: Link, methods: Methods) -> None:
    call = link.client.call("M.until_cancelled")
    assert methods.entered.acquire(timeout=LIMIT)
    assert call.cancel()
    with pytest.raises(cf.CancelledError):
        call.result(LIMIT)
    until(lambda: methods.ended == ["plain"])
    until(link.idle)


def test_cancelling_an_async_call_cancels_its_task(link: Link, methods: Methods) -> None:
    call = link.client.call("M.until_cancelled_later")
    assert methods.entered.acquire(timeout=LIMIT)
    call.cancel()
    until(lambda: methods.ended == ["async"])
    until(link.idle)


def test_cancelling_the_task_that_awaits_cancels_the_call(link: Link, methods: Methods) -> None:
    async def main() -> None:
        task = asyncio.ensure_future(_await(link.client.call("M.until_cancelled_later")))
        await asyncio.to_thread(methods.entered.acquire, True, LIMIT)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    until(lambda: methods.ended == ["async"])
    until(link.idle)


async def _await(future: Future[Any]) -> Any:
    return await future


@pytest.mark.parametrize("method", ["M.later", "M.plain", "M.until_cancelled_later"])
def test_a_call_that_is_cancelled_at_once_leaves_nothing(link: Link, method: str) -> None:
    link.call("M.static", 1)
    for _ in range(100):
        link.client.call(method).cancel()
    until(link.idle)
    assert link.call("M.static", 1) == 2


def test_calls_cancelled_while_the_connection_opens_are_never_sent() -> None:
    methods = Methods()
    link = Link({"M": methods})
    gate = threading.Event()
    connect = link.connect

    async def slow() -> Any:
        await asyncio.to_thread(gate.wait, LIMIT)
        return await connect()

    client = link.another(slow)
    calls = [client.call("M.until_cancelled") for _ in range(50)]
    streams = [client.stream("M.many", (3,)) for _ in range(50)]
    for call in calls:
        assert call.cancel()
    for stream in streams:
        stream.close()
    gate.set()
    assert client.call("M.static", (1,)).result(LIMIT) == 2
    assert methods.entered.acquire(blocking=False) is False
    assert link.server.stats.snapshot().keys() == {"M.static"}
    client.close()
    link.close()


def test_a_method_may_resist_its_cancellation(link: Link, methods: Methods) -> None:
    call = link.client.call("M.stubborn")
    methods.entered.acquire(timeout=LIMIT)
    call.cancel()
    until(link.idle)
    assert link.call("M.static", 1) == 2


def test_cancelling_while_the_argument_is_on_its_way_keeps_the_connection(link: Link) -> None:
    link.call("M.static", 1)
    data = bytes(20_000_000)
    for _ in range(10):
        call = link.client.call("M.later", (data,))
        call.cancel()
        assert link.call("M.static", 1) == 2
    until(link.idle)
    assert link.dialled == 1


def test_a_result_that_runs_out_of_time_does_not_cancel(link: Link, methods: Methods) -> None:
    call = link.client.call("M.hold")
    with pytest.raises(TimeoutError):
        call.result(0.01)
    assert not call.done()
    methods.gate.set()
    assert call.result(LIMIT) is False


def test_results_that_run_out_of_time_leave_nothing_behind(link: Link, methods: Methods) -> None:
    call = link.client.call("M.hold")
    for _ in range(20):
        with pytest.raises(TimeoutError):
            call.result(0.0001)
    assert not call._hooks
    methods.gate.set()
    assert call.result(LIMIT) is False


def test_the_death_of_the_caller_cancels_its_calls(link: Link, methods: Methods) -> None:
    other = link.another()
    calls = [other.call(name) for name in ("M.until_cancelled", "M.until_cancelled_later")]
    for _ in calls:
        assert methods.entered.acquire(timeout=LIMIT)
    mine = link.client.call("M.hold")
    assert methods.entered.acquire(timeout=LIMIT)
    other.close()
    until(lambda: sorted(methods.ended) == ["async", "plain"])
    methods.gate.set()
    assert mine.result(LIMIT) is False  # nobody else's
    for call in calls:
        with pytest.raises(TransportError):
            call.result(LIMIT)


# Deadlines.


@pytest.mark.parametrize("method", ["M.until_cancelled", "M.until_cancelled_later"])
def test_a_deadline_ends_the_call_on_both_sides(link: Link, methods: Methods, method: str) -> None:
    with deadlines.timeout(0.05):
        call = link.client.call(method)
    with pytest.raises(CallTimeoutError) as caught:
        call.result(LIMIT)
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.method == method
    until(lambda: len(methods.ended) == 1)
    until(link.idle)


def test_an_answer_that_came_in_time_counts_however_late_it_is_asked_for(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[Callable[[], object]] = []
    link.call("M.static", 1)
    link.call("M.static", 1)  # nobody reads from here on
    with monkeypatch.context() as patch, deadlines.timeout(LIMIT):
        patch.setattr(link.client._timers, "at", lambda when, end: ends.append(end))
        call = link.client.call("M.static", (1,))
    channel = link.client._channel
    assert channel is not None
    assert select.select([channel._sock], [], [], LIMIT)[0] or call.ended()
    link.away.do(ends[0])
    assert call.result(LIMIT) == 2


@pytest.mark.parametrize("method", ["M.until_cancelled_later", "M.hold"])
def test_a_deadline_that_the_machine_notices_first_is_a_timeout_all_the_same(
    link: Link, methods: Methods, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link.client._timers, "at", lambda when, action: _NeverFires())
    methods.gate.set()
    with deadlines.timeout(0.05):
        call = link.client.call(method)
        stream = link.client.stream("M.many", (10**9,))
    if method == "M.hold":
        call.result(LIMIT)
    else:
        with pytest.raises(CallTimeoutError):
            call.result(LIMIT)
    with pytest.raises(CallTimeoutError):
        for _ in stream:
            pass
    until(link.idle)


class _NeverFires:
    def cancel(self) -> None:
        pass


@pytest.mark.parametrize("method", ["until_cancelled", "stubborn", "stubborn_at_length"])
def test_what_a_method_returns_after_the_deadline_is_no_answer(
    link: Link, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link.client._timers, "at", lambda when, action: _NeverFires())
    with deadlines.timeout(0.05):
        call = link.client.call(f"M.{method}")
    with pytest.raises(CallTimeoutError):
        call.result(LIMIT)
    until(link.idle)


def test_a_deadline_that_is_over_already_calls_nothing(link: Link) -> None:
    with deadlines.timeout(0):
        with pytest.raises(CallTimeoutError):
            link.call("M.static", 1)
        with pytest.raises(CallTimeoutError):
            next(link.client.stream("M.many", (3,)))
    assert link.dialled == 0


def test_a_deadline_binds_over_hops(link: Link) -> None:
    assert link.call("M.left") is None
    with deadlines.timeout(5):
        for method in ("M.left", "M.left_later"):
            for way in ((method,), ("M.hop", method), ("M.hop_later", method)):
                left = link.call(*way)
                assert 4 < left <= 5
    assert link.call("M.left_later") is None


def test_a_deadline_ends_what_a_method_waits_for(link: Link, methods: Methods) -> None:
    for hop in ("M.hop", "M.hop_later"):
        with deadlines.timeout(0.1), pytest.raises(CallTimeoutError):
            link.call(hop, "M.until_cancelled_later")
    until(lambda: methods.ended == ["async"] * 2)
    until(link.idle)


# Side by side.


def test_ten_threads_and_ten_loops_call_at_once(link: Link) -> None:
    def from_thread(number: int) -> list[Any]:
        return [link.call("M.plain" if n % 2 else "M.later", number, n) for n in range(100)]

    def from_loop(number: int) -> list[Any]:
        async def main() -> list[Any]:
            calls = [
                link.client.call("M.plain" if n % 2 else "M.later", (number, n)) for n in range(50)
            ]
            first = await asyncio.gather(*calls)
            return first + [await link.client.call("M.later", (number, n)) for n in range(50, 100)]

        return asyncio.run(main())

    with cf.ThreadPoolExecutor(20) as pool:
        jobs = [pool.submit(from_thread, number) for number in range(10)]
        jobs += [pool.submit(from_loop, number) for number in range(10)]
        for index, job in enumerate(jobs):
            assert job.result(LIMIT) == [((index % 10, n), {}) for n in range(100)]
    assert link.dialled == 1


def test_loops_that_come_and_go_leave_no_answer_of_others_unread(link: Link) -> None:
    begin = threading.Barrier(8)

    def come_and_go(number: int) -> None:
        async def ask() -> Any:
            begin.wait(LIMIT)
            call = link.client.call("M.later", (number,))
            return await asyncio.wait_for(call, LIMIT)

        for _ in range(150):
            assert asyncio.run(ask()) == ((number,), {})

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads get in between wherever they can
    try:
        with cf.ThreadPoolExecutor(8) as pool:
            for job in [pool.submit(come_and_go, number) for number in range(8)]:
                job.result(LIMIT * 3)
    finally:
        sys.setswitchinterval(interval)
    assert link.dialled == 1


def _left_by_a_loop(link: Link, count: int) -> list[Future[Any]]:
    """Return calls of a loop that has ended, and that was the one who read the connection."""
    link.call("M.static", 1)

    async def main() -> list[Future[Any]]:
        calls = [link.client.call("M.hold") for _ in range(count)]
        await link.client.call("M.later")
        return calls

    return asyncio.run(main())


def test_a_call_of_a_loop_that_has_ended_is_awaited_in_another(
    link: Link, methods: Methods
) -> None:
    (call,) = _left_by_a_loop(link, 1)

    async def main() -> Any:
        task = asyncio.ensure_future(asyncio.wait_for(call, LIMIT))
        await asyncio.sleep(0)
        methods.gate.set()
        return await task

    assert asyncio.run(main()) is False


@pytest.mark.skipif(not watch.available, reason="the client's loop alone reads")
def test_calls_of_a_loop_that_has_ended_are_waited_for_in_threads(
    link: Link, methods: Methods
) -> None:
    first, second = _left_by_a_loop(link, 2)
    with cf.ThreadPoolExecutor(2) as pool:
        reads = pool.submit(first.exception, LIMIT)
        channel = link.client._channel
        assert channel is not None
        reader = channel.reader
        assert reader is not None
        until(lambda: reader.led)
        waits = pool.submit(second.result, LIMIT)
        until(lambda: any(hook.__name__ == "open_gate" for hook in second._hooks or ()))
        first.cancel()
        assert isinstance(reads.exception(LIMIT), cf.CancelledError)
        methods.gate.set()
        assert waits.result(LIMIT) is False


def test_who_waits_for_a_call_of_a_loop_depends_on_that_no_longer(
    link: Link, methods: Methods
) -> None:
    link.call("M.static", 1)
    called = threading.Event()

    async def main() -> Future[Any]:
        call = link.client.call("M.hold")
        call.add_done_callback(lambda _: called.set())
        await link.client.call("M.later")
        return call

    call = asyncio.run(main())
    methods.gate.set()
    assert called.wait(LIMIT)
    assert call.result(LIMIT) is False


def test_a_loop_that_ended_with_calls_to_send_holds_up_nobody_else(link: Link) -> None:
    link.call("M.static", 1)
    channel = link.client._channel
    assert channel is not None
    calls: list[Future[Any]] = []
    loop = asyncio.new_event_loop()

    def call_and_end() -> None:
        calls.extend(link.client.call("M.later", (number,)) for number in range(3))
        loop.stop()

    loop.call_soon(call_and_end)
    loop.run_forever()
    loop.close()
    assert [call.result(LIMIT) for call in calls] == [((number,), {}) for number in range(3)]
    until(lambda: not channel._guarded)

    async def elsewhere() -> Any:
        return await link.client.call("M.later", (3,))

    answer = asyncio.run_coroutine_threadsafe(elsewhere(), link.away.loop)
    assert answer.result(LIMIT) == ((3,), {})


def test_a_call_that_waits_for_its_turn_as_an_answer_arrives_is_sent(link: Link) -> None:
    link.call("M.static", 1)
    channel = link.client._channel
    assert channel is not None

    class Inbox(deque[Any]):
        def append(self, item: Any) -> None:
            super().append(item)
            setattr(channel, "_burst", 0)  # noqa: B010  as a thread that reads an answer just now

    channel._inbox = Inbox()

    async def elsewhere() -> list[Any]:
        return await asyncio.gather(*[link.client.call("M.later", (n,)) for n in range(2)])

    answer = asyncio.run_coroutine_threadsafe(elsewhere(), link.away.loop)
    assert answer.result(LIMIT) == [((number,), {}) for number in range(2)]


def test_a_loop_that_is_blocked_holds_up_nobody_else(link: Link) -> None:
    link.call("M.static", 1)

    async def main() -> None:
        first = link.client.call("M.later", (1,))

        async def elsewhere() -> Any:
            return await link.client.call("M.later", (2,))

        # This loop does not go on before a call from the client's own loop has been answered.
        answer = asyncio.run_coroutine_threadsafe(elsewhere(), link.away.loop)
        assert answer.result(LIMIT) == ((2,), {})
        assert await first == ((1,), {})

    asyncio.run(main())


def test_a_thousand_calls_that_wait_do_not_starve_an_async_one(link: Link) -> None:
    began = time.monotonic()
    waiting = [link.client.call("M.wait", (0.1,)) for _ in range(1000)]
    slowest = 0.0
    while not all(call.done() for call in waiting):
        asked = time.monotonic()
        link.call("M.later")
        slowest = max(slowest, time.monotonic() - asked)
    assert [call.result(LIMIT) for call in waiting] == [0.1] * 1000
    assert time.monotonic() - began < 5
    assert slowest < 1


def test_bulk_data_moves_beside_a_thread_that_computes(link: Link) -> None:
    """While it does the interpreter lock is asked for more often, and as usual afterwards."""
    usual, seen = sys.getswitchinterval(), set[float]()
    done = threading.Event()

    def compute() -> None:
        while not done.is_set():
            seen.add(round(sys.getswitchinterval(), 6))

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        data = bytes(20_000_000)
        assert link.call("M.plain", data)[0][0] == data
    finally:
        done.set()
        thread.join(LIMIT)
    assert SWITCH_SECONDS in seen
    until(lambda: sys.getswitchinterval() == usual)


def test_a_bulk_transfer_does_not_hold_up_small_calls(link: Link) -> None:
    data = bytes(100_000_000)
    bulk = link.client.call("M.later", (data,))
    times = []
    while not bulk.done():
        asked = time.monotonic()
        link.call("M.static", 1)
        times.append(time.monotonic() - asked)
    assert len(bulk.result(LIMIT)[0][0]) == len(data)
    assert len(times) > 10
    assert sorted(times)[len(times) // 2] < 0.05


@pytest.mark.parametrize("method", ["M.mark", "M.mark_later"])
def test_context_variables_do_not_leak_from_call_to_call(link: Link, method: str) -> None:
    token = marker.set("the caller's")
    try:
        assert {link.call(method) for _ in range(20)} == {"clean"}
    finally:
        marker.reset(token)


def test_waiting_on_the_machines_loop_is_a_usage_error(link: Link) -> None:
    class Waits:
        async def wait(self) -> Any:
            return link.client.call("M.static", (1,)).result(LIMIT)

    link.home.do(lambda: link.server.register("W", Waits()))
    with pytest.raises(UsageError, match="await") as caught:
        link.call("W.wait")
    (note,) = caught.value.__notes__
    assert "in wait\n    return link.client" in note
    assert "bigmachine/futures.py" not in note


def test_waiting_in_the_midst_of_reading_is_a_usage_error_and_calling_is_not(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a finalizer may do, which runs whenever something is collected."""
    take, made, raised = link.client.on_events, list[Future[Any]](), list[UsageError]()

    def on_events(events: list[Any]) -> None:
        if not made:
            made.append(link.client.call("M.static", (2,)))
            with pytest.raises(UsageError, match="in the midst of reading") as caught:
                made[0].result(LIMIT)
            raised.append(caught.value)
        take(events)

    def is_read_by_who_waits() -> bool:
        link.call("M.static", 0)
        channel = link.client._channel
        assert channel is not None
        assert channel.reader is not None
        return channel.reader.parked

    until(is_read_by_who_waits)
    monkeypatch.setattr(link.client, "on_events", on_events)
    assert link.call("M.static", 1) == 2
    assert made[0].result(LIMIT) == 3
    assert raised


def test_waiting_in_a_done_callback_is_a_usage_error_and_no_deadlock(
    link: Link, methods: Methods
) -> None:
    outcomes: list[Any] = []

    def then(_: Any) -> None:
        try:
            outcomes.append(link.client.call("M.later").result(LIMIT))
        except UsageError as error:
            outcomes.append(error)

    call = link.client.call("M.hold")
    call.add_done_callback(then)
    methods.gate.set()
    call.result(LIMIT)
    until(lambda: len(outcomes) == 1)
    assert isinstance(outcomes[0], UsageError)


def test_done_callbacks_run_on_the_clients_loop(link: Link) -> None:
    threads: list[str] = []
    for _ in range(20):
        call = link.client.call("M.later")
        call.add_done_callback(lambda _: threads.append(threading.current_thread().name))
        call.result(LIMIT)
    until(lambda: len(threads) == 20)
    assert set(threads) <= {"client", threading.current_thread().name}


@pytest.mark.parametrize("error", [SystemExit(1), asyncio.CancelledError()])
def test_the_exception_of_a_done_callback_is_logged_and_harms_nobody(
    link: Link, methods: Methods, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    def bad(_: Any) -> None:
        raise error

    call = link.client.call("M.hold")
    call.add_done_callback(bad)
    methods.gate.set()
    until(lambda: "a done-callback of" in caplog.text)
    assert call.done()
    assert link.call("M.static", 1) == 2
    assert link.dialled == 1
    error.__traceback__ = None
    caplog.clear()  # the frames of the traceback keep the link


@pytest.mark.skipif(not watch.available, reason="the client's loop alone reads")
def test_handlers_of_signals_call_while_their_thread_waits(link: Link, methods: Methods) -> None:
    main = threading.main_thread().ident
    assert main is not None
    answers: list[int] = []

    def handle(*_: object) -> None:
        answers.append(link.call("M.static", len(answers)))

    def waits() -> bool:
        return sys._current_frames()[main].f_code.co_name == "_read_on"

    def interrupt() -> None:
        for count in range(1, 4):
            until(waits)
            signal.pthread_kill(main, signal.SIGUSR2)
            until(lambda count=count: len(answers) == count)
        methods.gate.set()

    link.call("M.static", 1)
    call = link.client.call("M.hold")
    thread = threading.Thread(target=interrupt)
    before = signal.signal(signal.SIGUSR2, handle)
    try:
        thread.start()
        assert call.result(LIMIT) is False
        thread.join(LIMIT)
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert answers == [1, 2, 3]


# Figures.


@pytest.mark.parametrize("method", ["M.plain", "M.later", "M.static", "M.left_later"])
def test_calls_leave_no_garbage_on_the_machine(link: Link, method: str) -> None:
    args = (1,) if method == "M.static" else ()
    link.call(method, *args)
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            link.call(method, *args)
        until(lambda: sum(type(each) is Run for each in gc.get_objects()) <= 1)
    finally:
        gc.enable()


def test_calls_are_counted(link: Link) -> None:
    for _ in range(3):
        link.call("M.later")
    with pytest.raises(ValueError):
        link.call("M.fail", "value")
    stats = link.server.stats.snapshot()
    assert (stats["M.later"]["calls"], stats["M.later"]["failed"]) == (3, 0)
    assert (stats["M.fail"]["calls"], stats["M.fail"]["failed"]) == (1, 1)


def test_a_large_message_is_logged(
    link: Link, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bigmachine.rpc.transport._last_logged", -10.0)
    with caplog.at_level(logging.INFO, "bigmachine.rpc.transport"):
        link.call("M.later", bytes(70_000_000))
    assert any("large message" in record.message for record in caplog.records)


def test_running_calls_are_named(link: Link, methods: Methods) -> None:
    call = link.client.call("M.hold")
    methods.entered.acquire(timeout=LIMIT)
    assert link.home.do(link.server.running) == ["M.hold"]
    assert link.client.pending == ("M.hold",)
    methods.gate.set()
    call.result(LIMIT)
    until(link.idle)


def test_a_second_service_under_a_taken_name_is_refused(
    link: Link, caplog: pytest.LogCaptureFixture
) -> None:
    assert link.home.do(lambda: link.server.register("M", object())) is False
    assert "refused" in caplog.text
    with pytest.raises(UsageError):
        link.home.do(lambda: link.server.register("a.b", object()))


def test_closing_waits_for_running_calls_and_takes_no_new_ones(methods: Methods) -> None:
    with linked(M=methods) as link:
        running = link.client.call("M.hold")
        assert methods.entered.acquire(timeout=LIMIT)
        closing = asyncio.run_coroutine_threadsafe(link.server.close(LIMIT), link.home.loop)
        until(lambda: link.server.closing)
        late = link.client.call("M.static", (1,))  # is not answered: the connection's end says all
        methods.gate.set()
        assert running.result(LIMIT) is False
        closing.result(LIMIT)
        with pytest.raises(TransportError):
            late.result(LIMIT)


def test_closing_cancels_what_takes_too_long(methods: Methods) -> None:
    link = Link({"M": methods})
    running = [link.client.call("M.until_cancelled"), link.client.call("M.until_cancelled_later")]
    for _ in running:
        methods.entered.acquire(timeout=LIMIT)
    link.home.run(link.server.close(0.05))
    for call in running:
        with pytest.raises(TransportError):
            call.result(LIMIT)
    until(lambda: sorted(methods.ended) == ["async", "plain"])
    link.close()


@pytest.mark.skipif(sys.platform == "darwin", reason="the sizes of its buffers differ")
def test_calls_from_many_threads_keep_apart_under_fire(link: Link) -> None:
    def work(number: int) -> None:
        for n in range(60):
            size = (n * 7919 + number) % 200_000
            data = bytes([number]) * size
            call = link.client.call("M.plain" if n % 2 else "M.later", (data,))
            if n % 5 == 0:
                call.cancel()
            else:
                assert call.result(LIMIT)[0][0] == data

    with cf.ThreadPoolExecutor(8) as pool:
        for job in [pool.submit(work, number) for number in range(8)]:
            job.result(LIMIT * 2)
    until(link.idle)
    assert link.dialled == 1
