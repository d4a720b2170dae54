"""What a contestant must be able to do for the cases to measure it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal

from benchmarks.payloads import PayloadKind

MethodKind = Literal["async", "plain"]
"""Whether the worker's method runs on its event loop or in a thread (or its only thread)."""


class Unsupported(Exception):
    """A contestant cannot do this; the table shows a dash."""


class Contestant(ABC):
    """A library that runs workers and calls them, reduced to what is measured.

    ``start`` and ``stop`` are called once each, from the main thread. ``ping``, ``send`` and
    ``receive`` block; ``aping`` is awaited on a loop that ``open_loop`` was awaited on before. All
    of them go to the first worker.
    """

    name: ClassVar[str]
    statement: ClassVar[str]
    """What a program imports, for the import's time."""
    distribution: ClassVar[str | None] = None
    max_workers: ClassVar[int] = 256
    """More than these are not started: it would take minutes or the machine's memory."""
    floor: ClassVar[Literal["unix", "tcp", "tls"]] = "unix"
    """The raw transport that it is compared with."""
    in_flight: ClassVar[int] = 1000
    """How many calls are under way at a time where their rate is measured."""
    beside: ClassVar[MethodKind] = "plain"
    """The kind of method that can be called beside a large transfer or a computing method."""

    @abstractmethod
    def start(self, workers: int) -> None:
        """Start workers; return when each has answered a call."""

    @abstractmethod
    def stop(self) -> None:
        """End them all; return when they are gone."""

    @abstractmethod
    def ping(self, value: int, kind: MethodKind) -> int:
        """Make one small call."""

    async def open_loop(self) -> None:
        """Get ready for ``aping`` on the running loop."""

    async def close_loop(self) -> None:
        """Release what ``open_loop`` made."""

    async def aping(self, value: int, kind: MethodKind) -> int:
        """Make one small call from an event loop."""
        raise Unsupported

    def submit(self, value: int, kind: MethodKind) -> Callable[[], int]:
        """Start one small call from a thread; what is returned waits for its answer."""
        raise Unsupported

    def prepare(self, kind: PayloadKind, size_bytes: int) -> None:
        """Have the worker make the payload that ``receive`` asks for."""
        raise Unsupported

    def send(self, payload: Any) -> int:
        """Make a call with a large argument; the worker answers its length."""
        raise Unsupported

    def receive(self) -> Any:
        """Make a call with a large reply."""
        raise Unsupported

    def spin(self, seconds: float) -> Callable[[], object]:
        """Have the worker compute in pure Python; what is returned waits for the end of it."""
        raise Unsupported

    def pids(self) -> list[int]:
        """The workers' processes."""
        raise Unsupported


class Echo:
    """What the workers do, in a shape that most libraries can carry."""

    def __init__(self) -> None:
        self.payload: Any = None

    def ping(self, value: int) -> int:
        return value

    async def async_ping(self, value: int) -> int:
        return value

    def take(self, payload: Any) -> int:
        return len(payload)

    async def async_take(self, payload: Any) -> int:
        return len(payload)

    def prepare(self, kind: PayloadKind, size_bytes: int) -> None:
        from benchmarks.payloads import make_payload

        self.payload = make_payload(kind, size_bytes)

    def give(self) -> Any:
        return self.payload

    def spin(self, seconds: float) -> int:
        return compute(seconds)

    def pid(self) -> int:
        import os

        return os.getpid()


def compute(seconds: float) -> int:
    """Compute in pure Python, never letting go of the interpreter lock by itself."""
    import time

    end, rounds = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        rounds += sum(i * i for i in range(1000)) & 1
    return rounds
