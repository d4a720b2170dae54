"""Locks on the directories of a store: who uses one shares its lock, who removes it has it alone.

The lock is the directory's own (flock), so there is nothing to clean up, and it moves along when
the directory is renamed. It ends with the descriptor, at the latest with the process.
"""

from __future__ import annotations

import fcntl
import os
import time
from typing import Final

_PATIENCE_SECONDS: Final = 1.0
_PAUSE_SECONDS: Final = 0.005


def hold(path: str) -> int | None:
    """Share the lock of a directory, or return None when it is not there or being removed.

    Blocks for a moment when somebody has it alone, only to see whether it is in use.
    """
    end = time.monotonic() + _PATIENCE_SECONDS
    while (lock := _lock(path, fcntl.LOCK_SH)) is None and time.monotonic() < end:
        if not os.path.isdir(path):
            return None
        time.sleep(_PAUSE_SECONDS)
    return lock


def claim(path: str) -> int | None:
    """Have the lock of a directory alone, or return None when it is in use or not there."""
    return _lock(path, fcntl.LOCK_EX)


def share(lock: int) -> None:
    """Let others use what one has had alone."""
    fcntl.flock(lock, fcntl.LOCK_SH)


def _lock(path: str, how: int) -> int | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
        # It may have been removed, and even made anew, before it was locked.
        mine, there = os.fstat(fd), os.stat(path, follow_symlinks=False)
        if (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino):
            return fd
    except OSError:
        pass
    os.close(fd)
    return None
