"""Clusters where there is no room: in directories, among descriptors, among processes."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .driven import driven, leftovers

REFUSED = """
with bm.start() as cluster:
    machines = cluster.start(2, services={"P": Probe()})
    began = time.monotonic()
    error = machines[0].call(Probe.pid).exception(20)
    say("error", json.dumps([type(error).__name__, error.death.kind, str(error)]))
    cause = error.__cause__
    say("cause", json.dumps([type(cause).__name__, cause.system, cause.remedy]))
    try:
        machines.running().result(20)
    except ExceptionGroup as group:
        say("group", len(group.exceptions))
    say("seconds", time.monotonic() - began)
    runtime = sys.argv[1]
    if runtime:
        os.environ["XDG_RUNTIME_DIR"] = runtime
        again, = cluster.start(1, services={"P": Probe()})
        say("again", again.call(Probe.echo, "works").result(20))
"""


def check_refused(tmp_path: Path, runtime: Path, *, names: str) -> None:
    better = tmp_path / "better"
    better.mkdir(mode=0o700)
    with driven(REFUSED, tmp_path, str(better), env={"XDG_RUNTIME_DIR": str(runtime)}) as program:
        kind, death, text = program.record("error")
        assert (kind, death) == ("MachineStoppedError", "host")
        assert names in text
        assert "room" in text or str(runtime) in text, text
        cause, system, remedy = program.record("cause")
        assert (cause, system) == ("ProvisionError", "local")
        assert "XDG_RUNTIME_DIR" in remedy
        assert program.expect("^group (.*)")[1] == "2"
        assert program.record("seconds") < 5.0
        assert program.expect("^again (.*)")[1] == "works"
        assert program.wait() == 0, program.shown()
        program.assert_gone()


def test_a_file_where_the_directory_should_be_is_named(tmp_path: Path) -> None:
    runtime = tmp_path / "taken"
    runtime.mkdir()
    (runtime / "bigmachine").write_text("a file")
    check_refused(tmp_path, runtime, names="cannot be made")


def test_a_directory_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    runtime = tmp_path / "open"
    runtime.mkdir()
    (runtime / "bigmachine").mkdir()
    (runtime / "bigmachine").chmod(0o777)
    check_refused(tmp_path, runtime, names="must be this user's alone")


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for nothing."""
    path = tmp_path / "full"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=2,mode=0700", "none", str(path)]
    try:
        mounted = subprocess.run(command, capture_output=True, timeout=10, check=False)
    except OSError as error:
        pytest.skip(f"nothing can be mounted here: {error}")
    if mounted.returncode:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr!r}")
    yield path
    subprocess.run(["umount", str(path)], check=True, timeout=10)


def test_a_full_disk_is_named(tmp_path: Path, full_disk: Path) -> None:
    (full_disk / "bigmachine").mkdir(mode=0o700)
    check_refused(tmp_path, full_disk, names="No space left on device")


def test_a_runtime_directory_that_does_not_exist_is_passed_over(tmp_path: Path) -> None:
    source = """
    with bm.start() as cluster:
        machine, = cluster.start(1, services={"P": Probe()})
        say("addr", machine.call(Probe.echo, 1).result(20), machine.addr)
    """
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    changes = {"XDG_RUNTIME_DIR": str(tmp_path / "nowhere"), "TMPDIR": str(temporary)}
    with driven(source, tmp_path, env=changes) as program:
        assert f"unix:{temporary}/" in program.expect("^addr 1 (.*)")[1]
        assert program.wait() == 0, program.shown()
        assert list((temporary / f"bigmachine-{os.getuid()}").iterdir()) == []


MANY = """
with bm.start(Local(transport=sys.argv[1])) as cluster:
    machines = cluster.start(int(sys.argv[2]), services={"P": Probe()})
    soft = set()
    up = machines.running().result(60)
    calls = up.call(Probe.echo, "up")
    outcomes = [call.exception(60) for call in calls]
    say("up", json.dumps([len(up), sum(outcome is None for outcome in outcomes)]))
    say("errors", json.dumps(sorted({str(outcome) for outcome in outcomes if outcome}
        | {str(each.err) for each in machines if each.err})))
say("left")
"""


def limited(soft: int, hard: int | None = None) -> None:
    now = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, now if hard is None else hard))


@pytest.mark.parametrize("transport", ["unix", "tls"])
def test_a_low_soft_limit_of_open_files_does_not_matter(tmp_path: Path, transport: str) -> None:
    with driven(MANY, tmp_path, transport, "64", preexec_fn=lambda: limited(256)) as program:
        assert program.record("up") == [64, 64]
        assert program.record("errors") == []
        program.expect("^left")
        assert program.wait() == 0, program.shown()
        program.assert_gone()


def test_a_low_hard_limit_of_open_files_is_named_and_others_go_on(tmp_path: Path) -> None:
    with driven(MANY, tmp_path, "unix", "64", preexec_fn=lambda: limited(128, 128)) as program:
        up, answered = program.record("up")
        assert 8 <= up < 64, program.shown()
        assert answered == up, program.shown()
        errors = program.record("errors")
        assert any("open files" in error for error in errors), errors
        program.expect("^left")
        assert program.wait() == 0, program.shown()
        program.assert_gone()
        assert leftovers(tmp_path) == []
