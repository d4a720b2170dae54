"""Marks that descendants inherit, orphans, and the ways of a platform that has less than Linux."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from bigmachine import osdep
from bigmachine.host import headstart, marks, processes
from bigmachine.host.link import Link
from bigmachine.host.messages import Program, Reached, TemplateStart
from bigmachine.values import as_mapping

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has such marks")

LIMIT = 20.0  # seconds that any wait here may take

CHILD = """
import os, sys
sys.path[:] = {path!r}
from bigmachine.host import marks
assert marks.mark_self({mark})
if os.fork() == 0:
    os.setsid()
    sleep = "import time; print(flush=True); time.sleep(60)"
    os.execve({executable!r}, [{executable!r}, "-c", sleep], {{}})
os.wait()
"""


def test_a_mark_is_inherited_through_everything() -> None:
    mark = marks.new_mark_space() + 3
    source = CHILD.format(path=sys.path, mark=mark, executable=sys.executable)
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        (grandchild,) = osdep.children_of(child.pid)
        assert marks.mark_of(child.pid) == marks.mark_of(grandchild) == mark
        processes.kill(grandchild, 9)
        child.wait(10)
    assert marks.mark_of(os.getpid()) is None
    assert marks.mark_of(child.pid) is None


def test_mark_spaces_differ() -> None:
    spaces = {marks.new_mark_space() for _ in range(50)}
    assert len(spaces) == 50
    assert all(space % (1 << 24) == 0 for space in spaces)


def test_killing_what_is_gone_or_everybody_does_nothing() -> None:
    processes.kill(0, 9)
    processes.kill(-1, 9)
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    processes.kill(child.pid, 9)


@pytest.mark.parametrize("looks", [True, False])
def test_children_are_reaped_with_and_without_a_look_before(
    monkeypatch: pytest.MonkeyPatch, looks: bool
) -> None:
    if not looks:
        monkeypatch.delattr(os, "waitid")
    told: list[object] = []
    reaper = processes.Reaper(lambda pid: told.append(pid), lambda ended: told.append(ended.status))
    code = "import sys; sys.exit(3)"
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", code], os.environ)
    watch = osdep.watch_process(pid)
    assert osdep.wait_process(watch, LIMIT)
    os.close(watch)
    reaper.reap()
    assert told[told.index(pid) :][:2] == [pid, 3 << 8]
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, 0)
    reaper.reap()  # nobody is left


def test_a_process_ends_with_its_parent_where_the_kernel_does_not_see_to_that() -> None:
    child = (
        "import os, sys, time; from bigmachine import osdep; from bigmachine.host import processes;"
        "osdep.set_parent_death_signal = lambda sig: False;"
        "processes.protect_from_orphanhood(os.getppid());"
        "print(flush=True); time.sleep(600)"
    )
    parent = (
        "import subprocess, sys;"
        f"subprocess.Popen([sys.executable, '-c', {child!r}]);"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
        readable, _, _ = select.select([process.stdout], [], [], LIMIT)
        assert readable, "the child lives on"
        assert process.stdout.read() == b""  # it was the last one that held the pipe


@pytest.fixture
def stray() -> Iterator[tuple[int, int]]:
    """The leader of a session, which is gone, and a process of it that has a group of its own."""
    leader = (
        "import subprocess, sys, os;"
        "child = subprocess.Popen(['sleep', '600'], process_group=0, stdout=subprocess.DEVNULL);"
        "print(child.pid, flush=True); os._exit(0)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", leader], stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
    yield process.pid, child
    processes.kill(child, signal.SIGKILL)


def test_what_a_dead_machine_has_left_is_found_by_its_session_without_a_subreaper(
    monkeypatch: pytest.MonkeyPatch, stray: tuple[int, int]
) -> None:
    leader, child = stray
    watch = osdep.watch_process(child)
    orphanage = processes.Orphanage(lambda _: False)
    assert orphanage.sweep(lambda _: False, [leader]) == 0
    monkeypatch.setattr(osdep, "strays_of", osdep.processes_in)
    assert orphanage.sweep(lambda _: False, [leader]) == 1
    assert osdep.wait_process(watch, LIMIT)
    os.close(watch)


def test_a_template_leads_a_session_where_it_cannot_be_started_as_leader(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(headstart, "_SETSID", False)
    start = TemplateStart(
        program=Program(how="bare", executable=sys.executable),
        start_method="auto",
        supervisor_pid=os.getpid(),
        mark=0,
        open_files=None,
        credentials=None,
    )
    begun = headstart.begin(as_mapping(start), None)
    link = Link(begun.link)
    try:
        message, _ = link.next(LIMIT)
        assert isinstance(message, Reached)
        assert os.getsid(begun.pid) == begun.pid
    finally:
        link.close()
        os.close(begun.output_fd)
        os.waitpid(begun.pid, 0)
