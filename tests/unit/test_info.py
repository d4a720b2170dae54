import pickle
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigmachine import info
from bigmachine.info import (
    DiskInfo,
    MachineMemInfo,
    MemInfo,
    SystemMemInfo,
    compute_digest,
    installed_distributions,
    local_info,
    runtime_mem_info,
)

SYSTEM = SystemMemInfo(
    total_bytes=1000,
    available_bytes=400,
    used_bytes=500,
    free_bytes=100,
    swap_total_bytes=0,
    swap_used_bytes=0,
)
MACHINE = MachineMemInfo(rss_bytes=10, pss_bytes=None, peak_bytes=None)


def memory(limit: int | None, used: int | None) -> MemInfo:
    return MemInfo(system=SYSTEM, machine=MACHINE, limit_bytes=limit, limit_used_bytes=used)


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=30, check=True
    )
    return done.stdout.strip()


def test_local_info_describes_this_interpreter() -> None:
    here = local_info()
    assert here.os == sys.platform
    assert here.python_version.startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")
    assert here.implementation == sys.implementation.name
    assert here.arch
    assert here.hostname
    assert here.digest.startswith("sha256:")
    assert len(here.digest) == len("sha256:") + 64


def test_a_known_digest_is_not_computed_again() -> None:
    assert local_info(digest="sha256:0").digest == "sha256:0"


def test_the_digest_is_computed_once_for_a_process() -> None:
    assert local_info().digest is local_info().digest


def test_two_processes_with_the_same_program_agree_on_its_digest(tmp_path: Path) -> None:
    source = "from bigmachine.info import local_info; print(local_info().digest)"
    programs = [tmp_path / name for name in ("one.py", "same.py", "other.py")]
    for program in programs:
        program.write_text(source)
    programs[2].write_text(source + "  # changed")
    one, same, other = (run(str(program)) for program in programs)
    assert one == same != other


def test_a_program_without_a_file_has_a_digest_too() -> None:
    assert run("-c", "from bigmachine.info import local_info; print(local_info().digest)")


def test_a_program_in_an_archive_is_read_through_its_loader(tmp_path: Path) -> None:
    digests = []
    for name, comment in (("a.pyz", ""), ("b.pyz", "# changed")):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            source = "from bigmachine.info import local_info; print(local_info().digest)"
            archive.writestr("__main__.py", source + comment)
        digests.append(run(str(tmp_path / name)))
    assert digests[0] != digests[1]


def test_distributions_are_read_from_their_metadata_directories(tmp_path: Path) -> None:
    for name in ("numpy-2.1.0.dist-info", "old-1.0.egg-info", "numpy", "__pycache__"):
        (tmp_path / name).mkdir()
    path = [str(tmp_path), str(tmp_path / "none"), str(tmp_path)]
    assert installed_distributions(path) == ["numpy-2.1.0", "old-1.0"]


parts = st.tuples(st.text(max_size=5), st.binary(max_size=5), st.sets(st.text(max_size=5)))


@given(parts, parts)
def test_digests_are_equal_only_for_equal_programs(
    one: tuple[str, bytes, set[str]], other: tuple[str, bytes, set[str]]
) -> None:
    first, second = (
        compute_digest(interpreter=interpreter, main=main, distributions=list(distributions))
        for interpreter, main, distributions in (one, other)
    )
    assert (first == second) == (one == other)


def test_used_memory_is_that_of_the_host_where_there_is_no_limit() -> None:
    assert memory(None, None).used_percent == 60


@pytest.mark.parametrize(("used", "percent"), [(10, 60), (190, 95)])
def test_used_memory_is_the_nearer_of_limit_and_host(used: int, percent: float) -> None:
    assert memory(200, used).used_percent == percent


def test_a_disk_is_as_full_as_an_ordinary_user_finds_it() -> None:
    disk = DiskInfo(path="/", total_bytes=100, used_bytes=45, free_bytes=45)
    assert disk.used_percent == 50
    assert DiskInfo(path="/", total_bytes=0, used_bytes=0, free_bytes=0).used_percent == 0


def test_python_tells_its_own_figures() -> None:
    runtime = runtime_mem_info()
    assert runtime.allocated_blocks > 0
    assert len(runtime.gc_collections) == len(runtime.gc_collected) >= 2
    assert runtime.threads >= 1
    assert runtime.traced_bytes is None


def test_traced_memory_is_told_while_tracing_is_on() -> None:
    tracemalloc.start()
    try:
        runtime = runtime_mem_info()
    finally:
        tracemalloc.stop()
    assert runtime.traced_bytes is not None
    assert runtime.traced_peak_bytes is not None
    assert runtime.traced_peak_bytes >= runtime.traced_bytes


@pytest.mark.parametrize("value", [memory(1, 1), local_info(), runtime_mem_info()])
def test_what_a_machine_says_of_itself_can_be_sent(value: object) -> None:
    assert pickle.loads(pickle.dumps(value)) == value


def test_the_module_imports_nothing_heavy() -> None:
    loaded = run("-c", f"import sys, {info.__name__}; print(*sys.modules)").split()
    assert not {"asyncio", "psutil", "ssl", "hashlib", "tracemalloc", "socket"} & set(loaded)
