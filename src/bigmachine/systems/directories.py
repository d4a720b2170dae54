"""Private directories on the driver's computer: one for each process that needs one.

Each is locked for as long as anybody works in it. Whoever comes last removes it; what killed
processes have left is removed by the next one that makes a directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from typing import Final

from bigmachine.errors import ProvisionError

__all__ = ["base_directory", "make_directory", "remove_stale"]

TURN_SECONDS: Final = 1.0
"""How long one start waits for others that make their directories."""


def base_directory() -> str:
    """Return where the private directories of this user are."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime and os.access(runtime, os.W_OK | os.X_OK):
        return os.path.join(runtime, "bigmachine")
    return os.path.join(tempfile.gettempdir(), f"bigmachine-{os.getuid()}")


def make_directory(system: str) -> tuple[str, int]:
    """Make a private directory; remove those that killed processes have left.

    Args:
        system: Who wants it, for errors.

    Returns:
        The directory, and a descriptor that holds its lock, which whoever works there shares.

    Raises:
        ProvisionError: The place is somebody else's, or nothing can be made there.
    """
    base = base_directory()
    try:
        return _make_private(base, system)
    except OSError as error:
        raise ProvisionError(
            f"a private directory cannot be made: {error}",
            system=system,
            requested=1,
            started=0,
            answer=str(error),
            remedy=f"see to it that directories can be made in {os.path.dirname(base)}, or set "
            f"XDG_RUNTIME_DIR or TMPDIR to another place",
        ) from error


def remove_stale(*, dry_run: bool) -> list[str]:
    """Remove what killed processes have left, and return which directories these were.

    Args:
        dry_run: Only say which.

    Raises:
        OSError: The directories cannot be looked at.
    """
    base = base_directory()
    try:
        turn = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    try:
        if os.fstat(turn).st_uid != os.getuid():
            return []
        _take_turn(turn)
        return _remove_stale(base, dry_run=dry_run)
    finally:
        os.close(turn)


def _make_private(base: str, system: str) -> tuple[str, int]:
    os.makedirs(base, mode=0o700, exist_ok=True)
    status = os.lstat(base)
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise ProvisionError(
            f"{base} must be this user's alone (mode 0700), for its sockets are not encrypted",
            system=system,
            requested=1,
            started=0,
            remedy=f"remove {base} or set XDG_RUNTIME_DIR to a private directory",
        )
    # One at a time, so that there is no directory without a lock but those of the dead.
    turn = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _take_turn(turn)
        _remove_stale(base)
        directory = tempfile.mkdtemp(prefix="h", dir=base)
        lock = os.open(os.path.join(directory, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_SH)
    finally:
        os.close(turn)
    return directory, lock


def _take_turn(turn: int) -> None:
    """Wait for one's turn, but not for ever for somebody who was stopped in his."""
    end = time.monotonic() + TURN_SECONDS
    while time.monotonic() < end:
        try:
            fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(0.001)


def _remove_stale(base: str, *, dry_run: bool = False) -> list[str]:
    """Remove directories whose driver and supervisor, which would hold their locks, are gone."""
    found = []
    for entry in os.scandir(base):
        descriptor = -1
        with contextlib.suppress(OSError):
            descriptor = os.open(os.path.join(entry.path, "lock"), os.O_RDWR | os.O_CLOEXEC)
        try:
            if descriptor >= 0:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue  # in use
        else:
            found.append(entry.path)
            if not dry_run:
                shutil.rmtree(entry.path, ignore_errors=True)
        finally:
            if descriptor >= 0:
                os.close(descriptor)
    return found
