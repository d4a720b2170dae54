"""The services that the conformance suite runs on machines, and the errors they raise."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import bigmachine as bm

_NAP_SECONDS = 0.002


class Refusal(Exception):
    """An application's error, with arguments of its own."""

    def __init__(self, code: int, *, why: str) -> None:
        super().__init__(f"refused with {code}: {why}")
        self.code = code
        self.why = why

    def __reduce__(self) -> tuple[Any, ...]:
        return _refusal, (self.code, self.why)


def _refusal(code: int, why: str) -> Refusal:
    return Refusal(code, why=why)


class Stubborn(Exception):
    """An error that cannot be rebuilt: it holds a lock."""

    def __init__(self) -> None:
        super().__init__("I do not travel")
        self.lock = threading.Lock()


class Worker:
    """Methods of all four kinds. ``seen`` notes what happened to the calls that wait."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.runs: dict[int, int] = {}
        self.lock: Any = None

    def init(self, cluster: bm.Cluster) -> None:
        """Remember the cluster, which cannot be pickled."""
        self.cluster = cluster
        self.lock = threading.Lock()

    # Answers.

    def same(self, value: Any) -> Any:
        """Return the argument."""
        return value

    async def same_async(self, value: Any) -> Any:
        """Return the argument."""
        return value

    def named(self, first: int, *rest: int, last: int = 0) -> tuple[int, tuple[int, ...], int]:
        """Return the arguments as they came."""
        return first, rest, last

    def note(self, number: int) -> int:
        """Count the runs for a number."""
        with self.lock:
            self.runs[number] = self.runs.get(number, 0) + 1
            return self.runs[number]

    def noted(self) -> dict[int, int]:
        """Return the counts."""
        return dict(self.runs)

    async def seen_so_far(self) -> list[str]:
        """Return what happened to calls that waited."""
        return list(self.seen)

    def home(self) -> tuple[bool, bool, str]:
        """Return what the machine knows of itself."""
        current = bm.current()
        return bm.is_driver(), current.cluster is self.cluster, current.machine.addr

    def getenv(self, name: str) -> str | None:
        """Return an environment variable."""
        return os.environ.get(name)

    def getpid(self) -> int:
        """Return the machine's process."""
        return os.getpid()

    def print(self, text: str, stream: str = "stdout") -> None:
        """Write to a stream of the machine."""
        print(text, file=getattr(sys, stream), flush=True)

    # Streams.

    def count(self, n: int) -> Iterator[int]:
        """Yield 0 to n - 1."""
        try:
            yield from range(n)
        finally:
            self.seen.append("count ended")

    async def count_async(self, n: int) -> AsyncIterator[int]:
        """Yield 0 to n - 1."""
        try:
            for number in range(n):
                yield number
        finally:
            self.seen.append("count_async ended")

    def count_and_fail(self, n: int) -> Iterator[int]:
        """Yield 0 to n - 1, then raise."""
        yield from range(n)
        raise Refusal(n, why="enough")

    def open(self, size: int) -> BinaryIO:
        """Return a file of so many bytes."""
        import io

        return io.BytesIO(bytes(range(256)) * (size // 256))

    def total(self, numbers: Iterable[int]) -> int:
        """Return the sum of a streamed argument."""
        return sum(numbers)

    async def total_async(self, numbers: AsyncIterator[int]) -> int:
        """Return the sum of a streamed argument."""
        result = 0
        async for number in numbers:
            result += number
        return result

    def first(self, numbers: Iterator[int]) -> int:
        """Read one item of a streamed argument, and leave it."""
        return next(numbers)

    def size(self, file: BinaryIO) -> int:
        """Return how many bytes a streamed file has."""
        size = 0
        while piece := file.read(65536):
            size += len(piece)
        return size

    # Errors.

    def refuse(self, code: int) -> None:
        """Raise an application's error."""
        raise Refusal(code, why="it said so")

    def refuse_because(self) -> None:
        """Raise one with a cause and a note."""
        try:
            raise KeyError("the cause")
        except KeyError as cause:
            error = Refusal(2, why="of the cause")
            error.add_note("a note")
            raise error from cause

    def refuse_together(self) -> None:
        """Raise a group."""
        raise ExceptionGroup("several", [Refusal(1, why="one"), ValueError("two")])

    async def refuse_stubbornly(self) -> None:
        """Raise what cannot be sent."""
        raise Stubborn

    def stop_iteration(self) -> None:
        """Raise what a future cannot hold."""
        raise StopIteration(3)

    def answer_a_lock(self) -> Any:
        """Return what cannot be sent."""
        return {"inner": [threading.Lock()]}

    def _hidden(self) -> int:
        return 1

    # Waiting.

    def wait(self) -> None:
        """Wait until the caller no longer does."""
        self.seen.append("wait begun")
        while not bm.cancelled():
            time.sleep(_NAP_SECONDS)
        self.seen.append("wait cancelled")

    async def wait_async(self) -> None:
        """Wait until cancelled."""
        self.seen.append("wait_async begun")
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.seen.append("wait_async cancelled")
            raise

    def nap(self, seconds: float) -> float:
        """Sleep, and return how long."""
        time.sleep(seconds)
        return seconds

    # Others.

    def ask(self, machine: bm.Machine, value: Any) -> Any:
        """Have another machine answer."""
        return machine.call(Worker.same, value).result()

    async def ask_async(self, machine: bm.Machine, value: Any) -> Any:
        """Have another machine answer."""
        return await machine.call(Worker.same_async, value)

    def pass_on(self, machines: list[bm.Machine], value: Any) -> list[str]:
        """Go from machine to machine; return where it was. At the end, wait for -1."""
        here = bm.current().machine.addr
        if not machines:
            if value == -1:
                self.wait()
            return [here]
        found = machines[0].call(Worker.pass_on, machines[1:], value).result()
        return [here, *found]

    def dial(self, addr: str, value: Any) -> Any:
        """Dial another machine and have it answer."""
        return bm.current().cluster.dial(addr).call("Worker.same", value).result()

    def sum_of(self, machine: bm.Machine, n: int) -> int:
        """Sum up what another machine streams."""
        return sum(machine.stream(Worker.count, n))

    def tell(self, machine: bm.Machine, code: int) -> None:
        """Have another machine refuse."""
        machine.call(Worker.refuse, code).result()

    # The end.

    def exit(self, code: int) -> None:
        """End the machine."""
        sys.exit(code)

    def kill_yourself(self) -> None:
        """Have the machine's process killed."""
        os.kill(os.getpid(), signal.SIGKILL)


class Keeper:
    """A service that holds a machine."""

    def __init__(self, machine: bm.Machine) -> None:
        self.machine = machine

    async def ask(self, value: Any) -> Any:
        """Have it answer."""
        return await self.machine.call(Worker.same_async, value)


class Asynchronous:
    """A service whose ``init`` and ``close`` are async, and which leaves a mark at its end."""

    def __init__(self, mark: str = "") -> None:
        self.mark = mark
        self.ready = False

    async def init(self, cluster: bm.Cluster) -> None:
        """Be ready, after a while."""
        await asyncio.sleep(0)
        self.ready = not cluster.is_driver

    def is_ready(self) -> bool:
        """Whether ``init`` has run before this call."""
        return self.ready

    async def close(self) -> None:
        """Leave the mark."""
        if self.mark:
            Path(self.mark).write_text("closed")  # noqa: ASYNC240  the machine is at its end


class Failing:
    """A service whose ``init`` raises."""

    def init(self, cluster: bm.Cluster) -> None:
        """Raise."""
        del cluster
        raise Refusal(13, why="init does not want to") from KeyError("deeper")

    def same(self, value: Any) -> Any:
        """Never called."""
        return value


class Locked:
    """A service that cannot be pickled."""

    def __init__(self) -> None:
        self.inner = {"lock": threading.Lock()}
