"""The user's own directories and files: which of them travel, and where they are in an image.

A *root* is a directory that the program imports from, or that an editable installation leads to;
it is ``src/<n>`` in the image. What the user names as data, and is in no root, is ``data/<n>``.
"""

from __future__ import annotations

import os
import posixpath
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from typing import Final

from bigmachine.image import sources
from bigmachine.image.files import Source
from bigmachine.image.gitignore import Exclusion
from bigmachine.image.listing import Kind

_MODULES: Final = (".py", *EXTENSION_SUFFIXES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What becomes a layer.

    Attributes:
        name: The layer's.
        kind: The layer's.
        mount: Where its files are in the image.
        found: Its files.
    """

    name: str
    kind: Kind
    mount: str
    found: sources.Found


@dataclass(frozen=True, slots=True)
class _Root:
    """A directory of the user's own.

    Attributes:
        path: The directory.
        name: What it is importable as; "": what is in it is.
        mount: Where its files are in the image.
        entry: What of the image is on ``sys.path`` for it.
        only: The one file of it that is wanted; "" is all.
    """

    path: str
    name: str
    mount: str
    entry: str
    only: str = ""


class Roots:
    """The roots of one image, as they are found.

    Args:
        excluded: Directories that are no part of any root: distributions, the standard library.
        exclusion: What the user wants left out.

    Attributes:
        places: The directories and files that travel, and where they are in the image.
    """

    def __init__(self, excluded: Iterable[str], exclusion: Exclusion) -> None:
        self.places: list[tuple[str, str]] = []
        self._excluded = tuple(dict.fromkeys(excluded))
        self._exclusion = exclusion
        self._roots: list[_Root] = []
        self._wanted: set[str] = set()
        self._data: list[str] = []

    def add(self, directory: str, name: str = "") -> str:
        """Make a directory a root; return what of the image is on ``sys.path`` for it.

        Args:
            directory: The directory; or, with a name, a module's path without its suffix.
            name: What it is to be importable as; "": what is in it is.
        """
        directory = os.path.realpath(directory)
        if name and not os.path.isdir(directory):
            for suffix in _MODULES:
                if os.path.isfile(directory + suffix):
                    return self._add(directory + suffix, name.rpartition(".")[0], is_file=True)
        return self._add(directory, name)

    def add_file(self, path: str) -> str:
        """Make a file a root, all by itself; return where it is in the image."""
        return posixpath.join(self._add(path, "", is_file=True), os.path.basename(path))

    def want(self, path: str) -> None:
        """Have a file travel, whatever else is said of it, if it is in a root."""
        self._wanted.add(path)

    def want_loaded(self) -> None:
        """Want the modules that this process has imported: generated ones are often ignored."""
        for module in list(sys.modules.values()):
            path = getattr(module, "__file__", None)
            if isinstance(path, str) and path.endswith(_MODULES):
                self._wanted.add(path)

    def add_data(self, path: str) -> None:
        """Have a file or a directory travel that the user has named."""
        self._data.append(path)
        self._wanted.add(path)

    @property
    def paths(self) -> tuple[str, ...]:
        """Everything that travels, as it is on this computer."""
        return (*(path for path, _ in self.places), *self._data)

    def has(self, path: str) -> bool:
        """Whether a file is in a root."""
        return any(
            path == os.path.join(root.path, root.only) if root.only else _is_below(path, root.path)
            for root in self._roots
        )

    def parts(self) -> Iterator[Part]:
        """Yield what travels, and what does not and why."""
        for root in self._roots:
            name = f"src:{root.only or os.path.basename(root.path) or '/'}"
            yield Part(name=name, kind="source", mount=root.mount, found=self._collect(root))
        outside = [path for path in self._data if not self.has(path)]
        for number, path in enumerate(dict.fromkeys(outside)):
            name, mount = os.path.basename(path), f"data/{number}"
            if os.path.isdir(path):
                found = sources.collect(path, keep=["."])
                self.places.append((path, mount))
            else:
                found = sources.Found({name: Source(path)})
                self.places.append((path, f"{mount}/{name}"))
            yield Part(name=f"data:{name}", kind="data", mount=mount, found=found)

    def _add(self, path: str, name: str, *, is_file: bool = False) -> str:
        directory, only = os.path.split(path) if is_file else (path, "")
        for root in self._roots:
            if (root.path, root.name, root.only) == (directory, name, only):
                return root.entry
        entry = f"src/{len(self._roots)}"
        mount = posixpath.join(entry, name.replace(".", "/")) if name else entry
        self._roots.append(_Root(directory, name, mount, entry, only))
        self.places.append((path, posixpath.join(mount, only) if only else mount))
        return entry

    def _collect(self, root: _Root) -> sources.Found:
        if root.only:
            return sources.Found({root.only: Source(os.path.join(root.path, root.only))})
        below = root.path.rstrip("/") + "/"
        excluded = [each for each in self._excluded if each.startswith(below)]
        keep = [
            path.removeprefix(below)
            for path in self._wanted
            if path.startswith(below) and not any(_is_below(path, each) for each in excluded)
        ]
        return sources.collect(root.path, excluded=excluded, keep=keep, exclusion=self._exclusion)


def _is_below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")
