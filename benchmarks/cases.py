"""What is measured, of any contestant: each case starts it, measures, and stops it again.

A case runs in a process of its own (``python -m benchmarks.contestant``), so that one library's
threads, memory and imports do not weigh on the next one's figures. What a bigmachine program does
before ``bm.start`` is done again for its machines, so this module imports little at its top.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.contestants.base import Contestant, MethodKind, Unsupported
from benchmarks.payloads import PayloadKind, make_payload
from benchmarks.timing import (
    Outcome,
    affordable,
    async_round_trips,
    quantile,
    round_trips,
    summary,
    throughput,
)

SLOW_SECONDS = 3.0
"""A large transfer that would take longer is measured with less."""
SPIN_SECONDS = 60.0
"""How long the worker computes beside a case: longer than the case takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """How much to measure."""

    duration: float = 1.0
    """Seconds for each series of small calls."""
    size_bytes: int = 100_000_000
    times: int = 7
    """Transfers in a series of large ones."""
    workers: int = 1
    kind: PayloadKind = "bytes"


Figures = dict[str, Outcome]
"""What a case found, by the figure's name."""

Case = Callable[[Contestant, Params], Figures]


@contextlib.contextmanager
def running(contestant: Contestant, workers: int = 1) -> Iterator[None]:
    """Start the contestant, and stop it whatever happens."""
    contestant.start(workers)
    try:
        yield
    finally:
        contestant.stop()


def import_time(contestant: Contestant, params: Params) -> Figures:
    """The import's time over bare Python's, in milliseconds; the two alternate."""
    times = max(5, params.times)
    bare, full = [], []
    for _ in range(times + 1):
        bare.append(seconds_of("pass"))
        full.append(seconds_of(contestant.statement))
    # The first pair is not counted: it may read the files from the disk.
    bare_median, full_median = (quantile(sorted(taken[1:]), 0.5) for taken in (bare, full))
    return {"import": {"value": (full_median - bare_median) * 1e3, "bare": bare_median * 1e3}}


def seconds_of(statement: str) -> float:
    """How long an interpreter takes to run this and end."""
    import subprocess

    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True, stdin=subprocess.DEVNULL)
    return time.perf_counter() - start


def start(contestant: Contestant, params: Params) -> Figures:
    """From nothing to an answer by each worker, the memory they hold, and to nothing again."""
    n = params.workers
    if n > contestant.max_workers:
        raise Unsupported
    began = time.perf_counter()
    contestant.start(n)
    figures: Figures = {f"start-{n}": {"value": time.perf_counter() - began}}
    try:
        figures[f"memory-{n}"] = memory(contestant, n)
    finally:
        began = time.perf_counter()
        contestant.stop()
        figures[f"shutdown-{n}"] = {"value": time.perf_counter() - began}
    return figures


def memory(contestant: Contestant, workers: int) -> Outcome:
    """Memory of the idle workers, in MB each; ``whole`` shares out what stands behind them too."""
    import psutil

    everything = [child.pid for child in psutil.Process().children(recursive=True)]
    whole = sum(map(pss_bytes, everything)) / workers / 1e6
    try:
        pids = contestant.pids()
    except Unsupported:
        return {"value": whole, "whole": whole}
    return {"value": sum(map(pss_bytes, pids)) / len(pids) / 1e6, "whole": whole}


def pss_bytes(pid: int) -> int:
    """A process's proportional set size: shared pages count as 1 / (processes that share them)."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))
    except ProcessLookupError:  # it ended between the listing and the reading
        return 0


def calls(kind: MethodKind) -> Case:
    """One small call at a time, waited for by a plain thread."""

    def measure(contestant: Contestant, params: Params) -> Figures:
        with running(contestant):
            taken = round_trips(lambda i: contestant.ping(i, kind), params.duration)
        return {f"call-{kind}": summary(taken)}

    return measure


def await_calls(contestant: Contestant, params: Params) -> Figures:
    """One small call at a time, awaited on the caller's own event loop."""
    import asyncio

    async def measure() -> list[float]:
        async with on_loop(contestant):
            return await async_round_trips(lambda i: contestant.aping(i, "async"), params.duration)

    with running(contestant):
        return {"call-await": summary(asyncio.run(measure()))}


def rate(kind: MethodKind) -> Case:
    """Small calls per second to one worker, 1,000 of them in flight."""

    def measure(contestant: Contestant, params: Params) -> Figures:
        with running(contestant):
            if type(contestant).aping is not Contestant.aping:
                import asyncio

                value = asyncio.run(rate_on_a_loop(contestant, kind, params.duration))
            else:
                value = rate_in_a_thread(contestant, kind, params.duration)
        return {f"rate-{kind}": {"value": value}}

    return measure


async def rate_on_a_loop(contestant: Contestant, kind: MethodKind, duration: float) -> float:
    """A thousand coroutines call as often as they can, on one event loop."""
    import asyncio

    done = 0

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await contestant.aping(done, kind)
            done += 1

    async with on_loop(contestant):
        for seconds in (duration / 4, duration):  # the first is for warming up
            done, began = 0, time.perf_counter()
            end = began + seconds
            await asyncio.gather(*(caller() for _ in range(contestant.in_flight)))
    return done / (time.perf_counter() - began)


def rate_in_a_thread(contestant: Contestant, kind: MethodKind, duration: float) -> float:
    """A thread keeps a thousand calls in flight, waiting for the oldest."""
    for seconds in (duration / 4, duration):
        waiting: deque[Callable[[], int]] = deque()
        done, began = 0, time.perf_counter()
        while time.perf_counter() < began + seconds:
            while len(waiting) < contestant.in_flight:
                waiting.append(contestant.submit(done, kind))
            for _ in range(contestant.in_flight // 10):
                waiting.popleft()()
                done += 1
        done += len(waiting)
        while waiting:
            waiting.popleft()()
    return done / (time.perf_counter() - began)


@contextlib.asynccontextmanager
async def on_loop(contestant: Contestant) -> Any:
    """Have the contestant ready for the running loop."""
    await contestant.open_loop()
    try:
        yield
    finally:
        await contestant.close_loop()


def transfer(contestant: Contestant, params: Params) -> Figures:
    """A large argument and a large reply, in GB/s; the payload's making is not counted."""
    kind, size = params.kind, params.size_bytes
    payload = make_payload(kind, size)
    with running(contestant):
        contestant.prepare(kind, 1)  # says whether this kind is supported
        size = affordable(lambda n: contestant.send(payload[:n]), size, SLOW_SECONDS)
        payload = payload[:size]
        contestant.prepare(kind, size)
        received = contestant.receive()
        if len(received) != size:
            raise RuntimeError(f"{size} bytes came back as {len(received)}")
        if type(received) is not type(payload):
            raise Unsupported  # Ray, for one, turns a bytearray into bytes
        del received
        return {
            f"argument-{kind}": throughput(lambda: contestant.send(payload), size, params.times),
            f"reply-{kind}": throughput(contestant.receive, size, params.times),
        }


def beside_computing(contestant: Contestant, params: Params) -> Figures:
    """Small calls and a large argument to a worker that computes in pure Python meanwhile."""
    payload, kind = make_payload("bytes", params.size_bytes), contestant.beside
    with running(contestant):
        contestant.ping(0, kind)
        contestant.spin(SPIN_SECONDS)
        time.sleep(0.5)  # no library tells when the method has begun
        began = time.perf_counter()
        taken = summary(
            round_trips(lambda i: contestant.ping(i, kind), 2 * params.duration, warm_up=5)
        )
        size = affordable(lambda n: contestant.send(payload[:n]), params.size_bytes, SLOW_SECONDS)
        payload = payload[:size]
        argument = throughput(lambda: contestant.send(payload), size, params.times)
        if time.perf_counter() - began > SPIN_SECONDS:
            raise RuntimeError("the worker stopped computing before the case was over")
    in_milliseconds = {"value": taken["value"] / 1e3, "p99": taken["p99"] / 1e3}
    return {
        "busy-call": in_milliseconds,
        "busy-argument": argument,
    }


def beside_bulk(contestant: Contestant, params: Params) -> Figures:
    """Small calls while large arguments are sent on the same connection: their p99, in ms."""
    payload, kind = make_payload("bytes", params.size_bytes), contestant.beside
    over, sent = threading.Event(), 0

    def send_all_the_time() -> None:
        nonlocal sent
        while not over.is_set():
            contestant.send(payload)
            sent += 1

    with running(contestant):
        contestant.ping(0, kind)
        sender = threading.Thread(target=send_all_the_time)
        sender.start()
        try:
            began = time.perf_counter()
            taken = summary(
                round_trips(lambda i: contestant.ping(i, kind), 3 * params.duration, warm_up=20)
            )
            seconds = time.perf_counter() - began
        finally:
            over.set()
            sender.join()
    return {
        "bulk-call": {
            "value": taken["p99"] / 1e3,
            "p50": taken["value"] / 1e3,
            "bulk_gb_per_second": sent * params.size_bytes / seconds / 1e9,
        }
    }


CASES: dict[str, Case] = {
    "import": import_time,
    "start": start,
    "call-async": calls("async"),
    "call-plain": calls("plain"),
    "call-await": await_calls,
    "rate-async": rate("async"),
    "rate-plain": rate("plain"),
    "transfer": transfer,
    "busy": beside_computing,
    "bulk-call": beside_bulk,
}
