"""The user's own files: what of a directory travels, and what is left out, and why.

A program's directory holds more than its program: a repository, an environment, caches, results,
what ``.gitignore`` names. None of that is wanted on fifty hosts. Whatever is left out is said.
What is imported travels even if git ignores it: versions and extensions are often generated.

Of a directory that is no program's (a home, a temporary one) only modules travel.
"""

from __future__ import annotations

import os
import posixpath
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.machinery import EXTENSION_SUFFIXES
from typing import Final

from bigmachine.image.archive import is_archive
from bigmachine.image.files import Source, compiled_source
from bigmachine.image.gitignore import Exclusion, GitIgnore

MAX_FILE_BYTES: Final = 32 << 20
"""Larger files are data, which the user has to name."""
MAX_FILES: Final = 20_000
"""More than that is no program's directory, but a home or a temporary one."""
MAX_BYTES: Final = 256 << 20

_JUNK: Final = frozenset(
    {
        ".git",
        ".hg",
        ".svn",
        ".tox",
        ".nox",
        ".eggs",
        ".cache",
        ".mypy_cache",
        ".pytest_cache",
        ".ruff_cache",
        ".hypothesis",
        ".ipynb_checkpoints",
        ".import_linter_cache",
        ".idea",
        ".vscode",
        "node_modules",
    }
)
_CREDENTIALS: Final = frozenset(
    {
        ".aws",
        ".azure",
        ".docker",
        ".git-credentials",
        ".gnupg",
        ".kube",
        ".netrc",
        ".pypirc",
        ".ssh",
    }
)
_UNWANTED: Final = "named by exclude"
_PYTHON: Final = (".py", ".pyi", ".so", ".pyd")
_EXTENSIONS: Final = tuple(each for each in EXTENSION_SUFFIXES if each.count(".") > 1)


@dataclass(slots=True)
class Found:
    """What is in a directory.

    Attributes:
        sources: Its files, by path relative to it, with slashes.
        links: Its symbolic links, likewise, and where they lead.
        left_out: What is left out, and why; absolute paths.
    """

    sources: dict[str, Source] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    left_out: list[tuple[str, str]] = field(default_factory=list)


def collect(
    root: str,
    *,
    excluded: Sequence[str] = (),
    keep: Sequence[str] = (),
    exclusion: Exclusion | None = None,
) -> Found:
    """Find out what of a directory travels.

    Args:
        root: The directory.
        excluded: Directories below it that are none of its own: environments, caches.
        keep: What travels, with all below, whatever else is said of it: paths relative to the
            root, with slashes; "." is all.
        exclusion: What the user wants left out.
    """
    root = os.path.realpath(root)
    outside = frozenset(map(os.path.realpath, excluded))
    is_unwanted = (exclusion or Exclusion(patterns=(), base=root)).below(root)
    walk = _Walk(root, outside, keep, is_unwanted)
    if _is_a_programs(root) or "." in keep:
        found = walk.run(everything=True)
        if not walk.too_much:
            return found
        walk = _Walk(root, outside, keep, is_unwanted)
    found = walk.run(everything=False)
    which = "the first of its modules" if walk.too_much else "its modules"
    reason = f"only {which}: it holds more than a program does; name data that machines need"
    found.left_out.append((root, reason))
    return found


def _is_a_programs(root: str) -> bool:
    """Whether a directory may be one program's, and not everybody's."""
    home = os.path.realpath(os.path.expanduser("~"))
    shared = {"/", home, os.path.dirname(home), os.path.realpath(tempfile.gettempdir())}
    return root not in shared


class _Walk:
    def __init__(
        self,
        root: str,
        excluded: frozenset[str],
        keep: Iterable[str],
        is_unwanted: Callable[[str], bool],
    ) -> None:
        self.root = root
        self.is_unwanted = is_unwanted
        self.excluded = excluded
        self.too_much = False
        self._kept = frozenset(keep)
        self._leads = {above for path in self._kept for above in _above(path)}
        self._found = Found()
        self._files = self._size = 0  # of what the user has not named
        self._git = GitIgnore(root)
        self._packages: set[str] = set()
        self._followed: set[str] = set()

    def run(self, *, everything: bool) -> Found:
        """Walk through the directory.

        Args:
            everything: Take all that is a program's; else modules alone, in directories that hold
                any.
        """
        pending = [""]
        while pending and not self.too_much:
            below = pending.pop()
            entries = self._scan(below)
            if not (everything or self._is_wanted(below) or _holds_modules(below, entries)):
                continue
            for entry in entries:
                path = posixpath.join(below, entry.name)
                if entry.is_dir(follow_symlinks=False):
                    if self._descends(entry, path, everything):
                        pending.append(path)
                elif (everything or path.endswith(_PYTHON) or self._is_kept(path)) and self._take(
                    entry, path
                ):
                    pending.append(path)
            self.too_much = self._files > MAX_FILES or self._size > MAX_BYTES
        self._found.left_out += self._git.problems
        self._drop_lost_links()
        return self._found

    def _scan(self, below: str) -> list[os.DirEntry[str]]:
        directory = os.path.join(self.root, below)
        try:
            with os.scandir(directory) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            self._leave_out(directory, f"it cannot be read: {error.strerror}")
            return []
        names = {entry.name for entry in found}
        if ".gitignore" in names:
            self._git.read(below, os.path.join(directory, ".gitignore"))
        if "__init__.py" in names:
            self._packages.add(below)
        return found

    def _descends(self, entry: os.DirEntry[str], path: str, everything: bool) -> bool:
        full = os.path.join(self.root, path)
        if entry.name == "__pycache__":
            return False  # what of it is valid comes with the modules
        if full in self.excluded:
            return False  # it is in the image by another way, or belongs to none
        if path in self._kept or path in self._leads:
            return True
        if not self._is_kept(path) and self.is_unwanted(path + "/"):
            self._leave_out(full, _UNWANTED)
            return False
        if reason := self._objection(entry.name, full):
            self._leave_out(full, reason)
            return False
        if self._git.ignores(path + "/") and not self._is_kept(path):
            self._leave_out(full, "named by .gitignore")
            return False
        return everything or entry.name.isidentifier()

    def _objection(self, name: str, full: str) -> str:
        if name in _JUNK:
            return "no part of a program"
        if name in _CREDENTIALS:
            return "it may hold credentials: name it as data if machines need it"
        if os.path.exists(os.path.join(full, "pyvenv.cfg")):
            return "an environment"
        return "an environment" if os.path.isdir(os.path.join(full, "conda-meta")) else ""

    def _is_kept(self, path: str) -> bool:
        """Whether a path, or a directory above it, is one of those that travel in any case."""
        if not self._kept:
            return False
        return path in self._kept or "." in self._kept or not self._kept.isdisjoint(_above(path))

    def _is_wanted(self, path: str) -> bool:
        return path in self._leads or self._is_kept(path)

    def _is_imported(self, path: str) -> bool:
        """Whether it looks like a part of a package, which needs it."""
        if path.endswith(_EXTENSIONS):
            return True
        return path.endswith((".py", ".so")) and posixpath.dirname(path) in self._packages

    def _take(self, entry: os.DirEntry[str], path: str) -> bool:
        """Take what is no directory; return whether it leads to one that is to be walked."""
        full = os.path.join(self.root, path)
        kept = self._is_kept(path)
        if not kept and self.is_unwanted(path):
            self._leave_out(full, _UNWANTED)
            return False
        if entry.is_symlink():
            return self._take_link(path, full, kept=kept)
        if not kept and entry.name in _CREDENTIALS:
            self._leave_out(full, self._objection(entry.name, full))
        elif not kept and self._git.ignores(path) and not self._is_imported(path):
            self._leave_out(full, "named by .gitignore")
        elif not path.endswith(
            (".pyc", ".pyo")
        ):  # which, beside a source, belong to another Python
            self._take_file(path, full, kept=kept)
        return False

    def _take_file(self, path: str, full: str, *, kept: bool) -> None:
        try:
            found = os.stat(full)
        except OSError as error:
            self._leave_out(full, f"it cannot be read: {error.strerror}")
            return
        if not stat.S_ISREG(found.st_mode):
            self._leave_out(full, "neither a file nor a directory")
        elif found.st_size > MAX_FILE_BYTES and not kept:
            size = f"{found.st_size / (1 << 20):.0f} MiB"
            self._leave_out(full, f"it has {size}: name it as data if machines need it")
        elif not os.access(full, os.R_OK):
            self._leave_out(full, "it cannot be read: permission denied")
        elif not kept and is_archive(full):
            self._leave_out(full, "a saved image: name it as data if machines need it")
        else:
            if not kept:
                self._files += 1
                self._size += found.st_size
            self._add(path, full)

    def _take_link(self, path: str, full: str, *, kept: bool) -> bool:
        """Keep a link to what is in the directory, and follow one that leads out of it."""
        if not kept and self._git.ignores(path):
            self._leave_out(full, "named by .gitignore")
            return False
        target = os.path.realpath(full)
        if not os.path.exists(target):
            self._leave_out(full, f"a link to {target}, where nothing is")
        elif target.startswith(self.root + os.sep):
            inside = target[len(self.root) + 1 :]
            self._found.links[path] = posixpath.relpath(inside, posixpath.dirname(path) or ".")
        elif os.path.isfile(target):
            self._take_file(path, full, kept=kept)
        elif os.path.isdir(target) and self._follows(path, target):
            return True
        else:
            self._leave_out(full, f"a link to {target}: name it as data if machines need it")
        return False

    def _follows(self, path: str, target: str) -> bool:
        """Whether a link to a directory elsewhere leads to modules, or to what is wanted."""
        if target in self._followed or self.root.startswith(target.rstrip("/") + "/"):
            return False
        if not self._is_wanted(path):
            try:
                if not any(name.endswith(_PYTHON) for name in os.listdir(target)):
                    return False
            except OSError:
                return False
        self._followed.add(target)
        return True

    def _add(self, path: str, full: str) -> None:
        self._found.sources[path] = Source(full)
        if path.endswith(".py"):
            for name, compiled in compiled_beside(full):
                self._found.sources[posixpath.join(posixpath.dirname(path), name)] = compiled

    def _drop_lost_links(self) -> None:
        """Leave out links to what is itself left out."""
        if not self._found.links:
            return
        there = {above for path in self._found.sources for above in _above(path)}
        there |= self._found.sources.keys() | self._found.links.keys()
        for path, target in list(self._found.links.items()):
            place = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
            if place not in there:
                del self._found.links[path]
                full = os.path.join(self.root, path)
                self._leave_out(full, f"a link to {self.root}/{place}, which is left out")

    def _leave_out(self, path: str, reason: str) -> None:
        self._found.left_out.append((path, reason))


def compiled_beside(source: str) -> Iterator[tuple[str, Source]]:
    """Yield what Python has compiled of a module, where that is valid.

    Args:
        source: The module's file.

    Yields:
        The compiled file's path relative to the module's directory, and its contents.
    """
    import importlib.util

    try:
        path = importlib.util.cache_from_source(source)
    except NotImplementedError:
        return
    if os.path.dirname(os.path.dirname(path)) != os.path.dirname(source):
        return  # PYTHONPYCACHEPREFIX has them elsewhere
    compiled = compiled_source(path, source)
    if compiled is not None:
        yield f"__pycache__/{os.path.basename(path)}", compiled


def _holds_modules(below: str, entries: Iterable[os.DirEntry[str]]) -> bool:
    return not below or any(entry.name.endswith(_PYTHON) for entry in entries)


def _above(path: str) -> Iterator[str]:
    """Yield the directories that a relative path is in, the nearest last."""
    at = path.find("/")
    while at >= 0:
        yield path[:at]
        at = path.find("/", at + 1)
