"""Machines, and drivers, that hold the interpreter lock for long: they are busy, not dead."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from .driven import SLACK, driven, send

ANSWER_SECONDS = 0.1
"""Within this time a busy machine's supervisor answers."""

BUSY = """
import math

seconds, keepalive = float(sys.argv[1]), float(sys.argv[2])


class Busy(Probe):
    def sleep_in_c(self):
        print("begun")
        hold_lock(int(seconds * 1e6))
        return "awake"

    def compute_in_c(self):
        print("begun")
        end = time.monotonic() + seconds
        while time.monotonic() < end:  # each a second or so, during which nobody else has a turn
            pow(3, 400_000, 7 ** 150_000)
        return "computed"

    def match_in_c(self):
        print("begun")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            re.match(r"(a+)+$", "a" * 23 + "b")
        return "matched"


begun = threading.Semaphore(0)
with bm.start(Local(keepalive=keepalive), output=lambda line: begun.release()) as cluster:
    machines = cluster.start(4, services={"B": Busy()})
    for machine in machines:
        machine.call(Busy.pid).result(20)
    ways = (Busy.sleep_in_c, Busy.compute_in_c, Busy.match_in_c)
    calls = [machine.call(way) for machine, way in zip(machines, ways)]
    for _ in calls:
        assert begun.acquire(timeout=20)
    slowest, asked = 0.0, 0
    while not calls[0].done():
        for machine in machines[:3]:
            began = time.monotonic()
            info = machine.mem_info().result(20)
            slowest = max(slowest, time.monotonic() - began)
            machine.load_info().result(20)
            assert machine.call("Supervisor.Ping", "x").result(20) == "x"
            asked += 1
        threading.Event().wait(0.05)
    say("answers", json.dumps([asked, slowest, info.machine.rss_bytes]))
    say("results", json.dumps([call.result(60) for call in calls]))
    say("states", json.dumps([machine.state.name for machine in machines]))
    say("pings", len(machines[0].keepalive_reply_times))
"""


def check_busy(tmp_path: Path, seconds: float, keepalive: float) -> None:
    with driven(BUSY, tmp_path, str(seconds), str(keepalive)) as program:
        asked, slowest, _ = program.record("answers", timeout=seconds * 3 + 30)
        assert asked >= 3
        assert slowest < ANSWER_SECONDS * SLACK
        assert program.record("results", timeout=60) == ["awake", "computed", "matched"]
        assert program.record("states") == ["RUNNING"] * 4
        assert program.record("pings") >= 3
        assert program.wait() == 0, program.shown()
        program.assert_gone()


def test_machines_that_hold_the_lock_live_and_their_supervisor_answers(tmp_path: Path) -> None:
    check_busy(tmp_path, 2.5, 0.3)


@pytest.mark.slow
def test_machines_that_hold_the_lock_for_half_a_minute_live(tmp_path: Path) -> None:
    check_busy(tmp_path, 30.0, 1.0)


BUSY_DRIVER = """
seconds = float(sys.argv[1])

with bm.start(Local(transport=sys.argv[2], keepalive=0.5)) as cluster:
    machines = cluster.start(2, services={"P": Probe()})
    pids = [each.call(Probe.pid).result(20) for each in machines]
    waiting = machines[0].call(Probe.block, seconds / 2)
    hold_lock(int(seconds * 1e6))
    say("waited", json.dumps(waiting.result(20)))
    say("same", json.dumps([each.call(Probe.pid).result(20) for each in machines] == pids))
    say("states", json.dumps([machine.state.name for machine in machines]))
"""


def check_busy_driver(tmp_path: Path, seconds: float, transport: str) -> None:
    with driven(BUSY_DRIVER, tmp_path, str(seconds), transport) as program:
        assert program.record("waited", timeout=seconds + 30) is None
        assert program.record("same") is True
        assert program.record("states") == ["RUNNING"] * 2
        assert program.wait() == 0, program.shown()
        assert program.stderr == ""
        program.assert_gone()


@pytest.mark.parametrize("transport", ["unix", "tls"])
def test_a_driver_that_holds_its_lock_loses_no_machine(tmp_path: Path, transport: str) -> None:
    check_busy_driver(tmp_path, 5.0, transport)


@pytest.mark.slow
def test_a_driver_that_holds_its_lock_for_half_a_minute_loses_no_machine(tmp_path: Path) -> None:
    check_busy_driver(tmp_path, 30.0, "unix")


STOPPED_DRIVER = """
with bm.start(Local(keepalive=0.3)) as cluster:
    machines = cluster.start(2, services={"P": Probe()})
    pids = [each.call(Probe.pid).result(20) for each in machines]
    say("ready")
    listen()
    say("same", json.dumps([each.call(Probe.pid).result(20) for each in machines] == pids))
    say("states", json.dumps([machine.state.name for machine in machines]))
"""


def test_a_driver_that_was_stopped_and_continued_loses_no_machine(tmp_path: Path) -> None:
    with driven(STOPPED_DRIVER, tmp_path) as program:
        program.expect("^ready")
        send(program.pid, signal.SIGSTOP)
        with pytest.raises(AssertionError):
            program.expect("never", timeout=3.0)  # ten keepalives
        send(program.pid, signal.SIGCONT)
        program.tell("go")
        assert program.record("same") is True
        assert program.record("states") == ["RUNNING"] * 2
        assert program.wait() == 0, program.shown()
        assert program.stderr == ""
        program.assert_gone()


STOPPED_SUPERVISOR = """
with bm.start(Local(keepalive=0.3)) as cluster:
    machine, = cluster.start(1, services={"P": Probe()})
    say("ready", json.dumps(machine.call(Probe.pid).result(20)))
    call = machine.call(Probe.block)
    listen()
    error = call.exception(20)
    say("died", json.dumps([error.death.kind, str(error)]))
"""


def test_a_supervisor_that_answers_no_keepalives_is_given_up_with_its_machines(
    tmp_path: Path,
) -> None:
    with driven(STOPPED_SUPERVISOR, tmp_path) as program:
        program.record("ready")
        send(program.supervisors()[0].pid, signal.SIGSTOP)
        program.tell("go")
        kind, text = program.record("died")
        assert kind == "keepalive", text
        assert program.wait() == 0, program.shown()
        program.assert_gone()
