"""The driver is killed at each step: after the lease nothing of it is left on any host, or here."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psutil
import pytest

from .drivers import Drivers, Environment, assert_clean
from .host import LabHost
from .lab import Lab
from .test_faults import KEEPALIVE, LEASE, SLACK

pytestmark = pytest.mark.timeout(240)

STEPS = [
    # The first alone finds hosts that have nothing yet.
    ("bigmachine.driver.bootstrap:_Bootstrap._read", "before"),
    ("bigmachine.driver.images:ImageServer.provide", "before"),
    # Who is wrapped, and whether the driver dies before or after it has run.
    ("bigmachine.systems.ssh.board:Board.order", "before"),
    ("bigmachine.systems.ssh.board:Board.order", "after"),
    ("bigmachine.driver.abroad:Abroad.bring_up", "before"),
    ("bigmachine.driver.abroad:Abroad.bring_up", "after"),
    ("bigmachine.driver.abroad:Abroad.settle", "before"),
    ("bigmachine.driver.abroad:Abroad.settle", "after"),
    ("in a call", ""),
    ("bigmachine.driver.hostlink:HostLink.shutdown", "before"),
    ("bigmachine.driver.fleet:Fleet.shutdown", "after"),
]

PROGRAM = """
    import functools, importlib, inspect

    def inject(step, when):
        module, _, path = step.partition(":")
        holder = importlib.import_module(module)
        *outer, name = path.split(".")
        for each in outer:
            holder = getattr(holder, each)
        wrapped = getattr(holder, name)

        def die():
            os.kill(os.getpid(), signal.SIGKILL)

        if inspect.iscoroutinefunction(wrapped):
            @functools.wraps(wrapped)
            async def run(*args, **kwargs):
                if when == "before":
                    die()
                result = await wrapped(*args, **kwargs)
                die()
                return result
        else:
            @functools.wraps(wrapped)
            def run(*args, **kwargs):
                if when == "before":
                    die()
                result = wrapped(*args, **kwargs)
                die()
                return result
        setattr(holder, name, run)

    if __name__ == "__main__":
        step, when, n = sys.argv[1:]
        cluster = bm.start()
        if ":" in step:
            inject(step, when)
        with cluster:
            machines = cluster.start(int(n), services={"Probe": Probe()})
            machines.running().result(timeout=60)
            if step == "in a call":
                calls = [machine.call(Probe.block) for machine in machines]
                machines[0].call(Probe.pid).result(timeout=30)
                os.kill(os.getpid(), signal.SIGKILL)
        say("the step was not reached")
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Drivers, list[LabHost]]]:
    """Two hosts and an environment for all steps: so each step finds what the one before left."""
    directory = tmp_path_factory.mktemp("driver")
    with Lab() as lab:
        yield Drivers(lab, Environment(directory / "venv"), directory), lab.start(2)


@pytest.mark.parametrize(("step", "when"), STEPS)
def test_nothing_is_left_when_the_driver_is_killed(
    shared: tuple[Drivers, list[LabHost]], step: str, when: str
) -> None:
    drivers, two = shared
    options = {"keepalive": KEEPALIVE, "cpus_per_machine": "host"}
    with drivers.driven(PROGRAM, two, step, when, "2", **options) as driver:
        assert driver.wait(90.0) == -9, driver.shown()
        killed = time.monotonic()
        driver.assert_gone(LEASE + SLACK)

        assert_clean(two, LEASE + SLACK)
        assert time.monotonic() - killed < 2 * (LEASE + SLACK)
        assert list((drivers.runtime() / "bigmachine").glob("*")) == []
        assert not [each for each in psutil.process_iter() if _is_of(each, drivers)]


def _is_of(process: psutil.Process, drivers: Drivers) -> bool:
    try:
        return str(drivers.environment.directory) in " ".join(process.cmdline())
    except psutil.Error:
        return False
