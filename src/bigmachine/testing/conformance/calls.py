"""Conformance: calls of all kinds, from everywhere, with deadlines and cancellation."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import bigmachine as bm
from bigmachine.testing.conformance.base import Conformance, raised
from bigmachine.testing.conformance.services import Worker


class CallConformance(Conformance):
    """Calls, deadlines, cancellation, map."""

    def test_a_method_is_named_by_its_function_a_text_or_a_proxy(self) -> None:
        machine = self.one()
        assert self.result(machine.call(Worker.same, 1)) == 1
        assert self.result(machine.call("Worker.same", 2)) == 2
        assert self.result(machine.service(Worker).same(3)) == 3
        assert self.result(machine.service("Worker").same_async(4)) == 4

    def test_plain_and_async_methods_answer(self) -> None:
        machine = self.one()
        assert self.result(machine.call(Worker.same, {"a": [1, None]})) == {"a": [1, None]}
        assert self.result(machine.call(Worker.same_async, (1, "x"))) == (1, "x")

    def test_arguments_arrive_by_position_and_by_name(self) -> None:
        found = self.result(self.one().call(Worker.named, 1, 2, 3, last=4))
        assert found == (1, (2, 3), 4)

    def test_large_payloads_arrive_whole(self) -> None:
        payload = bytes(range(256)) * 20_000
        found = self.result(self.one().call(Worker.same, bytearray(payload)))
        assert found == payload

    def test_every_machine_of_several_may_be_called(self) -> None:
        calls = self.two().call(Worker.same, 5)
        assert [self.result(call) for call in calls] == [5, 5]

    def test_many_calls_are_under_way_at_once(self) -> None:
        machine = self.one()
        calls = [machine.call(Worker.same_async, number) for number in range(500)]
        calls += [machine.call(Worker.same, number) for number in range(500)]
        assert [self.result(call) for call in calls] == [*range(500), *range(500)]

    def test_plain_methods_that_wait_do_not_hold_up_others(self) -> None:
        machine = self.one()
        naps = [machine.call(Worker.nap, 0.5) for _ in range(50)]
        start = time.monotonic()
        assert self.result(machine.call(Worker.same_async, 1)) == 1
        assert time.monotonic() - start < 0.5
        assert [self.result(nap) for nap in naps] == [0.5] * 50
        assert time.monotonic() - start < 10

    def test_futures_may_be_awaited_in_any_loop(self) -> None:
        machine = self.one()

        async def ask() -> list[int]:
            calls = [machine.call(Worker.same_async, number) for number in range(20)]
            async with asyncio.timeout(self.limit_seconds):
                return list(await asyncio.gather(*calls))

        assert asyncio.run(ask()) == list(range(20))
        assert asyncio.run(ask()) == list(range(20))

    def test_machines_may_be_used_from_many_threads_and_loops_at_once(self) -> None:
        machine = self.one()
        found: list[int] = []

        def plainly(base: int) -> None:
            found.extend(self.result(machine.call(Worker.same, base + n)) for n in range(20))

        def in_a_loop(base: int) -> None:
            async def ask() -> None:
                calls = (machine.call(Worker.same_async, base + number) for number in range(20))
                found.extend([await call for call in calls])

            asyncio.run(ask())

        threads = [threading.Thread(target=plainly, args=(100 * n,)) for n in range(10)]
        threads += [threading.Thread(target=in_a_loop, args=(100 * n,)) for n in range(10, 20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(self.limit_seconds)
        assert sorted(found) == sorted(100 * n + k for n in range(20) for k in range(20))

    def test_a_result_that_is_not_there_in_time_may_be_asked_for_again(self) -> None:
        call = self.one().call(Worker.nap, 0.3)
        raised(TimeoutError, lambda: call.result(0.01))
        assert self.result(call) == 0.3

    def test_cancelling_a_future_cancels_the_method(self) -> None:
        machine = self.two()[1]
        for method in (Worker.wait, Worker.wait_async):
            name = method.__name__
            begun, ended = (self.seen(machine, f"{name} {what}") for what in ("begun", "cancelled"))
            call: bm.Future[Any] = machine.call(method)
            self.wait_seen(machine, f"{name} begun", begun + 1)
            assert call.cancel()
            self.wait_seen(machine, f"{name} cancelled", ended + 1)

    def test_cancelling_the_task_that_awaits_cancels_the_method(self) -> None:
        machine = self.two()[1]
        begun, ended = (self.seen(machine, f"wait_async {s}") for s in ("begun", "cancelled"))

        async def give_up() -> None:
            task = asyncio.ensure_future(_awaited(machine))
            while True:
                seen = await machine.call(Worker.seen_so_far)
                if seen.count("wait_async begun") > begun:
                    break
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert task.cancelled()

        asyncio.run(give_up())
        self.wait_seen(machine, "wait_async cancelled", ended + 1)

    def test_a_deadline_ends_calls_and_tells_the_method(self) -> None:
        machine = self.two()[1]
        ended = self.seen(machine, "wait cancelled")
        start = time.monotonic()
        with bm.timeout(0.3):
            call = machine.call(Worker.wait)
        error = self.error(call, bm.CallTimeoutError)
        assert time.monotonic() - start < 5
        assert isinstance(error, TimeoutError)
        self.wait_seen(machine, "wait cancelled", ended + 1)

    def test_a_deadline_that_is_not_reached_changes_nothing(self) -> None:
        with bm.timeout(self.limit_seconds):
            assert self.result(self.one().call(Worker.same, 1)) == 1

    def test_a_deadline_binds_calls_over_every_hop(self) -> None:
        first, second = self.two()
        ended = self.seen(second, "wait cancelled")
        start = time.monotonic()
        with bm.timeout(0.5):
            call = first.call(Worker.pass_on, [second, first, second], -1)
        self.error(call, bm.CallTimeoutError)
        assert time.monotonic() - start < 5
        self.wait_seen(second, "wait cancelled", ended + 1)

    def test_map_brings_the_results_in_order(self) -> None:
        found = list(self.two().map(Worker.same, range(1000)))
        assert found == list(range(1000))

    def test_map_may_bring_them_as_they_are_ready(self) -> None:
        found = list(self.two().map(Worker.same, range(300), ordered=False))
        assert sorted(found) == list(range(300))

    def test_retry_call_is_a_call_where_nothing_fails(self) -> None:
        assert self.result(self.one().retry_call(Worker.same, 1)) == 1

    def test_no_call_runs_twice(self) -> None:
        machine = self.one()
        calls = [machine.call(Worker.note, 10_000 + number) for number in range(300)]
        assert [self.result(call) for call in calls] == [1] * 300


async def _awaited(machine: bm.Machine) -> None:
    await machine.call(Worker.wait_async)
