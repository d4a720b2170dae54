"""The keeper renews leases while its driver lives, whatever the driver's threads are doing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict

import pytest

from bigmachine import osdep
from bigmachine.driver.keeper import Keeper
from bigmachine.host.door import Door, listen_tcp
from bigmachine.rpc.server import Server
from bigmachine.security.authority import Authority
from bigmachine.security.credentials import Credentials
from bigmachine.security.tls import server_context

LIMIT = 20.0
PERIOD = 0.05

BEGIN = """
import ctypes, json, os, sys, time
from bigmachine.driver.keeper import Keeper
from bigmachine.security.credentials import Credentials
given = json.loads(sys.argv[1])
keeper = Keeper(Credentials(**given["credentials"]))
keeper.add("h", given["address"], period=0.05, timeout=1.0)
"""
HOLDING = (
    BEGIN
    + """
print(flush=True)
ctypes.PyDLL(None).sleep(60)
"""
)
FORKING = (
    BEGIN
    + """
if os.fork() == 0:  # it keeps the driver's end of the socket pair open
    os.setsid()
    time.sleep(60)
print(keeper.pid, flush=True)
time.sleep(60)
"""
)


class FakeSupervisor:
    """What the keeper talks to: an endpoint that counts renewals."""

    def __init__(self, credentials: Credentials) -> None:
        self.renewals: list[float] = []
        self.renewed = threading.Semaphore(0)
        self.address = ""
        self.accepted = 0
        self._tls = server_context(credentials)
        self._subject = credentials.subject
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._port = 0
        self._run(self._open)

    def keepalive(self, period: float) -> float:
        self.renewals.append(period)
        self.renewed.release()
        return period

    def _run(self, action: Callable[[], object]) -> None:
        async def do() -> None:
            result = action()
            if asyncio.iscoroutine(result):
                await result

        asyncio.run_coroutine_threadsafe(do(), self._loop).result(LIMIT)

    def _open(self) -> None:
        self._server = Server(name="fake")
        self._server.register("Host", self)
        listener, address = listen_tcp("127.0.0.1", self._port, self._subject)
        self._port, self.address = address.port, str(address)
        self._door = Door(listener, address, self._hand_over)

    def _hand_over(self, sock: socket.socket, target: str) -> None:
        assert target == "host"
        self.accepted += 1
        self._server.adopt(sock, tls=self._tls)

    async def _close(self) -> None:
        self._door.close()
        await self._server.close(0.0)

    def restart(self) -> None:
        """Cut all connections, and accept new ones."""
        self._run(self._close)
        self._run(self._open)

    def wait_renewals(self, count: int) -> None:
        for _ in range(count):
            assert self.renewed.acquire(timeout=LIMIT)

    def close(self) -> None:
        self._run(self._close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(LIMIT)
        self._loop.close()


def start_driver(
    program: str, authority: Authority, supervisor: FakeSupervisor
) -> subprocess.Popen[str]:
    credentials = asdict(authority.issue("driver-2"))
    given = json.dumps({"credentials": credentials, "address": supervisor.address})
    return subprocess.Popen(
        [sys.executable, "-c", program, given],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def supervisor(authority: Authority) -> Iterator[FakeSupervisor]:
    fake = FakeSupervisor(authority.issue("h"))
    yield fake
    fake.close()


@pytest.fixture
def keeper(authority: Authority) -> Iterator[Keeper]:
    keeper = Keeper(authority.issue("driver-1"))
    yield keeper
    keeper.close()


def test_a_lease_is_renewed_again_and_again(keeper: Keeper, supervisor: FakeSupervisor) -> None:
    keeper.add("h", supervisor.address, period=PERIOD, timeout=7.0)
    supervisor.wait_renewals(5)
    assert set(supervisor.renewals) == {7.0}


def test_a_driver_that_holds_its_lock_does_not_matter(
    authority: Authority, supervisor: FakeSupervisor
) -> None:
    driver = start_driver(HOLDING, authority, supervisor)
    assert driver.stdout is not None
    driver.stdout.readline()
    supervisor.wait_renewals(30)  # in a driver that does nothing else, for much longer than this
    assert driver.poll() is None
    driver.kill()
    driver.communicate()


def test_a_cut_connection_is_made_anew(keeper: Keeper, supervisor: FakeSupervisor) -> None:
    keeper.add("h", supervisor.address, period=PERIOD, timeout=1.0)
    supervisor.wait_renewals(2)
    supervisor.restart()
    before = len(supervisor.renewals)
    supervisor.wait_renewals(5)
    assert supervisor.accepted == 2
    assert len(supervisor.renewals) - before >= 3  # two at most had come before it was cut


def test_a_host_that_is_removed_is_left_alone(keeper: Keeper, supervisor: FakeSupervisor) -> None:
    keeper.add("h", supervisor.address, period=PERIOD, timeout=1.0)
    supervisor.wait_renewals(1)
    keeper.remove("h")
    keeper.add("other", supervisor.address.replace("host=h", "host=x"), period=9.0, timeout=20.0)
    with contextlib.suppress(AssertionError):  # those that were under way
        while supervisor.renewed.acquire(timeout=10 * PERIOD):
            pass
    assert not supervisor.renewed.acquire(timeout=4 * PERIOD)


def test_one_that_was_killed_is_replaced_and_the_next_keeps_all(
    keeper: Keeper, supervisor: FakeSupervisor
) -> None:
    keeper.add("h", supervisor.address, period=PERIOD, timeout=1.0)
    supervisor.wait_renewals(1)
    assert keeper.pid is not None
    before = keeper.pid
    os.kill(before, signal.SIGKILL)
    os.waitid(os.P_PID, before, os.WEXITED | os.WNOWAIT)
    while supervisor.renewed.acquire(blocking=False):
        pass
    keeper.add("other", supervisor.address.replace("host=h", "host=x"), period=9.0, timeout=20.0)
    assert keeper.pid != before
    supervisor.wait_renewals(2)


def test_it_ends_when_it_is_closed(keeper: Keeper, supervisor: FakeSupervisor) -> None:
    keeper.add("h", supervisor.address, period=PERIOD, timeout=1.0)
    supervisor.wait_renewals(1)
    pid = keeper.pid
    assert pid is not None
    keeper.close()
    keeper.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_it_ends_with_its_driver_although_a_fork_of_that_lives(
    authority: Authority, supervisor: FakeSupervisor
) -> None:
    driver = start_driver(FORKING, authority, supervisor)
    assert driver.stdout is not None
    keeper_pid = int(driver.stdout.readline())
    supervisor.wait_renewals(2)
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(driver.pid)], capture_output=True, text=True, check=True
    )
    watch = osdep.watch_process(keeper_pid)
    try:
        driver.kill()
        driver.wait(LIMIT)
        assert osdep.wait_process(watch, 3.0)  # three times what is promised
    finally:
        os.close(watch)
        driver.stdout.close()
        for pid in map(int, children.stdout.split()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
