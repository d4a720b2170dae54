"""Marks that tell whose descendant a process is.

A machine's descendants must die with it, also those that have left its session and lost their
parent. Since the supervisor is a subreaper they become its children, but whose they were cannot be
seen any more. So each machine is marked with something that every descendant inherits and that
nobody loses by ``setsid``, ``exec`` or a cleared environment: a limit of a kind that does nothing
here, RLIMIT_RTTIME, set to a number that is as good as none. Where that cannot be had (macOS), the
session must do.
"""

from __future__ import annotations

import os
from typing import Final

from bigmachine import osdep

# The limit concerns processes with real-time scheduling alone, and is in microseconds: this is
# 73,000 years. The numbers above it are free to mean something.
_BASE: Final = 1 << 61
_ORDINAL_BITS: Final = 24


def new_mark_space() -> int:
    """Return the first of 16 million marks that no other supervisor uses."""
    return _BASE + (int.from_bytes(os.urandom(4), "big") << _ORDINAL_BITS)


def marked_like(mark: int) -> list[int]:
    """List the processes that have this mark or another one of the same supervisor's."""
    space = mark >> _ORDINAL_BITS
    return [
        pid
        for pid in osdep.all_processes()
        if (found := mark_of(pid)) is not None and found >> _ORDINAL_BITS == space
    ]


def mark_self(mark: int) -> bool:
    """Mark this process and its descendants to come.

    Returns:
        Whether the platform, and the limits that this process has, allow it.
    """
    import resource

    kind = getattr(resource, "RLIMIT_RTTIME", None)
    if kind is None or not mark:
        return False
    hard = resource.getrlimit(kind)[1]
    try:
        resource.setrlimit(kind, (mark, hard))
    except (OSError, ValueError):  # somebody has set a real limit
        return False
    return True


def mark_of(pid: int) -> int | None:
    """Return the mark of a process, None when it has none or is gone."""
    import resource

    kind = getattr(resource, "RLIMIT_RTTIME", None)
    if kind is None:
        return None
    try:
        soft = resource.prlimit(pid, kind)[0]
    except (OSError, ValueError):
        return None
    return soft if soft >= _BASE else None
