"""A machine runs out of memory: see what its driver is told.

The machine is put under a limit of its own, so that the host takes no harm: a memory control group
where one may be made (usually as root), whose kernel-side killer then ends the machine; otherwise
the process's own limit (``RLIMIT_AS``), under which the allocation itself fails and the machine
lives::

    python examples/bigoom.py --limit 256
"""

import argparse
import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import bigmachine as bm

MIB = 1 << 20


class Hog:
    """Takes memory until there is none left."""

    def __init__(self, group: Path | None, limit_bytes: int) -> None:
        self.group, self.limit_bytes = group, limit_bytes

    def init(self, cluster: bm.Cluster) -> None:
        if self.group is not None:
            (self.group / "cgroup.procs").write_text(str(os.getpid()))
        else:
            resource.setrlimit(resource.RLIMIT_AS, (self.limit_bytes, self.limit_bytes))

    def eat(self) -> None:
        """Take 16 MiB more until that fails, one way or the other."""
        eaten: list[bytearray] = []
        while True:
            eaten.append(bytearray(os.urandom(1) * (16 * MIB)))
            print(f"ate {16 * len(eaten)} MiB")


def memory_group() -> Path | None:
    """Where this process's memory is accounted: version 2's tree, or version 1's for memory."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        root = "/sys/fs/cgroup" + ("/memory" if controllers == "memory" else "")
        group = Path(root + path)
        if controllers in ("", "memory") and any(group.glob("memory.*")):
            return group
    return None


@contextlib.contextmanager
def limited_group(limit_bytes: int) -> Iterator[Path | None]:
    """A child control group with that limit, or None where we may not make one."""
    group = None
    try:
        parent = memory_group()
        if parent is not None:
            group = parent / f"bigoom-{os.getpid()}"
            group.mkdir()
            old = (group / "memory.limit_in_bytes").exists()
            limit = "memory.limit_in_bytes" if old else "memory.max"
            (group / limit).write_text(str(limit_bytes))
            with contextlib.suppress(OSError):  # only where swap is accounted too
                swap, most = ("memsw.limit_in_bytes", limit_bytes) if old else ("swap.max", 0)
                (group / f"memory.{swap}").write_text(str(most))
    except OSError as error:
        print(f"no memory control group ({error}): falling back to RLIMIT_AS")
        if group is not None and group.exists():
            group.rmdir()
        group = None
    try:
        yield group
    finally:
        if group is not None:
            group.rmdir()


def main() -> None:
    parser = argparse.ArgumentParser(description="Let a machine run out of memory.")
    parser.add_argument("--limit", type=int, default=256, help="MiB that the machine may use")
    bm.driver.add_arguments(parser)
    args = parser.parse_args()

    cluster = bm.driver.start(args)
    # Only the driver gets here: the group is made once, and outlives the machines.
    with limited_group(args.limit * MIB) as group, cluster:
        limit_bytes = args.limit * MIB if group else args.limit * MIB + own_size_bytes()
        (machine,) = cluster.start(1, services={"Hog": Hog(group, limit_bytes)})
        try:
            machine.call(Hog.eat).result()
        except bm.MachineStoppedError as error:
            print(f"the machine died: kind {error.death.kind}, {error.death.certainty}")
            print(error)
        except MemoryError:
            print(f"the method raised MemoryError; the machine is {machine.state}")


def own_size_bytes() -> int:
    """How much address space a process like this one has mapped before it eats anything."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    main()
