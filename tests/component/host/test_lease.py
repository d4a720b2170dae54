"""Whatever is killed, and whenever: nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil
import pytest
from hosting import SLACK, Hosting, hosting
from services_for_tests import Probe

from bigmachine.death import DeathKind

MARK = "LEASE_TEST_MARK"
DRIVER = Path(__file__).parent / "doomed_driver.py"


def marked(mark: str) -> list[psutil.Process]:
    """The living processes whose environment, at their start, had this mark."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def start_driver(mark: str, *args: str) -> subprocess.Popen[bytes]:
    path = os.pathsep.join([str(DRIVER.parent), *filter(None, sys.path)])
    environ = {**os.environ, MARK: mark, "PYTHONPATH": path}
    return subprocess.Popen(
        [sys.executable, str(DRIVER), *args],
        env=environ,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )


def check_gone(mark: str, seconds: float) -> None:
    end = time.monotonic() + seconds
    while left := marked(mark):
        if time.monotonic() > end:
            shown = [(each.pid, each.ppid(), each.cmdline()) for each in left]
            for each in left:
                each.kill()
            pytest.fail(f"left behind: {shown}")
        psutil.wait_procs(left, timeout=0.02)


@pytest.mark.parametrize("moment", range(14))
def test_nothing_is_left_when_the_driver_is_killed_while_it_starts(moment: int) -> None:
    mark = uuid.uuid4().hex
    with start_driver(mark) as driver:
        with contextlib.suppress(subprocess.TimeoutExpired):
            driver.wait(0.1 + moment * 0.05)
        driver.kill()
        driver.wait()
        check_gone(mark, 1.0 * SLACK)


@pytest.mark.parametrize("stage", ["calls", "shutdown"])
def test_nothing_is_left_when_the_driver_is_killed_later(stage: str) -> None:
    mark = uuid.uuid4().hex
    with start_driver(mark, stage) as driver:
        assert driver.stdout is not None
        driver.stdout.readline()
        parents = {each.pid for each in marked(mark)}  # of other tests, others sleep
        sleeping = [each for each in psutil.process_iter() if is_sleep(each, parents)]
        driver.kill()
        driver.wait()
        check_gone(mark, 1.0 * SLACK)
        wait_dead(sleeping)


def wait_dead(processes: list[psutil.Process]) -> None:
    """Wait until these have ended; whether somebody reaps the orphans is up to the system."""
    end = time.monotonic() + 1.0 * SLACK
    while left := [each for each in processes if not is_dead(each)]:
        assert time.monotonic() < end, left
        psutil.wait_procs(left, timeout=0.02)


def living_below(host: Hosting) -> list[psutil.Process]:
    """Return what runs below a supervisor; whoever forked a machine may not be reaped yet."""
    found = psutil.Process(host.process.pid).children(recursive=True)
    return [each for each in found if not is_dead(each)]


def is_dead(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def is_sleep(process: psutil.Process, parents: set[int]) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.ppid() in parents and process.cmdline() == ["sleep", "600"]
    return False


def test_machines_and_template_go_with_a_supervisor_that_is_killed() -> None:
    async def test() -> None:
        async with hosting() as host:
            machines = await host.launch(3, {"Probe": Probe()})
            await host.wait_ready(*machines)
            host.client(machines[0]).call(
                "Probe.evaluate", ("import ctypes; ctypes.PyDLL(None).sleep(600)",)
            )
            below = living_below(host)
            assert len(below) == 4
            host.process.kill()
            wait_dead(below)

    asyncio.run(test())


@pytest.mark.parametrize("moment", range(6))
def test_machines_go_with_a_supervisor_that_is_killed_while_it_forks(moment: int) -> None:
    mark = uuid.uuid4().hex
    os.environ[MARK] = mark

    async def test() -> None:
        async with hosting() as host:
            await host.launch(40, {"Probe": Probe()})
            await asyncio.sleep(0.15 + moment * 0.03)
            assert marked(mark)
            host.process.kill()
            host.process.wait()
            os.environ[MARK] = ""
            check_gone(mark, 1.0 * SLACK)

    asyncio.run(test())


def test_a_driver_that_only_closes_its_connection_ends_its_machines() -> None:
    async def test() -> None:
        async with hosting() as host:
            machines = await host.launch(1, {"Probe": Probe()})
            await host.wait_ready(*machines)
            below = living_below(host)
            assert len(below) == 2  # the template and the machine
            host.close()
            assert await host.wait_end() == 0
            wait_dead(below)

    asyncio.run(test())


def test_a_lease_that_is_not_renewed_lapses() -> None:
    async def test() -> None:
        async with hosting(driver_pid=None, lease_seconds=1.0) as host:
            machines = await host.launch(1, {"Probe": Probe()})
            await host.wait_ready(*machines)
            below = living_below(host)
            reply = await host.call_host("Host.keepalive", 2.0)
            assert (reply.accepted, reply.healthy) == (2.0, True)
            began = time.monotonic()
            assert await host.wait_end() == 1
            assert 1.5 < time.monotonic() - began < 2.0 * SLACK
            wait_dead(below)

    asyncio.run(test())


def test_the_directory_is_removed_and_was_locked_and_private() -> None:
    async def test() -> None:
        async with hosting() as host:
            path = Path(host.ready["address"].removeprefix("unix:").partition("#")[0]).parent
            assert path.stat().st_mode & 0o777 == 0o700
            with open(path / "lock", "rb") as lock, pytest.raises(BlockingIOError):  # noqa: ASYNC230
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            await host.shutdown()
            assert not path.exists()

    asyncio.run(test())


def test_machines_killed_by_somebody_else_are_told_apart_from_those_ended_here() -> None:
    async def test() -> None:
        async with hosting() as host:
            first, second = await host.launch(2, {"Probe": Probe()})
            await host.wait_ready(first, second)
            os.kill(await host.call(first, "Probe.pid"), signal.SIGTERM)
            await host.call_host("Host.kill", second, "keepalive", "it was silent for 9 s")
            assert (await host.wait_death(first)).signal == "SIGTERM"
            death = await host.wait_death(second)
            assert (death.kind, death.signal) == (DeathKind.KEEPALIVE, "SIGKILL")
            assert "it was silent for 9 s" in str(death)
            await host.shutdown()

    asyncio.run(test())
