"""Timing loops and the summary of what they saw."""

from __future__ import annotations

import mmap
import time
from collections.abc import Awaitable, Callable, Sequence

Outcome = dict[str, float]
"""What a case measured: ``value``, in the case's unit, and what else is worth keeping."""

WARM_UP_CALLS = 200
"""Calls made before the clock starts: connections, caches, the processor's frequency."""

WARM_UP_BYTES = 1 << 30
"""Memory that is touched before large transfers."""


def quantile(ordered: Sequence[float], q: float) -> float:
    """Return the ``q`` quantile of sorted values (the nearest one, not interpolated)."""
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def summary(seconds: Sequence[float]) -> Outcome:
    """Describe round trips: the median as the value, in microseconds."""
    ordered = sorted(seconds)
    return {
        "value": quantile(ordered, 0.5) * 1e6,
        "mean": sum(ordered) / len(ordered) * 1e6,
        "p99": quantile(ordered, 0.99) * 1e6,
        "best": ordered[0] * 1e6,
        "count": len(ordered),
    }


def round_trips(
    call: Callable[[int], object], duration: float, warm_up: int = WARM_UP_CALLS
) -> list[float]:
    """Call again and again for ``duration`` seconds, one at a time; return each call's seconds."""
    for i in range(warm_up):
        call(i)
    clock = time.perf_counter
    taken: list[float] = []
    end = now = clock()
    end += duration
    while now < end:
        start = now
        call(len(taken))
        now = clock()
        taken.append(now - start)
    return taken


async def async_round_trips(
    call: Callable[[int], Awaitable[object]], duration: float, warm_up: int = WARM_UP_CALLS
) -> list[float]:
    """The same, awaiting each call."""
    for i in range(warm_up):
        await call(i)
    clock = time.perf_counter
    taken: list[float] = []
    end = now = clock()
    end += duration
    while now < end:
        start = now
        await call(len(taken))
        now = clock()
        taken.append(now - start)
    return taken


def throughput(
    transfer: Callable[[], object], size_bytes: int, times: int, enough: float = 15.0
) -> Outcome:
    """Move ``size_bytes`` ``times`` times after one try; the value is the median, in GB/s.

    What a transfer returns is dropped before the next one, so that memory is fresh each time. After
    ``enough`` seconds nothing new is begun, and the try counts where there is nothing else.
    """
    warm_up_memory()
    taken: list[float] = []
    began = time.perf_counter()
    while len(taken) <= times and time.perf_counter() < began + enough:
        start = time.perf_counter()
        result = transfer()
        taken.append(time.perf_counter() - start)
        del result
    rates = sorted(size_bytes / seconds / 1e9 for seconds in taken[1:] or taken)
    return {
        "value": quantile(rates, 0.5),
        "worst": rates[0],
        "best": rates[-1],
        "size_bytes": size_bytes,
        "count": len(rates),
    }


def warm_up_memory(size_bytes: int = WARM_UP_BYTES) -> None:
    """Have the system hold free pages that stand for real memory, for whoever needs fresh ones.

    The host of a virtual machine takes back what has been free there for some seconds. To get it
    again costs four times what filling it costs, and would be all that is measured.
    """
    with mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        if hasattr(mmap, "MADV_HUGEPAGE"):
            memory.madvise(mmap.MADV_HUGEPAGE)
        for start in range(0, size_bytes, mmap.PAGESIZE):
            memory[start] = 1


def affordable(transfer: Callable[[int], object], size_bytes: int, seconds: float) -> int:
    """The largest of ``size_bytes``, a tenth, a hundredth of it that takes at most ``seconds``."""
    size = size_bytes // 100
    while size < size_bytes:
        start = time.perf_counter()
        transfer(size)
        if (time.perf_counter() - start) * 10 > seconds:
            break
        size *= 10
    return min(size, size_bytes)
