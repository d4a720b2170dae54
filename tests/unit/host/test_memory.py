"""Control groups as files below a directory: both versions, and hosts in between."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigmachine.host.memory import MemoryGroup, MemoryGroups, MemoryUse

MIB = 1 << 20
NO_LIMIT_V1 = "9223372036854771712\n"

MOUNTS_V1 = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
MOUNTS_V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


def write(root: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


def group_v1(path: str, *, limit: str, usage: int, kills: int = 0) -> dict[str, str]:
    return {
        f"{path}/memory.limit_in_bytes": limit,
        f"{path}/memory.usage_in_bytes": f"{usage}\n",
        f"{path}/memory.stat": "inactive_file 1\ntotal_inactive_file 1048576\ntotal_rss 7\n",
        f"{path}/memory.oom_control": f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n",
    }


def group_v2(path: str, *, limit: str, usage: int, kills: int = 0) -> dict[str, str]:
    return {
        f"{path}/memory.max": limit,
        f"{path}/memory.current": f"{usage}\n",
        f"{path}/memory.stat": "anon 5\ninactive_file 1048576\nactive_file 9\n",
        f"{path}/memory.events": f"low 0\nhigh 0\nmax 12\noom 3\noom_kill {kills}\n",
    }


@pytest.fixture
def v1(tmp_path: Path) -> str:
    base = "sys/fs/cgroup/memory"
    return write(
        tmp_path,
        {
            "proc/self/mountinfo": MOUNTS_V1,
            "proc/7/cgroup": "9:name=systemd:/\n4:memory:/jobs/a\n3:cpu,cpuacct:/\n0::/\n",
            **group_v1(f"{base}/jobs/a", limit=f"{64 * MIB}\n", usage=33 * MIB, kills=2),
            **group_v1(f"{base}/jobs", limit=NO_LIMIT_V1, usage=500 * MIB, kills=9),
            **group_v1(base, limit=NO_LIMIT_V1, usage=900 * MIB),
        },
    )


@pytest.fixture
def v2(tmp_path: Path) -> str:
    base = "sys/fs/cgroup"
    return write(
        tmp_path,
        {
            "proc/self/mountinfo": MOUNTS_V2,
            "proc/7/cgroup": "0::/user.slice/job.scope\n",
            **group_v2(f"{base}/user.slice/job.scope", limit="max\n", usage=33 * MIB, kills=2),
            **group_v2(f"{base}/user.slice", limit=f"{100 * MIB}\n", usage=91 * MIB, kills=5),
            f"{base}/memory.stat": "anon 5\n",  # the root has no limit and no events
        },
    )


def found(root: str, pid: int = 7) -> MemoryGroup:
    group = MemoryGroups(root).of(pid)
    assert group is not None
    return group


def test_version_1_gives_limit_use_and_kills_of_the_group(v1: str) -> None:
    group = found(v1)
    assert group.version == 1
    assert group.tightest() == MemoryUse(limit_bytes=64 * MIB, used_bytes=32 * MIB)
    assert group.oom_kills() == 2
    assert not group.is_root


def test_version_2_gives_limit_use_and_kills_of_the_group(v2: str) -> None:
    group = found(v2)
    assert group.version == 2
    assert group.tightest() == MemoryUse(limit_bytes=100 * MIB, used_bytes=90 * MIB)
    assert group.oom_kills() == 2
    assert group.uses() == (MemoryUse(limit_bytes=100 * MIB, used_bytes=90 * MIB),)


def test_the_limit_that_is_nearest_counts_whichever_ancestor_sets_it(v1: str) -> None:
    write(
        Path(v1),
        group_v1("sys/fs/cgroup/memory/jobs", limit=f"{1000 * MIB}", usage=991 * MIB),
    )
    tightest = found(v1).tightest()
    assert tightest == MemoryUse(limit_bytes=1000 * MIB, used_bytes=990 * MIB)
    assert tightest.fraction == 0.99


def test_a_group_stays_readable_when_its_process_has_ended(v1: str) -> None:
    group = found(v1)
    os.unlink(os.path.join(v1, "proc/7/cgroup"))
    assert group.oom_kills() == 2
    assert MemoryGroups(v1).of(7) is None


def test_a_group_that_was_removed_has_no_limit_and_no_kills(tmp_path: Path) -> None:
    group = MemoryGroup(version=2, directories=(str(tmp_path / "gone"), str(tmp_path)))
    assert group.tightest() is None
    assert group.oom_kills() == 0


def test_a_process_in_the_root_has_no_limit(v1: str) -> None:
    write(Path(v1), {"proc/8/cgroup": "4:memory:/\n0::/\n"})
    group = found(v1, 8)
    assert group.is_root
    assert group.tightest() is None


def test_a_container_sees_its_own_part_of_the_hierarchy(tmp_path: Path) -> None:
    mounts = r"50 40 0:32 /docker/f00 /mnt/my\040groups ro - cgroup cgroup rw,memory" + "\n"
    root = write(
        tmp_path,
        {
            "proc/self/mountinfo": mounts,
            "proc/7/cgroup": "4:memory:/docker/f00/job\n",
            "proc/8/cgroup": "4:memory:/docker/other\n",
            **group_v1("mnt/my groups/job", limit=f"{8 * MIB}", usage=5 * MIB, kills=1),
        },
    )
    assert found(root).oom_kills() == 1
    assert found(root).directories == (f"{root}/mnt/my groups/job", f"{root}/mnt/my groups")
    assert MemoryGroups(root).of(8) is None


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"proc/7/cgroup": "0::/a\n"},
        {"proc/7/cgroup": "3:cpu:/a\n", "proc/self/mountinfo": MOUNTS_V1},
        {"proc/7/cgroup": "4:memory:/a\n", "proc/self/mountinfo": MOUNTS_V2},
    ],
    ids=["no proc", "no mounts", "no memory controller", "not mounted"],
)
def test_without_a_memory_controller_there_is_no_group(
    tmp_path: Path, files: dict[str, str]
) -> None:
    assert MemoryGroups(write(tmp_path, files)).of(7) is None


def test_a_use_without_caches_is_never_negative(v2: str) -> None:
    write(Path(v2), group_v2("sys/fs/cgroup/user.slice", limit=f"{MIB}", usage=10))
    tightest = found(v2).tightest()
    assert tightest is not None
    assert tightest.used_bytes == 0


@given(st.from_regex(r"(/[^/\n:]{1,9}){0,4}/?", fullmatch=True))
def test_any_path_of_a_group_stays_below_its_mount(path: str) -> None:
    from bigmachine.host.memory import _upwards

    inside = os.path.relpath(path or "/", "/")
    directories = _upwards("/top", inside)
    assert directories[-1] == "/top"
    assert all(each.startswith("/top") for each in directories)


def test_this_hosts_own_groups_can_be_read() -> None:
    group = MemoryGroups().of(os.getpid())
    if group is None:
        pytest.skip("there is no memory controller on this host")
    assert os.path.isdir(group.directories[0])
    assert group.oom_kills() >= 0
    assert all(use.limit_bytes > 0 for use in group.uses())
