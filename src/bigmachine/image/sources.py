"""The user's own files: what of a directory travels, and what is left out, and why.

A program's directory holds more than its program: a repository, an environment, caches, results,
what ``.gitignore`` names. None of that is wanted on fifty hosts. Whatever is left out is said.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from bigmachine.image.files import Source, compiled_source

if TYPE_CHECKING:
    from pathspec import PathSpec

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
_PYTHON: Final = (".py", ".pyi", ".so", ".pyd")


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


def collect(root: str, *, excluded: Sequence[str] = (), keep: Sequence[str] = ()) -> Found:
    """Find out what of a directory travels.

    Args:
        root: The directory.
        excluded: Directories below it that are none of its own: environments, caches.
        keep: What travels, with all below, whatever else is said of it: paths relative to the
            root, with slashes; "." is all.
    """
    walk = _Walk(os.path.realpath(root), frozenset(map(os.path.realpath, excluded)), tuple(keep))
    found = walk.run(everything=True)
    if walk.too_much:
        found = _Walk(walk.root, walk.excluded, tuple(keep)).run(everything=False)
        reason = f"only modules of Python: {root} holds more than a program does"
        found.left_out.append((root, reason))
    return found


class _Walk:
    def __init__(self, root: str, excluded: frozenset[str], keep: tuple[str, ...]) -> None:
        self.root = root
        self.excluded = excluded
        self.too_much = False
        self._kept = keep
        self._found = Found()
        self._size = 0
        self._rules: list[_Rules] = []

    def run(self, *, everything: bool) -> Found:
        """Walk through the directory; of one that holds too much, take modules alone."""
        self._begin_ignoring()
        pending = [""]
        while pending and not self.too_much:
            below = pending.pop()
            for entry in self._scan(below):
                path = posixpath.join(below, entry.name)
                if entry.is_dir(follow_symlinks=False):
                    if self._descends(entry, path, everything):
                        pending.append(path)
                elif everything or path.endswith(_PYTHON) or self._keep(path):
                    self._take(entry, path)
            self.too_much = everything and (
                len(self._found.sources) > MAX_FILES or self._size > MAX_BYTES
            )
        return self._found

    def _scan(self, below: str) -> list[os.DirEntry[str]]:
        directory = os.path.join(self.root, below)
        try:
            with os.scandir(directory) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            self._leave_out(directory, f"it cannot be read: {error.strerror}")
            return []
        if any(entry.name == ".gitignore" for entry in found):
            self._ignore(below, os.path.join(directory, ".gitignore"))
        return found

    def _descends(self, entry: os.DirEntry[str], path: str, everything: bool) -> bool:
        full = os.path.join(self.root, path)
        if entry.name == "__pycache__":
            return False  # what of it is valid comes with the modules
        if full in self.excluded:
            return False  # it is in the image by another way, or belongs to none
        if entry.name in _JUNK:
            self._leave_out(full, "no part of a program")
            return False
        if os.path.exists(os.path.join(full, "pyvenv.cfg")) or os.path.isdir(
            os.path.join(full, "conda-meta")
        ):
            self._leave_out(full, "an environment")
            return False
        if self._leads_to_kept(path):
            return True
        if self._is_ignored(path + "/"):
            self._leave_out(full, "named by .gitignore")
            return False
        return everything or entry.name.isidentifier()

    def _keep(self, path: str) -> bool:
        return any(each == "." or f"{path}/".startswith(f"{each}/") for each in self._kept)

    def _leads_to_kept(self, path: str) -> bool:
        return self._keep(path) or any(each.startswith(f"{path}/") for each in self._kept)

    def _take(self, entry: os.DirEntry[str], path: str) -> None:
        full = os.path.join(self.root, path)
        kept = self._keep(path)
        if not kept and self._is_ignored(path):
            self._leave_out(full, "named by .gitignore")
            return
        if entry.is_symlink():
            self._take_link(path, full)
            return
        try:
            found = entry.stat(follow_symlinks=False)
        except OSError as error:
            self._leave_out(full, f"it cannot be read: {error.strerror}")
            return
        if not stat.S_ISREG(found.st_mode):
            self._leave_out(full, "neither a file nor a directory")
        elif path.endswith((".pyc", ".pyo")):
            pass  # beside its source it belongs to another Python
        elif found.st_size > MAX_FILE_BYTES and not kept:
            size = f"{found.st_size / (1 << 20):.0f} MiB"
            self._leave_out(full, f"it has {size}: name it as data if machines need it")
        elif not os.access(full, os.R_OK):
            self._leave_out(full, "it cannot be read: permission denied")
        else:
            self._add(path, full, found.st_size)

    def _take_link(self, path: str, full: str) -> None:
        target = os.path.realpath(full)
        inside = target.startswith(self.root + os.sep)
        if inside and not os.path.isabs(os.readlink(full)):
            self._found.links[path] = os.readlink(full)
        elif os.path.isfile(target) and os.path.getsize(target) <= MAX_FILE_BYTES:
            self._add(path, target, os.path.getsize(target))
        else:
            self._leave_out(full, f"a link to {target}")

    def _add(self, path: str, full: str, size: int) -> None:
        self._found.sources[path] = Source(full)
        self._size += size
        if path.endswith(".py"):
            for name, compiled in compiled_beside(full):
                self._found.sources[posixpath.join(posixpath.dirname(path), name)] = compiled

    def _leave_out(self, path: str, reason: str) -> None:
        self._found.left_out.append((path, reason))

    # .gitignore

    def _begin_ignoring(self) -> None:
        """Heed what stands above the directory, if it is in a repository."""
        above = os.path.dirname(self.root)
        chain = [self.root]
        while not os.path.isdir(os.path.join(chain[-1], ".git")):
            if above == chain[-1]:
                return
            chain.append(above)
            above = os.path.dirname(above)
        for directory in reversed(chain[1:]):
            file = os.path.join(directory, ".gitignore")
            if os.path.exists(file):
                above = os.path.relpath(self.root, directory).replace(os.sep, "/")
                self._ignore("", file, prefix=above + "/")

    def _ignore(self, below: str, file: str, prefix: str = "") -> None:
        from pathspec import GitIgnoreSpec

        try:
            with open(file, encoding="utf-8", errors="surrogateescape") as lines:
                spec = GitIgnoreSpec.from_lines(lines)
        except (OSError, ValueError) as error:
            self._leave_out(file, f"it cannot be heeded: {error}")
            return
        self._rules.append(_Rules(spec, below and below + "/", prefix))

    def _is_ignored(self, path: str) -> bool:
        """Whether git would ignore a path; the rules nearest to it hold."""
        for rules in reversed(self._rules):
            if path.startswith(rules.below):
                answer = rules.spec.check_file(rules.prefix + path[len(rules.below) :])
                if answer.include is not None:
                    return answer.include
        return False


@dataclass(frozen=True, slots=True)
class _Rules:
    """A ``.gitignore``.

    Attributes:
        spec: What it says.
        below: Where it lies, relative to the root, with a slash at the end; "" at the root.
        prefix: Where the root lies, seen from it, if it stands above the root.
    """

    spec: PathSpec[Any]
    below: str
    prefix: str


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
