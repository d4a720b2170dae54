"""Several machines: what is done with each of them, and what with whichever is free."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, overload

from bigmachine.driver.lifecycle import State
from bigmachine.errors import UsageError
from bigmachine.machine import Machine

if TYPE_CHECKING:
    from bigmachine.futures import Future
    from bigmachine.rpc.streams import Stream

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

__all__ = ["Machines"]


class Machines(Sequence[Machine]):
    """Several machines, as `Cluster.start` returns them."""

    def __init__(self, machines: Iterable[Machine]) -> None:
        self._machines = tuple(machines)

    def __repr__(self) -> str:
        return f"<bigmachine.Machines {list(self._machines)!r}>"

    def __len__(self) -> int:
        return len(self._machines)

    @overload
    def __getitem__(self, index: int) -> Machine: ...

    @overload
    def __getitem__(self, index: slice) -> Machines: ...

    def __getitem__(self, index: int | slice) -> Machine | Machines:
        if isinstance(index, slice):
            return Machines(self._machines[index])
        return self._machines[index]

    def running(self) -> Future[Machines]:
        """Return a future of those that came up.

        It resolves when each is RUNNING or STOPPED; if none came up it raises an
        `ExceptionGroup` of their errors.

        Raises:
            UsageError: These are no machines at all, as a slice may be.
        """
        if not self._machines:
            raise UsageError("there are no machines here to wait for")
        return self._machines[0]._handle.runtime.spawn(self._running(), "running")

    @overload
    def call(
        self,
        method: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> list[Future[R]]: ...

    @overload
    def call(
        self, method: Callable[Concatenate[Any, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> list[Future[R]]: ...

    @overload
    def call(self, method: str, /, *args: Any, **kwargs: Any) -> list[Future[Any]]: ...

    def call(self, method: Any, /, *args: Any, **kwargs: Any) -> list[Future[Any]]:
        """Call a method on every machine; see `Machine.call`."""
        return [machine.call(method, *args, **kwargs) for machine in self._machines]

    @overload
    def map(
        self,
        method: Callable[[Any, T], Coroutine[Any, Any, R]],
        items: Iterable[T],
        *,
        retries: int = 0,
        ordered: bool = True,
    ) -> Stream[R]: ...

    @overload
    def map(
        self,
        method: Callable[[Any, T], R],
        items: Iterable[T],
        *,
        retries: int = 0,
        ordered: bool = True,
    ) -> Stream[R]: ...

    @overload
    def map(
        self, method: str, items: Iterable[Any], *, retries: int = 0, ordered: bool = True
    ) -> Stream[Any]: ...

    def map(
        self, method: Any, items: Iterable[Any], *, retries: int = 0, ordered: bool = True
    ) -> Stream[Any]:
        """Call a method for every item, each on whichever machine is free.

        Args:
            method: As for `Machine.call`; it takes one item.
            items: The items, pulled as they are needed, a few hundred ahead at most.
            retries: How often an item may be given to another machine when one is lost with it.
            ordered: Whether results come in the order of the items, or as they are ready.

        Returns:
            The results. What a method raises is raised by the stream, with a note that names the
            item, and ends it; so does the loss of every machine. A progress line is shown on a
            terminal.
        """
        from bigmachine.driver.scatter import scatter

        return scatter(self._machines, method, items, retries=retries, ordered=ordered)

    async def _running(self) -> Machines:
        up = [machine for machine in self._machines if await machine.wait() is State.RUNNING]
        if up:
            return Machines(up)
        errors = [machine.err for machine in self._machines if machine.err is not None]
        raise ExceptionGroup(f"none of {len(self)} machines came up", errors)
