"""Measure the disks of the machines, and watch the figures as they come.

A machine writes a temporary file, makes it durable and reads it back. Its method is a generator:
the driver sees each figure when it is measured, not at the end. Where the page cache cannot be
emptied (a temporary directory in memory), reading measures the cache, and writing the memory::

    python examples/diskbench.py --size 512 --machines 1
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import bigmachine as bm

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What a machine has measured so far."""

    phase: str
    done_bytes: int
    seconds: float

    @property
    def throughput(self) -> float:
        """MiB per second since the phase began."""
        return self.done_bytes / MIB / max(self.seconds, 1e-9)


class Disk:
    """Writes and reads a temporary file."""

    def bench(self, size_bytes: int, step_bytes: int) -> Iterator[Progress]:
        """Write and read ``size_bytes``, yielding the throughput after every ``step_bytes``."""
        block = os.urandom(step_bytes)
        with tempfile.TemporaryFile(buffering=0) as file:
            yield from self._timed("write", size_bytes, lambda: self._write(file.fileno(), block))
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(0)
            yield from self._timed("read", size_bytes, lambda: len(file.read(step_bytes)))

    def _write(self, fd: int, block: bytes) -> int:
        written = os.write(fd, block)
        os.fsync(fd)  # in every step, or all but the last would measure the page cache
        return written

    def _timed(self, phase: str, size_bytes: int, step: Callable[[], int]) -> Iterator[Progress]:
        done, start = 0, time.perf_counter()
        while done < size_bytes:
            done += step()
            yield Progress(phase=phase, done_bytes=done, seconds=time.perf_counter() - start)


def show(machine: bm.Machine, size_bytes: int, step_bytes: int) -> None:
    """Print one machine's figures as they arrive."""
    disk = machine.disk_info().result()
    print(f"{machine.hostname}:{disk.path}: {disk.free_bytes / 2**30:.1f} GiB free")
    with machine.stream(Disk.bench, size_bytes, step_bytes) as figures:
        for figure in figures:
            mib = figure.done_bytes // MIB
            print(f"{figure.phase:>5} {mib:6,} MiB {figure.throughput:10,.1f} MiB/s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the machines' disks.")
    parser.add_argument("--size", type=int, default=256, help="MiB to write and read")
    parser.add_argument("--step", type=int, default=32, help="MiB between two figures")
    parser.add_argument("--machines", type=int, default=1, help="machines, one after the other")
    bm.driver.add_arguments(parser)
    args = parser.parse_args()

    with bm.driver.start(args) as cluster:
        for machine in cluster.start(args.machines, services={"Disk": Disk()}).running().result():
            show(machine, args.size * MIB, args.step * MIB)


if __name__ == "__main__":
    main()
