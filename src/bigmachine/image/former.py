"""Listings of the user's layers that hosts have been given, as the driver remembers them.

A listing grows with the number of files, by some eighty bytes each as it travels, whatever has
changed. So a host that has an earlier version of a layer gets the listing as the difference to
that one's (`image.transit`), for which the driver needs it, too. What is lost here costs only
that the next listing travels whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from typing import TYPE_CHECKING, Final

from bigmachine.image.index import default_directory
from bigmachine.image.listing import digest_of

if TYPE_CHECKING:
    from bigmachine.image.listing import Layer

_KINDS: Final = frozenset({"source", "data"})  # of one name there are many versions
_SMALL_BYTES: Final = 16 << 10
"""Smaller listings travel whole, in a few kilobytes."""
_VERSIONS: Final = 8  # of one name
_UNUSED_SECONDS: Final = 30 * 86_400.0


class Former:
    """The listings that are remembered.

    Args:
        directory: Where; by default in the user's cache.
    """

    def __init__(self, directory: str | None = None) -> None:
        self._directory = directory or os.path.join(
            os.path.dirname(default_directory()), "listings"
        )

    def __repr__(self) -> str:
        return f"<Former listings in {self._directory}>"

    def keep(self, layer: Layer) -> None:
        """Remember the listing of a layer that a host has, if that is worth it."""
        if not is_worth_it(layer):
            return
        with contextlib.suppress(OSError):
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            path = self._path(layer.name, layer.digest)
            if not os.path.exists(path):
                handle, new = tempfile.mkstemp(dir=self._directory, prefix=".new-")
                with os.fdopen(handle, "wb") as file:
                    file.write(layer.listing)
                os.replace(new, path)
            os.utime(path)
            self._forget(layer.name)

    def versions(self, layer: Layer) -> list[str]:
        """Return the digests of other layers of this one's name, the newest first."""
        if not is_worth_it(layer):
            return []
        found = [path.rpartition("-")[2] for path in self._paths(_key(layer.name))]
        return [digest for digest in found if digest != layer.digest]

    def listing(self, name: str, digest: str) -> bytes | None:
        """Return the listing of a layer; None: it is no longer here, or damaged."""
        try:
            with open(self._path(name, digest), "rb") as file:
                text = file.read()
        except OSError:
            return None
        return text if digest_of(text) == digest else None

    def _path(self, name: str, digest: str) -> str:
        return os.path.join(self._directory, f"{_key(name)}-{digest}")

    def _paths(self, prefix: str) -> list[str]:
        """Return the files whose names begin so, the newest first."""
        try:
            with os.scandir(self._directory) as entries:
                found = [(e.stat().st_mtime, e.path) for e in entries if e.name.startswith(prefix)]
        except OSError:
            return []
        return [path for _, path in sorted(found, reverse=True)]

    def _forget(self, name: str) -> None:
        stale = time.time() - _UNUSED_SECONDS
        old = [path for path in self._paths("") if os.stat(path).st_mtime < stale]
        for path in (*self._paths(_key(name))[_VERSIONS:], *old):
            with contextlib.suppress(OSError):
                os.unlink(path)


def is_worth_it(layer: Layer) -> bool:
    """Whether the listing of a layer is one that travels as a difference, where that can be."""
    return layer.kind in _KINDS and len(layer.listing) >= _SMALL_BYTES


def _key(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:24]
