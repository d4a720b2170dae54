"""Credit: how far a producer may be ahead, and that it never stands still for ever."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigmachine.rpc import codec
from bigmachine.rpc.streams import Inlet, Outlet, Stream, StreamClosedError
from bigmachine.wire import frames

MIB = 1024 * 1024


class Wire:
    """Stands where a connection would be, between an outlet and an inlet."""

    def __init__(self) -> None:
        self.under_way: list[codec.Payload] = []
        self.aborted = 0
        self.outlet = Outlet(self, 1, 0)  # type: ignore[arg-type]
        self.left = 0
        self.inlet = Inlet(grant=self.outlet.credit, leave=self.leave)

    def send_message(self, kind: int, key: Any, head: bytes, payload: codec.Payload) -> None:
        assert kind == frames.ITEM
        self.under_way.append(payload)

    def abort(self, key: Any) -> bool:
        self.aborted += 1
        return False

    def leave(self) -> None:
        self.left += 1
        self.outlet.close()

    def deliver(self) -> None:
        for payload in self.under_way:
            buffers = [view for view, _ in payload.buffers]
            self.inlet.receive(partial(codec.decode, payload.body, buffers), payload.size_bytes)
        self.under_way.clear()

    def make(self, size: int) -> bool:
        """Send an item if there is room for it."""
        if self.outlet.room() is not None:
            return False
        self.outlet._send(codec.encode(codec.bulk(bytes(size))))
        return True


SIZES = st.sampled_from([0, 1, 1000, 65_536, 262_144, 524_288, 600_000, MIB, 3 * MIB])


@settings(max_examples=60, deadline=None)
@given(st.lists(SIZES, min_size=1, max_size=40), st.integers(1, 30))
def test_a_consumer_that_takes_everything_gets_everything(sizes: list[int], at_once: int) -> None:
    wire = Wire()
    waiting = [size for size in sizes for _ in range(30)][:400]
    total, taken = len(waiting), 0
    while taken < total:
        made = 0
        while waiting and wire.make(waiting[0]):
            waiting.pop(0)
            made += 1
        assert wire.outlet._items <= frames.WINDOW_ITEMS
        wire.deliver()
        got = 0
        while got < at_once and wire.inlet.take() is not None:
            got += 1
        taken += got
        assert made or got, "both stand still"


@pytest.mark.parametrize(
    ("size", "most"), [(0, 1000), (900, 1000), (100_000, 10), (262_100, 4), (600_000, 1), (MIB, 1)]
)
def test_nobody_is_further_ahead_than_a_thousand_items_or_a_mebibyte(size: int, most: int) -> None:
    wire = Wire()
    made = 0
    while wire.make(size):
        made += 1
    assert made == most


def test_credit_wakes_who_waits_for_room() -> None:
    wire = Wire()
    while wire.make(MIB):
        continue
    room = wire.outlet.room()
    assert room is not None
    assert wire.outlet.room() is room
    wire.outlet.credit(0, 0)
    assert room.done()
    assert wire.outlet.room() is not None
    wire.outlet.credit(2**32 - 1, 2**32 - 1)
    assert wire.outlet.room() is None


def test_leaving_wakes_the_producer_which_is_told_once() -> None:
    wire = Wire()
    while wire.make(MIB):
        continue
    room = wire.outlet.room()
    wire.deliver()
    wire.inlet.close()
    wire.inlet.close()
    assert wire.left == 1
    assert room is not None
    assert room.done()
    assert wire.outlet.closed
    with pytest.raises(StreamClosedError):
        wire.outlet.room()
    with pytest.raises(StreamClosedError):
        wire.outlet.put(1)
    assert wire.under_way == []


def test_what_came_before_the_end_is_taken_first() -> None:
    inlet = Inlet()
    inlet.put(lambda: 1, 1)
    inlet.end(ValueError("v"))
    inlet.put(lambda: 2, 1)
    inlet.end()
    stream: Stream[int] = Stream(inlet)
    assert next(stream) == 1
    for _ in range(2):
        with pytest.raises(ValueError, match="v"):
            next(stream)


def test_a_wait_ends_with_whatever_happens() -> None:
    for happen in (
        lambda inlet: inlet.put(lambda: 1, 1),
        lambda inlet: inlet.end(),
        lambda inlet: inlet.close(),
    ):
        inlet = Inlet()
        waiting = inlet.wait()
        assert not waiting.done()
        assert inlet.wait() is waiting
        happen(inlet)
        assert waiting.done()
        assert inlet.wait().done()


def test_a_wait_that_is_cancelled_harms_neither_the_next_nor_that_of_others() -> None:
    async def main() -> None:
        inlet = Inlet()
        stream: Stream[int] = Stream(inlet)
        other = asyncio.create_task(anext(stream))
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(stream), 0.001)
        hooks = inlet.wait()._hooks
        assert hooks is not None
        assert len(hooks) == 1  # the other's
        inlet.put(lambda: 1, 1)
        assert await other == 1
        mine = asyncio.create_task(anext(stream))
        await asyncio.sleep(0)
        inlet.put(lambda: 2, 1)
        assert await mine == 2

    asyncio.run(main())


def test_a_wait_for_room_that_is_cancelled_does_not_harm_the_next() -> None:
    async def main() -> None:
        wire = Wire()
        while wire.make(MIB):
            continue
        for _ in range(2):
            room = wire.outlet.room()
            assert room is not None
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(room, 0.001)

    asyncio.run(main())


def test_a_reader_joins_what_comes_in_pieces() -> None:
    inlet = Inlet()
    for piece in (b"ab", b"", bytearray(b"c"), b"defgh\nij"):
        inlet.put(lambda piece=piece: piece, len(piece))
    inlet.end()
    reader = Stream(inlet).reader()
    assert reader.read(4) == b"abcd"
    assert reader.readline() == b"efgh\n"
    assert reader.read() == b"ij"
    assert reader.read() == b""
