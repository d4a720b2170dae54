"""The private directory of a host's supervisor: its socket is there, and its lock."""

from __future__ import annotations

import contextlib
import fcntl
import os


class PrivateDirectory:
    """The directory, locked for as long as this process lives.

    Args:
        path: Where it is; made if need be.

    Raises:
        PermissionError: Others than this user can enter it.
        OSError: It cannot be made, or is locked by somebody who wants it gone.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        found = os.stat(path)
        if found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise PermissionError(f"{path} is not this user's alone (it has to have mode 0700)")
        self._lock = os.open(os.path.join(path, "lock"), os.O_RDWR | os.O_CREAT, 0o600)
        # Shared with the driver, which has made it: whoever gets it alone may remove it all.
        fcntl.flock(self._lock, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def remove(self) -> None:
        """Remove it with what is in it."""
        with contextlib.suppress(OSError):
            for name in os.listdir(self.path):
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(self.path, name))
            os.rmdir(self.path)
