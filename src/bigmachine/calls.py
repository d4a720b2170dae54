"""What a method can ask about itself: whether its caller still waits, and where it runs.

The server sets both context variables for every call; a thread that a method starts by itself
does not inherit them.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from bigmachine.errors import UsageError

if TYPE_CHECKING:
    from bigmachine.cluster import Cluster
    from bigmachine.machine import Machine


class Scope(Protocol):
    """A call in progress."""

    cancelled: bool


scope: ContextVar[Scope | None] = ContextVar("bigmachine_scope", default=None)
"""The call that runs in this context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Current:
    """Where the running service lives.

    Attributes:
        cluster: The cluster, as its machines see it: it can dial, not start machines.
        machine: This machine.
    """

    cluster: Cluster
    machine: Machine


home: ContextVar[Current | None] = ContextVar("bigmachine_home", default=None)
"""The machine in whose context this code runs: several share one process in unit tests."""
_process_home: Current | None = None


def set_process_home(current: Current) -> None:
    """Say which machine this process is."""
    global _process_home
    _process_home = current


def current() -> Current:
    """Return the cluster and the machine of the running service.

    Raises:
        UsageError: This code does not run on a machine.
    """
    found = find_home()
    if found is None:
        raise UsageError(
            "bigmachine.current() is for code that runs on a machine; the driver has its cluster "
            "from bigmachine.start()"
        )
    return found


def find_home() -> Current | None:
    """Return the machine on which this code runs, or None in a driver."""
    return home.get() or _process_home


def cancelled() -> bool:
    """Return whether the caller of the running method no longer wants its answer.

    True after the caller cancelled, died, or ran out of time. A plain method that takes long
    should ask now and then, and return. False outside any call.
    """
    call = scope.get()
    return call is not None and call.cancelled
