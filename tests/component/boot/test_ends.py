"""However a host, its driver or a part of either ends, nothing is left of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from booting import (
    Cluster,
    clusters_in,
    processes_below,
    run,
    wait_end,
    wait_until,
)

from bigmachine.driver import bootstrap as bootstrap_module
from bigmachine.host.bootlink import BootLink
from bigmachine.host.messages import HostReady, LaunchSpec, MachineSpec, Program
from bigmachine.image.runtime import runtime_layers
from bigmachine.rpc import codec
from bigmachine.testing.booted import BootedHost

STEPS = ["connect", "handshake", "hello", "offer", "answer", "pack", "packs", "ready", "taken"]
"""Where a driver may end: after this."""


class Gone(Exception):
    """What the driver dies of at a step."""


@contextlib.asynccontextmanager
async def dying(step: str, act: Callable[[], None]) -> AsyncIterator[None]:
    """Have the driver, which is `bootstrap`, do something right after a step, and end there."""
    patch = pytest.MonkeyPatch()
    link = BootLink
    send, receive = link.send, link.receive
    received = iter(["hello", "answer", "ready"])

    def reach(name: str) -> None:
        if name == step:
            act()
            raise Gone

    async def sending(self: Any, message: Any, data: bytes = b"") -> None:
        await send(self, message, data)
        if "pack" in message:
            reach("pack")
        reach("offer" if "layers" in message else "taken" if "taken" in message else "")

    async def receiving(self: Any) -> Any:
        name = next(received)
        if name == "hello":
            reach("handshake")
        if name == "ready":
            reach("packs")
        message = await receive(self)
        reach(name)
        return message

    def connecting(host: Any, subject: str) -> str:
        reach("connect")
        return ""

    patch.setattr(link, "send", sending)
    patch.setattr(link, "receive", receiving)
    if step == "connect":
        patch.setattr(bootstrap_module, "_address_of", connecting)
    try:
        with contextlib.suppress(Gone):
            yield
    finally:
        patch.undo()


@pytest.mark.parametrize("step", STEPS)
def test_a_driver_that_ends_at_a_step_may_come_again(
    cluster: Cluster, warm_cache: Path, step: str
) -> None:
    async def test() -> None:
        cache = cluster.directory / "cache" if "pack" in step else warm_cache
        host = await cluster.listening(directory=str(cache))
        address, host.address = host.address, None
        async with dying(step, lambda: None):
            await cluster.bring_up(host, seconds=5.0)
        host.address = address
        if step == "taken":  # it has the supervisor, whose lease ends it
            return
        ready = await cluster.bring_up(host)
        assert (await cluster.call(ready, "Host.keepalive", 20.0)).accepted
        assert len(clusters_in(cache)) == 1

    run(test())


@pytest.mark.parametrize(
    ("how", "step"),
    [(signal.SIGKILL, step) for step in STEPS]
    + [(signal.SIGTERM, "hello"), (signal.SIGUSR2, "packs"), (signal.SIGTERM, "taken")],
)
def test_a_boot_file_that_is_killed_at_a_step_leaves_nothing(
    cluster: Cluster, warm_cache: Path, how: signal.Signals, step: str
) -> None:
    async def test() -> None:
        cache = cluster.directory / "cache" if "pack" in step else warm_cache
        host = await cluster.listening(directory=str(cache))
        assert host.process is not None
        host.address = None
        process = host.process
        async with dying(step, lambda: process.send_signal(how)):
            await cluster.bring_up(host, seconds=5.0)
        wait_end(host, 5.0)
        wait_until(lambda: processes_below(cluster.directory) == [])
        # What was being received when it was killed is removed by whoever comes next.
        await check_cache(cluster, cache)

    run(test())


async def check_cache(cluster: Cluster, cache: Path) -> None:
    host = await cluster.listening(directory=str(cache))
    await cluster.bring_up(host)
    assert len(clusters_in(cache)) == 1
    assert os.listdir(cache / "tmp") == []


def test_a_driver_that_ends_for_good_at_a_step_ends_the_host(
    cluster: Cluster, warm_cache: Path
) -> None:
    async def test() -> None:
        hosts: list[BootedHost] = []
        for step in STEPS:
            host = await cluster.listening(
                boot_seconds=1.5, lease_seconds=1.0, directory=str(warm_cache)
            )
            host.address = None
            async with dying(step, lambda: None):
                config = {"cluster": "bigpi-4f1c", "lease_seconds": 1.0}
                await cluster.bring_up(host, seconds=5.0, config=config)
            hosts.append(host)
        for host in hosts:
            assert wait_end(host, 5.0) == 1
        assert processes_below(cluster.directory) == []
        assert clusters_in(warm_cache) == []

    run(test())


# When the supervisor runs


async def with_machine(
    cluster: Cluster, host: BootedHost, config: dict[str, Any] | None = None
) -> tuple[HostReady, list[int]]:
    """Bring a host up, with a machine that has started something on its own."""
    ready = await cluster.bring_up(host, **({} if config is None else {"config": config}))
    path = cluster.directory / "program.py"
    path.write_text(PROGRAM)
    program = Program(
        how="script",
        target=str(path),
        executable=sys.executable,
        argv=(str(path),),
        directory=str(path.parent),
    )
    spec = LaunchSpec(
        machines=(MachineSpec(id="0-12345678", index=0),),
        cluster="bigpi-4f1c",
        program=program,
        services=codec.encode({}),
    )
    await cluster.call(ready, "Host.launch", spec)
    told = path.with_suffix(".json")
    wait_until(told.exists)
    pids = [ready.pid, *json.loads(told.read_text())]
    assert all(map(is_running, pids))
    return ready, pids


def is_running(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


PROGRAM = """
import json, os, pathlib, subprocess, sys, time
started = subprocess.Popen(["sleep", "600"], start_new_session=True)
told = pathlib.Path(__file__).with_suffix(".new")
told.write_text(json.dumps([os.getpid(), started.pid]))
told.rename(told.with_suffix(".json"))
time.sleep(600)
"""


@pytest.mark.parametrize("victim", ["supervisor", "guardian"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGUSR2])
def test_the_end_of_one_is_the_end_of_everything(
    cluster: Cluster, warm_cache: Path, victim: str, how: signal.Signals
) -> None:
    async def test() -> None:
        done = cluster.directory / "done"
        host = await cluster.listening(directory=str(warm_cache), at_end=f"touch {done}")
        ready, pids = await with_machine(cluster, host)
        assert host.process is not None
        os.kill(ready.pid if victim == "supervisor" else host.process.pid, how)
        wait_end(host, 8.0)
        wait_until(lambda: not any(map(is_running, pids)), 5.0)
        wait_until(done.exists, 2.0)
        wait_until(lambda: clusters_in(warm_cache) == [], 2.0)

    run(test())


def test_a_supervisor_that_is_stopped_is_ended_when_its_lease_is_over(
    cluster: Cluster, warm_cache: Path
) -> None:
    async def test() -> None:
        host = cluster.host()
        await host.start(cluster.config(host, directory=str(warm_cache), lease_seconds=-9.0))
        ready, pids = await with_machine(cluster, host)
        os.kill(ready.pid, signal.SIGSTOP)
        assert wait_end(host, 5.0) == 1
        wait_until(lambda: not any(map(is_running, pids)), 5.0)

    run(test())


def test_the_guardian_hears_of_every_renewal(cluster: Cluster, warm_cache: Path) -> None:
    async def test() -> None:
        # Of its own it would give up after a second.
        host = await cluster.listening(directory=str(warm_cache), lease_seconds=-9.0)
        ready = await cluster.bring_up(host)
        await cluster.call(ready, "Host.keepalive", 20.0)
        await asyncio.sleep(1.5)  # there is nothing to wait for: nothing happens
        assert (await cluster.call(ready, "Host.keepalive", 20.0)).accepted == 20.0

    run(test())


def test_the_runtime_has_few_layers() -> None:
    names = [layer.name.partition("-")[0] for layer in runtime_layers()]
    assert names[:3] == ["bigmachine", "psutil", "cloudpickle"]
