"""Marks that descendants inherit, and orphans."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bigmachine.host import marks, processes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has such marks")

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
        from bigmachine import osdep

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
