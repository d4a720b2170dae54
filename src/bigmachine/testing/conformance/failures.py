"""Conformance: machines that die, and connections that break."""

from __future__ import annotations

import time

import bigmachine as bm
from bigmachine.testing.conformance.base import Conformance
from bigmachine.testing.conformance.services import Worker

_PROMPT_SECONDS = 2.0
"""How soon a death is known, on a test machine that is busy with other things."""


class FailureConformance(Conformance):
    """Deaths, giving up, and calls that run at most once."""

    def test_a_killed_machines_calls_fail_with_its_death(self) -> None:
        with self.cluster() as cluster:
            first, second = cluster.start(2, services={"Worker": Worker()})
            calls = [first.call(Worker.wait), first.call(Worker.wait_async)]
            self.wait_seen(first, "wait begun")
            self.wait_seen(first, "wait_async begun")
            start = time.monotonic()
            self.kill(cluster.system, first)
            deaths = [self.death(call) for call in calls]
            assert time.monotonic() - start < _PROMPT_SECONDS
            assert [death.kind for death in deaths] == [bm.DeathKind.SIGNAL] * 2
            assert deaths[0].signal == "SIGKILL"
            assert {"Worker.wait", "Worker.wait_async"} <= set(deaths[0].calls)
            assert "SIGKILL" in str(deaths[0])
            assert first.state is bm.State.STOPPED
            assert first.err is not None
            assert self.result(second.call(Worker.same, 1)) == 1

    def test_calls_to_a_dead_machine_fail_at_once(self) -> None:
        with self.cluster() as cluster:
            (machine,) = cluster.start(1, services={"Worker": Worker()})
            self.result(machine.wait())
            self.kill(cluster.system, machine)
            self.result(machine.wait(bm.State.STOPPED))
            assert self.death(machine.call(Worker.same, 1)).signal == "SIGKILL"
            self.error(machine.mem_info(), bm.MachineStoppedError)
            self.error(machine.retry_call(Worker.same, 1), bm.MachineStoppedError)

    def test_a_stream_of_a_killed_machine_ends_with_its_death(self) -> None:
        with self.cluster() as cluster:
            (machine,) = cluster.start(1, services={"Worker": Worker()})
            stream = machine.stream(Worker.count, 10**9)
            assert next(iter(stream)) == 0
            self.kill(cluster.system, machine)
            error: bm.MachineStoppedError | None = None
            try:
                for _ in stream:
                    continue
            except bm.MachineStoppedError as stopped:
                error = stopped
            assert error is not None
            assert error.death.signal == "SIGKILL"

    def test_system_exit_ends_its_machine_with_its_code(self) -> None:
        with self.cluster() as cluster:
            first, second = cluster.start(2, services={"Worker": Worker()})
            death = self.death(first.call(Worker.exit, 3))
            assert (death.kind, death.exit_code) == (bm.DeathKind.EXIT, 3)
            assert self.result(second.call(Worker.same, 1)) == 1

    def test_a_machine_may_be_given_up(self) -> None:
        with self.cluster() as cluster:
            (machine,) = cluster.start(1, services={"Worker": Worker()})
            call = machine.call(Worker.wait)
            self.wait_seen(machine, "wait begun")
            machine.cancel()
            assert self.death(call).kind is bm.DeathKind.CANCELED
            assert self.result(machine.wait(bm.State.STOPPED)) is bm.State.STOPPED
            assert machine.err is not None
            assert machine.err.death.kind is bm.DeathKind.CANCELED

    def test_map_gives_the_items_of_a_dead_machine_to_others(self) -> None:
        with self.cluster() as cluster:
            machines = cluster.start(2, services={"Worker": Worker()})
            self.result(machines.running())
            results = machines.map(Worker.nap, [0.01] * 100, retries=3)
            found = [next(results) for _ in range(5)]
            self.kill(cluster.system, machines[0])
            found.extend(results)
            assert found == [0.01] * 100
            self.result(machines[0].wait(bm.State.STOPPED))
            assert machines[1].state is bm.State.RUNNING

    def test_map_ends_when_every_machine_is_dead(self) -> None:
        with self.cluster() as cluster:
            machines = cluster.start(1, services={"Worker": Worker()})
            self.result(machines.running())
            results = machines.map(Worker.nap, [0.01] * 10_000, retries=100)
            next(results)
            self.kill(cluster.system, machines[0])
            failed = False
            try:
                for _ in results:
                    continue
            except (bm.MachineStoppedError, ExceptionGroup):
                failed = True
            assert failed

    def test_others_are_started_in_place_of_a_dead_machine(self) -> None:
        with self.cluster() as cluster:
            (machine,) = cluster.start(1, services={"Worker": Worker()})
            self.result(machine.wait())
            self.kill(cluster.system, machine)
            self.result(machine.wait(bm.State.STOPPED))
            (other,) = cluster.start(1, services={"Worker": Worker()})
            assert self.result(other.call(Worker.same, 1)) == 1
            assert other.addr != machine.addr

    def test_calls_run_at_most_once_whatever_happens_to_connections(self) -> None:
        with self.cluster() as cluster:
            (machine,) = cluster.start(1, services={"Worker": Worker()})
            self.result(machine.call(Worker.same, 1))
            outcomes: dict[int, str] = {}
            with self.disturb(cluster.system):
                for number in range(30):
                    with bm.timeout(1.0):
                        call = machine.call(Worker.note, number)
                    error = call.exception(self.limit_seconds)
                    outcomes[number] = getattr(error, "outcome", type(error).__name__)
            runs = self.result(machine.call(Worker.noted))
            assert set(runs.values()) <= {1}
            for number, outcome in outcomes.items():
                assert outcome != "NoneType" or number in runs
                assert outcome != "not_sent" or number not in runs
