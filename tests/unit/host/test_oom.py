"""The evidence of out-of-memory kills, over fake files; a regular file stands in for the log."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bigmachine.host.oom import KernelLog, OomWatch

MIB = 1 << 20
BASE = "sys/fs/cgroup"
KILLED = (
    "Memory cgroup out of memory: Killed process {pid} (python3) total-vm:9kB, anon-rss:65536kB"
)
CHOSEN = (
    "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,"
    "oom_memcg=/a,task_memcg=/a,task=python3,pid={pid},uid=0"
)


class Host:
    """A host of files: version 2 groups, one process, one log."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
        self.memory(total_mib=1000, available_mib=900)
        self.group("job", limit_mib=100, used_mib=10)
        self.move(7, "/job")
        self.write("kmsg", "6,1,5,-;booted\n")

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def memory(self, *, total_mib: int, available_mib: int) -> None:
        lines = f"MemTotal: {total_mib * 1024} kB\nMemFree: 1 kB\n"
        self.write("proc/meminfo", lines + f"MemAvailable: {available_mib * 1024} kB\n")

    def group(self, name: str, *, limit_mib: int, used_mib: int, kills: int = 0) -> None:
        self.write(f"{BASE}/{name}/memory.max", f"{limit_mib * MIB}")
        self.write(f"{BASE}/{name}/memory.current", f"{used_mib * MIB}")
        self.write(f"{BASE}/{name}/memory.events", f"oom 1\noom_kill {kills}\n")

    def move(self, pid: int, path: str) -> None:
        self.write(f"proc/{pid}/cgroup", f"0::{path}\n")

    def log(self, text: str, *, priority: int = 3) -> None:
        with open(self.root / "kmsg", "a") as file:
            file.write(f"{priority},2,9,-;{text}\n SUBSYSTEM=x\n")

    def watch(self, *, log: bool = True) -> OomWatch:
        path = self.root / ("kmsg" if log else "no such file")
        return OomWatch(root=str(self.root), kernel_log=KernelLog(str(path)))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
def watch(host: Host) -> Iterator[OomWatch]:
    watch = host.watch()
    watch.add(7)
    yield watch
    watch.close()


@pytest.fixture
def logless(host: Host) -> Iterator[OomWatch]:
    watch = host.watch(log=False)
    watch.add(7)
    yield watch
    watch.close()


@pytest.mark.parametrize(
    "line",
    [
        KILLED,
        CHOSEN,
        "Out of memory: Killed process {pid} (python3) total-vm:1kB",
        "Out of memory (oom_kill_allocating_task): Killed process {pid} (a b) total-vm:1kB",
    ],
)
def test_a_kill_in_the_kernels_log_is_seen(host: Host, watch: OomWatch, line: str) -> None:
    host.log(line.format(pid=7))
    evidence = watch.explain(7, peak_bytes=None)
    assert evidence is not None
    assert evidence.certainty == "seen"
    assert line.format(pid=7)[:20] in evidence.detail


def test_the_later_line_which_tells_more_is_shown(host: Host, watch: OomWatch) -> None:
    host.log(CHOSEN.format(pid=7))
    host.log(KILLED.format(pid=7))
    evidence = watch.explain(7, peak_bytes=None)
    assert evidence is not None
    assert "anon-rss:65536kB" in evidence.detail


@pytest.mark.parametrize(
    "line",
    [
        KILLED.format(pid=8),
        KILLED.format(pid=77),
        "someone says: " + KILLED.format(pid=7),
        CHOSEN.format(pid=8).replace("python3", "x,pid=7,uid=0"),
        "Out of memory: Killed process 8 (process 7 (x) total-vm:1kB",
        "oom-kill:constraint=CONSTRAINT_NONE,task=x,pid=7",
    ],
)
def test_other_lines_are_no_evidence(host: Host, watch: OomWatch, line: str) -> None:
    host.log(line)
    assert watch.explain(7, peak_bytes=None) is None


def test_what_programs_write_into_the_log_is_no_evidence(host: Host, watch: OomWatch) -> None:
    host.log(KILLED.format(pid=7), priority=(1 << 3) + 3)  # facility 1: user
    assert watch.explain(7, peak_bytes=None) is None


def test_kills_from_before_the_watch_are_not_of_it(host: Host) -> None:
    host.log(KILLED.format(pid=7))
    watch = host.watch()
    watch.add(7)
    assert watch.explain(7, peak_bytes=None) is None
    watch.close()


def test_a_reused_process_id_does_not_inherit_the_kill(host: Host, watch: OomWatch) -> None:
    host.log(KILLED.format(pid=9))
    host.move(9, "/job")
    watch.add(9)
    assert watch.explain(9, peak_bytes=None) is None


def test_a_kill_that_the_group_counted_is_seen_where_the_log_is_closed_to_us(
    host: Host, logless: OomWatch
) -> None:
    host.group("job", limit_mib=100, used_mib=10, kills=1)
    evidence = logless.explain(7, peak_bytes=None)
    assert evidence is not None
    assert evidence.certainty == "seen"
    assert "1 out-of-memory kill was" in evidence.detail.replace("were", "was")


def test_a_kill_that_the_log_does_not_ascribe_to_the_machine_is_inferred(
    host: Host, watch: OomWatch
) -> None:
    host.group("job", limit_mib=100, used_mib=10, kills=2)
    host.log(KILLED.format(pid=8))
    evidence = watch.explain(7, peak_bytes=None)
    assert evidence is not None
    assert evidence.certainty == "inferred"


def test_kills_from_before_the_machine_are_not_counted(host: Host) -> None:
    host.group("job", limit_mib=100, used_mib=10, kills=5)
    watch = host.watch(log=False)
    watch.add(7)
    assert watch.explain(7, peak_bytes=None) is None
    watch.close()


def test_a_machine_that_changed_its_group_is_judged_by_the_new_one(
    host: Host, logless: OomWatch
) -> None:
    host.group("inner", limit_mib=50, used_mib=10, kills=3)
    host.move(7, "/inner")
    logless.sample()
    host.group("inner", limit_mib=50, used_mib=10, kills=4)
    evidence = logless.explain(7, peak_bytes=None)
    assert evidence is not None
    assert "/inner" in evidence.detail


def test_a_sample_that_meets_a_dying_process_keeps_what_was_known(
    host: Host, logless: OomWatch
) -> None:
    host.group("job", limit_mib=100, used_mib=10, kills=1)
    host.move(7, "/")
    logless.sample()
    os.unlink(host.root / "proc/7/cgroup")
    logless.sample()
    assert logless.explain(7, peak_bytes=None) is not None


def test_nearly_used_up_memory_at_the_last_sample_is_an_inference(
    host: Host, watch: OomWatch
) -> None:
    host.group("job", limit_mib=100, used_mib=91)
    watch.sample()
    host.group("job", limit_mib=100, used_mib=0)  # its memory is free again when we are asked
    evidence = watch.explain(7, peak_bytes=None)
    assert evidence is not None
    assert evidence.certainty == "inferred"
    assert "91 % of the 100 MiB" in evidence.detail


def test_a_peak_near_the_limit_is_an_inference_although_no_sample_saw_it(watch: OomWatch) -> None:
    evidence = watch.explain(7, peak_bytes=95 * MIB)
    assert evidence is not None
    assert evidence.certainty == "inferred"


def test_a_peak_of_memory_shared_with_the_template_is_no_evidence(host: Host) -> None:
    shared = 90 * MIB
    host.write("proc/7/statm", f"99999 {shared // os.sysconf('SC_PAGE_SIZE')} 1 1 0 1 0\n")
    watch = host.watch()
    watch.add(7)
    assert watch.explain(7, peak_bytes=shared + 10 * MIB) is None
    watch.add(7)
    assert watch.explain(7, peak_bytes=shared + 95 * MIB) is not None
    watch.close()


def test_memory_to_spare_is_no_evidence(host: Host, watch: OomWatch) -> None:
    host.group("job", limit_mib=100, used_mib=90)
    watch.sample()
    assert watch.explain(7, peak_bytes=90 * MIB) is None


def test_the_hosts_own_memory_may_be_what_ran_out(host: Host, watch: OomWatch) -> None:
    host.memory(total_mib=1000, available_mib=20)
    watch.sample()
    evidence = watch.explain(7, peak_bytes=None)
    assert evidence is not None
    assert "98 % of the 1000 MiB" in evidence.detail


def test_a_host_without_groups_and_log_has_no_evidence(tmp_path: Path) -> None:
    watch = OomWatch(root=str(tmp_path), kernel_log=KernelLog(str(tmp_path / "none")))
    watch.add(7)
    watch.sample()
    assert watch.explain(7, peak_bytes=10 * MIB) is None
    assert watch.explain(7, peak_bytes=None) is None
    watch.close()


def test_a_process_that_was_never_watched_has_no_evidence_but_the_log(
    host: Host, watch: OomWatch
) -> None:
    assert watch.explain(8, peak_bytes=99 * MIB) is None
    host.log(KILLED.format(pid=8))
    assert watch.explain(8, peak_bytes=None) is not None


def test_a_flood_of_kills_is_forgotten_from_its_oldest_on(host: Host, watch: OomWatch) -> None:
    for pid in range(10_000, 12_000):
        host.log(KILLED.format(pid=pid))
    assert watch.explain(10_000, peak_bytes=None) is None
    assert watch.explain(11_999, peak_bytes=None) is not None


def test_a_closed_log_is_empty_and_closing_twice_is_harmless(host: Host) -> None:
    log = KernelLog(str(host.root / "kmsg"))
    host.log(KILLED.format(pid=7))
    log.close()
    log.close()
    assert list(log.kills()) == []
    assert not log.readable


def test_this_hosts_own_log_can_be_read_without_blocking() -> None:
    log = KernelLog()
    if not log.readable:
        pytest.skip("the kernel's log may not be read here")
    assert all(pid > 0 for pid, _ in log.kills())
    log.close()
