"""The items of a `map`, and what is said of those that failed.

A failure names its item. One that was on several machines when they died may be what ends them, so
that is said, too.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from typing import Any, Final

from bigmachine.errors import MachineStoppedError, is_remote

MAX_CHARS: Final = 80
"""How much of an item is shown."""
MAX_ITEMS: Final = 3
"""How many items are named at most, of those that were lost most often."""


class Item:
    """One item on its way.

    Attributes:
        number: Which, from 0 on.
        value: What the method is given.
        lost: The machines that it was given to in vain: they died, or their connection broke.
        died: Those of them that died.
    """

    __slots__ = ("died", "lost", "number", "value")

    def __init__(self, number: int, value: Any) -> None:
        self.number = number
        self.value = value
        self.lost: list[str] = []
        self.died: list[str] = []

    def __str__(self) -> str:
        return f"item {self.number} ({_shown(self.value)})"

    def lost_with(self, machine: str, error: BaseException) -> None:
        """Note that a machine did not answer for it."""
        self.lost.append(machine)
        if isinstance(error, MachineStoppedError):
            self.died.append(machine)

    def noted(self, error: BaseException) -> BaseException:
        """Return an error with a note that says which item it is of."""
        text = f"map: {self}"
        if len(self.lost) > 1:
            text += f", given up after {len(self.lost)} tries, on {', '.join(self.lost)}"
        elif self.lost:
            text += f", on {self.lost[0]}"
        is_own = isinstance(error, MachineStoppedError) and not is_remote(error)
        if before := self.died[:-1] if is_own else self.died:
            text += f"; the same item had already been running on {_and(before)}"
        # Past the class's own __setattr__, as in `rpc.exceptions`.
        notes = error.__dict__.setdefault("__notes__", [])
        if isinstance(notes, list):
            notes.append(text)
        return error


def own_error(error: BaseException) -> BaseException:
    """Return an error that may be noted: a machine's own is shared by all who called it."""
    if not isinstance(error, MachineStoppedError):
        return error
    own = MachineStoppedError(machine=error.machine, death=error.death)
    own.__cause__ = error.__cause__
    return own


def suspicion(items: Iterable[Item]) -> str:
    """Return which of the items that were left were running when machines died; "" if none."""
    suspects = sorted((item for item in items if item.died), key=lambda item: -len(item.died))
    return "\n".join(
        f"map: {item} was running on {_and(item.died)}" for item in suspects[:MAX_ITEMS]
    )


def _and(machines: list[str]) -> str:
    return f"{', '.join(machines)} when {'it' if len(machines) == 1 else 'these'} died"


def _shown(value: Any) -> str:
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = MAX_CHARS
    text = " ".join(short.repr(value).split())
    return text if len(text) <= MAX_CHARS else f"{text[: MAX_CHARS - 3]}..."
