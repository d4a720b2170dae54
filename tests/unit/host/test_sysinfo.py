import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from bigmachine.host.sysinfo import disk_info, load_info, mem_info
from bigmachine.info import runtime_mem_info


def test_memory_figures_of_this_process_are_consistent() -> None:
    memory = mem_info(os.getpid())
    assert 0 < memory.system.available_bytes <= memory.system.total_bytes
    assert 0 < memory.machine.rss_bytes < memory.system.total_bytes
    assert 0 <= memory.used_percent <= 100
    assert memory.runtime is None


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_linux_tells_the_peak_and_the_proportional_size() -> None:
    machine = mem_info(os.getpid()).machine
    assert machine.pss_bytes is not None
    assert machine.peak_bytes is not None
    assert 0 < machine.pss_bytes <= machine.peak_bytes


def test_the_machines_own_figures_are_handed_on() -> None:
    runtime = runtime_mem_info()
    assert mem_info(os.getpid(), runtime=runtime).runtime is runtime


def test_a_limit_of_the_machines_group_is_reported(tmp_path: Path) -> None:
    group = tmp_path / "sys/fs/cgroup/job"
    proc = tmp_path / "proc"
    for path, text in {
        proc / "self/mountinfo": "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
        proc / f"{os.getpid()}/cgroup": "0::/job\n",
        group / "memory.max": "1000",
        group / "memory.current": "980",
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    memory = mem_info(os.getpid(), root=str(tmp_path))
    assert (memory.limit_bytes, memory.limit_used_bytes) == (1000, 980)
    assert memory.used_percent >= 98


def test_a_process_that_has_ended_has_no_memory() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait(30)
    with pytest.raises(ProcessLookupError, match=str(child.pid)):
        mem_info(child.pid)


def test_measuring_memory_is_fast_enough_to_answer_for_a_busy_machine() -> None:
    mem_info(os.getpid())  # imports psutil
    best = 1.0
    for _ in range(5):
        start = time.perf_counter()
        mem_info(os.getpid())
        best = min(best, time.perf_counter() - start)
    assert best < 0.05 * 4  # beside other tests


def test_the_disk_of_the_temporary_directory_is_measured() -> None:
    disk = disk_info()
    assert disk.path == tempfile.gettempdir()
    assert 0 < disk.used_bytes + disk.free_bytes <= disk.total_bytes
    assert 0 <= disk.used_percent <= 100


def test_a_directory_that_is_not_there_has_no_disk(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        disk_info(str(tmp_path / "none"))


def test_the_load_is_three_averages_and_a_number_of_processors() -> None:
    load = load_info()
    assert len(load.averages) == 3
    assert all(each >= 0 for each in load.averages)
    assert load.cpus >= 1
