"""How long a thread waits for the interpreter lock while bulk data moves, and afterwards."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

from bigmachine.rpc import hurry as module
from bigmachine.rpc.hurry import SWITCH_SECONDS, Hurry

USUAL = 0.004


@pytest.fixture(autouse=True)
def usual() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(USUAL)
    yield
    sys.setswitchinterval(before)


def interval() -> float:
    return round(sys.getswitchinterval(), 6)


def test_the_interval_is_short_until_nobody_is_in_a_hurry_any_more() -> None:
    hurry = Hurry()
    with hurry:
        with hurry:
            assert interval() == SWITCH_SECONDS
        assert interval() == SWITCH_SECONDS
    assert interval() == USUAL


def test_it_is_as_before_when_what_moves_data_raises() -> None:
    hurry = Hurry()
    with pytest.raises(OSError), hurry:
        raise OSError
    assert interval() == USUAL


def test_one_that_is_shorter_stays() -> None:
    sys.setswitchinterval(0.000002)
    with Hurry():
        assert interval() == 0.000002
    assert interval() == 0.000002


def test_what_the_program_sets_meanwhile_stays() -> None:
    with Hurry():
        sys.setswitchinterval(0.001)
    assert interval() == 0.001


def test_a_forked_child_is_in_no_hurry() -> None:
    with module.hurry:
        child = os.fork()
        if not child:
            calm = interval() == USUAL
            with module.hurry:
                calm = calm and interval() == SWITCH_SECONDS
            os._exit(0 if calm and interval() == USUAL else 1)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
