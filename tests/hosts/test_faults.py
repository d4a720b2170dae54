"""What befalls hosts while a program uses them: the calls tell, and nothing stays behind."""

from __future__ import annotations

import re
import socket
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from .conftest import StartHosts
from .drivers import Drivers, assert_clean
from .host import HostOptions, LabHost
from .lab import Lab

KEEPALIVE: float = 1.0
"""Between two keepalives, in seconds; a host may miss one."""

LEASE: float = 2 * KEEPALIVE

SLACK: float = 6.0
"""By how much limits are exceeded before a test fails: two processors bear all hosts."""

pytestmark = pytest.mark.timeout(240)

TALK = """
    class Talker(Probe):
        def init(self, cluster):
            self.peers = []

        def meet(self, peers):
            self.peers = peers

        def name(self):
            import socket
            return socket.gethostname()

        def ask(self, host):
            found = [peer for peer in self.peers if peer.call(Talker.pid).result(timeout=30)]
            return len(found)

        def clock(self):
            return time.time()

    def attempt(call):
        began = time.monotonic()
        try:
            result = ["ok", call.result(timeout=60)]
        except BaseException as error:
            death = getattr(error, "death", None)
            kind = str(death.kind.value) if death is not None else ""
            result = [type(error).__name__, kind, str(error)[:2000]]
        return {"result": result, "seconds": time.monotonic() - began}

    if __name__ == "__main__":
        n = int(sys.argv[1])
        with bm.start() as cluster:
            machines = cluster.start(n, services={"Talker": Talker()}).running().result(timeout=90)
            by_host = {}
            for machine in machines:
                by_host.setdefault(machine.call(Talker.name).result(timeout=30), machine)
            for met in machines.call(Talker.meet, list(machines)):
                met.result(timeout=30)
            say("up", json.dumps(sorted(by_host)))
            while order := listen():
                host, method, *args = order.split()
                call = by_host[host].call(getattr(Talker, method), *map(float, args))
                say("called")
                say("came", json.dumps(attempt(call)))
        say("over")
"""


class Talking:
    """A program with one machine on each host, which the test has do things."""

    def __init__(self, driver) -> None:  # type: ignore[no-untyped-def]
        self.driver = driver

    def begin(self, host: LabHost, method: str, *args: float) -> None:
        self.driver.tell(" ".join([host.name, method, *map(str, args)]))
        self.driver.expect("^called$")

    def end(self, timeout: float = 90.0) -> tuple[list[str], float]:
        came = self.driver.record("came", timeout)
        return came["result"], came["seconds"]

    def do(self, host: LabHost, method: str, *args: float) -> tuple[list[str], float]:
        self.begin(host, method, *args)
        return self.end()

    def finish(self) -> None:
        self.driver.tell("")
        self.driver.expect("^over$", 60.0)
        assert self.driver.wait() == 0, self.driver.shown()


@contextmanager
def talking(drivers: Drivers, hosts: list[LabHost], **options: object) -> Iterator[Talking]:
    given = {"keepalive": KEEPALIVE, "cpus_per_machine": "host", **options}
    with drivers.driven(TALK, hosts, f"{len(hosts)}", **given) as driver:
        assert driver.record("up", 120.0) == [host.name for host in hosts]
        yield Talking(driver)


def test_a_host_parted_from_the_driver_is_given_up_and_cleans_up_after_itself(
    lab: Lab, hosts: StartHosts, drivers: Drivers
) -> None:
    one, other = hosts(2)
    with talking(drivers, [one, other]) as program:
        program.begin(one, "block")
        one.part_from_driver()

        result, seconds = program.end()

        assert result[:2] == ["MachineStoppedError", "keepalive"]
        assert seconds < LEASE + SLACK
        # Not even its SSH server still waits for the driver, as patient as TCP is.
        assert_clean([one], LEASE + SLACK)
        assert program.do(other, "pid")[0][0] == "ok"
        program.finish()
    lab.network.heal()
    assert_clean([one, other], SLACK)


def test_a_partition_that_heals_within_the_lease_does_no_harm(
    lab: Lab, hosts: StartHosts, drivers: Drivers
) -> None:
    (host,) = hosts()
    with talking(drivers, [host], keepalive=8.0) as program:
        parted = host.part_from_driver()
        program.begin(host, "pid")
        threading.Timer(1.5, lab.network.heal, [parted]).start()

        result, _ = program.end()

        assert result[0] == "ok"
        program.finish()


def test_hosts_parted_from_each_other_say_so_or_find_another_way(
    lab: Lab, hosts: StartHosts, drivers: Drivers
) -> None:
    one, other = hosts(2)
    with talking(drivers, [one, other], keepalive=10.0) as program:
        parted = one.part_from(other)

        result, seconds = program.do(one, "ask", 0)

        assert result[0] in ("ok", "TransportError", "CallTimeoutError"), result
        assert seconds < 60.0
        assert program.do(one, "pid")[0][0] == "ok"
        lab.network.heal(parted)
        assert program.do(one, "ask", 0)[0] == ["ok", 2]
        program.finish()
    assert_clean([one, other], SLACK)


def test_a_host_that_loses_power_fails_its_calls_within_the_keepalives_limit(
    hosts: StartHosts, drivers: Drivers
) -> None:
    one, other = hosts(2)
    with talking(drivers, [one, other]) as program:
        program.begin(one, "block")
        one.kill()

        result, seconds = program.end()

        assert result[0] == "MachineStoppedError"
        assert result[1] in ("keepalive", "host")
        assert seconds < LEASE + SLACK
        program.finish()
    assert_clean([other], SLACK)


def test_a_host_that_crashes_is_noticed_at_once(hosts: StartHosts, drivers: Drivers) -> None:
    one, other = hosts(2)
    with talking(drivers, [one, other], keepalive=30.0) as program:
        program.begin(one, "block")
        one.crash()

        result, seconds = program.end()

        assert result[:2] == ["MachineStoppedError", "host"]
        assert seconds < SLACK
        program.finish()


HOLD = """
    if __name__ == "__main__":
        with bm.start() as cluster:
            (machine,) = cluster.start(1, services={"Probe": Probe()}).running().result(timeout=90)
            pid = machine.call(Probe.pid).result(timeout=30)
            held = machine.call(Probe.hold, 30.0)
            time.sleep(1)  # until it holds its own
            hold_lock(30_000_000)
            held.result(timeout=60)
            say("same", machine.call(Probe.pid).result(timeout=30) == pid)
"""


def test_interpreters_whose_lock_is_held_for_long_on_both_sides_lose_nothing(
    hosts: StartHosts, drivers: Drivers
) -> None:
    (host,) = hosts()
    said = drivers.run(HOLD, [host], keepalive=KEEPALIVE).stdout
    assert "same True" in said
    assert_clean([host], SLACK)


def test_packets_that_get_lost_and_late_slow_a_program_down_and_no_more(
    hosts: StartHosts, drivers: Drivers
) -> None:
    late = HostOptions(delay=True)
    two = hosts([late, late])
    for host in two:
        host.delay(0.04, jitter=0.005)
        host.lose(0.02)

    with talking(drivers, two, keepalive=10.0) as program:
        for host in two:
            assert program.do(host, "ask", 0)[0] == ["ok", 2]
        program.finish()
    assert_clean(two, SLACK)


@pytest.mark.parametrize("ahead", [3600.0, -3600.0])
def test_a_clock_that_is_an_hour_wrong_does_no_harm(
    hosts: StartHosts, drivers: Drivers, ahead: float
) -> None:
    two = hosts([HostOptions(clock=ahead), HostOptions()])

    with talking(drivers, two) as program:
        (_, clock), _ = program.do(two[0], "clock")
        assert abs(float(clock) - time.time() - ahead) < 30
        assert program.do(two[0], "ask", 0)[0] == ["ok", 2]
        assert program.do(two[1], "ask", 0)[0] == ["ok", 2]
        program.finish()
    assert_clean(two, SLACK)


REFUSED = """
    if __name__ == "__main__":
        with bm.start() as cluster:
            machines = cluster.start(1, services={"Probe": Probe()})
            try:
                machines.running().result(timeout=60)
                say("running")
            except BaseExceptionGroup as error:
                say(re.sub(r"\\s+", " ", str(error.exceptions[0])))
"""


def test_a_full_disk_is_named_with_what_to_do(hosts: StartHosts, drivers: Drivers) -> None:
    (host,) = hosts([HostOptions(disk="20m")])
    host.fill_disk(but=100_000)

    said = drivers.run(REFUSED, [host], timeout=90.0).stdout

    assert re.search(r"no room|No space left|disk", said), said
    assert "h1" in said
    host.free_disk()
    assert_clean([host], SLACK)


def test_a_disk_that_the_runtime_fits_on_and_the_image_does_not_is_named(
    hosts: StartHosts, make_drivers
) -> None:  # type: ignore[no-untyped-def]
    (host,) = hosts([HostOptions(disk="20m")])
    if host.run("python3", "-V").split()[1].split(".")[:2] != [*map(str, sys.version_info[:2])]:
        pytest.skip("the interpreter that the driver sends along does not fit there")

    said = make_drivers("numpy").run(REFUSED, [host], timeout=90.0).stdout

    assert "h1" in said
    assert "the disk of the cache /home/worker/.cache/bigmachine is full: free some space" in said
    assert_clean([host], SLACK)


def test_no_permission_to_write_is_named_with_what_to_do(
    hosts: StartHosts, drivers: Drivers
) -> None:
    (host,) = hosts()
    host.run("chown", "root", "/home/worker")
    host.run("chmod", "755", "/home/worker")

    said = drivers.run(REFUSED, [host], timeout=90.0).stdout

    assert "/home/worker" in said
    assert "directory=" in said
    assert_clean([host], SLACK)


def test_another_directory_is_used_where_one_is_named(hosts: StartHosts, drivers: Drivers) -> None:
    (host,) = hosts()
    host.run("chown", "root", "/home/worker")
    host.run("chmod", "755", "/home/worker")
    host.run("install", "-d", "-o", "worker", "/srv/cache")

    assert drivers.run(REFUSED, [host], directory="/srv/cache").stdout == "running"

    assert [path for path in host.files() if not path.startswith("/srv/cache")] == []


HOSTILE = """
import os, socket, sys, threading, time
hosts = sys.argv[1:]
def pester(address):
    # Everything that a supervisor or a boot file may listen on, as a stranger would find it.
    tables = [open(name).read() for name in ("/proc/net/tcp", "/proc/net/tcp6")]
    ports = {int(line.split()[1].rpartition(":")[2], 16) for table in tables
             for line in table.splitlines()[1:] if line.split()[3] == "0A"} - {22}
    for port in ports:
        for greeting in (b"", b"GET / HTTP/1.1\\r\\n\\r\\n", os.urandom(5000),
                         b"bigmachine/1 host".ljust(64, b"\\0") + os.urandom(2000),
                         b"bigmachine/1 0".ljust(64, b"\\0") + b"\\x80\\x04cos\\nsystem\\n"):
            try:
                with socket.create_connection((address, port), 1) as s:
                    s.sendall(greeting)
                    if not greeting:
                        continue
                    s.settimeout(3)
                    got = b"".join(iter(lambda: s.recv(1000), b""))
                    print(port, len(got), got[:40], flush=True)
            except OSError as error:
                print(port, type(error).__name__, flush=True)
    return ports
print("pestered", sorted(pester(hosts[0])), flush=True)
"""


def test_strangers_that_connect_everywhere_get_nothing_and_hold_up_nobody(
    hosts: StartHosts, drivers: Drivers
) -> None:
    one, other = hosts(2)
    with talking(drivers, [one, other]) as program:
        stop = threading.Event()
        pestering = threading.Thread(target=_pester, args=(one, stop))
        held = list(_connect_everywhere(one))
        assert held
        pestering.start()
        try:
            for _ in range(20):
                result, seconds = program.do(one, "pid")
                assert result[0] == "ok"
                assert seconds < 2.0
            assert program.do(other, "ask", 0)[0] == ["ok", 2]
        finally:
            stop.set()
            pestering.join()
            for each in held:
                each.close()
        told = one.run("python3", "-c", textwrap.dedent(HOSTILE), one.address)
        # Nobody was answered but by silence, or a TLS alert: at most a handful of bytes.
        sizes = [int(line.split()[1]) for line in told.splitlines() if line.split()[1].isdigit()]
        assert "pestered [" in told
        assert all(size <= 16 for size in sizes), told
        program.finish()
    assert_clean([one, other], SLACK)


def _connect_everywhere(host: LabHost) -> Iterator[socket.socket]:
    """Connect to every port that is open to others, and say nothing."""
    for port in host.listening():
        with suppress(ConnectionRefusedError):  # it listens for the host itself
            yield socket.create_connection((host.address, port))


def _pester(host: LabHost, stop: threading.Event) -> None:
    while not stop.is_set():
        host.try_run("python3", "-c", textwrap.dedent(HOSTILE), host.address)
