"""Real processes, killed by the kernel for want of memory, and by others who only look like it.

Needs the right to make a control group below one's own; skipped where there is none.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bigmachine import osdep
from bigmachine.death import Death, DeathKind
from bigmachine.host.cause import Ending, explain
from bigmachine.host.memory import MemoryGroups
from bigmachine.host.oom import KernelLog, OomWatch

LIMIT = 30.0  # seconds that any wait here may take
MEMORY = 64 << 20  # bytes

#: Joins the group that it is given, waits for a line, then takes more memory than there is.
GREEDY = """
import sys
open(sys.argv[1] + "/cgroup.procs", "w").write("0")
print("joined", flush=True)
sys.stdin.readline()
taken = bytearray(256 << 20)
"""


@pytest.fixture
def group() -> Iterator[Path]:
    """A memory group with a limit."""
    own = MemoryGroups().of(os.getpid())
    if own is None:
        pytest.skip("there is no memory controller here")
    path = Path(own.directories[0]) / f"bigmachine-test-{os.getpid()}"
    limit = "memory.limit_in_bytes" if own.version == 1 else "memory.max"
    try:
        path.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        try:
            (path / limit).write_text(str(MEMORY))
        except OSError as error:
            pytest.skip(f"no memory limit can be set here: {error}")
        yield path
    finally:
        path.rmdir()


@contextlib.contextmanager
def greedy(group: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that will use up the memory of the group once it is told to."""
    with subprocess.Popen(
        [sys.executable, "-c", GREEDY, str(group)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()
            process.wait(LIMIT)


def read_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def judge(process: "subprocess.Popen[str]", watch: OomWatch) -> Death:
    """Wait for the end of a process as a supervisor does, and say what it died of."""
    descriptor = osdep.watch_process(process.pid)
    try:
        assert osdep.wait_process(descriptor, LIMIT)
    finally:
        os.close(descriptor)
    _, status = os.waitpid(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    # Its peak would be no smaller than ours, from which it was made.
    evidence = watch.explain(process.pid, peak_bytes=None)
    return explain(Ending(machine="m0", status=status, oom=evidence))


def go(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def test_the_kernels_log_tells_even_if_the_group_was_joined_unseen(group: Path) -> None:
    log = KernelLog()
    if not log.readable:
        pytest.skip("the kernel's log may not be read here")
    with contextlib.closing(OomWatch(kernel_log=log)) as watch, greedy(group) as process:
        watch.add(process.pid)
        assert read_line(process) == "joined"
        go(process)
        death = judge(process, watch)
    assert (death.kind, death.certainty, death.signal) == (DeathKind.OOM, "seen", "SIGKILL")
    assert f"Killed process {process.pid}" in str(death)


def test_the_groups_counter_tells_where_the_log_is_closed_to_us(group: Path) -> None:
    closed = KernelLog("/no such log")
    with contextlib.closing(OomWatch(kernel_log=closed)) as watch, greedy(group) as process:
        watch.add(process.pid)
        assert read_line(process) == "joined"
        watch.sample()
        go(process)
        death = judge(process, watch)
    assert (death.kind, death.certainty) == (DeathKind.OOM, "seen")
    assert group.name in str(death)


def test_a_kill_by_somebody_else_is_not_called_lack_of_memory(group: Path) -> None:
    with contextlib.closing(OomWatch()) as watch, greedy(group) as process:
        watch.add(process.pid)
        assert read_line(process) == "joined"
        watch.sample()
        os.kill(process.pid, signal.SIGKILL)
        death = judge(process, watch)
    assert (death.kind, death.signal) == (DeathKind.SIGNAL, "SIGKILL")
