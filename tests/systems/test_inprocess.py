"""Machines inside this process: what tests of services rely on, and faults that can be replayed."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

import bigmachine as bm
from bigmachine.testing import Faults, InProcess

LIMIT = 20.0


class Ledger:
    """Keeps what was asked of it, and how often."""

    def __init__(self, start: list[int] | None = None) -> None:
        self.entries = [] if start is None else start
        self.home = ""

    def init(self, cluster: bm.Cluster) -> None:
        assert bm.current().cluster is cluster
        self.home = bm.current().machine.addr

    def add(self, entry: int) -> int:
        self.entries.append(entry)
        return len(self.entries)

    async def all(self) -> list[int]:
        return list(self.entries)

    def where(self) -> tuple[str, str, bool]:
        return self.home, bm.current().machine.addr, bm.is_driver()

    def wait_cancelled(self) -> None:
        began.set()
        while not bm.cancelled():
            time.sleep(0.001)
        ended.set()

    async def hang(self) -> None:
        began.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.set()

    def block_loop(self) -> None:
        raise SystemExit(7)

    def start_a_cluster(self) -> None:
        bm.start(InProcess())

    def grow(self) -> None:
        bm.current().cluster.start(1, services={"Ledger": Ledger()})


began = threading.Event()
ended = threading.Event()


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    began.clear()
    ended.clear()
    before = set(threading.enumerate())
    yield
    end = time.monotonic() + 5
    while (left := set(threading.enumerate()) - before) and time.monotonic() < end:
        for thread in left:
            thread.join(0.1)
    assert not left


def died(call: bm.Future[object]) -> bm.Death:
    error = call.exception(LIMIT)
    assert isinstance(error, bm.MachineStoppedError), error
    return error.death


def test_services_are_copied_as_if_sent() -> None:
    service = Ledger([1])
    with bm.start(InProcess()) as cluster:
        first, second = cluster.start(2, services={"Ledger": service})
        assert first.call(Ledger.add, 2).result(LIMIT) == 2
        assert second.call(Ledger.all).result(LIMIT) == [1]
        assert service.entries == [1]


def test_arguments_and_results_are_copied_too() -> None:
    with bm.start(InProcess()) as cluster:
        (machine,) = cluster.start(1, services={"Ledger": Ledger()})
        found = machine.call(Ledger.all).result(LIMIT)
        found.append(1)
        assert machine.call(Ledger.all).result(LIMIT) == []


def test_an_array_of_a_service_is_each_machines_own() -> None:
    np = pytest.importorskip("numpy")
    with bm.start(InProcess()) as cluster:
        first, second = cluster.start(2, services={"Ledger": Ledger(np.zeros(100_000))})
        first.call("Ledger.entries.fill", 1).exception(LIMIT)  # a dot too many: refused
        found = first.call(Ledger.all).result(LIMIT)
        assert len(found) == 100_000
        assert second.state < bm.State.STOPPED


def test_methods_find_their_own_machine() -> None:
    with bm.start(InProcess()) as cluster:
        for machine in cluster.start(3, services={"Ledger": Ledger()}):
            home, here, is_driver = machine.call(Ledger.where).result(LIMIT)
            assert home == here == machine.addr
            assert not is_driver
        assert bm.is_driver()


def test_a_machine_may_not_start_others() -> None:
    with bm.start(InProcess()) as cluster:
        (machine,) = cluster.start(1, services={"Ledger": Ledger()})
        assert isinstance(machine.call(Ledger.start_a_cluster).exception(LIMIT), bm.UsageError)
        assert isinstance(machine.call(Ledger.grow).exception(LIMIT), bm.UsageError)


def test_wait_n_index_and_machines_tell_which_run() -> None:
    system = InProcess(machineprocs=3)
    assert (system.n, system.machines, system.exited) == (0, (), False)
    with bm.start(system) as cluster:
        machines = cluster.start(3, services={"Ledger": Ledger()})
        assert system.wait(3, timeout=LIMIT) == 3
        assert system.machines == tuple(machines)
        assert system.index(1) == machines[1]
        assert [machine.maxprocs for machine in machines] == [3, 3, 3]
        with pytest.raises(TimeoutError, match="3 machines run"):
            system.wait(4, timeout=0.01)
        assert not system.exited
        machines[0].shutdown().result(LIMIT)
        assert system.exited
        assert system.machines == tuple(machines[1:])
    assert system.n == 0


@pytest.mark.parametrize("method", [Ledger.wait_cancelled, Ledger.hang])
def test_a_killed_machines_calls_fail_at_once_and_it_is_gone(method: Callable[..., None]) -> None:
    system = InProcess()
    with bm.start(system) as cluster:
        first, second = cluster.start(2, services={"Ledger": Ledger()})
        system.wait(2)
        call = first.call(method)
        assert began.wait(LIMIT)
        start = time.monotonic()
        assert system.kill(first)
        assert first.state is bm.State.STOPPED
        death = died(call)
        assert time.monotonic() - start < 0.2 * 4  # as beside other tests
        assert (death.kind, death.signal) == (bm.DeathKind.SIGNAL, "SIGKILL")
        assert death.calls == (f"Ledger.{method.__name__}",)
        assert ended.wait(LIMIT)
        assert not system.kill(first)
        assert system.machines == (second,)
        assert second.call(Ledger.add, 1).result(LIMIT) == 1


def test_kill_without_a_machine_takes_any() -> None:
    system = InProcess()
    assert not system.kill()
    with bm.start(system) as cluster:
        cluster.start(2, services={"Ledger": Ledger()})
        system.wait(2)
        assert system.kill()
        assert system.kill()
        assert not system.kill()
        assert not system.exited


def test_kill_knows_only_its_own_machines() -> None:
    system, other = InProcess(), InProcess()
    with bm.start(system) as cluster:
        (machine,) = cluster.start(1, services={"Ledger": Ledger()})
        system.wait(1)
        assert not other.kill(machine)
        assert machine.call(Ledger.add, 1).result(LIMIT) == 1


def test_a_dialled_machine_can_be_killed_as_well() -> None:
    system = InProcess()
    with bm.start(system) as cluster:
        (machine,) = cluster.start(1, services={"Ledger": Ledger()})
        system.wait(1)
        with bm.start(InProcess()) as other:
            dialled = other.dial(machine.addr)
            call = dialled.call("Ledger.hang")
            assert began.wait(LIMIT)
            assert system.kill(dialled)
            assert died(call).signal == "SIGKILL"


def test_a_new_machine_may_be_started_after_one_was_killed() -> None:
    system = InProcess()
    with bm.start(system) as cluster:
        cluster.start(1, services={"Ledger": Ledger()})
        system.wait(1)
        system.kill()
        (machine,) = cluster.start(1, services={"Ledger": Ledger()})
        assert machine.call(Ledger.add, 1).result(LIMIT) == 1


def test_system_exit_ends_its_machine_alone() -> None:
    system = InProcess()
    with bm.start(system) as cluster:
        first, second = cluster.start(2, services={"Ledger": Ledger()})
        death = died(first.call(Ledger.block_loop))
        assert (death.kind, death.exit_code) == (bm.DeathKind.EXIT, 7)
        assert second.call(Ledger.add, 1).result(LIMIT) == 1
        assert system.exited


def test_short_keepalives_keep_a_machine_that_answers() -> None:
    with bm.start(InProcess(keepalive=0.05)) as cluster:
        (machine,) = cluster.start(1, services={"Ledger": Ledger()})
        machine.wait().result(LIMIT)
        end = time.monotonic() + LIMIT
        while len(machine.keepalive_reply_times) < 5 and time.monotonic() < end:
            machine.call(Ledger.all).result(LIMIT)
        assert machine.state is bm.State.RUNNING
        assert machine.next_keepalive is not None


def test_a_machine_ends_when_its_keepalives_are_lost() -> None:
    faults = Faults(drop=1.0, where="host", active=False)
    system = InProcess(keepalive=0.1, faults=faults)
    with bm.start(system) as cluster:
        first, second = cluster.start(2, services={"Ledger": Ledger()})
        system.wait(2)
        call = first.call(Ledger.hang)
        assert began.wait(LIMIT)
        faults.aim(first)
        with faults:
            death = died(call)
            assert death.kind is bm.DeathKind.KEEPALIVE
            assert ended.wait(LIMIT)  # it really ended
            assert second.call(Ledger.add, 1).result(LIMIT) == 1
        assert system.machines == (second,)


def test_a_keepalive_that_is_late_but_comes_is_enough() -> None:
    faults = Faults(delay=(0.05, 0.05), where="host")
    with bm.start(InProcess(keepalive=0.2, faults=faults)) as cluster:
        (machine,) = cluster.start(1, services={"Ledger": Ledger()})
        machine.wait().result(LIMIT)
        end = time.monotonic() + LIMIT
        while len(machine.keepalive_reply_times) < 3 and time.monotonic() < end:
            machine.call(Ledger.all).result(LIMIT)
        assert min(machine.keepalive_reply_times) >= 0.1
        assert machine.state is bm.State.RUNNING


# Faults on calls.


def test_a_refused_connection_fails_a_call_before_it_was_sent() -> None:
    faults = Faults(refuse=1.0)
    with bm.start(InProcess(faults=faults)) as cluster:
        (machine,) = cluster.start(1, services={"Ledger": Ledger()})
        error = machine.call(Ledger.add, 1).exception(LIMIT)
        assert isinstance(error, bm.TransportError)
        assert error.outcome == "not_sent"
        faults.off()
        assert machine.call(Ledger.add, 1).result(LIMIT) == 1


def test_a_cut_connection_fails_its_calls_and_the_next_call_opens_another() -> None:
    faults = Faults(cut=1.0, active=False)
    with bm.start(InProcess(faults=faults)) as cluster:
        (machine,) = cluster.start(1, services={"Ledger": Ledger()})
        assert machine.call(Ledger.add, 1).result(LIMIT) == 1
        with faults:
            error = machine.call(Ledger.add, 2).exception(LIMIT)
        assert isinstance(error, bm.TransportError)
        assert error.outcome == "maybe_ran"
        assert machine.call(Ledger.all).result(LIMIT) == [1]


def test_a_lost_call_is_given_up_at_its_deadline() -> None:
    faults = Faults(drop=1.0, active=False)
    with bm.start(InProcess(faults=faults)) as cluster:
        (machine,) = cluster.start(1, services={"Ledger": Ledger()})
        assert machine.call(Ledger.add, 1).result(LIMIT) == 1
        with faults, bm.timeout(0.1):
            error = machine.call(Ledger.add, 2).exception(LIMIT)
        assert isinstance(error, bm.CallTimeoutError)
        assert machine.call(Ledger.all).result(LIMIT) == [1]


def test_delays_hold_up_every_frame_but_not_one_after_the_other() -> None:
    faults = Faults(delay=(0.1, 0.1))
    with bm.start(InProcess(faults=faults)) as cluster:
        (machine,) = cluster.start(1, services={"Ledger": Ledger()})
        machine.wait().result(LIMIT)
        start = time.monotonic()
        calls = [machine.call(Ledger.add, entry) for entry in range(20)]
        assert sorted(call.result(LIMIT) for call in calls) == list(range(1, 21))
        assert 0.2 <= time.monotonic() - start < 3.0  # 4.0 if one waited for the other
        assert faults.count("delay") >= 40


def run_with_faults(
    seed: int, *, drop: float = 0.0, timeout: float = LIMIT
) -> tuple[list[str], list[int], tuple[object, ...]]:
    """Make calls one after the other under faults; return outcomes, effects and faults."""
    faults = Faults(seed, cut=0.05, refuse=0.1, drop=drop, active=False)
    outcomes = []
    with bm.start(InProcess(faults=faults)) as cluster:
        (machine,) = cluster.start(1, services={"Ledger": Ledger()})
        machine.wait().result(LIMIT)
        with faults:
            for entry in range(30):
                with bm.timeout(timeout):
                    call = machine.call(Ledger.add, entry)
                error = call.exception(LIMIT)
                outcomes.append(getattr(error, "outcome", type(error).__name__))
        effects = machine.call(Ledger.all).result(LIMIT)
    return outcomes, effects, faults.injected


@pytest.mark.parametrize("seed", [1, 2])
def test_the_same_seed_replays_the_same_faults_and_their_outcomes(seed: int) -> None:
    assert run_with_faults(seed) == run_with_faults(seed)


@pytest.mark.parametrize("seed", range(3))
def test_calls_run_at_most_once_whatever_happens_to_them(seed: int) -> None:
    outcomes, effects, injected = run_with_faults(seed, drop=0.05, timeout=0.3)
    assert injected
    assert len(effects) == len(set(effects))
    for entry, outcome in enumerate(outcomes):
        if outcome == "NoneType":
            assert entry in effects
        if outcome == "not_sent":
            assert entry not in effects


def test_retried_calls_get_through_and_may_run_again() -> None:
    faults = Faults(4, cut=0.2, refuse=0.2, active=False)
    with bm.start(InProcess(faults=faults)) as cluster:
        (machine,) = cluster.start(1, services={"Ledger": Ledger()})
        with faults, bm.timeout(LIMIT):
            for entry in range(8):
                machine.retry_call(Ledger.add, entry).result(LIMIT)
        effects = machine.call(Ledger.all).result(LIMIT)
    assert set(effects) == set(range(8))
    assert faults.count("cut") > 0


def test_a_bulk_transfer_survives_delays_whole() -> None:
    faults = Faults(5, delay=(0.0, 0.005))
    payload = os.urandom(3_000_000)
    with bm.start(InProcess(faults=faults)) as cluster:
        (machine,) = cluster.start(1, services={"Ledger": Ledger()})
        machine.call(Ledger.add, payload).result(LIMIT)  # type: ignore[arg-type]
        assert machine.call(Ledger.all).result(LIMIT) == [payload]


def test_its_prints_go_to_this_processs_own_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    with bm.start(InProcess()) as cluster:
        (machine,) = cluster.start(1, services={"Speaker": Speaker()})
        machine.call(Speaker.say, "hello").result(LIMIT)
    assert capsys.readouterr().out == "hello\n"


class Speaker:
    def say(self, text: str) -> None:
        print(text, file=sys.stdout)


def test_a_machine_that_was_given_up_takes_no_call_even_while_the_runtime_is_busy() -> None:
    with bm.start(InProcess()) as cluster:
        machine = cluster.start(1, services={"L": Ledger()})[0]
        assert machine.call(Ledger.add, 1).result(LIMIT) == 1
        may_go_on = threading.Event()
        busy = machine.wait(bm.State.STOPPED)
        loop = machine._handle.runtime.loop
        loop.call_soon_threadsafe(may_go_on.wait, 0.2)

        machine.cancel()

        assert machine.state is bm.State.STOPPED
        assert busy.result(LIMIT) is bm.State.STOPPED
        with pytest.raises(bm.MachineStoppedError):
            machine.call(Ledger.add, 2).result(LIMIT)
