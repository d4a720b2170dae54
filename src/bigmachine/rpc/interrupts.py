"""Ctrl-C in the main thread: never in the middle of a frame.

Python runs signal handlers between any two instructions of the main thread, so the default one
would raise `KeyboardInterrupt` while bytes are taken apart or sent, or between a lock's acquisition
and the ``try`` that releases it: a connection would be lost, or everybody who uses it would hang.
So while the main thread works on a connection the handler is ours. It notes the signal, and what
the program's own handler does is done as soon as the work is complete, or at once where the thread
only waits (`Interrupts.waiting`).
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # what signal.signal() calls; that takes 8 µs
import signal
import threading
from _thread import get_ident
from collections.abc import Callable
from types import FrameType
from typing import Any, ClassVar, Final, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

MAIN_THREAD: Final = threading.main_thread().ident
_SIGINT: Final = int(signal.SIGINT)


class Interrupts:
    """One stretch of work in the main thread that Ctrl-C waits for. Stretches may be nested."""

    _active: ClassVar[bool] = False

    def __init__(self) -> None:
        self.waiting = False
        self._caught: tuple[int, FrameType | None] | None = None
        self._handler: Any = None

    def begin(self) -> bool:
        """Have Ctrl-C wait from now on.

        Returns:
            Whether `end` is to be called: not where Ctrl-C waits already, or does nothing anyway.
        """
        if Interrupts._active or get_ident() != MAIN_THREAD:
            return False
        handler = _signal.getsignal(_SIGINT)
        if not callable(handler):
            return False
        self._handler = handler
        _signal.signal(_SIGINT, self._on_signal)
        Interrupts._active = True
        return True

    def end(self) -> None:
        """Give the program its handler back, and do what was put off: as the last thing."""
        Interrupts._active = False
        _signal.signal(_SIGINT, self._handler)
        if self._caught is not None:
            self._catch_up()

    def allow(self) -> None:
        """From here on the thread only waits: Ctrl-C has its effect at once."""
        self.waiting = True
        if self._caught is not None:
            self.waiting = False
            self._catch_up()
            self.waiting = True

    def defer(self) -> None:
        """It works again."""
        self.waiting = False

    def _catch_up(self) -> None:
        caught, self._caught = self._caught, None
        if caught is not None:
            self._handler(*caught)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self.waiting:
            self._caught = (number, frame)
            return
        self.waiting = False  # should the handler raise, the work goes on until `end`
        self._handler(number, frame)
        self.waiting = True


def uninterrupted(action: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a function that Ctrl-C must not break off; it has its effect afterwards."""
    interrupts = Interrupts()
    if not interrupts.begin():
        return action(*args, **kwargs)
    try:
        return action(*args, **kwargs)
    finally:
        interrupts.end()
