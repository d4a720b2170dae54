"""Who reads a connection, and that nobody does once it is closed."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from bigmachine.futures import Future
from bigmachine.rpc import watch

pytestmark = pytest.mark.skipif(not watch.available, reason="there is no epoll here")


def with_reader(test: Callable[[watch.Reader, Any, watch.Watch], Any]) -> None:
    """Run a test with the reader of one end of a pair, the other end and the loop's watch."""

    async def main() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            loop = asyncio.get_running_loop()
            reader = watch.Reader(ours.fileno(), loop, lambda: None, turn=threading.RLock())
            await test(reader, theirs, watch.Watch.of(loop))

    asyncio.run(main())


def readers(of: watch.Watch) -> int:
    return len(of._readers)


def test_a_closed_connection_is_read_by_nobody_whatever_is_asked_afterwards() -> None:
    async def test(reader: watch.Reader, theirs: socket.socket, home: watch.Watch) -> None:
        assert readers(home) == 1
        reader.close()
        assert readers(home) == 0
        reader.read_in(None)
        reader.read_in(asyncio.get_running_loop())
        reader.lead(_never, Future(), 0.01, lambda: False)
        reader.close()
        assert readers(home) == 0
        assert reader.away is None

    with_reader(test)


def test_a_connection_that_is_closed_while_away_does_not_come_home() -> None:
    async def test(reader: watch.Reader, theirs: socket.socket, home: watch.Watch) -> None:
        def elsewhere() -> None:
            async def move() -> int:
                reader.read_in(asyncio.get_running_loop())
                assert reader.away is asyncio.get_running_loop()
                reader.close()
                return readers(watch.Watch.of(asyncio.get_running_loop()))

            assert asyncio.run(move()) == 0

        await asyncio.to_thread(elsewhere)
        reader.read_in(None)
        assert readers(home) == 0

    with_reader(test)


def test_closing_wakes_the_thread_that_reads() -> None:
    async def test(reader: watch.Reader, theirs: socket.socket, home: watch.Watch) -> None:
        future: Future[int] = Future()  # does not ring when it is done: only closing does
        waiting = asyncio.ensure_future(
            asyncio.to_thread(reader.lead, lambda: False, future, None, lambda: True)
        )
        while not reader._at_rest:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        future.resolve(1)
        reader.close()
        async with asyncio.timeout(10):
            await waiting
        assert not reader.led
        assert not reader.parked

    with_reader(test)


def _never() -> bool:
    raise AssertionError("a closed connection was read")


def test_a_call_made_by_a_finalizer_in_the_midst_of_a_move_brings_it_home(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test(reader: watch.Reader, theirs: socket.socket, home: watch.Watch) -> None:
        add = watch.Watch.add
        disturbed: list[bool] = []

        def disturb(self: watch.Watch, *args: Any, **kwargs: Any) -> None:
            if not disturbed:
                disturbed.append(True)
                reader.read_in(None)  # what a call does that another thread, or nobody, awaits
            add(self, *args, **kwargs)

        def elsewhere() -> int:
            async def move() -> int:
                loop = asyncio.get_running_loop()
                watch.Watch.of(loop)
                monkeypatch.setattr(watch.Watch, "add", disturb)
                reader.read_in(loop)
                return readers(watch.Watch.of(loop))

            return asyncio.run(move())

        left: list[int] = []
        thread = threading.Thread(target=lambda: left.append(elsewhere()), daemon=True)
        thread.start()
        await asyncio.to_thread(thread.join, 10)
        assert (disturbed, left) == ([True], [0])
        assert reader.away is None
        assert readers(home) == 1

    with_reader(test)
