"""Measures the host and a machine's process, from outside of that process.

The supervisor answers with these while the machine itself cannot, so nothing here asks the machine
or waits for it, and none takes more than some milliseconds.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from bigmachine.host.memory import MemoryGroups
from bigmachine.info import DiskInfo, LoadInfo, MachineMemInfo, MemInfo, SystemMemInfo

if TYPE_CHECKING:
    from bigmachine.info import RuntimeMemInfo

#: The kernel looks at every page to find the proportional size: 10 ms or so for this much.
_PSS_LIMIT_BYTES = 1 << 30


def mem_info(pid: int, *, runtime: RuntimeMemInfo | None = None, root: str = "/") -> MemInfo:
    """Measure the memory of a machine and of this host.

    Args:
        pid: The machine's process.
        runtime: What the machine says about its interpreter, if it was asked.
        root: Where control groups are read below; tests replace it.

    Raises:
        ProcessLookupError: There is no such process.
    """
    group = MemoryGroups(root).of(pid)
    use = group.tightest() if group else None
    return MemInfo(
        system=_system_memory(),
        machine=_machine_memory(pid),
        limit_bytes=use.limit_bytes if use else None,
        limit_used_bytes=use.used_bytes if use else None,
        runtime=runtime,
    )


def disk_info(path: str | None = None) -> DiskInfo:
    """Measure the file system that holds a directory.

    Args:
        path: The directory; None for this process's temporary directory.

    Raises:
        OSError: There is no such directory.
    """
    if path is None:
        import tempfile

        path = tempfile.gettempdir()
    found = os.statvfs(path)
    return DiskInfo(
        path=path,
        total_bytes=found.f_blocks * found.f_frsize,
        used_bytes=(found.f_blocks - found.f_bfree) * found.f_frsize,
        free_bytes=found.f_bavail * found.f_frsize,
    )


def load_info() -> LoadInfo:
    """Measure how busy this host is."""
    return LoadInfo(averages=os.getloadavg(), cpus=os.cpu_count() or 1)


def _system_memory() -> SystemMemInfo:
    import psutil

    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    return SystemMemInfo(
        total_bytes=memory.total,
        available_bytes=memory.available,
        used_bytes=memory.used,
        free_bytes=memory.free,
        swap_total_bytes=swap.total,
        swap_used_bytes=swap.used,
    )


def _machine_memory(pid: int) -> MachineMemInfo:
    import psutil

    try:
        rss = int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess as error:
        raise ProcessLookupError(f"there is no process {pid}") from error
    if sys.platform == "linux":
        pss = _kibibytes(f"/proc/{pid}/smaps_rollup", b"Pss:") if rss <= _PSS_LIMIT_BYTES else None
        return MachineMemInfo(
            rss_bytes=rss,
            pss_bytes=pss,
            peak_bytes=_kibibytes(f"/proc/{pid}/status", b"VmHWM:"),
        )
    else:
        return MachineMemInfo(rss_bytes=rss, pss_bytes=None, peak_bytes=None)


def _kibibytes(path: str, name: bytes) -> int | None:
    """Read one size from a file of lines like ``VmHWM:  1234 kB``, in bytes."""
    try:
        with open(path, "rb") as file:
            for line in file:
                if line.startswith(name):
                    return int(line.split()[1]) * 1024
    except OSError:  # it has just ended, or is not ours to look into
        pass
    return None
