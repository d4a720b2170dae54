"""The life of one machine as the driver sees it: a table, and nothing else.

States only rise::

    UNSTARTED ──▶ STARTING ──▶ RUNNING ──▶ STOPPED
        └────────────┴───────────────────────▲

What always holds: a machine that is STOPPED has one `Death`, the first that was reported.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from bigmachine.errors import Death


class State(enum.IntEnum):
    """The state of a machine. It only rises, and is written by its name."""

    UNSTARTED = 0
    STARTING = 1
    RUNNING = 2
    STOPPED = 3

    def __str__(self) -> str:
        return self.name

    def __format__(self, spec: str) -> str:
        return format(self.name, spec)


class Happening(enum.Enum):
    """What can happen to a machine."""

    PLACED = "a host was asked to start it"
    READY = "it serves calls"
    DIED = "it is gone"


_NEXT: Final = {
    (State.UNSTARTED, Happening.PLACED): State.STARTING,
    (State.UNSTARTED, Happening.READY): State.RUNNING,
    (State.UNSTARTED, Happening.DIED): State.STOPPED,
    (State.STARTING, Happening.READY): State.RUNNING,
    (State.STARTING, Happening.DIED): State.STOPPED,
    (State.RUNNING, Happening.DIED): State.STOPPED,
}


@dataclass(slots=True)
class Lifecycle:
    """One machine's state, and what it died of."""

    state: State = State.UNSTARTED
    death: Death | None = None

    def advance(self, happening: Happening, death: Death | None = None) -> bool:
        """Note what happened; return whether the state rose.

        Args:
            happening: What happened. What makes no difference any more is ignored.
            death: With DIED: of what.

        Raises:
            ValueError: DIED without a death.
        """
        if happening is Happening.DIED and death is None:
            raise ValueError("a machine dies of something")
        after = _NEXT.get((self.state, happening))
        if after is None:
            return False
        self.state = after
        if happening is Happening.DIED:
            self.death = death
        return True
