"""What a machine says about itself: its platform, memory, disk and load.

Plain values that cross the wire. Those about a host and its processes are filled in by
`bigmachine.host.sysinfo`, in the supervisor; those that only a Python process knows of itself are
made here: `local_info` and `runtime_mem_info`.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """A machine's platform and program.

    Attributes:
        os: The operating system as `sys.platform` names it: ``linux``, ``darwin``.
        arch: The processor's architecture as the kernel names it: ``x86_64``, ``arm64``.
        python_version: Such as ``3.12.1``.
        implementation: Such as ``cpython``.
        hostname: The host's own name for itself.
        digest: Names the program's image by its content: ``sha256:`` and 64 hexadecimal digits.
            Equal digests: the same interpreter, main program and installed distributions.
    """

    os: str
    arch: str
    python_version: str
    implementation: str
    hostname: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemMemInfo:
    """The memory of a whole host, in bytes.

    Attributes:
        total_bytes: Physical memory.
        available_bytes: What programs can still get without swapping.
        used_bytes: In use by programs, caches not counted.
        free_bytes: Not used for anything at all.
        swap_total_bytes: Swap space.
        swap_used_bytes: Swap space in use.
    """

    total_bytes: int
    available_bytes: int
    used_bytes: int
    free_bytes: int
    swap_total_bytes: int
    swap_used_bytes: int

    @property
    def used_percent(self) -> float:
        """How much of the memory is not available any more, 0 to 100."""
        return _percent(self.total_bytes - self.available_bytes, self.total_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineMemInfo:
    """The memory of one machine's process, in bytes.

    Attributes:
        rss_bytes: Resident memory. Pages shared with other machines of the host count fully in
            each, and forked machines share a lot.
        pss_bytes: The same with shared pages divided among those who share them; None where the
            platform does not tell, and above 1 GiB, where finding out takes long.
        peak_bytes: The highest `rss_bytes` so far; None where the platform does not tell.
    """

    rss_bytes: int
    pss_bytes: int | None
    peak_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeMemInfo:
    """Python's own figures about its memory.

    Attributes:
        allocated_blocks: Blocks held from Python's allocator (`sys.getallocatedblocks`).
        gc_collections: Collections so far, in each generation.
        gc_collected: Objects freed by the collector so far, in each generation.
        gc_uncollectable: Objects found that cannot be freed, in each generation.
        gc_frozen: Objects that the collector ignores, most of them made before the fork.
        traced_bytes: Memory held by Python objects, in bytes, where `tracemalloc` is on, else None.
        traced_peak_bytes: The most that `traced_bytes` has been, else None.
        threads: Python threads.
    """

    allocated_blocks: int
    gc_collections: tuple[int, ...]
    gc_collected: tuple[int, ...]
    gc_uncollectable: tuple[int, ...]
    gc_frozen: int
    traced_bytes: int | None
    traced_peak_bytes: int | None
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemInfo:
    """A machine's memory, and its host's.

    Attributes:
        system: The whole host.
        machine: The machine's own process.
        limit_bytes: The tightest limit that a control group sets the machine and those that share
            the group with it, in bytes; None without one.
        limit_used_bytes: What counts against that limit now, in bytes, caches that the kernel can
            drop not included; None without a limit.
        runtime: Python's own figures, if they were asked for.
    """

    system: SystemMemInfo
    machine: MachineMemInfo
    limit_bytes: int | None
    limit_used_bytes: int | None
    runtime: RuntimeMemInfo | None = None

    @property
    def used_percent(self) -> float:
        """How near the machine is to running out, 0 to 100: of its limit, or of the host's memory.

        Whichever is nearer.
        """
        if self.limit_bytes is None or self.limit_used_bytes is None:
            return self.system.used_percent
        limited = _percent(self.limit_used_bytes, self.limit_bytes)
        return max(limited, self.system.used_percent)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskInfo:
    """A file system, in bytes.

    Attributes:
        path: A directory on it: the machine's temporary directory.
        total_bytes: Its size.
        used_bytes: What files occupy.
        free_bytes: What an ordinary user can still write; smaller than the rest, since a part is
            reserved for root.
    """

    path: str
    total_bytes: int
    used_bytes: int
    free_bytes: int

    @property
    def used_percent(self) -> float:
        """How full it is for an ordinary user, 0 to 100, as ``df`` computes it."""
        return _percent(self.used_bytes, self.used_bytes + self.free_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadInfo:
    """How busy a host is.

    Attributes:
        averages: Processes that run or wait to run, averaged over 1, 5 and 15 minutes.
        cpus: Processors of the host; a load above it means that processes wait.
    """

    averages: tuple[float, float, float]
    cpus: int


def local_info(*, digest: str | None = None) -> Info:
    """Describe this process: its platform and program.

    Args:
        digest: The image's digest where it is known already; None computes it, once.
    """
    host = os.uname()
    return Info(
        os=sys.platform,
        arch=host.machine,
        python_version=sys.version.split()[0],
        implementation=sys.implementation.name,
        hostname=host.nodename,
        digest=program_digest() if digest is None else digest,
    )


def runtime_mem_info() -> RuntimeMemInfo:
    """Return this interpreter's own figures about its memory, without walking the heap."""
    import gc
    import tracemalloc

    generations = gc.get_stats()
    traced = tracemalloc.get_traced_memory() if tracemalloc.is_tracing() else (None, None)
    return RuntimeMemInfo(
        allocated_blocks=sys.getallocatedblocks(),
        gc_collections=tuple(each["collections"] for each in generations),
        gc_collected=tuple(each["collected"] for each in generations),
        gc_uncollectable=tuple(each["uncollectable"] for each in generations),
        gc_frozen=gc.get_freeze_count(),
        traced_bytes=traced[0],
        traced_peak_bytes=traced[1],
        threads=len(sys._current_frames()),
    )


_digest: str | None = None


def program_digest() -> str:
    """Name this process's program by content; computed at the first call, then remembered.

    It covers the interpreter's build, the main program's source (nothing in a notebook or a
    REPL, where there is none to speak of) and the names and versions of installed distributions,
    but no paths, so that equal installations agree wherever they are.
    """
    global _digest
    if _digest is None:
        _digest = digest_of(main_file())
    return _digest


def main_file() -> str:
    """Return the path of this process's main program, "" when there is none."""
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    return path if isinstance(path, str) else ""


def digest_of(main_file: str) -> str:
    """Name a program that this interpreter runs; see `program_digest`.

    Args:
        main_file: The path of its main program, perhaps inside an archive; "" when there is none.
    """
    return compute_digest(
        interpreter=f"{sys.implementation.name} {sys.version}",
        main=_read_source(main_file),
        distributions=installed_distributions(sys.path),
    )


def compute_digest(*, interpreter: str, main: bytes, distributions: list[str]) -> str:
    """Combine the parts of an image into its digest. Pure; the order of the parts is fixed."""
    import hashlib

    total = hashlib.sha256()
    for part in (interpreter.encode(), main, *(each.encode() for each in sorted(distributions))):
        # With its length in front no part can pose as the end of the one before it.
        total.update(len(part).to_bytes(8, "big"))
        total.update(part)
    return f"sha256:{total.hexdigest()}"


def installed_distributions(path: list[str]) -> list[str]:
    """List the distributions installed in the directories of ``path``, as ``name-version``.

    Read from the names of their metadata directories: `importlib.metadata` opens every file, which
    takes a tenth of a second in a large environment.
    """
    found: set[str] = set()
    for directory in path:
        try:
            names = os.listdir(directory or ".")
        except OSError:  # ``sys.path`` holds archives and directories that do not exist
            continue
        metadata = (name for name in names if name.endswith((".dist-info", ".egg-info")))
        found.update(os.path.splitext(name)[0] for name in metadata)
    return sorted(found)


def _read_source(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        pass
    archive = os.path.dirname(path)  # ``python app.pyz`` runs app.pyz/__main__.py
    if not os.path.isfile(archive):
        return b""
    import zipimport

    try:
        return zipimport.zipimporter(archive).get_data(path)
    except (OSError, zipimport.ZipImportError):
        return b""


def _percent(part: int, whole: int) -> float:
    return 100 * part / whole if whole else 0.0
