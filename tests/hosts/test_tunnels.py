"""Hosts behind firewalls: machines are reached through the SSH connections, by each other too."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import pytest

from .conftest import StartHosts
from .drivers import Drivers, assert_clean
from .host import LabHost
from .network import Ailment

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
