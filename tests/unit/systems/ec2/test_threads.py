"""Threads that are still there when a program ends."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from bigmachine.systems.ec2.threads import Threads

LIMIT = 20.0


@pytest.fixture
def threads() -> Iterator[Threads]:
    before = set(threading.enumerate())
    threads = Threads(2)
    yield threads
    threads.close()
    for thread in set(threading.enumerate()) - before:
        thread.join(LIMIT)
        assert not thread.is_alive()


def test_a_job_gives_what_it_returns_or_raises(threads: Threads) -> None:
    assert threads.submit(lambda: 42).result(LIMIT) == 42
    with pytest.raises(ZeroDivisionError):
        threads.submit(lambda: 1 // 0).result(LIMIT)
    assert threads.submit(lambda: 43).result(LIMIT) == 43


def test_so_many_are_done_at_a_time_and_no_more(threads: Threads) -> None:
    both = threading.Barrier(2)
    names: set[str] = set()

    def meet() -> int:
        names.add(str(threading.get_ident()))
        return both.wait(LIMIT)

    for _ in range(3):
        assert sorted(job.result(LIMIT) for job in [threads.submit(meet) for _ in "12"]) == [0, 1]
    assert len(names) == 2


def test_one_that_nobody_waits_for_any_more_is_left_out(threads: Threads) -> None:
    may, done = threading.Event(), []
    busy = [threads.submit(lambda: may.wait(LIMIT)) for _ in range(2)]
    late = threads.submit(lambda: done.append(1))
    assert late.cancel()
    may.set()
    assert all(job.result(LIMIT) for job in busy)
    assert threads.submit(lambda: list(done)).result(LIMIT) == []


def test_they_work_while_the_program_ends() -> None:
    program = """
import atexit
from bigmachine.systems.ec2.threads import Threads

threads = Threads(2)
threads.submit(int).result()
atexit.register(lambda: print([threads.submit(lambda: n).result(5) for n in range(3)]))
"""
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT, check=True)
    assert done.stdout == "[0, 1, 2]\n"
