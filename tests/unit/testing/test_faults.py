"""What faults decide: by a seed, for each connection on its own, whatever is switched meanwhile."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigmachine.errors import UsageError
from bigmachine.testing.faults import Connection, Direction, Faults, Place, Verdict
from bigmachine.testing.relay import Splitter
from bigmachine.wire import frames


def place(machine: int = 0, where: str = "calls") -> Place:
    return Place(machine=machine, where=where, names=lambda: (machine, f"{machine}-abc"))  # type: ignore[arg-type]


def connect(faults: Faults, machine: int = 0, where: str = "calls") -> Connection:
    connection = faults.connect(place(machine, where))
    assert connection is not None
    return connection


def verdicts(
    faults: Faults, count: int = 200, machine: int = 0, direction: Direction = "there"
) -> list[Verdict]:
    lane = connect(faults, machine).lane(direction)
    return [lane.next() for _ in range(count)]


@given(st.integers(), st.floats(0, 1), st.floats(0, 1))
def test_the_same_seed_brings_the_same_faults(seed: int, drop: float, cut: float) -> None:
    first, second = (Faults(seed, drop=drop, cut=cut, delay=(0, 0.1)) for _ in range(2))
    assert verdicts(first) == verdicts(second)
    assert first.injected == second.injected


def test_another_seed_brings_others() -> None:
    assert verdicts(Faults(1, drop=0.5)) != verdicts(Faults(2, drop=0.5))


def test_machines_connections_and_directions_have_chances_of_their_own() -> None:
    faults = Faults(3, drop=0.5)
    runs = [
        verdicts(faults),
        verdicts(faults),
        verdicts(faults, machine=1),
        verdicts(Faults(3, drop=0.5), direction="back"),
    ]
    assert all(runs.count(run) == 1 for run in runs)


def test_how_connections_interleave_makes_no_difference() -> None:
    apart, mixed = Faults(4, cut=0.3), Faults(4, cut=0.3)
    alone = [verdicts(apart, 50), verdicts(apart, 50, machine=1)]
    lanes = [connect(mixed, 0).lane("there"), connect(mixed, 1).lane("there")]
    together = list(zip(*[[lane.next() for lane in lanes] for _ in range(50)], strict=True))
    assert [list(run) for run in together] == alone


def test_switching_faults_off_moves_none_of_the_later_ones() -> None:
    always, paused = Faults(5, drop=0.5), Faults(5, drop=0.5)
    one, other = connect(always).lane("there"), connect(paused).lane("there")
    first = [(one.next(), other.next()) for _ in range(20)]
    paused.off()
    meanwhile = [other.next() for _ in range(20)]
    for _ in range(20):
        one.next()
    paused.on()
    later = [(one.next(), other.next()) for _ in range(20)]
    assert all(a == b for a, b in first + later)
    assert meanwhile == [Verdict()] * 20


def test_rates_come_about_as_often_as_they_say() -> None:
    faults = Faults(6, drop=0.25)
    verdicts(faults, 4000)
    assert 850 < faults.count("drop") < 1150


def test_the_greeting_is_never_lost() -> None:
    first, second = verdicts(Faults(7, drop=1.0), 2)
    assert not first.drop
    assert second.drop


def test_a_delay_is_within_its_range() -> None:
    delays = [verdict.delay for verdict in verdicts(Faults(8, delay=(0.01, 0.02)))]
    assert 0.01 <= min(delays) < max(delays) <= 0.02


def test_faults_strike_where_they_are_aimed_at() -> None:
    faults = Faults(9, cut=1.0, machine=1)
    assert not any(verdict.cut for verdict in verdicts(faults, machine=0))
    assert all(verdict.cut for verdict in verdicts(faults, machine=1))
    assert not connect(faults, 1, "host").lane("there").next().cut
    faults.aim(None, "host")
    assert not connect(faults, 1).lane("there").next().cut
    assert connect(faults, 0, "host").lane("there").next().cut


def test_a_refused_connection_is_counted_and_told() -> None:
    faults = Faults(10, refuse=0.5)
    fates = [faults.connect(place()) is None for _ in range(100)]
    assert faults.count("refuse") == sum(fates)
    assert 30 < sum(fates) < 70
    assert {fault.connection for fault in faults.injected} == {
        number for number, refused in enumerate(fates) if refused
    }


def test_with_switches_on_and_off() -> None:
    faults = Faults(11, cut=1.0, active=False)
    lane = connect(faults).lane("there")
    assert not lane.next().cut
    with faults:
        assert lane.next().cut
    assert not lane.next().cut


@pytest.mark.parametrize(
    "wrong", [{"drop": 1.5}, {"cut": -0.1}, {"delay": (0.2, 0.1)}, {"where": "there"}]
)
def test_a_rate_that_is_none_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Faults(**wrong)  # type: ignore[arg-type]


def test_a_wrong_change_leaves_the_rates_as_they_are() -> None:
    faults = Faults(12, drop=0.5)
    with pytest.raises(UsageError):
        faults.set(drop=2.0)
    assert faults.rates().drop == 0.5


@given(st.lists(st.binary(max_size=40), max_size=20), st.integers(1, 50))
def test_frames_are_split_wherever_the_bytes_are_cut(bodies: list[bytes], step: int) -> None:
    sent = [frames.frame(frames.CALL, number, body=body) for number, body in enumerate(bodies)]
    flow = b"".join(sent)
    splitter = Splitter()
    found = [
        frame for at in range(0, len(flow), step) for frame in splitter.feed(flow[at : at + step])
    ]
    assert found == sent
