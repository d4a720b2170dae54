"""Conformance: machines that know each other."""

from __future__ import annotations

import bigmachine as bm
from bigmachine.addresses import Address
from bigmachine.testing.conformance.base import Conformance
from bigmachine.testing.conformance.services import Keeper, Worker


class PeerConformance(Conformance):
    """Dialling, machines as arguments, machines that call each other."""

    def test_a_machine_may_be_dialled_by_its_address(self) -> None:
        machine = self.one()
        self.result(machine.wait())
        dialled = self.shared_cluster().dial(machine.addr)
        assert not dialled.owned
        assert dialled.addr == machine.addr
        assert self.result(dialled.call(Worker.same, 1)) == 1
        assert self.result(dialled.call("Worker.same_async", 2)) == 2
        assert self.result(dialled.wait()) is bm.State.RUNNING
        assert list(dialled.stream(Worker.count, 10)) == list(range(10))
        assert self.result(dialled.info()).python_version

    def test_a_dialled_machine_that_has_died_says_what_of(self) -> None:
        with self.cluster() as cluster:
            (machine,) = cluster.start(1, services={"Worker": Worker()})
            self.result(machine.wait())
            dialled = cluster.dial(machine.addr)
            call = dialled.call("Worker.wait")
            self.wait_seen(machine, "wait begun")
            self.kill(cluster.system, machine)
            assert self.death(call).signal == "SIGKILL"
            assert self.death(dialled.call("Worker.same", 1)).signal == "SIGKILL"
            assert self.result(dialled.wait(bm.State.STOPPED)) is bm.State.STOPPED

    def test_a_machine_that_never_was_is_stopped(self) -> None:
        machine = self.one()
        self.result(machine.wait())
        nobody = str(Address.parse(machine.addr).at("77-00000000"))
        for method in ("Worker.same", "Supervisor.Ping"):
            dialled = self.shared_cluster().dial(nobody)
            error = self.error(dialled.call(method, 1), bm.MachineStoppedError)
            assert "no machine '77-00000000'" in str(error)
        assert self.result(dialled.wait()) is bm.State.STOPPED

    def test_machines_dial_each_other(self) -> None:
        first, second = self.two()
        self.result(second.wait())
        assert self.result(first.call(Worker.dial, second.addr, 7)) == 7
        self.result(first.wait())
        assert self.result(first.call(Worker.dial, first.addr, 8)) == 8

    def test_a_machine_may_be_an_argument(self) -> None:
        first, second = self.two()
        assert self.result(first.call(Worker.ask, second, "plain")) == "plain"
        assert self.result(first.call(Worker.ask_async, second, "async")) == "async"
        assert self.result(second.call(Worker.ask, first, "back")) == "back"

    def test_a_machine_that_is_still_starting_may_be_an_argument(self) -> None:
        with self.cluster() as cluster:
            first, second = cluster.start(2, services={"Worker": Worker()})
            assert self.result(first.call(Worker.ask, second, 1)) == 1

    def test_a_machine_may_be_an_answer(self) -> None:
        first, second = self.two()
        self.result(second.wait())
        found = self.result(first.call(Worker.same, second))
        assert found.addr == second.addr
        assert self.result(found.call("Worker.same", 3)) == 3

    def test_a_service_may_keep_a_machine(self) -> None:
        cluster, (first, _) = self.shared_cluster(), self.two()
        self.result(first.wait())
        (other,) = cluster.start(1, services={"Keeper": Keeper(first)})
        assert self.result(other.call(Keeper.ask, 4)) == 4
        self.result(other.shutdown())

    def test_a_call_may_go_through_many_machines(self) -> None:
        first, second = self.two()
        self.result(second.wait())
        way = [second, first, second, first, second]
        found = self.result(first.call(Worker.pass_on, way, 0))
        assert found == [machine.addr for machine in (first, *way)]

    def test_the_death_of_a_machine_reaches_the_one_that_calls_it(self) -> None:
        with self.cluster() as cluster:
            first, second = cluster.start(2, services={"Worker": Worker()})
            call = first.call(Worker.pass_on, [second], -1)
            self.wait_seen(second, "wait begun")
            self.kill(cluster.system, second)
            error = self.error(call, bm.MachineStoppedError)
            assert error.death.signal == "SIGKILL"
            assert bm.is_remote(error)
            assert self.result(first.call(Worker.same, 1)) == 1
