"""A host that has nothing is brought up, over real connections, by the driver's own code."""

from __future__ import annotations

import logging
import os
import socket
import sys
from pathlib import Path

import pytest
from booting import (
    Cluster,
    cache_of,
    clusters_in,
    environ_of,
    processes_below,
    pythons,
    run,
    said_by,
    wait_end,
    wait_until,
)

from bigmachine.addresses import Address
from bigmachine.errors import ProvisionError


def test_a_host_comes_up_serves_and_leaves_nothing(cluster: Cluster) -> None:
    async def test() -> None:
        host = await cluster.listening()
        ready = await cluster.bring_up(host)
        address = Address.parse(ready.address)
        assert (address.port, address.subject) == (host.port, host.id)
        assert (await cluster.call(ready, "Host.keepalive", 20.0)).accepted == 20.0
        assert len(clusters_in(cache_of(host))) == 1
        await cluster.call(ready, "Host.shutdown", 2.0)
        assert wait_end(host) == 0
        assert clusters_in(cache_of(host)) == []
        with pytest.raises(ConnectionRefusedError):
            await host.connect()

    run(test())


def test_a_second_start_moves_no_layer(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    async def start(directory: Path) -> None:
        host = await cluster.listening(directory=str(directory))
        await cluster.bring_up(host)
        host.kill()

    with caplog.at_level(logging.INFO, "bigmachine.driver.bootstrap"):
        run(start(cluster.directory / "shared"))
        assert "is sent bigmachine-" in caplog.text
        caplog.clear()
        run(start(cluster.directory / "shared"))
        assert "is sent" not in caplog.text


def test_hosts_share_a_cache_and_come_up_at_the_same_time(cluster: Cluster) -> None:
    async def test() -> None:
        import asyncio

        directory = str(cluster.directory / "shared")
        hosts = [await cluster.listening(directory=directory) for _ in range(3)]
        readies = await asyncio.gather(*map(cluster.bring_up, hosts))
        assert len({ready.pid for ready in readies}) == 3
        assert len(clusters_in(Path(directory))) == 3
        for host in hosts:
            host.kill()
        assert clusters_in(Path(directory)) == []
        assert os.listdir(Path(directory, "tmp")) == []

    run(test())


def test_the_supervisor_begins_with_the_hosts_environment_alone(
    cluster: Cluster, warm_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET_OF_THE_DRIVER", "1")

    async def test() -> None:
        host = await cluster.listening(directory=str(warm_cache))
        ready = await cluster.bring_up(host)
        names = environ_of(ready.pid).keys()
        assert {"HOME", "PATH"} <= names <= {"HOME", "PATH", "LANG", "PWD", "LC_CTYPE", "_"}

    run(test())


@pytest.mark.parametrize(
    ("version", "path"), list(pythons()), ids=lambda each: each.rpartition("/")[2]
)
def test_every_python_boots_or_says_that_it_is_too_old(
    cluster: Cluster, warm_cache: Path, version: str, path: str
) -> None:
    async def test() -> None:
        host = cluster.host(python=path)
        config = cluster.config(host, directory=str(warm_cache))
        if tuple(map(int, version.split("."))) < (3, 8):
            with pytest.raises(ProvisionError, match=rf"Python 3.8 or later .* it is {version}"):
                await host.start(config)
            return
        facts = await host.start(config)
        assert facts["python"]["version"][:2] == [int(each) for each in version.split(".")]
        ready = await cluster.bring_up(host)
        executable = os.readlink(f"/proc/{ready.pid}/exe")
        assert executable.endswith("python{}.{}".format(*sys.version_info))

    run(test())


def test_who_feeds_it_and_goes_away_ends_it(cluster: Cluster) -> None:
    async def test() -> None:
        host = await cluster.listening()
        assert host.process is not None
        assert host.process.stdin is not None
        host.process.stdin.close()
        assert wait_end(host, 2.0) == 1
        assert "has ended" in said_by(host)[-1]["error"]

    run(test())


def test_once_it_is_up_nobody_need_feed_it(cluster: Cluster, warm_cache: Path) -> None:
    async def test() -> None:
        host = await cluster.listening(directory=str(warm_cache))
        ready = await cluster.bring_up(host)
        assert host.process is not None
        assert host.process.stdin is not None
        host.process.stdin.close()
        assert (await cluster.call(ready, "Host.keepalive", 20.0)).accepted == 20.0

    run(test())


def test_a_host_that_no_driver_reaches_ends(cluster: Cluster) -> None:
    async def test() -> None:
        done = cluster.directory / "done"
        host = await cluster.listening(boot_seconds=0.5, at_end=["touch", str(done)])
        assert wait_end(host, 3.0) == 1
        assert "no driver" in said_by(host)[-1]["error"]
        assert done.exists()

    run(test())


def test_a_lease_that_is_not_renewed_ends_everything(cluster: Cluster, warm_cache: Path) -> None:
    async def test() -> None:
        host = await cluster.listening(directory=str(warm_cache), lease_seconds=0.5)
        config = {"cluster": "bigpi-4f1c", "lease_seconds": 0.5}
        ready = await cluster.bring_up(host, config=config)
        assert wait_end(host, 5.0) == 1
        wait_until(lambda: not os.path.exists(f"/proc/{ready.pid}"))
        assert processes_below(cluster.directory) == []

    run(test())


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_it_listens_on_both_kinds_of_addresses(
    cluster: Cluster, warm_cache: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    async def connect() -> socket.socket:
        sock = socket.create_connection((address, host.port))
        sock.setblocking(False)
        return sock

    async def test() -> None:
        await host.start(cluster.config(host, directory=str(warm_cache), listen=""))
        monkeypatch.setattr(host, "connect", connect)
        host.address = None
        ready = await cluster.bring_up(host)
        assert Address.parse(ready.address).host == address
        assert (await cluster.call(ready, "Host.keepalive", 20.0)).accepted == 20.0

    host = cluster.host()
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("there is no IPv6 here")
    run(test())
