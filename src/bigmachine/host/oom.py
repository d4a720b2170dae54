"""Did a machine die of too little memory? Who knows, in the order of how well they know it.

1. The kernel's log names each process that it kills for want of memory. Only root may read it on
   most hosts.
2. The machine's control group counts such kills: it says that there was one, and not of whom.
3. Nobody says anything, but memory was nearly used up when a SIGKILL came that nobody here had
   sent. That is an inference and is called one.

An `OomWatch` belongs to a supervisor and is told of each machine's start and end. From time to time
it samples, because the dead cannot be asked: in version 1 of control groups an ending process
already seems to have left its group, and the memory that it used is free again.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bigmachine.host.memory import MemoryGroup, MemoryGroups, MemoryUse

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Above this part of its limit a machine that was killed probably died of it.
NEARLY_FULL = 0.9

_RECORD_BYTES = 8192  # the kernel's records are no longer; a smaller read fails
_MAX_KILLS = 1024  # that are remembered

# ``<priority>,<sequence>,<microseconds>,<flags>;<text>``, see Documentation/ABI/testing/dev-kmsg.
_RECORD = re.compile(r"(\d+),[^;]*;(.*)")
# Both are anchored: the names of processes and groups, which users choose, stand in between.
_KILLED = re.compile(r"(?:Memory cgroup out|Out) of memory[^:]*: Killed process (\d+) ")
_CHOSEN = re.compile(r"oom-kill:.*,pid=(\d+),uid=\d+$")


@dataclass(frozen=True, slots=True, kw_only=True)
class OomEvidence:
    """Why a machine is believed to have died of too little memory.

    Attributes:
        detail: What was found, for a person.
        certainty: ``"seen"`` if the kernel says so of that very machine, else ``"inferred"``.
    """

    detail: str
    certainty: Literal["seen", "inferred"]


class KernelLog:
    """Reads the kernel's log from the moment it is opened on; never blocks.

    It holds a descriptor, and no other resource.
    """

    def __init__(self, path: str = "/dev/kmsg") -> None:
        """Open the log at its end; one that may not be read is empty."""
        self._descriptor: int | None = None
        with contextlib.suppress(OSError):
            self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(self._descriptor, 0, os.SEEK_END)

    @property
    def readable(self) -> bool:
        """Whether there is anything to be learned from it."""
        return self._descriptor is not None

    def kills(self) -> Iterator[tuple[int, str]]:
        """Yield the out-of-memory kills logged since the last time: process id and log line.

        A kill may be yielded twice; its later line tells more.
        """
        for line in self._lines():
            record = _RECORD.match(line)
            # Facility 0 is the kernel itself: anybody else's records could claim anything.
            if record is None or int(record[1]) >> 3 != 0:
                continue
            if found := _KILLED.match(record[2]) or _CHOSEN.match(record[2]):
                yield int(found[1]), record[2]

    def close(self) -> None:
        """Give up the descriptor; the log is then empty."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _lines(self) -> Iterator[str]:
        while self._descriptor is not None:
            try:
                data = os.read(self._descriptor, _RECORD_BYTES)
            except BrokenPipeError:
                continue  # records were overwritten before we read them; goes on with the oldest
            except OSError:  # BlockingIOError: that was the last one
                return
            if not data:
                return
            yield from data.decode("utf-8", "replace").splitlines()


@dataclass(slots=True, kw_only=True)
class _Watched:
    """What was known of a machine while it lived."""

    group: MemoryGroup | None
    kills_before: int
    resident_before: int
    uses: tuple[MemoryUse, ...]


class OomWatch:
    """Watches machines, so that it can be told afterwards whether memory was what they died of."""

    def __init__(self, *, root: str = "/", kernel_log: KernelLog | None = None) -> None:
        """Begin to watch nobody yet.

        Args:
            root: The directory to read ``/proc`` and control groups below; tests replace it.
            kernel_log: The log to read; None for the kernel's. It is closed with the watch.
        """
        self._root = root
        self._groups = MemoryGroups(root)
        self._log = KernelLog() if kernel_log is None else kernel_log
        self._watched: dict[int, _Watched] = {}
        self._killed: dict[int, str] = {}

    def add(self, pid: int) -> None:
        """Begin to watch a process that has just started."""
        self._read_log()
        self._killed.pop(pid, None)  # that was an earlier process with this id
        group = self._groups.of(pid)
        self._watched[pid] = _Watched(
            group=group,
            kills_before=group.oom_kills() if group else 0,
            resident_before=self._resident(pid),
            uses=self._uses(group),
        )

    def sample(self) -> None:
        """Take note of where all watched processes are and how much memory is left.

        To be called every second or so. It takes some 50 µs for each process.
        """
        uses: dict[MemoryGroup | None, tuple[MemoryUse, ...]] = {}
        for pid, watched in self._watched.items():
            group = self._groups.of(pid)
            # One that seems to have gone to the root is more likely ending.
            if group is not None and group != watched.group and not group.is_root:
                watched.group = group
                watched.kills_before = group.oom_kills()
            if watched.group not in uses:
                uses[watched.group] = self._uses(watched.group)
            watched.uses = uses[watched.group]

    def explain(self, pid: int, *, peak_bytes: int | None) -> OomEvidence | None:
        """Stop watching a process that has ended, and say whether memory may be the cause.

        The answer means something only if the process ended by a SIGKILL that nobody here sent.

        Args:
            pid: The process.
            peak_bytes: The most memory that it had resident, if that is known. What ``os.wait4``
                says includes the peak of a process that made it by executing a program (not by a
                mere fork): only a maker much smaller than any limit does no harm.
        """
        watched = self._watched.pop(pid, None)
        self._read_log()
        if line := self._killed.pop(pid, None):
            return OomEvidence(detail=f"the kernel logged {line!r}", certainty="seen")
        if watched is None:
            return None
        return self._counted(watched) or _suspected(watched, peak_bytes)

    def close(self) -> None:
        """Stop watching and close the log."""
        self._watched.clear()
        self._log.close()

    def _read_log(self) -> None:
        self._killed.update(self._log.kills())
        while len(self._killed) > _MAX_KILLS:
            del self._killed[next(iter(self._killed))]  # the oldest

    def _counted(self, watched: _Watched) -> OomEvidence | None:
        if watched.group is None:
            return None
        kills = watched.group.oom_kills() - watched.kills_before
        if kills <= 0:
            return None
        return OomEvidence(
            detail=f"{kills} out-of-memory {'kill' if kills == 1 else 'kills'} were counted"
            f" meanwhile in its control group {watched.group.directories[0]}",
            # If the log can be read and does not name the process, it was perhaps another one.
            certainty="inferred" if self._log.readable else "seen",
        )

    def _uses(self, group: MemoryGroup | None) -> tuple[MemoryUse, ...]:
        """Return every limit that binds a group, the host's memory at last."""
        host = self._host_use()
        return (group.uses() if group else ()) + ((host,) if host else ())

    def _resident(self, pid: int) -> int:
        """Return what a process has resident, in bytes; after a fork, what it shares as yet."""
        try:
            with open(os.path.join(self._root, f"proc/{pid}/statm"), "rb") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, IndexError):
            return 0

    def _host_use(self) -> MemoryUse | None:
        try:
            with open(os.path.join(self._root, "proc/meminfo"), encoding="ascii") as file:
                lines = dict(line.split(":", 1) for line in file)
            total, available = (
                int(lines[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable")
            )
        except (OSError, KeyError, ValueError):
            return None
        return MemoryUse(limit_bytes=total, used_bytes=total - available)


def _suspected(watched: _Watched, peak_bytes: int | None) -> OomEvidence | None:
    # Growth after the last sample is in the peak alone; what others use of it, in the sample. What
    # was resident at the start is the template's, and counts against the template's limit.
    grown = (peak_bytes or 0) - watched.resident_before
    found = [(max(use.used_bytes, grown), use.limit_bytes) for use in watched.uses]
    used, limit = max(found, key=lambda pair: pair[0] / pair[1], default=(0, 1))
    if used <= NEARLY_FULL * limit:
        return None
    return OomEvidence(
        detail=f"{min(100, round(100 * used / limit))} % of the {limit >> 20} MiB"
        " that it could use were in use",
        certainty="inferred",
    )
