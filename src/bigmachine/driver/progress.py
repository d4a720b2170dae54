"""A line at the bottom of the terminal that says how far a piece of work has come.

It lives together with the lines that machines write to the same terminal: whoever writes them does
so inside ``status.aside()``, which takes the status line away before and puts it back after. On
anything that is no terminal nothing is ever shown.

A terminal may stand still (Ctrl-S), so only a thread of its own draws; ``advance`` just counts and
may be called on the runtime's loop.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final, TextIO

FIRST_DRAW_SECONDS: Final = 0.3
"""Work that is done within this time shows nothing."""
REDRAW_SECONDS: Final = 0.1
"""How often the line is drawn anew."""
ERASE_SECONDS: Final = 0.5
"""How long the end of the work waits for a terminal that stands still."""

_ERASE: Final = "\r\x1b[K"
_BAR_CHARS: Final = 24


class Progress:
    """How far one piece of work has come; a context manager.

    Args:
        label: What the work is called.
        total: How many steps it has; None: not known.
        unit: What follows a number of steps.
        status: Where it is shown.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        label: str,
        total: int | None,
        *,
        unit: str = "",
        status: StatusLine | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.label = label
        self.total = total
        self.unit = unit
        self.done = 0
        self._clock = clock
        self._started = clock()
        self._lock = threading.Lock()
        self._status = terminal if status is None else status
        self._status.add(self)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Progress {self.label!r} {self.done}/{self.total}>"

    def advance(self, count: int = 1) -> None:
        """``count`` more steps are done. Never blocks; from any thread."""
        with self._lock:
            self.done += count

    def close(self) -> None:
        """Take the line away; waits half a second for it at most. Idempotent."""
        self._status.remove(self)

    def elapsed(self) -> float:
        """For how long the work has been going on, in seconds."""
        return self._clock() - self._started


class StatusLine:
    """The bottom line of a terminal. It shows the work that began last.

    Args:
        stream: Gives the terminal's stream, as it is at that time.
    """

    def __init__(self, stream: Callable[[], TextIO | None]) -> None:
        self._stream = stream
        self._changed = threading.Condition()  # guards _works and _ticker; never held while writing
        self._works: list[Progress] = []
        self._ticker: threading.Thread | None = None
        self._writing = threading.Lock()  # whoever writes to the terminal holds it; guards _shown
        self._shown = False

    def is_seen(self) -> bool:
        """Whether this is a terminal, so that anything is shown at all."""
        return can_redraw(self._stream())

    def add(self, work: Progress) -> None:
        """Show ``work`` from now on, if this is a terminal."""
        if not self.is_seen():
            return
        with self._changed:
            self._works.append(work)
            if self._ticker is None:
                self._ticker = threading.Thread(
                    target=self._tick, name="bigmachine-progress", daemon=True
                )
                self._ticker.start()

    def remove(self, work: Progress) -> None:
        """Do not show ``work`` any more; waits a moment until the line has gone."""
        with self._changed:
            if work not in self._works:
                return
            self._works.remove(work)
            self._changed.notify_all()
            if not self._works:
                self._changed.wait_for(lambda: self._works or self._ticker is None, ERASE_SECONDS)

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Take the line away while the caller writes lines to the terminal."""
        with self._writing:
            was_shown = self._shown
            if was_shown:
                self._put(_ERASE)
            try:
                yield
            finally:
                if was_shown:
                    self._draw()

    def _tick(self) -> None:
        """Draw while there is work, then erase and end."""
        while True:
            self._pause(FIRST_DRAW_SECONDS)
            while self._works:
                with self._writing:
                    self._draw()
                self._pause(REDRAW_SECONDS)
            with self._writing:
                if self._shown:
                    self._put(_ERASE)
                    self._shown = False
            with self._changed:
                if not self._works:  # else more came while the line was erased
                    self._ticker = None
                    self._changed.notify_all()
                    return

    def _pause(self, seconds: float) -> None:
        """Wait that long, or until there is no work left."""
        with self._changed:
            self._changed.wait_for(lambda: not self._works, seconds)

    def _draw(self) -> None:
        works = tuple(self._works)
        if not works:
            return
        work = works[-1]
        line = render(
            work.label,
            work.done,
            work.total,
            unit=work.unit,
            elapsed=work.elapsed(),
            columns=shutil.get_terminal_size().columns,
        )
        self._put(_ERASE + line)
        self._shown = True

    def _put(self, text: str) -> None:
        """Write past the stream's own buffers, whose locks a stopped terminal would keep."""
        stream = self._stream()
        # The stream may have been closed or replaced meanwhile: then there is nothing to tidy.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if stream is not None:
                os.write(stream.fileno(), text.encode())


def can_redraw(stream: TextIO | None) -> bool:
    """Whether the stream is a terminal on which a line can be drawn over."""
    return os.environ.get("TERM") != "dumb" and is_terminal(stream)


def is_terminal(stream: object) -> bool:
    """Whether the stream, which may be anything a program put in place, is a terminal."""
    try:
        return bool(stream.isatty())  # type: ignore[attr-defined]
    except (AttributeError, ValueError, OSError):  # no such method, or closed
        return False


def render(
    label: str, done: int, total: int | None, *, unit: str = "", elapsed: float, columns: int
) -> str:
    """The status line, in ASCII, shorter than the terminal is wide so that it never wraps.

    Args:
        label: What the work is called.
        done: Steps done.
        total: All steps; None: not known.
        unit: What follows a number of steps.
        elapsed: Seconds since the beginning.
        columns: The terminal's width.
    """
    rate = done / elapsed if elapsed > 0 else 0.0
    if total is None or total <= 0:
        line = f"{label}: {done}{unit}, {_rate(rate, unit)}"
    else:
        filled = min(done, total) * _BAR_CHARS // total
        bar = "#" * filled + "." * (_BAR_CHARS - filled)
        line = f"{label}: [{bar}] {done}/{total}{unit}, {_rate(rate, unit)}"
        if rate > 0 and done < total:
            line += f", {_duration((total - done) / rate)} left"
    return line[: max(columns - 1, 0)]


def _rate(rate: float, unit: str) -> str:
    return f"{rate:.0f}{unit}/s" if rate >= 10 else f"{rate:.1f}{unit}/s"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


terminal = StatusLine(lambda: sys.stderr)
"""The driver's terminal."""
