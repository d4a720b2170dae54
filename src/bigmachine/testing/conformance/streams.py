"""Conformance: streams, both ways."""

from __future__ import annotations

import asyncio
import io
import itertools
from collections.abc import Iterator

import bigmachine as bm
from bigmachine.testing.conformance.base import Conformance
from bigmachine.testing.conformance.services import Refusal, Worker


class StreamConformance(Conformance):
    """Generator methods, files, and streamed arguments."""

    def test_generator_methods_of_either_kind_are_streamed(self) -> None:
        machine = self.one()
        assert list(machine.stream(Worker.count, 5000)) == list(range(5000))
        assert list(machine.stream(Worker.count_async, 5000)) == list(range(5000))
        assert list(machine.stream("Worker.count", 0)) == []

    def test_a_stream_may_be_read_in_a_loop(self) -> None:
        machine = self.one()

        async def read() -> list[int]:
            return [number async for number in machine.stream(Worker.count_async, 3000)]

        assert asyncio.run(read()) == list(range(3000))

    def test_a_producer_ends_when_its_consumer_leaves(self) -> None:
        machine = self.two()[1]
        for method in (Worker.count, Worker.count_async):
            mark = f"{method.__name__} ended"
            ended = self.seen(machine, mark)
            with machine.stream(method, 10**9) as stream:
                assert list(itertools.islice(stream, 3)) == [0, 1, 2]
            self.wait_seen(machine, mark, ended + 1)

    def test_an_error_comes_after_the_items_before_it(self) -> None:
        found = []
        error: BaseException | None = None
        try:
            for number in self.one().stream(Worker.count_and_fail, 2500):
                found.append(number)  # noqa: PERF402  what came before the error counts
        except Refusal as refusal:
            error = refusal
        assert found == list(range(2500))
        assert error is not None
        assert bm.is_remote(error)

    def test_a_file_is_read_by_a_reader(self) -> None:
        size = 1_000_192
        with self.one().stream(Worker.open, size).reader() as reader:
            data = reader.read()
        assert data == bytes(range(256)) * (size // 256)

    def test_an_iterator_as_an_argument_is_streamed(self) -> None:
        machine = self.one()
        assert self.result(machine.call(Worker.total, iter(range(20_000)))) == sum(range(20_000))
        total = machine.call("Worker.total_async", (number for number in range(20_000)))
        assert self.result(total) == sum(range(20_000))

    def test_a_method_may_leave_a_streamed_argument(self) -> None:
        left: list[bool] = []

        def endless() -> Iterator[int]:
            try:
                yield from itertools.count(7)
            finally:
                left.append(True)

        assert self.result(self.one().call(Worker.first, endless())) == 7
        self.until(lambda: left, "the producer ends")

    def test_a_file_as_an_argument_is_streamed(self) -> None:
        file = io.BytesIO(b"x" * 3_000_000)
        assert self.result(self.one().call(Worker.size, file)) == 3_000_000

    def test_machines_stream_to_each_other(self) -> None:
        first, second = self.two()
        assert self.result(first.call(Worker.sum_of, second, 3000)) == sum(range(3000))

    def test_a_stream_has_a_deadline_too(self) -> None:
        with bm.timeout(0.3):
            stream = self.one().stream(Worker.count, 10**9)
        error: BaseException | None = None
        try:
            for _ in stream:
                continue
        except bm.CallTimeoutError as timeout:
            error = timeout
        assert error is not None
