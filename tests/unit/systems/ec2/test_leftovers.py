"""What was left behind: only what a driver of this computer launched that is gone."""

from __future__ import annotations

from typing import Any

import pytest

from bigmachine.systems.ec2.leftovers import is_left
from bigmachine.systems.origin import Origin
from bigmachine.values import changed

GONE = {"pid": 2**22 + 1}


def tags(**changes: Any) -> dict[str, str]:
    return {"bigmachine:driver": str(changed(Origin.here(), **changes))}


def test_what_a_driver_has_left_that_is_gone_is_left() -> None:
    assert is_left(tags(**GONE))


def test_what_a_living_driver_uses_is_not() -> None:
    assert not is_left(tags())


@pytest.mark.parametrize("change", [{"computer": "another"}, {"boot": "another+4026531836"}])
def test_what_is_another_computers_is_not_where_that_may_live(change: dict[str, str]) -> None:
    if "boot" in change:  # the same start of the computer, in another container
        change = {"boot": Origin.here().boot.partition("+")[0] + "+1"}
    assert not is_left(tags(**GONE, **change))


@pytest.mark.parametrize("text", ["", "x", "a/b/c", "a/b/c/d/e"])
def test_what_says_nothing_of_its_driver_is_not(text: str) -> None:
    assert not is_left({"bigmachine:driver": text})
    assert not is_left({"bigmachine:cluster": "c"})
