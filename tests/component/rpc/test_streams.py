"""Streams in both directions: order, back-pressure, and every way to end."""

from __future__ import annotations

import asyncio
import gc
import io
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from linking import LIMIT, Link, linked, until

from bigmachine import futures
from bigmachine.errors import PayloadError, RemoteError, TransportError, UsageError, is_remote
from bigmachine.rpc.pending import Call
from bigmachine.wire import frames
from bigmachine.wire.sender import Sender

MIB = 1024 * 1024


class Streams:
    """Generators, files, and methods that read streams."""

    def __init__(self) -> None:
        self.made = 0
        self.ended: list[str] = []
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.file: Any = None

    def count(self, number: int, size: int = 0) -> Iterator[Any]:
        try:
            for index in range(number):
                self.made += 1
                yield bytes(size) if size else index
        finally:
            self.ended.append("plain")

    async def count_later(self, number: int, size: int = 0) -> AsyncIterator[Any]:
        try:
            for index in range(number):
                self.made += 1
                yield bytes(size) if size else index
        finally:
            self.ended.append("async")

    def slowly(self, number: int) -> Iterator[int]:
        assert self.gate.wait(LIMIT)
        yield from range(number)

    def fail_after(self, number: int) -> Iterator[int]:
        yield from range(number)
        raise ValueError("in mid-stream")

    async def fail_after_later(self, number: int) -> AsyncIterator[int]:
        for index in range(number):
            yield index
        raise ValueError("in mid-stream")

    def bad_item(self) -> Iterator[Any]:
        yield 1
        yield threading.Lock()

    def exit(self) -> Iterator[Any]:
        yield 1
        raise SystemExit(3)

    def open(self, data: bytes) -> Any:
        self.file = io.BytesIO(data)
        return self.file

    async def open_later(self, data: bytes) -> Any:
        return io.BytesIO(data)

    def listed(self) -> list[int]:
        return [1, 2, 3]

    def total(self, items: Any, *more: Any, **named: Any) -> Any:
        return sum(items), [sum(each) for each in more], {k: sum(v) for k, v in named.items()}

    async def total_later(self, items: Any) -> int:
        total = 0
        async for item in items:
            total += item
        return total

    def sizes(self, items: Any) -> int:
        return sum(len(item) for item in items)

    def read(self, file: Any) -> bytes:
        data: bytes = file.read()
        return data

    def kept(self, items: Any) -> Any:
        return [items]

    def lines(self, file: Any) -> list[Any]:
        return list(file)

    def first(self, items: Any) -> Any:
        return next(items)

    def ignore(self, items: Any) -> str:
        return "not read"

    def hold(self, items: Any) -> str:
        self.entered.release()
        self.gate.wait(LIMIT)
        return "held"

    def double(self, items: Any) -> Iterator[int]:
        for item in items:
            yield item * 2

    async def double_later(self, items: Any) -> AsyncIterator[int]:
        async for item in items:
            yield item * 2


@pytest.fixture
def streams() -> Streams:
    return Streams()


@pytest.fixture
def link(streams: Streams) -> Iterator[Link]:
    with linked(S=streams) as link:
        yield link
        streams.gate.set()


def in_loop(link: Link, method: str, *args: Any) -> list[Any]:
    async def main() -> list[Any]:
        return [item async for item in link.client.stream(method, args)]

    return asyncio.run(main())


# From the machine.


@pytest.mark.parametrize("method", ["S.count", "S.count_later"])
@pytest.mark.parametrize("number", [0, 1, 5, 499, 500, 1000, 1001, 5000])
def test_items_arrive_in_order(link: Link, method: str, number: int) -> None:
    assert list(link.client.stream(method, (number,))) == list(range(number))
    assert in_loop(link, method, number) == list(range(number))
    until(link.idle)


@pytest.mark.parametrize("method", ["S.count", "S.count_later"])
@pytest.mark.parametrize("size", [1, 1000, 65_536, 100_000, 524_288, 600_000, MIB, 3 * MIB])
def test_items_of_any_size_arrive(link: Link, method: str, size: int) -> None:
    number = max(5, 5 * MIB // size) if size > 1 else 3000
    assert {len(item) for item in link.client.stream(method, (number, size))} == {size}


@pytest.mark.parametrize("method", ["S.count", "S.count_later"])
@pytest.mark.parametrize("size", [0, 100, 1100, 100_000, 262_144, 600_000, MIB - 100])
def test_the_producer_is_never_further_ahead_than_promised(
    link: Link, streams: Streams, method: str, size: int
) -> None:
    stream = link.client.stream(method, (3000, size))
    most_items = most_bytes = 0
    for taken, _ in enumerate(stream, 1):
        if taken % 7 == 1 and taken < 60:
            link.call("S.listed")  # by then what was allowed has come
        ahead = streams.made - taken
        most_items = max(most_items, ahead)
        most_bytes = max(most_bytes, ahead * size)
        if taken == 500:
            break
    stream.close()
    assert most_items <= frames.WINDOW_ITEMS
    assert most_bytes <= frames.WINDOW_BYTES
    assert most_items > 0
    until(link.idle)


@pytest.mark.parametrize("method", ["S.count", "S.count_later"])
def test_a_producer_is_stopped_when_its_consumer_leaves(
    link: Link, streams: Streams, method: str
) -> None:
    with link.client.stream(method, (10**9,)) as stream:
        assert [next(stream) for _ in range(3)] == [0, 1, 2]
    until(lambda: len(streams.ended) == 1)
    assert list(stream) == []
    stream = link.client.stream(method, (10**9, 2 * MIB))
    next(stream)
    stream.close()
    stream.close()
    until(lambda: len(streams.ended) == 2)
    until(link.idle)
    assert link.call("S.listed") == [1, 2, 3]
    assert link.dialled == 1


def test_a_stream_that_is_dropped_stops_its_producer(link: Link, streams: Streams) -> None:
    stream = link.client.stream("S.count", (10**9,))
    next(stream)
    del stream
    gc.collect()
    until(lambda: streams.ended == ["plain"])
    until(link.idle)


@pytest.mark.parametrize("as_file", [False, True])
def test_a_stream_is_collected_wherever_a_thread_is_interrupted(
    link: Link, streams: Streams, as_file: bool
) -> None:
    def drop() -> None:
        stream = link.client.stream("S.count", (10**9, 10))
        next(stream)
        cycle: list[Any] = [stream.reader() if as_file else stream]
        cycle.append(cycle)

    def collect() -> None:
        channel = link.client._channel
        assert channel is not None
        with futures._lock, link.timers._lock, channel._lock:
            gc.collect()

    link.call("S.listed")
    gc.disable()
    try:
        drop()
        thread = threading.Thread(target=collect, daemon=True)
        thread.start()
        thread.join(LIMIT)
        assert not thread.is_alive()
    finally:
        gc.enable()
    until(lambda: streams.ended == ["plain"])
    until(link.idle)


def test_leaving_an_async_with_stops_the_producer(link: Link, streams: Streams) -> None:
    async def main() -> None:
        async with link.client.stream("S.count_later", (10**9,)) as stream:
            assert await anext(stream) == 0

    asyncio.run(main())
    until(lambda: streams.ended == ["async"])
    until(link.idle)


@pytest.mark.parametrize("method", ["S.fail_after", "S.fail_after_later"])
@pytest.mark.parametrize("number", [0, 1, 3000])
def test_an_error_in_mid_stream_arrives_after_the_items_before_it(
    link: Link, method: str, number: int
) -> None:
    stream = link.client.stream(method, (number,))
    got = [next(stream) for _ in range(number)]
    with pytest.raises(ValueError, match="mid-stream") as caught:
        next(stream)
    assert is_remote(caught.value)
    assert got == list(range(number))


def test_an_item_that_cannot_be_sent_ends_the_stream(link: Link) -> None:
    stream = link.client.stream("S.bad_item")
    assert next(stream) == 1
    with pytest.raises(PayloadError):
        next(stream)
    until(link.idle)


def test_a_system_exit_in_a_generator_without_a_machine_is_a_remote_error(link: Link) -> None:
    stream = link.client.stream("S.exit")
    assert next(stream) == 1
    with pytest.raises(RemoteError):
        next(stream)


def test_a_dead_producer_ends_the_stream_with_an_error(link: Link) -> None:
    stream = link.client.stream("S.count", (10**9,))
    next(stream)
    link.cut()
    with pytest.raises(TransportError):
        for _ in stream:
            pass


@pytest.mark.parametrize("method", ["S.open", "S.open_later"])
@pytest.mark.parametrize("size", [0, 10, 262_144, 3_000_001])
def test_a_file_is_streamed_and_read_as_a_file(link: Link, method: str, size: int) -> None:
    data = bytes(range(251)) * (size // 251) + b"x" * (size % 251)
    assert b"".join(link.client.stream(method, (data,))) == data
    with link.client.stream(method, (data,)).reader() as reader:
        assert reader.read(5) == data[:5]
        assert reader.read() == data[5:]


def test_a_file_is_closed_when_its_reader_leaves(link: Link, streams: Streams) -> None:
    with link.client.stream("S.open", (bytes(50 * MIB),)).reader() as reader:
        reader.read(1)
    until(lambda: streams.file.closed)
    until(link.idle)


def test_a_reader_of_what_is_no_bytes_says_so(link: Link) -> None:
    with link.client.stream("S.count", (3,)).reader() as reader, pytest.raises(UsageError):
        reader.read()


def test_a_consumer_that_waits_with_a_limit_goes_on_where_it_was(
    link: Link, streams: Streams
) -> None:
    async def main() -> list[int]:
        stream = link.client.stream("S.slowly", (3,))
        got = []
        while len(got) < 3:
            try:
                got.append(await asyncio.wait_for(anext(stream), 0.005))
            except TimeoutError:
                streams.gate.set()
        return got

    assert asyncio.run(main()) == [0, 1, 2]
    until(link.idle)


# To the machine.


def test_iterators_generators_and_async_iterators_are_arguments(link: Link) -> None:
    assert link.call("S.total", iter([1, 2, 3])) == (6, [], {})
    assert link.call("S.total", (n for n in range(2000)), iter([1]), iter([]), x=iter([5])) == (
        1999000,
        [1, 0],
        {"x": 5},
    )
    assert link.call("S.total_later", iter(range(3000))) == sum(range(3000))

    async def numbers() -> AsyncIterator[int]:
        for number in range(3000):
            yield number

    async def main() -> Any:
        return await link.client.call("S.total", (numbers(),))

    assert asyncio.run(main()) == (sum(range(3000)), [], {})
    assert link.call("S.total", numbers())[0] == sum(range(3000))
    until(link.idle)


def test_files_are_arguments(link: Link, tmp_path: Any) -> None:
    data = bytes(range(256)) * 5000
    path = tmp_path / "data"
    path.write_bytes(data)
    with path.open("rb") as file:
        assert link.call("S.read", file) == data
    assert link.call("S.read", io.BytesIO(b"")) == b""
    assert link.call("S.lines", io.BytesIO(b"a\nb\n")) == [b"a\n", b"b\n"]
    assert link.call("S.lines", io.StringIO("a\nb\n")) == ["a\n", "b\n"]


@pytest.mark.parametrize("method", ["S.double", "S.double_later"])
def test_streams_go_both_ways_at_once(link: Link, method: str) -> None:
    assert list(link.client.stream(method, (iter(range(5000)),))) == list(range(0, 10_000, 2))


def test_a_stream_of_one_call_is_an_argument_of_another(link: Link) -> None:
    source = link.client.stream("S.count", (3000,))
    assert link.call("S.total", source)[0] == sum(range(3000))


def test_a_stream_inside_an_answer_is_refused_in_words(link: Link) -> None:
    with pytest.raises(PayloadError, match="stream cannot be sent inside another value") as caught:
        link.call("S.kept", iter([1, 2]))
    assert caught.value.path == "reply[0]"


def test_a_text_file_that_is_read_as_a_file_says_how_to_open_it(link: Link, tmp_path: Any) -> None:
    (tmp_path / "f").write_text("a\nb\n", "utf-8")
    with (
        (tmp_path / "f").open(encoding="utf-8") as file,
        pytest.raises(AttributeError, match=r"'read': .* binary mode \('rb'\)"),
    ):
        link.call("S.read", file)
    with (tmp_path / "f").open(encoding="utf-8") as file:
        assert link.call("S.lines", file) == ["a\n", "b\n"]
    with pytest.raises(AttributeError, match=r"^'Stream' object has no attribute 'size'$"):
        link.client.stream("S.many", (1,)).size  # type: ignore[attr-defined]  # noqa: B018


def test_an_iterator_that_raises_raises_in_its_method(link: Link) -> None:
    def broken(error: BaseException) -> Iterator[int]:
        yield 1
        raise error

    with pytest.raises(KeyError):
        link.call("S.total", broken(KeyError("k")))
    with pytest.raises(RemoteError):
        link.call("S.total", broken(SystemExit(3)))
    with pytest.raises(PayloadError):
        link.call("S.total", iter([threading.Lock()]))
    until(link.idle)
    assert link.call("S.listed") == [1, 2, 3]


@pytest.mark.parametrize("method", ["S.first", "S.ignore"])
def test_the_pump_of_what_is_not_read_to_its_end_stops(link: Link, method: str) -> None:
    closed = threading.Event()

    def endless() -> Iterator[bytes]:
        try:
            while True:
                yield bytes(1000)
        finally:
            closed.set()

    link.call(method, endless())
    assert closed.wait(LIMIT)
    until(link.idle)


def test_the_pump_is_never_further_ahead_than_promised(link: Link, streams: Streams) -> None:
    made = 0

    def counted(size: int) -> Iterator[bytes]:
        nonlocal made
        while True:
            made += 1
            yield bytes(size)

    for size, most in ((1, 1000), (100_000, 10), (MIB - 100, 1)):
        made = 0
        call = link.client.call("S.hold", (counted(size),))
        assert streams.entered.acquire(timeout=LIMIT)
        link.call("S.listed")
        assert made <= most
        call.cancel()
        streams.gate.set()
        until(link.idle)
        streams.gate.clear()


def test_cancelling_a_call_stops_its_pumps(link: Link, streams: Streams) -> None:
    begun, closed = threading.Event(), threading.Event()

    def endless() -> Iterator[bytes]:
        try:
            while True:
                begun.set()
                yield bytes(2 * MIB)
        finally:
            closed.set()

    call = link.client.call("S.sizes", (endless(),))
    assert begun.wait(LIMIT)
    call.cancel()
    assert closed.wait(LIMIT)
    until(link.idle)
    assert link.call("S.listed") == [1, 2, 3]
    assert link.dialled == 1


def test_a_call_that_ends_while_its_last_bytes_are_written_starts_no_pump(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Call] = []
    end_turn = Sender._end_turn

    def cancel_and_end(sender: Sender, outgoing: Any) -> None:
        until(lambda: len(calls) == 1)
        (feed,) = calls[0].feeds or []
        if not feed._stopped:
            threading.Thread(target=calls[0].cancel).start()  # it waits for its turn to send
            until(lambda: feed._stopped)
        end_turn(sender, outgoing)

    with monkeypatch.context() as patch:
        patch.setattr(Sender, "_end_turn", cancel_and_end)
        call = link.client.call("S.total", (iter([1]), bytes(3 * MIB)))
        assert isinstance(call, Call)
        calls.append(call)
        assert link.call("S.listed") == [1, 2, 3]
        until(link.idle)


def test_an_iterator_of_a_loop_that_has_ended_holds_up_nobody(link: Link) -> None:
    gate = threading.Event()

    async def connect() -> Any:
        await asyncio.to_thread(gate.wait, LIMIT)
        return await link.connect()

    async def numbers() -> AsyncIterator[int]:
        yield 1

    async def main() -> Any:
        return client.call("S.total_later", (numbers(),))

    client = link.another(connect)
    call = asyncio.run(main())
    other = client.call("S.listed")
    gate.set()
    assert other.result(LIMIT) == [1, 2, 3]
    with pytest.raises(RuntimeError, match="closed"):
        call.result(LIMIT)
    client.close()


def test_a_method_that_reads_a_cut_stream_is_freed(link: Link) -> None:
    other = link.another()
    started = threading.Event()
    release = threading.Event()

    def slow() -> Iterator[int]:
        yield 1
        started.set()
        release.wait(LIMIT)

    call = other.call("S.total", (slow(),))
    assert started.wait(LIMIT)
    other.close()
    until(link.idle)
    release.set()
    with pytest.raises(TransportError):
        call.result(LIMIT)


@pytest.mark.parametrize("method", ["S.count", "S.count_later"])
def test_a_long_stream_holds_up_nobody(link: Link, method: str) -> None:
    stream = link.client.stream(method, (200, MIB))
    for _ in stream:
        assert link.call("S.listed") == [1, 2, 3]


def test_many_streams_at_once(link: Link) -> None:
    streams = [
        link.client.stream("S.count" if n % 2 else "S.count_later", (1500,)) for n in range(30)
    ]
    results = [list(stream) for stream in streams]
    assert results == [list(range(1500))] * 30
    until(link.idle)
