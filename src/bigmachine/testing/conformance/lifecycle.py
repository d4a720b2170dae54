"""Conformance: machines start, have states, are initialised, and end."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import bigmachine as bm
from bigmachine.testing.conformance.base import Conformance, raised
from bigmachine.testing.conformance.services import (
    Asynchronous,
    Failing,
    Locked,
    Refusal,
    Worker,
)


class LifecycleConformance(Conformance):
    """Start, states, init, shutdown."""

    def test_machines_are_handed_out_at_once_and_come_up(self) -> None:
        with self.cluster() as cluster:
            start = time.monotonic()
            machines = cluster.start(3, services={"Worker": Worker()})
            assert time.monotonic() - start < 1.0
            assert len(machines) == 3
            assert all(machine.owned for machine in machines)
            assert list(self.result(machines.running())) == list(machines)
            assert [machine.state for machine in machines] == [bm.State.RUNNING] * 3
            assert len({machine.addr for machine in machines}) == 3
            assert all(machine.maxprocs >= 1 and machine.hostname for machine in machines)
            assert set(cluster.machines) == set(machines)

    def test_states_only_rise_and_waiting_for_one_resolves_at_a_later_one(self) -> None:
        with self.cluster() as cluster:
            (machine,) = cluster.start(1, services={"Worker": Worker()})
            running, stopped = machine.wait(), machine.wait(bm.State.STOPPED)
            assert self.result(machine.wait(bm.State.UNSTARTED)) <= bm.State.STOPPED
            assert self.result(running) >= bm.State.RUNNING
            assert machine.err is None
            assert not stopped.done()
            self.result(machine.shutdown())
            assert self.result(stopped) is bm.State.STOPPED
            assert self.result(machine.wait(bm.State.STARTING)) is bm.State.STOPPED
            assert machine not in cluster.machines

    def test_machines_may_be_given_up_before_they_run(self) -> None:
        with self.cluster() as cluster:
            canceled, stopped, kept = cluster.start(3, services={"Worker": Worker()})
            canceled.cancel()
            error = self.error(canceled.call(Worker.same, 1), bm.MachineStoppedError)
            assert error.death.kind is bm.DeathKind.CANCELED
            self.result(stopped.shutdown())
            error = self.error(stopped.call(Worker.same, 1), bm.MachineStoppedError)
            assert error.death.kind is bm.DeathKind.SHUTDOWN
            assert self.result(kept.call(Worker.same, 3)) == 3
            assert cluster.machines == (kept,)

    def test_more_machines_may_be_started_later(self) -> None:
        with self.cluster() as cluster:
            (first,) = cluster.start(1, services={"Worker": Worker()})
            assert self.result(first.call(Worker.same, 1)) == 1
            second, third = cluster.start(2, services=[{"A": Worker()}, {"B": Worker()}])
            assert self.result(second.call("A.same", 2)) == 2
            assert self.result(third.call("B.same", 3)) == 3

    def test_init_runs_before_any_call_and_sees_the_machines_cluster(self) -> None:
        services = {"Worker": Worker(), "Asynchronous": Asynchronous()}
        with self.cluster() as cluster:
            (machine,) = cluster.start(1, services=services)
            assert self.result(machine.call(Asynchronous.is_ready)) is True
            is_driver, same_cluster, addr = self.result(machine.call(Worker.home))
            assert (is_driver, same_cluster, addr) == (False, True, machine.addr)

    def test_a_machine_whose_init_raises_is_stopped_with_that_error(self) -> None:
        with self.cluster() as cluster:
            machines = cluster.start(1, services={"Failing": Failing()})
            error = self.error(machines[0].call("Failing.same", 1), bm.MachineStoppedError)
            assert error.death.kind is bm.DeathKind.INIT
            assert "init does not want to" in str(error)
            assert isinstance(error.__cause__, Refusal)
            assert error.__cause__.code == 13
            assert isinstance(error.__cause__.__cause__, KeyError)
            group = self.error(machines.running(), ExceptionGroup)
            assert all(isinstance(each, bm.MachineStoppedError) for each in group.exceptions)

    def test_a_service_that_cannot_be_pickled_is_refused_at_once(self) -> None:
        with self.cluster() as cluster:
            error = raised(bm.PayloadError, lambda: cluster.start(1, services={"Locked": Locked()}))
            assert "inner" in error.path
            assert "lock" in error.path

    def test_wrong_starts_are_refused(self) -> None:
        with self.cluster() as cluster:
            raised(bm.UsageError, lambda: cluster.start(0, services={"Worker": Worker()}))
            raised(bm.UsageError, lambda: cluster.start(1, services={}))

    def test_a_machine_has_the_environment_that_it_was_given(self) -> None:
        self.need(self.own_processes, "environments")
        os.environ["CONFORMANCE_GONE"] = "there"
        try:
            with self.cluster() as cluster:
                (machine,) = cluster.start(
                    1,
                    services={"Worker": Worker()},
                    env={"CONFORMANCE_NEW": "new", "CONFORMANCE_GONE": None},
                )
                assert self.result(machine.call(Worker.getenv, "CONFORMANCE_NEW")) == "new"
                assert self.result(machine.call(Worker.getenv, "CONFORMANCE_GONE")) is None
        finally:
            del os.environ["CONFORMANCE_GONE"]

    def test_a_graceful_end_runs_close(self) -> None:
        self.need(self.shares_files, "the driver's files")
        with tempfile.TemporaryDirectory() as directory:
            marks = [Path(directory, name) for name in ("one", "all")]
            with self.cluster() as cluster:
                first, second = (
                    cluster.start(1, services={"Asynchronous": Asynchronous(str(mark))})[0]
                    for mark in marks
                )
                self.result(first.wait())
                self.result(second.wait())
                self.result(first.shutdown())
                assert marks[0].read_text() == "closed"
                assert not marks[1].exists()
                assert self.death(first.call(Asynchronous.is_ready)).kind is bm.DeathKind.SHUTDOWN
            assert marks[1].read_text() == "closed"

    def test_leaving_a_cluster_ends_its_machines_within_bounds(self) -> None:
        with self.cluster() as cluster:
            machines = cluster.start(2, services={"Worker": Worker()})
            self.result(machines.running())
            call = machines[0].call(Worker.nap, 600.0)
            self.result(machines[0].call(Worker.same, 1))
            start = time.monotonic()
        assert time.monotonic() - start < self.shutdown_seconds
        assert [machine.state for machine in machines] == [bm.State.STOPPED] * 2
        assert self.death(call).kind is bm.DeathKind.SHUTDOWN
        assert self.death(machines[1].call(Worker.same, 1)).kind is bm.DeathKind.SHUTDOWN
        raised(bm.UsageError, lambda: cluster.start(1, services={"Worker": Worker()}))

    def test_a_shutdown_may_be_asked_for_again(self) -> None:
        with self.cluster() as cluster:
            self.result(cluster.start(1, services={"Worker": Worker()}).running())
            first = cluster.shutdown()
            self.result(cluster.shutdown())
            self.result(first)

    def test_a_cluster_without_machines_ends_at_once(self) -> None:
        start = time.monotonic()
        with self.cluster():
            pass
        assert time.monotonic() - start < self.shutdown_seconds

    def test_a_cluster_may_be_left_while_its_machines_start(self) -> None:
        with self.cluster() as cluster:
            machines = cluster.start(3, services={"Worker": Worker()})
        states = [machine.state for machine in machines]
        assert states == [bm.State.STOPPED] * 3, states
        assert all(machine.err is not None for machine in machines)

    def test_clusters_stand_side_by_side(self) -> None:
        with self.cluster() as first, self.cluster() as second:
            (one,) = first.start(1, services={"Worker": Worker()})
            (other,) = second.start(1, services={"Worker": Worker()})
            assert self.result(one.call(Worker.note, 1)) == 1
            assert self.result(other.call(Worker.note, 1)) == 1
            self.result(first.shutdown())
            assert one.state is bm.State.STOPPED
            assert self.result(other.call(Worker.note, 1)) == 2
