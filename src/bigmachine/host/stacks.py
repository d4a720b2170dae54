"""Reads what faulthandler writes when the stacks of all threads are asked for. Pure."""

from __future__ import annotations

from typing import Final

MAX_LINES: Final = 60
"""How much of the stacks a `Death` shows."""

_THREAD_HEADS: Final = ("Thread 0x", "Current thread 0x")
# What a thread of the library does while it waits for work: the innermost function and its file.
_IDLE: Final = (
    ("/bigmachine/rpc/workers.py", "in _sleep"),
    ("/asyncio/base_events.py", "in _run_once"),
)
_WAITS: Final = ("/threading.py", "/selectors.py")


def busy_stacks(report: str) -> str:
    """Return the stacks of those threads that do something, the innermost call first.

    Left out are the library's own threads that wait for work. If that leaves none, all stay.
    """
    threads = _split(report)
    busy = [thread for thread in threads if not _is_idle(thread)] or threads
    lines = [line for thread in busy for line in thread]
    if len(lines) > MAX_LINES:
        lines = [*lines[:MAX_LINES], f"  … {len(lines) - MAX_LINES} more lines"]
    return "\n".join(lines)


def _split(report: str) -> list[list[str]]:
    threads: list[list[str]] = []
    for line in report.splitlines():
        if line.startswith(_THREAD_HEADS):
            threads.append([line])
        elif line and threads:
            threads[-1].append(line)
    return threads


def _is_idle(thread: list[str]) -> bool:
    """Whether the innermost frame that is not a mere wait is one of the library's idle places."""
    for frame in thread[1:]:
        if any(f"{file}" in frame for file in _WAITS):
            continue
        return any(file in frame and frame.endswith(function) for file, function in _IDLE)
    return False
