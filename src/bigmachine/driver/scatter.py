"""`Machines.map`: many items over several machines, each to whichever is free.

One coroutine on the runtime pulls items from an iterator (in a thread, since that may block),
gives each to the least loaded machine, and puts results into the stream that the caller reads.
What always holds: at most a few hundred items are ahead of the caller; every item is answered once
in the stream, or the stream ends with an error; leaving the stream cancels what runs.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from bigmachine.driver.lifecycle import State
from bigmachine.driver.progress import Progress
from bigmachine.driver.suspects import Item, own_error, suspicion
from bigmachine.errors import MachineStoppedError, TransportError, UsageError, is_remote
from bigmachine.futures import Future
from bigmachine.rpc.streams import Inlet, Stream

if TYPE_CHECKING:
    from bigmachine.machine import Machine

AHEAD: Final = 256
"""How many items may be pulled, in progress or unread at once, at least two for each processor."""
_DEPTH: Final = 2
"""How many calls each processor has at once: one runs, one waits."""

_END: Final = object()


def scatter(
    machines: Sequence[Machine], method: Any, items: Iterable[Any], *, retries: int, ordered: bool
) -> Stream[Any]:
    """Begin to call a method for every item; see `Machines.map`."""
    if retries < 0:
        raise UsageError(f"map(retries={retries}): it is a number from 0 on")
    if not machines:
        raise UsageError("map over no machines")
    work = _Scatter(machines, method, iter(items), retries=retries, ordered=ordered)
    return work.begin()


class _Scatter:
    """One `map` in progress. Everything but `_pull` runs on the runtime's loop."""

    def __init__(
        self,
        machines: Sequence[Machine],
        method: Any,
        items: Iterator[Any],
        *,
        retries: int,
        ordered: bool,
    ) -> None:
        self._machines = machines
        self._method = method
        self._items = items
        self._retries = retries
        self._ordered = ordered
        self._runtime = machines[0]._handle.runtime
        later = self._runtime.loop.call_soon_threadsafe
        self._inlet = Inlet(grant=self._taken, leave=self._leave, later=later, grant_items=1)
        self._running: dict[Machine, int] = {}
        self._again: deque[Item] = deque()
        self._ready: dict[int, Any] = {}
        self._next = 0
        self._ahead = 0
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._limit = max(AHEAD, sum(_DEPTH * machine.maxprocs for machine in machines))
        self._left = threading.Event()
        self._size = len(items_of) if (items_of := _sized(items)) is not None else None

    def begin(self) -> Stream[Any]:
        """Start, and return the stream of results."""
        self._main = self._runtime.spawn(self._run(), "map")
        return Stream(self._inlet, "map")

    def _taken(self, items: int, size: int) -> None:
        del size
        self._runtime.loop.call_soon_threadsafe(self._advance, items)

    def _advance(self, items: int) -> None:
        self._ahead -= items
        self._changed.set()

    def _leave(self) -> None:
        self._left.set()
        self._main.cancel()

    async def _run(self) -> None:
        for machine in self._machines:
            task = self._runtime.start_task(self._watch(machine), "map: wait for a machine")
            self._own(task)
        try:
            with Progress("map", total=self._size) as progress:
                self._progress = progress
                await self._feed()
                while any(self._running.values()) or self._again:
                    if self._again:
                        await self._give(self._again.popleft())
                    else:
                        await self._wait()
            self._inlet.end()
        except asyncio.CancelledError:
            self._inlet.end()
            raise
        except BaseException as error:
            self._inlet.end(error)
        finally:
            for task in list(self._tasks):
                task.cancel()

    async def _feed(self) -> None:
        number = 0
        while True:
            while self._ahead >= self._limit:
                await self._wait()
            if self._again:
                await self._give(self._again.popleft())
                continue
            value = await self._pull()
            if value is _END:
                return
            self._ahead += 1
            await self._give(Item(number, value))
            number += 1

    async def _pull(self) -> Any:
        """Return the next item, or `_END`; the iterator may block, so a thread asks it."""
        future: Future[Any] = Future()

        def pull() -> None:
            try:
                future.resolve(next(self._items, _END))
            except BaseException as error:
                future.resolve(None, error)

        if _is_quick(self._items):
            pull()
        else:
            threading.Thread(target=pull, name="bigmachine-map", daemon=True).start()
        return await future

    async def _give(self, item: Item) -> None:
        """Give an item to the least busy machine that is up, when there is one with room."""
        while True:
            free = [
                (count / machine.maxprocs, index, machine)
                for index, (machine, count) in enumerate(self._running.items())
                if count < _DEPTH * machine.maxprocs and machine.state is State.RUNNING
            ]
            if free:
                break
            if all(machine.state is State.STOPPED for machine in self._machines):
                self._fail_all(item)
            await self._wait()
        machine = min(free)[2]
        self._running[machine] += 1
        self._own(self._runtime.start_task(self._call(machine, item), "map: call"))

    def _fail_all(self, item: Item) -> None:
        errors = [machine.err for machine in self._machines if machine.err is not None]
        group = ExceptionGroup("map: every machine has stopped", errors)
        if text := suspicion([item, *self._again]):
            group.add_note(text)
        raise group

    async def _call(self, machine: Machine, item: Item) -> None:
        try:
            result = await machine.call(self._method, item.value)
        except (MachineStoppedError, TransportError) as error:
            if is_remote(error):
                self._fail(item.noted(error))
                return
            item.lost_with(machine._handle.label, error)
            if len(item.lost) > self._retries:
                self._fail(item.noted(own_error(error)))
            else:
                self._again.append(item)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._fail(item.noted(error))
        else:
            self._deliver(item.number, result)
        finally:
            self._running[machine] -= 1
            self._changed.set()

    def _fail(self, error: BaseException) -> None:
        self._inlet.end(error)
        self._main.cancel()

    def _deliver(self, number: int, result: Any) -> None:
        self._progress.advance()
        if not self._ordered:
            self._inlet.put(partial(_same, result), 0)
            return
        self._ready[number] = result
        while self._next in self._ready:
            self._inlet.put(partial(_same, self._ready.pop(self._next)), 0)
            self._next += 1

    async def _watch(self, machine: Machine) -> None:
        if await machine.wait() is State.RUNNING:
            self._running[machine] = 0
            self._changed.set()
            await machine.wait(State.STOPPED)
        self._changed.set()

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _own(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _same(value: Any) -> Any:
    return value


def _is_quick(items: Iterator[Any]) -> bool:
    """Whether an iterator is one of the interpreter's own over a container: it never blocks."""
    return type(items).__module__ == "builtins" and type(items).__name__ in _QUICK


_QUICK: Final = frozenset(
    {"list_iterator", "tuple_iterator", "range_iterator", "dict_keyiterator", "set_iterator"}
)


def _sized(items: Iterator[Any]) -> Any:
    """Return what tells how many items come, where that is known without asking for them."""
    hint = getattr(items, "__length_hint__", None)
    return range(hint()) if hint is not None and _is_quick(items) else None
