"""One layer on its way into the store, and reading the packs of one that is there.

Packs may arrive in any order. Each is verified, then written into the files it belongs to, then
noted in a journal; so what has arrived is there for the next attempt, whoever makes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from bigmachine import osdep
from bigmachine.image.listing import FIXED_MTIME, Listing

if TYPE_CHECKING:
    from bigmachine.image.store import Store

_READ_ONLY: Final = 0o555
"""Files in the store are read-only: they are linked into what machines run in."""


class Contents:
    """The files of a layer as packs.

    Args:
        listing: What is in it.
        tree: Where its files are.
    """

    def __init__(self, listing: Listing, tree: str) -> None:
        self.listing = listing
        self.tree = tree
        self.spans = list(listing.spans())

    def __repr__(self) -> str:
        return f"<Contents of {self.listing.name} at {self.tree}>"

    def read_pack(self, number: int) -> bytes:
        """Return a pack.

        Raises:
            OSError: A file is lacking.
            ValueError: A file has been changed.
        """
        parts: list[bytes] = []
        for span in self.spans[number]:
            path = os.path.join(self.tree, self.listing.entries[span.entry].path)
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                parts.append(os.pread(fd, span.size, span.offset))
            finally:
                os.close(fd)
        raw = b"".join(parts)
        if hashlib.sha256(raw).hexdigest() != self.listing.packs[number].sha256:
            raise ValueError(f"layer {self.listing.name} was changed where it is kept: {self.tree}")
        return raw

    def write_pack(self, number: int, view: memoryview, directories: set[str]) -> None:
        """Write a pack into the files it belongs to; ``directories`` are those that are there."""
        for span in self.spans[number]:
            path = os.path.join(self.tree, self.listing.entries[span.entry].path)
            _make_directory(os.path.dirname(path), directories)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                part, offset = view[: span.size], span.offset
                while part:
                    written = os.pwrite(fd, part, offset)
                    part, offset = part[written:], offset + written
            finally:
                os.close(fd)
            view = view[span.size :]

    def complete(self, directories: set[str]) -> None:
        """Make what has no contents, and give files their modes and times; links come last."""
        for entry in self.listing.entries:
            path = os.path.join(self.tree, entry.path)
            if entry.size is not None:
                if not entry.size:
                    _make_directory(os.path.dirname(path), directories)
                    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600))
                os.utime(path, (FIXED_MTIME, FIXED_MTIME), follow_symlinks=False)
                os.chmod(path, entry.mode & _READ_ONLY)
            elif entry.target is None:
                _make_directory(path, directories)
        for entry in self.listing.entries:
            if entry.target is not None:
                path = os.path.join(self.tree, entry.path)
                _make_directory(os.path.dirname(path), directories)
                with contextlib.suppress(FileExistsError):
                    os.symlink(entry.target, path)


class Receiving:
    """One layer on its way in. From `Store.begin`; its methods may be called from any thread.

    Attributes:
        listing: What is in it.
        digest: Its name.
        path: Where it is as long as it is not whole.
        lock: The lock on that (`image.locks`).
    """

    def __init__(self, store: Store, listing: Listing, digest: str, path: str, lock: int) -> None:
        self.listing = listing
        self.digest = digest
        self.path = path
        self.lock = lock
        self._store = store
        self._contents = Contents(listing, os.path.join(path, "tree"))
        self._directories: set[str] = set()
        self._guard = threading.Lock()
        self._over = False
        self._have = self._resume()
        self._journal = open(self._journal_path, "wb", buffering=0)  # noqa: SIM115  until `close`
        lines = "".join(f"{number}\n" for number in sorted(self._have))
        self._journal.write(f"{osdep.boot_id()}\n{lines}".encode())

    def __repr__(self) -> str:
        return f"<Receiving {self.listing.name}, {len(self._have)} of {len(self.listing.packs)}>"

    @property
    def lacking(self) -> list[int]:
        """The numbers of the packs that are not here yet."""
        return [n for n in range(len(self.listing.packs)) if n not in self._have]

    def has(self, number: int) -> bool:
        """Whether a pack is here."""
        return number in self._have

    def write_pack(self, number: int, raw: bytes) -> None:
        """Verify a pack and write it.

        Raises:
            ValueError: It is not the pack it should be.
            OSError: It cannot be written; the message says why, and what to do.
        """
        if number in self._have:
            return
        if hashlib.sha256(raw).hexdigest() != self.listing.packs[number].sha256:
            raise ValueError(f"pack {number} of layer {self.listing.name} is damaged")
        with self._store.explained():
            self._with_room(
                lambda: self._contents.write_pack(number, memoryview(raw), self._directories)
            )
            with self._guard:
                if not self._over:
                    self._journal.write(f"{number}\n".encode())
                    self._have.add(number)

    def read_pack(self, number: int) -> bytes:
        """Return a pack that is here; errors as in `Contents.read_pack`."""
        try:
            return self._contents.read_pack(number)
        except FileNotFoundError:  # it is just being put into its place
            return self._store.read_pack(self.digest, number)

    def reuse(self) -> None:
        """Take the packs that layers of the same name have, and those that are here already."""
        wanted: dict[str, list[int]] = {}
        for number in self.lacking:
            wanted.setdefault(self.listing.packs[number].sha256, []).append(number)
        for digest in self._store.older(self.listing.name) if wanted else ():
            with contextlib.suppress(OSError, ValueError):
                self._take(self._store.contents(digest), wanted)

    def _take(self, other: Contents, wanted: dict[str, list[int]]) -> None:
        for number, pack in enumerate(other.listing.packs):
            if pack.sha256 in wanted:
                raw = other.read_pack(number)
                for mine in wanted.pop(pack.sha256):
                    self.write_pack(mine, raw)

    def finish(self) -> None:
        """Put the layer into its place, and into use.

        Raises:
            ValueError: Packs are lacking.
            OSError: It cannot be written; the message says why, and what to do.
        """
        if self._over:
            return
        if self.lacking:
            raise ValueError(f"layer {self.listing.name} is not complete")
        with self._store.explained():
            self._with_room(lambda: self._contents.complete(self._directories))
            with self._guard:
                self._over = True
                self._journal.close()
            with contextlib.suppress(OSError):
                os.unlink(self._journal_path)
            self._store.adopt(self)
            self._contents.tree = self._store.tree(self.digest)

    def close(self) -> None:
        """Stop; what is here is there for the next attempt. Idempotent."""
        with self._guard:
            if self._over:
                return
            self._over = True
            self._journal.close()
        if os.path.basename(self.path) != self.digest:
            remove_tree(self.path)
        os.close(self.lock)

    @property
    def _journal_path(self) -> str:
        return os.path.join(self.path, "packs")

    def _with_room(self, act: Callable[[], None]) -> None:
        self._store.with_room(act, self.listing.size_bytes)

    def _resume(self) -> set[int]:
        """Return which packs are here already; after a crash of the computer, by their hashes."""
        try:
            with open(self._journal_path, encoding="ascii") as file:
                boot, *lines = file.read().split("\n")[:-1]
            found = {int(line) for line in lines}
        except (OSError, ValueError):
            return set()
        count = len(self.listing.packs)
        sure = boot == osdep.boot_id()
        return {each for each in found if each < count and (sure or self._is_sound(each))}

    def _is_sound(self, number: int) -> bool:
        try:
            self._contents.read_pack(number)
        except (OSError, ValueError):
            return False
        return True


def _make_directory(path: str, made: set[str]) -> None:
    if path not in made:
        os.makedirs(path, exist_ok=True)
        made.add(path)


def remove_tree(path: str) -> None:
    """Remove a directory with all in it, as far as that goes; read-only directories too."""
    shutil.rmtree(path, ignore_errors=True)
    if os.path.isdir(path):  # a machine has made some that cannot be written
        for directory, _, _ in os.walk(path):
            with contextlib.suppress(OSError):
                os.chmod(directory, stat.S_IRWXU)
        shutil.rmtree(path, ignore_errors=True)
