"""What all parts of the conformance suite stand on: making clusters, and waiting with a limit."""

from __future__ import annotations

import time
import unittest
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import bigmachine as bm
from bigmachine.testing.conformance.services import Worker

if TYPE_CHECKING:
    from bigmachine.systems.base import System

E = TypeVar("E", bound=BaseException)

_LOOK_SECONDS = 0.005


class Conformance(ABC):
    """What a class of conformance tests has to say about its system.

    Attributes:
        captures_output: Whether what machines print arrives at the driver.
        own_processes: Whether each machine is a process of its own, with an environment.
        shares_files: Whether machines see the files of the driver's host.
        limit_seconds: How long anything may take before the test fails.
        shutdown_seconds: How long leaving a cluster may take.
    """

    captures_output: ClassVar[bool] = True
    own_processes: ClassVar[bool] = True
    shares_files: ClassVar[bool] = True
    limit_seconds: ClassVar[float] = 30.0
    shutdown_seconds: ClassVar[float] = 6.0

    _shared: ClassVar[tuple[bm.Cluster, bm.Machines] | None] = None

    @abstractmethod
    def make_system(self) -> System:
        """Return a new system, for one cluster."""

    def kill(self, system: Any, machine: bm.Machine) -> None:
        """Kill a machine by SIGKILL, and need not wait for that; override it where you know how."""
        del system
        machine.call(Worker.kill_yourself)

    def disturb(self, system: Any) -> AbstractContextManager[object]:
        """Return what breaks connections while it is entered, where the system can do that."""
        del system
        return nullcontext()

    # For the tests.

    @contextmanager
    def cluster(self, **options: Any) -> Iterator[bm.Cluster]:
        """A cluster of its own for a test."""
        with bm.start(self.make_system(), **options) as cluster:
            yield cluster

    def two(self) -> bm.Machines:
        """Return two machines that this class's tests share; do not end them."""
        cls = type(self)
        if cls._shared is None:
            cluster = bm.start(self.make_system())
            cls._shared = cluster, cluster.start(2, services={"Worker": Worker()})
        return cls._shared[1]

    def one(self) -> bm.Machine:
        """Return a machine that this class's tests share; do not end it."""
        return self.two()[0]

    def shared_cluster(self) -> bm.Cluster:
        """Return the cluster of `two`."""
        self.two()
        shared = type(self)._shared
        assert shared is not None
        return shared[0]

    @classmethod
    def teardown_class(cls) -> None:
        """End what the tests shared."""
        shared, cls._shared = cls._shared, None
        if shared is not None:
            with shared[0]:
                pass

    def result(self, future: bm.Future[Any]) -> Any:
        """Return a future's result, within the limit."""
        return future.result(self.limit_seconds)

    def error(self, future: bm.Future[Any], kind: type[E]) -> E:
        """Return what a future raises, within the limit; it has to be of this kind."""
        error = future.exception(self.limit_seconds)
        assert isinstance(error, kind), f"{kind.__name__} expected, not {error!r}"
        return error

    def death(self, future: bm.Future[Any]) -> bm.Death:
        """Return what a call's machine died of."""
        return self.error(future, bm.MachineStoppedError).death

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait until something holds that nobody tells of, within the limit."""
        end = time.monotonic() + self.limit_seconds
        while not condition():
            assert time.monotonic() < end, f"{what}: not within {self.limit_seconds:g} s"
            time.sleep(_LOOK_SECONDS)

    def wait_seen(self, machine: bm.Machine, mark: str, count: int = 1) -> None:
        """Wait until a machine's worker has noted something."""

        def noted() -> bool:
            seen: list[str] = self.result(machine.call("Worker.seen_so_far"))
            return seen.count(mark) >= count

        self.until(noted, mark)

    def seen(self, machine: bm.Machine, mark: str) -> int:
        """Return how often a machine's worker has noted something."""
        seen: list[str] = self.result(machine.call("Worker.seen_so_far"))
        return seen.count(mark)

    def need(self, capability: bool, what: str) -> None:
        """Skip the test where the system cannot do something."""
        if not capability:
            raise unittest.SkipTest(f"this system does not have {what}")


def raised(kind: type[E], function: Callable[[], object]) -> E:
    """Return what a function raises at once; it has to be of this kind."""
    try:
        function()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was not raised")
