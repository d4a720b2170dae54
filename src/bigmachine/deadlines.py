"""How long calls may take, from the outermost ``with bm.timeout(…)`` over every hop.

A deadline is a context variable: it follows the code that set it into its tasks. A call takes
the time that is left along; the machine sets it anew for the method, in its own clock.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from bigmachine.errors import UsageError

deadline: ContextVar[float | None] = ContextVar("bigmachine_deadline", default=None)
"""When calls made here must have ended: `time.monotonic` seconds, or None for never."""


@contextmanager
def timeout(seconds: float) -> Iterator[None]:
    """Bound every call that is made inside.

    An enclosing bound that ends sooner holds on. It follows context variables: into tasks, not
    into bare threads. A call that is over its time raises `CallTimeoutError`, and is cancelled
    on the machine; the time that is left binds the calls which the method makes in turn.

    Args:
        seconds: How long from now, in seconds.

    Raises:
        UsageError: ``seconds`` is negative or not a number.
    """
    if not seconds >= 0:
        raise UsageError(f"a timeout of {seconds!r} seconds; give a number that is not negative")
    new = time.monotonic() + seconds
    old = deadline.get()
    token = deadline.set(new if old is None else min(old, new))
    try:
        yield
    finally:
        deadline.reset(token)


def remaining() -> float | None:
    """Return the seconds that are left here, below 0 when it is over; None for no bound."""
    end = deadline.get()
    return None if end is None else end - time.monotonic()
