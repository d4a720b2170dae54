"""Which of the stacks that faulthandler writes are shown."""

from __future__ import annotations

from bigmachine.host.stacks import MAX_LINES, busy_stacks

IDLE = """Thread 0x00007f0000000001 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 324 in wait
  File "/x/bigmachine/rpc/workers.py", line 130 in _sleep
  File "/x/bigmachine/rpc/workers.py", line 110 in _work

"""
LOOP = """Current thread 0x00007f0000000002 (most recent call first):
  File "/usr/lib/python3.11/selectors.py", line 468 in select
  File "/usr/lib/python3.11/asyncio/base_events.py", line 1884 in _run_once
  File "/x/bigmachine/host/machine.py", line 90 in run
"""
BUSY = """Thread 0x00007f0000000003 (most recent call first):
  File "/home/me/service.py", line 7 in compute
  File "/x/bigmachine/rpc/workers.py", line 110 in _work

"""


def test_threads_that_wait_for_work_are_left_out() -> None:
    assert busy_stacks(IDLE + BUSY + LOOP) == BUSY.strip()


def test_all_are_shown_where_none_is_busy() -> None:
    assert busy_stacks(IDLE + LOOP).count("Thread 0x") == 1
    assert "Current thread" in busy_stacks(IDLE + LOOP)


def test_a_thread_that_waits_for_something_else_is_shown() -> None:
    waiting = BUSY.replace("service.py", "threading.py").replace("workers.py", "other.py")
    assert busy_stacks(IDLE + waiting + LOOP) == waiting.strip()


def test_the_whole_is_bounded() -> None:
    many = BUSY * 100
    lines = busy_stacks(many).splitlines()
    assert len(lines) == MAX_LINES + 1
    assert lines[-1].endswith("more lines")


def test_nothing_is_made_of_nothing() -> None:
    assert busy_stacks("") == ""
    assert busy_stacks("garbage\n") == ""
