"""A host's store of layers: plain files below one directory, shared by all clusters of a user.

::

    CACHE/layers/<digest>/   listing.json, tree/...   whole and verified: renamed into place
    CACHE/partial/<digest>/  the same and packs       being received, or left for the next attempt
    CACHE/images/<name>/     a virtual environment    see `image.assemble`
    CACHE/names/<hash>/      older layers of the same name: an edited file costs only itself
    CACHE/tmp/               on its way out, or not in place yet
    CACHE/within             the limit that was kept last, as long as nothing has come in since

Whoever uses a directory of these holds a lock on it (flock); what is locked is never removed. A
process that ends loses its locks, so nothing has to be cleaned up for it to be right. After a
crash of the whole computer files may be hollow although they are in place, so a layer that is not
of this boot is verified once more when it is first used.

Everything here blocks; methods may be called from several threads.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from typing import Final

from bigmachine import osdep
from bigmachine.image import locks
from bigmachine.image.listing import Listing, digest_of
from bigmachine.image.receiving import Contents, Receiving, remove_tree

DEFAULT_LIMIT_BYTES: Final = 10 << 30
"""How large the cache may become, in bytes."""

_DIRECTORIES: Final = ("layers", "partial", "images", "names", "tmp")
_OLDER_LAYERS: Final = 4  # of one name, that are looked at for packs
_DURABLE: Final = "durable"
_WITHIN: Final = "within"


def default_root() -> str:
    """Return where a user's cache belongs."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "bigmachine")


class Store:
    """The store below one directory.

    Args:
        root: The directory; made if need be.
        limit_bytes: How large it may become.
        room: Called when the disk is full with how many bytes are needed, to make some (from
            `image.prune`); returns whether it did.
        temporary: A directory on the same file system for what is not in place yet, which somebody
            removes after this process, however it ends; by default the store's own.

    Raises:
        OSError: It cannot be used; the message says why, and what to do.
    """

    def __init__(
        self,
        root: str,
        *,
        limit_bytes: int = DEFAULT_LIMIT_BYTES,
        room: Callable[[Store, int], bool] | None = None,
        temporary: str | None = None,
    ) -> None:
        self.root = os.path.abspath(os.path.expanduser(root))
        self.limit_bytes = limit_bytes
        self._make_room = room
        self._temporary = temporary or self.path("tmp")
        self._held: dict[str, int] = {}
        self._contents: dict[str, Contents] = {}
        with self.explained():
            for name in _DIRECTORIES:
                os.makedirs(os.path.join(self.root, name), mode=0o700, exist_ok=True)
            found = os.stat(self.root)
        if found.st_uid != os.getuid() or found.st_mode & 0o022:
            raise PermissionError(
                errno.EACCES,
                f"the cache {self.root} can be written by others than this user: chmod it to 0700, "
                f"or name another directory",
            )

    def __repr__(self) -> str:
        return f"<Store {self.root}, {len(self._held)} in use>"

    def path(self, *parts: str) -> str:
        """Return a path in the store."""
        return os.path.join(self.root, *parts)

    # Layers

    def hold(self, digest: str) -> bool:
        """Take a layer into use, so that it stays; False when it is not here, or damaged."""
        if digest in self._held:
            return True
        path = self.path("layers", digest)
        lock = locks.hold(path)
        if lock is None:
            return False
        if not self._is_sound(digest):
            os.close(lock)
            self.discard(path)
            return False
        with contextlib.suppress(OSError):
            os.utime(path)
        self._keep(digest, lock)
        return True

    def has(self, digest: str) -> bool:
        """Whether a layer is here and whole."""
        return digest in self._held or self.hold(digest)

    def release(self, digest: str) -> None:
        """Take a layer out of use. Idempotent."""
        lock = self._held.pop(digest, None)
        self._contents.pop(digest, None)
        if lock is not None:
            os.close(lock)

    def close(self) -> None:
        """Take everything out of use."""
        for digest in list(self._held):
            self.release(digest)

    def contents(self, digest: str) -> Contents:
        """Return the contents of a layer that is here.

        Raises:
            OSError: It is not here.
            ValueError: It is damaged.
        """
        found = self._contents.get(digest)
        if found is None:
            listing = Listing.decode(self.listing_text(digest))
            found = Contents(listing, self.tree(digest))
            if digest in self._held:
                self._contents[digest] = found
        return found

    def tree(self, digest: str) -> str:
        """Return where the files of a layer are."""
        return self.path("layers", digest, "tree")

    def listing_text(self, digest: str) -> bytes:
        """Return the text of a layer's listing; errors as in `contents`."""
        with open(self.path("layers", digest, "listing.json"), "rb") as file:
            text = file.read()
        if digest_of(text) != digest:
            raise ValueError(f"the listing of layer {digest} is damaged")
        return text

    def read_pack(self, digest: str, number: int) -> bytes:
        """Return one pack of a layer that is here; errors as in `contents`."""
        return self.contents(digest).read_pack(number)

    def begin(self, text: bytes) -> Receiving:
        """Begin to receive the layer with this listing, or go on where somebody has stopped.

        Raises:
            ValueError: This is no listing, or one that must not be unpacked.
            OSError: It cannot be written; the message says why, and what to do.
        """
        listing, digest = Listing.decode(text), digest_of(text)
        with self.explained():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path(_WITHIN))
            path, lock = self._open_partial(digest)
            try:
                self._write(os.path.join(path, "listing.json"), text)
                os.makedirs(os.path.join(path, "tree"), exist_ok=True)
                return Receiving(self, listing, digest, path, lock)
            except BaseException:
                os.close(lock)
                raise

    def is_within(self, limit_bytes: int) -> bool:
        """Whether it is known, without a look at everything, that it keeps to a limit."""
        kept = _read(self.path(_WITHIN))
        return kept.isdecimal() and int(kept) <= limit_bytes

    def begin_look(self) -> str:
        """Begin to look at everything; return a mark that is gone when something comes in."""
        mark = f"looked at by {secrets.token_hex(8)}"
        with contextlib.suppress(OSError):  # on a full disk it is looked at all the more
            self._write(self.path(_WITHIN), mark.encode())
        return mark

    def note_within(self, limit_bytes: int, mark: str) -> None:
        """Note that it keeps to a limit, unless something has come in since the mark was made."""
        with contextlib.suppress(OSError):
            if _read(self.path(_WITHIN)) == mark:
                self._write(self.path(_WITHIN), str(limit_bytes).encode())

    def older(self, name: str) -> list[str]:
        """Return the digests of layers of that name that are here, the newest first."""
        path = self.path("names", _name_key(name))
        try:
            found = sorted(os.scandir(path), key=lambda each: -each.stat().st_mtime)
        except OSError:
            return []
        here = [each.name for each in found if os.path.isdir(self.path("layers", each.name))]
        return here[:_OLDER_LAYERS]

    def discard(self, path: str) -> bool:
        """Remove a directory of the store, unless it is in use; whether it was removed."""
        lock = locks.claim(path)
        if lock is None:
            return False
        doomed = self.temporary()
        try:
            os.rename(path, doomed)
        except OSError:
            return False
        finally:
            os.close(lock)
        remove_tree(doomed)
        return True

    def condemn(self, digest: str) -> None:
        """Remove a layer that is damaged, whoever uses it."""
        self.release(digest)
        doomed = self.temporary()
        with contextlib.suppress(OSError):
            os.rename(self.path("layers", digest), doomed)
            remove_tree(doomed)

    def temporary(self) -> str:
        """Return a path that nobody else has."""
        return os.path.join(self._temporary, secrets.token_hex(8))

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Say what the system's errors mean here, and what to do."""
        try:
            yield
        except OSError as error:
            text = _explain(error, self.root)
            if text is None or self.root in (error.strerror or ""):
                raise
            raise type(error)(error.errno, text) from error

    def with_room(self, act: Callable[[], None], needed: int) -> None:
        """Do what writes to the disk; once more after making room if that is full."""
        try:
            act()
        except OSError as error:
            if error.errno not in _FULL or self._make_room is None:
                raise
            if not self._make_room(self, needed):
                raise
            act()

    def _keep(self, digest: str, lock: int) -> None:
        other = self._held.setdefault(digest, lock)
        if other is not lock:
            os.close(lock)

    def _is_sound(self, digest: str) -> bool:
        """Whether a layer is what it was; looks closely once after each start of the computer."""
        path = self.path("layers", digest)
        boot = _read(os.path.join(path, "boot"))
        if boot in (_DURABLE, osdep.boot_id()):
            return True
        try:
            contents = self.contents(digest)
            for number in range(len(contents.listing.packs)):
                contents.read_pack(number)
            # Without a mark it is of boot.py, and perhaps of this boot.
            mark = _DURABLE if boot else osdep.boot_id()
            self._write(os.path.join(path, "boot"), mark.encode())
        except (OSError, ValueError):
            return False
        return True

    def _open_partial(self, digest: str) -> tuple[str, int]:
        """Return where to receive a layer, locked: where somebody has begun, if nobody is there."""
        for name in (digest, f"{digest}.{secrets.token_hex(4)}"):
            path = self.path("partial", name)
            os.makedirs(path, mode=0o700, exist_ok=True)
            lock = locks.claim(path)
            if lock is not None:
                return path, lock
        raise FileNotFoundError(errno.ENOENT, f"somebody removes what is new in {self.root}")

    def adopt(self, receiving: Receiving) -> None:
        """Put a layer that is whole into its place, in use."""
        digest = receiving.digest
        final = self.path("layers", digest)
        self._write(os.path.join(receiving.path, "boot"), osdep.boot_id().encode())
        for attempt in range(2):
            try:
                os.rename(receiving.path, final)
                break
            except OSError as error:
                if attempt or error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            if self.hold(digest):  # somebody was faster
                remove_tree(receiving.path)
                os.close(receiving.lock)
                return
        locks.share(receiving.lock)
        self._keep(digest, receiving.lock)
        names = self.path("names", _name_key(receiving.listing.name))
        os.makedirs(names, exist_ok=True)
        self._write(os.path.join(names, digest), b"")

    def _write(self, path: str, data: bytes) -> None:
        with open(path, "wb") as file:
            file.write(data)


_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN: Final = (errno.EACCES, errno.EPERM, errno.EROFS)


def _explain(error: OSError, root: str) -> str | None:
    """Return what an error means for the cache; None when it is not about that."""
    if error.errno in _FULL:
        return (
            f"the disk of the cache {root} is full: free some space, remove what the cache does "
            f"not need (bigmachine cache prune), or name a directory on another disk"
        )
    if error.errno in _FORBIDDEN:
        return (
            f"no permission to write the cache {root} ({error.strerror}): give it to this user, or "
            f"name another directory"
        )
    return None


def _name_key(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:24]


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except (OSError, ValueError):
        return ""
