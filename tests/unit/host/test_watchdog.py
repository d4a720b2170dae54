import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigmachine.host.watchdog import Watchdog, is_healthy

periods = st.floats(1e-3, 1e4)


def test_a_lease_lapses_when_no_keepalive_comes() -> None:
    lease = Watchdog(now=100.0, period=5.0)
    assert not lease.expired(104.9)
    assert lease.remaining(104.0) == 1.0
    assert lease.expired(105.0)
    assert lease.remaining(105.0) == 0.0


def test_a_keepalive_replaces_the_deadline() -> None:
    lease = Watchdog(now=0.0, period=5.0)
    assert lease.feed(4.0, 10.0) == 10.0
    assert lease.deadline == 14.0
    assert lease.feed(5.0, 2.0) == 2.0
    assert lease.deadline == 7.0


def test_no_keepalive_is_good_for_longer_than_the_longest_period() -> None:
    lease = Watchdog(now=0.0, period=1e9, longest=60.0)
    assert lease.deadline == 60.0
    assert lease.feed(30.0, 1e9) == 60.0
    assert lease.deadline == 90.0


def test_a_lapsed_lease_is_never_revived() -> None:
    lease = Watchdog(now=0.0, period=1.0)
    assert lease.feed(1.0, 10.0) == 0.0
    assert lease.expired(1.0)


@pytest.mark.parametrize("period", [0.0, -1.0, float("nan"), float("inf")])
def test_a_period_that_is_not_positive_is_refused_and_changes_nothing(period: float) -> None:
    lease = Watchdog(now=0.0, period=5.0)
    with pytest.raises(ValueError, match="period"):
        lease.feed(1.0, period)
    assert lease.deadline == 5.0
    with pytest.raises(ValueError, match="period"):
        Watchdog(now=0.0, period=period)


@given(st.floats(1, 100), st.lists(st.tuples(st.floats(0, 200), periods), max_size=30))
def test_nothing_lives_longer_than_its_last_keepalive_bought(
    longest: float, feeds: list[tuple[float, float]]
) -> None:
    now = 0.0
    lease = Watchdog(now=now, period=longest, longest=longest)
    dead = False
    for wait, period in feeds:
        now += wait
        dead = dead or lease.expired(now)
        accepted = lease.feed(now, period)
        assert (accepted == 0.0) == dead
        assert lease.expired(now) == dead
        assert lease.deadline <= now + longest
    assert lease.expired(lease.deadline)


@pytest.mark.parametrize(("used", "healthy"), [(0.0, True), (95.0, True), (95.1, False)])
def test_a_machine_with_over_95_percent_of_memory_used_is_unhealthy(
    used: float, healthy: bool
) -> None:
    assert is_healthy(used) is healthy
