"""The driver's records of its clusters."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bigmachine.driver.recorder import Recorder
from bigmachine.driver.records import (
    Record,
    Standing,
    records,
    remove,
    remove_ended,
    write_locked,
)
from bigmachine.systems.origin import Origin
from bigmachine.values import changed

DETAILS = {"name": "pi/1 ü", "program": "bigpi.py", "system": "ssh", "options": {"region": "x"}}
RECORD = Record(**DETAILS, origin=Origin.here(), started=12.5)


@pytest.fixture
def directory(tmp_path: Path) -> str:
    return str(tmp_path / "state" / "clusters")


@pytest.fixture
def recorder(directory: str) -> Iterator[Recorder]:
    recorder = Recorder(DETAILS, directory)
    recorder.open()
    yield recorder
    recorder.close()


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        os.sched_yield()


def test_a_cluster_is_open_until_its_driver_ends_it(recorder: Recorder, directory: str) -> None:
    recorder.add("h1", "10.0.0.1:80")
    recorder.add("h2", None)
    recorder.remove("h2")
    recorder.remove("h3")
    wait_for(lambda: any(each[1].hosts for each in records(directory)))
    ((path, record, standing),) = records(directory)
    assert record == changed(RECORD, hosts={"h1": "10.0.0.1:80"}, started=record.started)
    assert 0 <= time.time() - record.started < 60
    assert standing is Standing.OPEN
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    recorder.close()
    assert os.listdir(directory) == []


def test_many_changes_leave_one_file_that_is_always_locked(
    recorder: Recorder, directory: str
) -> None:
    wait_for(lambda: bool(list(records(directory))))
    for number in range(200):
        recorder.add(f"h{number}", None)
        assert [each[2] for each in records(directory)] == [Standing.OPEN]
    wait_for(lambda: len(next(records(directory))[1].hosts) == 200)


@pytest.mark.parametrize(
    ("change", "standing"),
    [
        ({"pid": 2**22 + 1}, Standing.GONE),
        ({}, Standing.GONE),  # its driver lives, and has ended this cluster
        ({"computer": "other"}, Standing.ELSEWHERE),
    ],
)
def test_what_is_not_locked_is_not_open(directory: str, change, standing: Standing) -> None:
    os.makedirs(directory)
    left = changed(RECORD, origin=changed(RECORD.origin, **change))
    Path(directory, "left.json").write_bytes(left.encode())
    assert [each[1:] for each in records(directory)] == [(left, standing)]


def test_a_child_that_holds_the_lock_does_not_stand_for_its_driver(
    recorder: Recorder, directory: str
) -> None:
    wait_for(lambda: bool(list(records(directory))))
    ((path, record, _),) = records(directory)
    gone = changed(record, origin=changed(record.origin, started=0.5))
    os.close(write_locked(path, gone.encode()))
    descriptor = os.open(path, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert [each[2] for each in records(directory)] == [Standing.GONE]
    os.close(descriptor)


def test_the_next_cluster_removes_what_is_of_no_use(directory: str, recorder: Recorder) -> None:
    gone = changed(RECORD.origin, started=0.5)
    other = changed(RECORD.origin, computer="other")
    new = time.time()
    left = {
        "kept-gone": changed(RECORD, origin=gone),
        "local-gone": changed(RECORD, origin=gone, is_here=True),
        "kept-elsewhere": changed(RECORD, origin=other, is_here=True, started=new),
        "old-elsewhere": changed(RECORD, origin=other),
    }
    wait_for(lambda: bool(list(records(directory))))
    for name, record in left.items():
        Path(directory, f"{name}.json").write_bytes(record.encode())
    Path(directory, "damaged.json").write_text("{")
    second = Recorder({**DETAILS, "name": "second"}, directory)
    second.open()
    wait_for(lambda: not os.path.exists(os.path.join(directory, "old-elsewhere.json")))
    second.close()
    names = {name.partition(".")[0] for name in os.listdir(directory)}
    assert {name for name in names if name in left} == {"kept-gone", "kept-elsewhere"}


def test_what_has_ended_on_this_computer_is_removed(directory: str, tmp_path: Path) -> None:
    gone = changed(RECORD.origin, started=0.5)
    held = tmp_path / "held"
    held.mkdir()
    (tmp_path / "ended").mkdir()
    for each in ("held", "ended"):
        (tmp_path / each / "lock").touch()
    with (held / "lock").open() as lock, socket.create_server(("127.0.0.1", 0)) as listening:
        fcntl.flock(lock, fcntl.LOCK_SH)
        port = listening.getsockname()[1]
        with socket.create_server(("127.0.0.1", 0)) as closed:
            free = closed.getsockname()[1]
        addresses = {
            "held": f"unix:{held}/host.sock#host",
            "answers": f"tls:127.0.0.1:{port}#host?host=h1",
            "ended": f"unix:{tmp_path}/ended/host.sock#host",
            "removed": f"unix:{tmp_path}/removed/host.sock#host",
            "refused": f"tls:127.0.0.1:{free}#host?host=h1",
        }
        os.makedirs(directory)
        for name, address in addresses.items():
            record = changed(RECORD, origin=gone, is_here=True, hosts={"h1": address})
            Path(directory, f"{name}.json").write_bytes(record.encode())
        elsewhere = changed(RECORD, origin=gone, hosts={"h1": addresses["ended"]})
        Path(directory, "elsewhere.json").write_bytes(elsewhere.encode())
        remove_ended(directory)
    assert sorted(os.listdir(directory)) == ["answers.json", "elsewhere.json", "held.json"]


def test_a_directory_that_cannot_be_made_fails_nobody(tmp_path: Path, caplog) -> None:
    caplog.set_level("DEBUG")
    (tmp_path / "file").touch()
    recorder = Recorder(DETAILS, str(tmp_path / "file" / "clusters"))
    recorder.open()
    wait_for(lambda: "no record of cluster" in caplog.text)
    recorder.add("h", None)
    recorder.close()
    assert list(records(str(tmp_path / "file"))) == []


def test_removing_is_idempotent(tmp_path: Path) -> None:
    path, other = tmp_path / "one.json", tmp_path / "other.json"
    for each in (path, other):
        each.touch()
    for _ in range(2):
        remove(str(path))
        assert list(tmp_path.iterdir()) == [other]
