"""Hosts behind firewalls: machines are reached through the SSH connections, by each other too."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Iterable

import pytest

from .conftest import StartHosts
from .drivers import Drivers, assert_clean
from .host import LabHost
from .network import Ailment
from .test_faults import LEASE, SLACK, Talking, talking

pytestmark = pytest.mark.timeout(240)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Firewall(Ailment):
    """Nobody opens a connection to a host but to its SSH server."""

    def rules(self) -> Iterable[str]:
        yield f"ip daddr {self.one} tcp flags & (syn | ack) == syn tcp dport != 22 drop"


PEERS = """
    class Peer(Probe):
        def name(self):
            import socket
            return socket.gethostname()

        def ask(self, others):
            return [other.call(Peer.name).result(timeout=60) for other in others]

        def take(self, data):
            return len(data)

    if __name__ == "__main__":
        with bm.start() as cluster:
            machines = cluster.start(2, services={"Peer": Peer()}).running().result()
            for m in machines:
                say("asked", *sorted(m.call(Peer.ask, list(machines)).result(timeout=120)))
            say("took", machines[0].call(Peer.take, bytes(10_000_000)).result(timeout=60))
"""


def firewalled(hosts: Iterable[LabHost]) -> list[LabHost]:
    found = list(hosts)
    for host in found:
        host.network.ail(Firewall(one=host.address))
    return found


def test_machines_behind_firewalls_are_called_by_the_driver_and_by_each_other(
    hosts: StartHosts, drivers: Drivers
) -> None:
    two = firewalled(hosts(2))
    said = drivers.run(PEERS, two, cpus_per_machine="host").stdout
    assert said.splitlines() == ["asked h1 h2", "asked h1 h2", "took 10000000"]
    assert_clean(two, 5.0)


def test_hosts_behind_a_jump_host_are_used_in_the_same_way(
    hosts: StartHosts, drivers: Drivers
) -> None:
    jump, *two = hosts(3)
    for host in two:
        host.part_from_driver()
    said = drivers.run(PEERS, two, cpus_per_machine="host", jump=jump.name).stdout
    assert said.splitlines() == ["asked h2 h3", "asked h2 h3", "took 10000000"]
    assert_clean([jump, *two], 5.0)


def try_until_it_answers(program: Talking, host: LabHost, method: str, *args: float) -> list[str]:
    """Call until the connection is there again; until then the calls say that it is not."""
    deadline = time.monotonic() + 30.0
    while True:
        result, _ = program.do(host, method, *args)
        if result[0] == "ok":
            return result
        assert result[0] == "TransportError", result
        assert time.monotonic() < deadline, result


def test_a_tunnelled_host_is_reached_again_when_its_ssh_connection_breaks(
    hosts: StartHosts, drivers: Drivers
) -> None:
    one, other = hosts(2)
    with talking(drivers, [one, other], tunnel="always", keepalive=10.0) as program:
        (_, pid), _ = program.do(one, "pid")
        for _ in range(2):
            program.begin(one, "block")
            assert one.end_ssh_connections()

            result, seconds = program.end()

            assert result[0] == "TransportError"
            assert seconds < SLACK
            assert try_until_it_answers(program, one, "pid") == ["ok", pid]
            # By each other, too: the port there is the same as before.
            assert try_until_it_answers(program, one, "ask", 0) == ["ok", 2]
            assert try_until_it_answers(program, other, "ask", 0) == ["ok", 2]
        program.finish()
    assert_clean([one, other], SLACK)


def test_a_tunnelled_host_that_stays_away_is_given_up_after_its_lease(
    hosts: StartHosts, drivers: Drivers
) -> None:
    one, other = hosts(2)
    with talking(drivers, [one, other], tunnel="always", keepalive=LEASE) as program:
        one.part_from_driver()
        program.begin(one, "block")

        result, seconds = program.end()

        assert result[0] in ("TransportError", "MachineStoppedError"), result
        deadline = time.monotonic() + 3 * LEASE + 2 * SLACK
        while result[0] == "TransportError":
            assert time.monotonic() < deadline, result
            result, seconds = program.do(one, "pid")
        assert result[1] in ("host", "keepalive")
        assert "did not come back" in result[2] or "no answer to a keepalive" in result[2]
        assert seconds < 3 * LEASE + 2 * SLACK
        assert program.do(other, "pid")[0][0] == "ok"
        program.finish()


WRITER = """
    class Writer(Probe):
        def count(self, lines):
            threading.Thread(target=self._count, args=(lines,)).start()

        def _count(self, lines):
            for n in range(lines):
                print("line", n, flush=True)
                time.sleep(0.01)

    if __name__ == "__main__":
        with bm.start() as cluster:
            (machine,) = cluster.start(1, services={"Writer": Writer()})
            machine.call(Writer.count, 500).result(timeout=90)
            listen()
        say("over")
"""


def test_no_line_is_lost_or_shown_twice_when_the_ssh_connection_breaks(
    hosts: StartHosts, drivers: Drivers
) -> None:
    (host,) = hosts()
    with drivers.driven(WRITER, [host], tunnel="always", keepalive=10.0) as driver:
        for line in (50, 250):
            driver.expect(rf"line {line}$", 60.0)
            assert host.end_ssh_connections()
        driver.expect(r"line 499$", 60.0)
        driver.tell("")
        driver.expect(r"^over$", 60.0)
        assert driver.wait() == 0, driver.shown()
        lines = re.findall(r"^\[m0\] line (\d+)$", driver.stdout, re.MULTILINE)
    assert lines == [str(number) for number in range(500)]
    assert_clean([host], SLACK)
