"""Control groups: how much memory a process may use, and how much is used.

A process belongs to one memory group, and each group up to the root may set a limit; the one that
is nearest to being reached is the one that matters. Kernels offer two interfaces. In version 1 each
controller has a hierarchy of its own, in version 2 all share one; hosts in between mount both, and
then the memory controller is bound to version 1 if that names it at all.

    /proc/<pid>/cgroup    4:memory:/a/b  (version 1)      0::/a/b  (version 2)
    /proc/self/mountinfo  where that hierarchy is mounted, and which part of it a container sees

Everything is read below a root directory that tests replace. Where there are no control groups
(macOS) there is simply no group.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Literal

_UNLIMITED_BYTES = 1 << 62  # version 1 says "no limit" with the largest multiple of the page size


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUse:
    """A limit and what counts against it, in bytes.

    Attributes:
        limit_bytes: The limit; positive.
        used_bytes: What is used, without the file caches that the kernel drops first.
    """

    limit_bytes: int
    used_bytes: int

    @property
    def fraction(self) -> float:
        """How much of the limit is used, from 0 to 1."""
        return self.used_bytes / self.limit_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Names:
    """What the two versions call the same things."""

    limit: str
    usage: str
    dropped_first: bytes
    events: str


_NAMES: dict[Literal[1, 2], _Names] = {
    1: _Names(
        limit="memory.limit_in_bytes",
        usage="memory.usage_in_bytes",
        dropped_first=b"total_inactive_file",
        events="memory.oom_control",
    ),
    2: _Names(
        limit="memory.max",
        usage="memory.current",
        dropped_first=b"inactive_file",
        events="memory.events",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryGroup:
    """The memory group of a process. It remains readable when the process has ended.

    Attributes:
        version: Of the interface.
        directories: The group's own directory, its parent's, and so on up to the mount point.
    """

    version: Literal[1, 2]
    directories: tuple[str, ...]

    @property
    def is_root(self) -> bool:
        """Whether it is the root of what is mounted here."""
        return len(self.directories) == 1

    def uses(self) -> tuple[MemoryUse, ...]:
        """Return every limit that binds the group, its own first, and what counts against it."""
        uses = (self._use_of(directory) for directory in self.directories)
        return tuple(use for use in uses if use)

    def tightest(self) -> MemoryUse | None:
        """Return the limit that is nearest to being reached, or None if there is none."""
        return max(self.uses(), key=lambda use: use.fraction, default=None)

    def oom_kills(self) -> int:
        """Return how many processes of this group the kernel has killed for want of memory.

        In version 2 those of groups below it count too.
        """
        path = os.path.join(self.directories[0], _NAMES[self.version].events)
        return _read_table(path).get(b"oom_kill", 0)

    def _use_of(self, directory: str) -> MemoryUse | None:
        names = _NAMES[self.version]
        limit = _read_number(os.path.join(directory, names.limit))
        usage = _read_number(os.path.join(directory, names.usage))
        if not limit or usage is None or limit >= _UNLIMITED_BYTES:
            return None
        statistics = _read_table(os.path.join(directory, "memory.stat"))
        droppable = statistics.get(names.dropped_first, 0)
        return MemoryUse(limit_bytes=limit, used_bytes=max(0, usage - droppable))


class MemoryGroups:
    """Finds the groups of processes. The mount table is read once, when it is made."""

    def __init__(self, root: str = "/") -> None:
        """Read the mount table.

        Args:
            root: The directory to read below; tests replace it.
        """
        self._root = root
        try:
            text = os.fsdecode(_read(os.path.join(root, "proc/self/mountinfo")))
        except OSError:
            text = ""
        self._mounts = {version: _find_mount(text, version) for version in _NAMES}

    def of(self, pid: int) -> MemoryGroup | None:
        """Return the group of a process. Of one that is ending, version 1 says it is the root.

        Returns:
            None if there is no such process, no memory controller, or no way to see the group.
        """
        try:
            text = os.fsdecode(_read(os.path.join(self._root, f"proc/{pid}/cgroup")))
        except OSError:
            return None
        version, path = _group_path(text)
        mount = self._mounts[version]
        if path is None or mount is None:
            return None
        mounted, mount_point = mount
        inside = os.path.relpath(path, mounted)
        if inside.startswith(".."):  # of another container, or above what this one sees
            return None
        top = os.path.join(self._root, mount_point.lstrip("/"))
        return MemoryGroup(version=version, directories=_upwards(top, inside))


def _group_path(text: str) -> tuple[Literal[1, 2], str | None]:
    """Read ``/proc/<pid>/cgroup``: the version that has the memory controller, and the group."""
    unified = None
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return 1, path
        if not controllers:
            unified = path
    return 2, unified


def _find_mount(text: str, version: Literal[1, 2]) -> tuple[str, str] | None:
    """Read ``mountinfo`` (proc(5)): the part of the hierarchy that is mounted, and where."""
    for line in text.splitlines():
        mount, _, file_system = line.partition(" - ")
        kind, _, options = file_system.split(" ", 2)
        wanted = kind == "cgroup" and "memory" in options.split(",")
        if wanted if version == 1 else kind == "cgroup2":
            fields = mount.split(" ")
            return _unescape(fields[3]), _unescape(fields[4])
    return None


def _unescape(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _upwards(top: str, inside: str) -> tuple[str, ...]:
    directories = [top]
    for name in inside.split("/"):
        if name != ".":
            directories.append(os.path.join(directories[-1], name))
    return tuple(reversed(directories))


def _read_number(path: str) -> int | None:
    """Read a file that holds one number; "max", or no such file, is None."""
    try:
        return int(_read(path))
    except (OSError, ValueError):
        return None


def _read_table(path: str) -> dict[bytes, int]:
    """Read a file of lines like ``oom_kill 3``."""
    try:
        lines = _read(path).splitlines()
    except OSError:
        return {}
    pairs = (line.split() for line in lines)
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
