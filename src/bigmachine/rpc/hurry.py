"""A short wait for the interpreter lock, while bulk data moves.

Whoever moves data lets go of the lock for each system call and each record of TLS (16 KB), and gets
it back from a thread that computes only when that has had it for the switch interval: 5 ms as a
rule. 100 MB would take half a minute beside one. So as long as somebody is in a hurry the interval
is short; the thread that computes pays with some switches.
"""

from __future__ import annotations

import os
import sys
from _thread import allocate_lock
from typing import Final

SWITCH_SECONDS: Final = 0.00001


class Hurry:
    """How many move bulk data now, in whatever thread: ``with hurry: ...``."""

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._count = 0
        self._usual = 0.0
        self._short = 0.0

    def __repr__(self) -> str:
        return f"<Hurry of {self._count}>"

    def __enter__(self) -> None:
        with self._lock:
            self._count += 1
            if self._count == 1:
                self._usual = sys.getswitchinterval()
                sys.setswitchinterval(min(self._usual, SWITCH_SECONDS))
                self._short = sys.getswitchinterval()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._count -= 1
            if not self._count:
                self._calm_down()

    def _calm_down(self) -> None:
        if sys.getswitchinterval() == self._short:  # else the program has set another meanwhile
            sys.setswitchinterval(self._usual)

    def forget(self) -> None:
        """Be in no hurry, in a forked child: it has none of the threads that were."""
        self._lock = allocate_lock()
        if self._count:
            self._count = 0
            self._calm_down()


hurry: Final = Hurry()
"""The process's own."""

os.register_at_fork(after_in_child=hurry.forget)
