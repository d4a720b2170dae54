"""Makes an image's tree of its layers: a virtual environment, by hard links.

::

    pyvenv.cfg  manifest.json  bin/python → the interpreter
    lib/python3.11/site-packages/...   src/0/...   data/0/...      links into the layers

Files are linked, never walked: what is where is known from the listings, so a layer's symbolic
links lead nowhere. Directories are the image's own, and so are files that are made in them: a
machine may write its ``__pycache__`` there, and no layer sees it. The tree appears by a rename.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import posixpath
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bigmachine.image import locks
from bigmachine.image.listing import FIXED_MTIME
from bigmachine.image.receiving import remove_tree

if TYPE_CHECKING:
    from bigmachine.image.listing import Entry
    from bigmachine.image.manifest import Manifest
    from bigmachine.image.store import Store

_NO_LINKS: Final = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.ENOSYS)
_SHEBANG_BYTES: Final = 127  # older kernels read no more of a first line
_NAME_CHARACTERS: Final = 32


class DamagedLayerError(ValueError):
    """A layer's file was changed in the store; it has to come again.

    Attributes:
        digest: The layer.
    """

    def __init__(self, message: str, digest: str) -> None:
        super().__init__(message, digest)
        self.digest = digest

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembled:
    """An image's tree, in use as long as the lock is open.

    Attributes:
        root: Where it is.
        python: The interpreter to run in it.
        lock: The lock that keeps it (`image.locks`).
    """

    root: str
    python: str
    lock: int


def assemble(store: Store, manifest: Manifest, python: str) -> Assembled:
    """Return the tree of an image of which all layers are in use; it is made if need be.

    Args:
        store: Where the layers are.
        manifest: The image's.
        python: The interpreter, of the image's minor version and in no virtual environment itself.
            An image with an interpreter among its layers uses that.

    Raises:
        DamagedLayerError: A file of a layer is not what it was.
        OSError: It cannot be written; the message says why, and what to do.
    """
    with store.explained():
        root = store.path("images", _name(manifest, python))
        lock = locks.hold(root)
        if lock is None:
            store.with_room(lambda: _make(store, manifest, python, root), 0)
            lock = locks.hold(root)
        if lock is None:
            raise FileNotFoundError(errno.ENOENT, f"the image {root} was removed at once")
        os.utime(root)
    return Assembled(root=root, python=os.path.join(root, "bin", "python"), lock=lock)


def find_manifest(store: Store, digest: str) -> bytes | None:
    """Return the text of the manifest of an image that was assembled here, by its digest."""
    images = store.path("images")
    for name in os.listdir(images):
        if name.startswith(digest[:_NAME_CHARACTERS]):
            with open(os.path.join(images, name, "manifest.json"), "rb") as file:
                text = file.read()
            if hashlib.sha256(text).hexdigest() == digest:
                return text
    return None


def _name(manifest: Manifest, python: str) -> str:
    """Return an image's name on this host. It is short, for first lines of scripts are."""
    interpreter = hashlib.sha256(os.fsencode(python)).hexdigest()
    return f"{manifest.digest[:_NAME_CHARACTERS]}-{interpreter[:8]}"


def _make(store: Store, manifest: Manifest, python: str, root: str) -> None:
    new = store.temporary()
    try:
        os.mkdir(new, 0o700)
        tree = _Tree(new)
        for layer in reversed(manifest.layers):  # where two have the same file, the later one's
            entries = store.contents(layer.digest).listing.entries
            tree.add(layer.digest, layer.mount, store.tree(layer.digest), entries)
        _make_environment(tree, manifest, python, root)
        for script in manifest.scripts:
            _rewrite(os.path.join(new, script), os.path.join(root, "bin", "python"))
        with open(os.path.join(new, "manifest.json"), "wb") as file:
            file.write(manifest.encode())
        try:
            os.rename(new, root)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    finally:
        remove_tree(new)


class _Tree:
    """The new tree, as it grows."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._directories = {root}
        self._put: Callable[[str, str], None] = os.link

    def add(self, digest: str, mount: str, source: str, entries: tuple[Entry, ...]) -> None:
        """Add the files of a layer, where there are none of that name yet."""
        base = f"{self.root}/{mount}" if mount else self.root
        directory, is_there = "", False
        for entry in entries:
            path = entry.path
            target = f"{base}/{path}"
            parent = target.rpartition("/")[0]
            if parent != directory:
                directory, is_there = parent, self.make_directory(parent)
            if not is_there:
                continue
            if entry.size is not None:
                self._add_file(digest, f"{source}/{path}", target, entry.size)
            elif entry.target is None:
                self.make_directory(target)
            else:
                self._add(os.symlink, entry.target, target)

    def make_directory(self, path: str) -> bool:
        """Make a directory of the tree; False where a file or a link has its name."""
        if path not in self._directories:
            if not self.make_directory(os.path.dirname(path)):
                return False
            try:
                os.mkdir(path, 0o755)
            except FileExistsError:
                return False
            self._directories.add(path)
        return True

    def _add_file(self, digest: str, source: str, target: str, size: int) -> None:
        found = os.lstat(source)
        if found.st_size != size or found.st_mtime != FIXED_MTIME:
            raise DamagedLayerError(f"{source} was changed in the cache of layers", digest)
        try:
            self._add(self._put, source, target)
        except OSError as error:
            if self._put is _copy or error.errno not in (*_NO_LINKS, errno.EMLINK):
                raise
            if error.errno != errno.EMLINK:  # which is about this file alone
                self._put = _copy
            self._add(_copy, source, target)

    def _add(self, put: Callable[[str, str], None], source: str, target: str) -> None:
        try:
            put(source, target)
        except FileExistsError:
            return


def _copy(source: str, target: str) -> None:
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, target)
    shutil.copyfile(source, target)
    shutil.copystat(source, target)


def _make_environment(tree: _Tree, manifest: Manifest, python: str, root: str) -> None:
    """Make it a virtual environment of the interpreter, as `venv` does."""
    major, minor, _ = manifest.python
    for layer in manifest.layers:
        if layer.kind == "interpreter":
            python = posixpath.join(root, layer.mount, "bin", f"python{major}.{minor}")
    config = {
        "home": os.path.dirname(python),
        "include-system-site-packages": "false",
        "version": ".".join(map(str, manifest.python)),
        "executable": python,
    }
    with open(os.path.join(tree.root, "pyvenv.cfg"), "w", encoding="utf-8") as file:
        file.writelines(f"{name} = {value}\n" for name, value in config.items())
    bin_directory = os.path.join(tree.root, "bin")
    library = os.path.join(tree.root, "lib", f"python{major}.{minor}", "site-packages")
    tree.make_directory(bin_directory)
    tree.make_directory(library)
    if not os.path.lexists(os.path.join(tree.root, "lib64")):
        os.symlink("lib", os.path.join(tree.root, "lib64"))
    for name in ("python", "python3", f"python{major}.{minor}"):
        link = os.path.join(bin_directory, name)
        if os.path.lexists(link):  # a layer has no say in this
            os.unlink(link)
        os.symlink(python if name == "python" else "python", link)


def _rewrite(path: str, python: str) -> None:
    """Have a script run by the image's interpreter; the layer's file stays as it is."""
    try:
        with open(path, "rb") as file:
            first, _, rest = file.read().partition(b"\n")
        mode = stat.S_IMODE(os.stat(path).st_mode)
    except FileNotFoundError:
        return
    if not first.startswith(b"#!"):
        return
    parts = first.split(None, 1)
    tail = b"" if len(parts) == 1 or b"env" in parts[0] else b" " + parts[1]
    line = b"#!" + os.fsencode(python) + tail
    if len(line) > _SHEBANG_BYTES or b" " in os.fsencode(python):
        # What the kernel cannot read the shell can; to Python it is a text that nobody uses.
        command = json.dumps(python).encode() + tail
        line = b"#!/bin/sh\n'''exec' " + command + b" \"$0\" \"$@\"\n' '''"
    os.unlink(path)
    with open(path, "wb") as file:
        file.write(line + b"\n" + rest)
    os.chmod(path, mode | stat.S_IWUSR)
    os.utime(path, (FIXED_MTIME, FIXED_MTIME))
