"""The states of a machine: every happening in every state."""

from __future__ import annotations

import itertools

import pytest

from bigmachine.death import Death, DeathKind
from bigmachine.driver.lifecycle import Happening, Lifecycle, State

DEATH = Death(kind=DeathKind.EXIT)
RISES = {
    Happening.PLACED: {State.UNSTARTED: State.STARTING},
    Happening.READY: {State.UNSTARTED: State.RUNNING, State.STARTING: State.RUNNING},
    Happening.DIED: dict.fromkeys(list(State)[:-1], State.STOPPED),
}


@pytest.mark.parametrize(("state", "happening"), [*itertools.product(State, Happening)])
def test_states_only_rise(state: State, happening: Happening) -> None:
    life = Lifecycle(state)
    after = RISES[happening].get(state, state)
    assert life.advance(happening, DEATH) is (after > state)
    assert life.state is after


def test_the_first_death_is_the_one_that_counts() -> None:
    life = Lifecycle()
    life.advance(Happening.DIED, DEATH)
    assert not life.advance(Happening.DIED, Death(kind=DeathKind.OOM))
    assert life.death is DEATH


def test_nothing_dies_of_nothing() -> None:
    with pytest.raises(ValueError, match="of something"):
        Lifecycle().advance(Happening.DIED)


def test_a_state_is_written_by_its_name() -> None:
    assert (str(State.RUNNING), f"{State.STOPPED}", f"{State.RUNNING:>8}|") == (
        "RUNNING",
        "STOPPED",
        " RUNNING|",
    )
    assert State.RUNNING == 2
    assert repr(State.RUNNING) == "<State.RUNNING: 2>"
