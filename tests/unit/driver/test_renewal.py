"""When leases are renewed, and how soon again after a failure."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bigmachine.driver.renewal import RETRIES_PER_LEASE, Renewal

seconds = st.floats(0.1, 1000.0)


@given(seconds, seconds)
def test_a_host_that_answers_is_told_at_least_twice_within_its_lease(
    period: float, timeout: float
) -> None:
    assert Renewal(period=period, timeout=timeout).renewed() <= min(period, timeout / 2)


@given(seconds, seconds, st.integers(1, 50))
def test_a_host_that_does_not_answer_is_tried_many_times_within_its_lease(
    period: float, timeout: float, failures: int
) -> None:
    renewal = Renewal(period=period, timeout=timeout)
    pauses = [renewal.failed() for _ in range(failures)]
    assert max(pauses) <= timeout / RETRIES_PER_LEASE
    assert min(pauses) > 0
    assert pauses == sorted(pauses)


def test_an_answer_makes_up_for_failures() -> None:
    renewal = Renewal(period=60.0, timeout=120.0)
    first = renewal.failed()
    renewal.failed()
    assert renewal.renewed() == 60.0
    assert renewal.failed() == first
