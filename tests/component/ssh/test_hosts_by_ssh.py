"""Hosts that come up by SSH: what is fed to them, the ways to them, and their end."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest
from relay import relaying
from sshd import Server, boots, free_port, make_key, serving

from bigmachine.addresses import Address
from bigmachine.driver.bootstrap import bootstrap
from bigmachine.errors import ProvisionError
from bigmachine.image.runtime import runtime_layers
from bigmachine.rpc.dialer import Dialer, connect_through
from bigmachine.security.authority import Authority
from bigmachine.security.tls import client_context
from bigmachine.systems.base import HostRequest
from bigmachine.systems.ssh import SSH
from bigmachine.systems.ssh.host import SSHHost
from bigmachine.wire import frames

END_SECONDS = 10.0


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an asynchronous test in a loop of its own."""

    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        asyncio.run(test(**fixtures))

    return run


class Cluster:
    """As much of a cluster as a system sees."""

    def __init__(self, name: str = "c-1", *, lease_seconds: float = 30.0) -> None:
        self.name = name
        self.lease_seconds = lease_seconds
        self.authority = Authority()
        self.credentials = self.authority.issue("driver-1")

    def request(self, machines: int) -> HostRequest:
        return HostRequest(cluster=self.name, machines=machines, boot=self._boot)

    def _boot(self, host_id: str) -> dict[str, Any]:
        return {
            "cluster": self.name,
            "id": host_id,
            "credentials": asdict(self.authority.issue(host_id)),
            "boot_seconds": 30.0,
            "lease_seconds": self.lease_seconds,
        }

    async def hello(self, sock: socket.socket, subject: str) -> dict[str, Any]:
        """Prove to the boot file that this is the driver, and return what it says of its host."""
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, frames.preamble("boot"))
        reader, writer = await asyncio.open_connection(
            sock=sock, ssl=client_context(self.credentials), server_hostname=subject
        )
        try:
            length = int.from_bytes(await reader.readexactly(4), "big")
            said: dict[str, Any] = json.loads(await reader.readexactly(length))
            return said
        finally:
            writer.transport.abort()


def system_of(*servers: Server, **changes: Any) -> SSH:
    given: dict[str, Any] = {
        "hosts": [server.name for server in servers],
        "key": str(servers[0].keys.user_key),
        "known_hosts": str(servers[0].keys.known_hosts),
        "connect_seconds": 5.0,
        **changes,
    }
    return SSH(**given)


@contextlib.asynccontextmanager
async def hosts_of(system: SSH, request: HostRequest) -> AsyncIterator[list[SSHHost]]:
    """Launch hosts, and end them as a cluster does."""
    hosts: list[SSHHost] = []
    try:
        async for host in system.launch(request):
            assert isinstance(host, SSHHost)
            hosts.append(host)
        yield hosts
    finally:
        for host in hosts:
            host.kill()
        system.abandon(request.cluster)
        await system.shutdown()
        await until(lambda: not boots())


async def until(condition: Callable[[], bool], seconds: float = END_SECONDS) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@in_loop
async def test_a_host_comes_up_and_is_reached_directly(server: Server):
    cluster = Cluster()
    async with hosts_of(system_of(server), cluster.request(1)) as [host]:
        assert host.direct
        assert host.capacity == len(os.sched_getaffinity(0))
        assert host.maxprocs == 1
        address = Address.parse(host.address)
        assert (address.host, address.subject) == ("127.0.0.1", host.id)
        said = await cluster.hello(await host.connect(), host.id)
        assert said["host"] == host.id
        said = await cluster.hello(await host.connect(), host.id)
        assert said["host"] == host.id


@in_loop
async def test_a_host_that_always_tunnels_listens_for_itself_alone(server: Server):
    cluster = Cluster()
    async with hosts_of(system_of(server, tunnel="always"), cluster.request(1)) as [host]:
        assert not host.direct
        address = Address.parse(host.address)
        assert address.tunnelled
        [boot] = boots()
        listening = [each for each in boot.net_connections() if each.status == "LISTEN"]
        assert {each.laddr.ip for each in listening} == {"127.0.0.1"}
        said = await cluster.hello(await host.connect(), host.id)
        assert said["host"] == host.id


@in_loop
async def test_machines_of_tunnelled_hosts_reach_each_other(server: Server, tmp_path: Path):
    cluster = Cluster()
    with serving(tmp_path / "b", keys=server.keys) as other:
        system = system_of(server, other, tunnel="always", cpus_per_machine="host")
        async with hosts_of(system, cluster.request(2)) as [one, two]:
            assert one.gateway
            assert one.gateway != two.gateway
            for here, there in ((one, two), (two, one)):
                sock = await connect_through(here.gateway, there.id)
                assert (await cluster.hello(sock, there.id))["host"] == there.id
            dialer = Dialer(cluster.authority.issue(one.id), gateway=one.gateway)
            with await dialer.connect(Address.parse(two.address)):
                pass
            with pytest.raises(ConnectionRefusedError, match="no such host"):
                await dialer.connect(Address.parse(two.address.replace(two.id, "ssh-gone")))


@in_loop
async def test_only_as_many_hosts_stay_as_the_machines_need(server: Server, tmp_path: Path):
    cluster = Cluster()
    with serving(tmp_path / "b", keys=server.keys) as other:
        system = system_of(server, other)
        machines = len(os.sched_getaffinity(0))
        async with hosts_of(system, cluster.request(machines)) as hosts:
            assert len(hosts) == 1
            await until(lambda: len(boots()) == 1)
            more = [host async for host in system.launch(cluster.request(1))]
            assert len(more) == 1
            assert more[0].id != hosts[0].id
            with pytest.raises(ProvisionError, match="all 2 hosts together have no room"):
                [host async for host in system.launch(cluster.request(1))]
            more[0].kill()


@in_loop
async def test_a_host_that_fails_does_not_stop_the_others(server: Server):
    cluster = Cluster()
    closed = f"127.0.0.1:{free_port()}"
    system = system_of(server, hosts=[closed, server.name], cpus_per_machine="host")
    request = cluster.request(2)
    launch = system.launch(request)
    host = await anext(launch)
    with pytest.raises(ProvisionError) as raised:
        await anext(launch)
    text = str(raised.value)
    assert closed in text
    assert "was refused" in text
    assert (raised.value.requested, raised.value.started) == (2, 1)
    host.kill()
    system.abandon(request.cluster)
    await system.shutdown()


def test_a_switchboard_that_was_begun_for_nothing_ends(server: Server):
    system = system_of(server)
    system.begin("c-1", None)
    [switchboard] = [
        each
        for each in psutil.Process().children()
        if "ssh.switchboard" in " ".join(each.cmdline())
    ]
    system.abandon("c-1")
    asyncio.run(system.shutdown())
    assert not switchboard.is_running()


@in_loop
async def test_every_host_that_fails_says_why(server: Server, tmp_path: Path):
    closed = f"127.0.0.1:{free_port()}"
    other = str(make_key(tmp_path / "other"))
    system = system_of(server, hosts=[closed, server.name], key=other)
    with pytest.raises(ProvisionError) as raised:
        [host async for host in system.launch(Cluster().request(2))]
    lines = str(raised.value).splitlines()
    assert sum(closed in line and "refused" in line for line in lines) == 1
    assert sum(server.name in line and "our keys" in line for line in lines) == 1
    assert isinstance(raised.value.__cause__, ExceptionGroup)
    assert len(raised.value.__cause__.exceptions) == 2
    system.abandon("c-1")
    await system.shutdown()


@in_loop
async def test_what_is_killed_ends_at_once(server: Server):
    cluster = Cluster()
    async with hosts_of(system_of(server), cluster.request(1)) as [host]:
        address = Address.parse(host.address)
        before = time.monotonic()
        host.kill()
        await until(lambda: not boots())
        assert time.monotonic() - before < 5.0
        with pytest.raises(OSError):
            socket.create_connection((address.host, address.port))


@in_loop
async def test_what_is_killed_ends_at_once_when_its_supervisor_runs_too(server: Server):
    cluster = Cluster()
    async with hosts_of(system_of(server), cluster.request(1)) as [host]:
        supervisor = await bring_up(cluster, host)
        host.kill()
        await until(lambda: not boots() and not supervisor.is_running(), 5.0)
    assert not list((server.home / ".cache" / "bigmachine" / "clusters").iterdir())


def test_a_driver_that_is_killed_leaves_nothing(server: Server):
    options = {
        "hosts": [server.name],
        "key": str(server.keys.user_key),
        "known_hosts": str(server.keys.known_hosts),
    }
    program = [sys.executable, str(Path(__file__).parent / "doomed_driver.py")]
    with subprocess.Popen([*program, json.dumps(options)], stdout=subprocess.PIPE) as driver:
        assert driver.stdout is not None
        gateway = Path(driver.stdout.readline().decode().strip().removeprefix("unix:"))
        assert gateway.is_socket()
        assert boots()
        driver.kill()
    asyncio.run(until(lambda: not boots() and not gateway.parent.exists()))


@in_loop
async def test_a_host_whose_boot_file_dies_says_so(server: Server):
    cluster = Cluster()
    async with hosts_of(system_of(server), cluster.request(1)) as [host]:
        [boot] = boots()
        boot.kill()
        async with asyncio.timeout(END_SECONDS):
            await host.wait_closed()
        assert "KILL" in host.cause()


@in_loop
async def test_a_connection_that_breaks_is_said(server: Server, tmp_path: Path):
    cluster = Cluster()
    with serving(tmp_path / "b", keys=server.keys) as other:
        async with hosts_of(system_of(other), cluster.request(1)) as [host]:
            other.kill_sessions()
            async with asyncio.timeout(END_SECONDS):
                await host.wait_closed()
            assert "lost" in host.cause()
            await until(lambda: not boots())


# Connections that are lost.


async def bring_up(cluster: Cluster, host: SSHHost, lease_seconds: float = 30.0) -> psutil.Process:
    """Have the boot file start its supervisor, and return that."""
    ready = await bootstrap(
        host,
        tls=client_context(cluster.credentials),
        subject=host.id,
        config={
            "cluster": cluster.name,
            "lease_seconds": lease_seconds,
            "gateway": host.gateway,
        },
        layers=runtime_layers(),
        python=sys.version_info[:2],
        seconds=20.0,
    )
    return psutil.Process(ready.pid)


async def answers(cluster: Cluster, sock: socket.socket, subject: str) -> bool:
    """Whether a socket leads to the host's supervisor: who proves to be it, when asked."""
    await asyncio.get_running_loop().sock_sendall(sock, frames.preamble("host"))
    _, writer = await asyncio.open_connection(
        sock=sock, ssl=client_context(cluster.credentials), server_hostname=subject
    )
    writer.transport.abort()
    return True


@in_loop
async def test_a_tunnelled_host_lives_on_when_its_connection_breaks(server: Server, tmp_path: Path):
    cluster = Cluster()
    with serving(tmp_path / "b", keys=server.keys) as other:
        system = system_of(other, tunnel="always")
        async with hosts_of(system, cluster.request(1)) as [host]:
            supervisor = await bring_up(cluster, host)
            for _ in range(2):
                other.kill_sessions()
                async with asyncio.timeout(END_SECONDS):
                    assert await host.rejoin()
                assert await answers(cluster, await host.connect(), host.id)
                assert host.gateway is not None
                sock = await connect_through(host.gateway, host.id)
                assert await answers(cluster, sock, host.id)
            host.kill()
            await until(lambda: not boots() and not supervisor.is_running(), 5.0)
        assert not list((other.home / ".cache" / "bigmachine" / "clusters").iterdir())


@in_loop
async def test_a_connection_that_is_parted_is_given_up_for_another_one(
    server: Server, tmp_path: Path
):
    cluster = Cluster()
    with serving(tmp_path / "b", keys=server.keys) as other:
        async with relaying(other) as relay:
            user = other.name.partition("@")[0]
            system = system_of(
                other, hosts=[f"{user}@127.0.0.1:{relay.port}"], tunnel="always", keepalive=2.0
            )
            async with hosts_of(system, cluster.request(1)) as [host]:
                await bring_up(cluster, host)
                before = other.sessions()
                relay.part()
                async with asyncio.timeout(END_SECONDS):
                    await until(lambda: not any(each.is_running() for each in before))
                    assert await host.rejoin()
                assert await answers(cluster, await host.connect(), host.id)
                # At the very port that the parted connection had.
                assert host.gateway is not None
                sock = await connect_through(host.gateway, host.id)
                assert await answers(cluster, sock, host.id)


@in_loop
@pytest.mark.parametrize("is_the_first", [True, False])
async def test_the_server_of_a_parted_host_keeps_no_port_when_the_host_has_ended(
    server: Server, tmp_path: Path, is_the_first: bool
):
    cluster = Cluster()
    with serving(tmp_path / "b", keys=server.keys) as other:
        async with relaying(other) as relay:
            user = other.name.partition("@")[0]
            system = system_of(other, hosts=[f"{user}@127.0.0.1:{relay.port}"], tunnel="always")
            async with hosts_of(system, cluster.request(1)) as [host]:
                supervisor = await bring_up(cluster, host)
                if not is_the_first:
                    other.kill_sessions()
                    assert await host.rejoin()
                assert other.sessions()
                relay.part(for_good=True)
                supervisor.kill()
                await until(lambda: not boots())
                await until(lambda: not other.sessions())


@in_loop
async def test_a_host_that_ends_while_its_connection_is_lost_is_said_to_have(
    server: Server, tmp_path: Path
):
    cluster = Cluster()
    with serving(tmp_path / "b", keys=server.keys) as other:
        async with hosts_of(system_of(other, tunnel="always"), cluster.request(1)) as [host]:
            supervisor = await bring_up(cluster, host)
            other.process.suspend()
            other.kill_sessions()
            supervisor.kill()
            await until(lambda: not boots())
            other.process.resume()
            assert not await host.rejoin()
            async with asyncio.timeout(END_SECONDS):
                await host.wait_closed()
            assert "unseen" in host.cause()


@in_loop
async def test_a_connection_that_does_not_come_back_within_the_lease_is_the_hosts_end(
    server: Server, tmp_path: Path
):
    cluster = Cluster(lease_seconds=2.0)
    with serving(tmp_path / "b", keys=server.keys) as other:
        async with hosts_of(system_of(other, tunnel="always"), cluster.request(1)) as [host]:
            await bring_up(cluster, host, lease_seconds=2.0)
            other.stop()
            async with asyncio.timeout(END_SECONDS):
                await host.wait_closed()
            assert "nothing listens at 127.0.0.1" in host.cause()
            assert "did not come back within the lease of 2 s" in host.cause()
            assert not await host.rejoin()
            await until(lambda: not boots())  # which its own lease has ended


@in_loop
async def test_a_host_that_is_reached_directly_is_not_lost_with_its_ssh_connection(
    server: Server, tmp_path: Path
):
    cluster = Cluster(lease_seconds=1.0)
    with serving(tmp_path / "b", keys=server.keys) as other:
        async with hosts_of(system_of(other), cluster.request(1)) as [host]:
            await bring_up(cluster, host, lease_seconds=30.0)
            other.stop()
            await until(lambda: "nothing listens" in host.cause())
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1.5):
                    await host.wait_closed()
            assert await answers(cluster, await host.connect(), host.id)
            [boot] = boots()
            boot.send_signal(signal.SIGUSR2)  # nobody else could tell it now


@in_loop
async def test_a_switchboard_that_was_killed_is_replaced(server: Server, tmp_path: Path):
    cluster = Cluster()
    with serving(tmp_path / "b", keys=server.keys) as other:
        system = system_of(server, other, cpus_per_machine="host")
        async with hosts_of(system, cluster.request(1)) as [host]:
            children = psutil.Process().children()
            [board] = [each for each in children if "ssh.switchboard" in " ".join(each.cmdline())]
            board.kill()
            async with asyncio.timeout(END_SECONDS):
                await host.wait_closed()
            [again] = [host async for host in system.launch(cluster.request(1))]
            assert again.name.text == other.name
            assert (await cluster.hello(await again.connect(), again.id))["host"] == again.id
            again.kill()


@in_loop
async def test_a_server_that_has_too_many_at_once_is_asked_again(server: Server, tmp_path: Path):
    few = ("MaxStartups 1:100:1", "LogLevel VERBOSE")
    with serving(tmp_path / "b", *few, keys=server.keys) as other:
        stranger = socket.create_connection(("127.0.0.1", other.port))

        async def leave() -> None:
            await until(lambda: "drop connection" in other.log)
            stranger.close()

        leaving = asyncio.ensure_future(leave())
        async with hosts_of(system_of(other), Cluster().request(1)) as hosts:
            assert len(hosts) == 1
        await leaving


@in_loop
async def test_nobody_gets_past_the_handshake(server: Server):
    cluster, stranger = Cluster(), Cluster()
    async with hosts_of(system_of(server, tunnel="always"), cluster.request(1)) as [host]:
        for sock in (await host.connect(), await host.connect()):
            with pytest.raises((ssl.SSLError, OSError, EOFError)):
                await stranger.hello(sock, host.id)
        assert (await cluster.hello(await host.connect(), host.id))["host"] == host.id


@in_loop
async def test_two_clusters_share_a_host(server: Server):
    one, two = Cluster("c-1"), Cluster("c-2")
    system = system_of(server)
    async with hosts_of(system, one.request(1)) as [first]:
        hosts = [host async for host in system.launch(two.request(1))]
        first.kill()
        system.abandon("c-1")
        await system.shutdown()
        await until(lambda: len(boots()) == 1)
        said = await two.hello(await hosts[0].connect(), hosts[0].id)
        assert said["host"] == hosts[0].id
        hosts[0].kill()
        system.abandon("c-2")
        await system.shutdown()


# What can go wrong on the host.


async def problem_of(system: SSH) -> str:
    with pytest.raises(ProvisionError) as raised:
        [host async for host in system.launch(Cluster().request(1))]
    system.abandon("c-1")
    await system.shutdown()
    assert raised.value.remedy
    return str(raised.value)


@in_loop
async def test_a_host_without_python_is_told_what_to_install(server: Server):
    text = await problem_of(system_of(server, python="python9"))
    assert "there is no python9" in text
    assert "apt-get install python3" in text


@in_loop
async def test_a_python_that_is_too_old_says_which_it_is(server: Server, tmp_path: Path):
    fake = tmp_path / "python"
    fake.write_text(
        "#!/bin/sh\n"
        'printf \'%s\\n\' \'bigmachine-boot {"kind": "python", "error": "it is 3.6.15"}\'\n',
        "utf-8",
    )
    fake.chmod(0o755)
    text = await problem_of(system_of(server, python=str(fake)))
    assert "it is 3.6.15" in text
    assert "python=/path/to/python3" in text


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("ForceCommand echo Only git here", ("gives no shell", "Only git here")),
        ("MaxSessions 0", ("refuses to run a command",)),
        ("AllowTcpForwarding no", ("AllowTcpForwarding yes",)),
    ],
)
@in_loop
async def test_what_a_server_forbids_is_named(
    server: Server, tmp_path: Path, setting: str, words: tuple[str, ...]
):
    with serving(tmp_path / "b", setting, keys=server.keys) as other:
        text = await problem_of(system_of(other, tunnel="always"))
    assert all(each in text for each in words)


@in_loop
async def test_a_host_behind_a_jump_host_is_no_direct_one(server: Server, tmp_path: Path):
    cluster = Cluster()
    with serving(tmp_path / "jump", keys=server.keys) as jump:
        async with hosts_of(system_of(server, jump=jump.name), cluster.request(1)) as [host]:
            assert not host.direct
            assert (await cluster.hello(await host.connect(), host.id))["host"] == host.id
