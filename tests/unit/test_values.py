"""Values: what frozen dataclasses are, as cheap as they can be."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from bigmachine.values import Value, as_mapping, changed, hidden


class Point(Value):
    """A place."""

    x: int
    y: int = 0

    @property
    def sum(self) -> int:
        return self.x + self.y


class Letter(Value):
    to: Point
    text: str = hidden()
    marks: list[int] = hidden(default_factory=list)
    stamp: str | None = hidden(default=None)


class Nothing(Value):
    """One without attributes."""


def test_attributes_are_those_given_else_their_defaults() -> None:
    letter = Letter(to=Point(x=1), text="t")
    assert (letter.to.x, letter.to.y, letter.to.sum) == (1, 0, 1)
    assert (letter.text, letter.marks, letter.stamp) == ("t", [], None)
    assert letter.marks is not Letter(to=Point(x=1), text="t").marks


@pytest.mark.parametrize(
    ("given", "complaint"),
    [({}, "Point: x is missing"), ({"x": 1, "z": 2}, "Point has no z")],
)
def test_what_is_missing_or_unknown_is_refused(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(TypeError, match=complaint):
        Point(**given)


def test_a_value_is_frozen_and_has_no_room_for_more() -> None:
    point = Point(x=1)
    for act in (
        lambda: setattr(point, "x", 2),
        lambda: setattr(point, "other", 2),
        lambda: delattr(point, "x"),
    ):
        with pytest.raises(AttributeError, match="frozen"):
            act()
    assert not hasattr(point, "__dict__")


def test_values_are_equal_to_their_like() -> None:
    assert Point(x=1) == Point(x=1, y=0)
    assert hash(Point(x=1)) == hash(Point(x=1, y=0))
    assert Point(x=1) != Point(x=2)
    assert Nothing() == Nothing()
    assert Nothing() != Point(x=1)


def test_what_is_hidden_is_not_shown() -> None:
    assert repr(Letter(to=Point(x=1), text="SECRET")) == "Letter(to=Point(x=1, y=0))"
    assert repr(Nothing()) == "Nothing()"


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_values_travel(protocol: int) -> None:
    letter = Letter(to=Point(x=1), text="t", marks=[1])
    assert pickle.loads(pickle.dumps(letter, protocol)) == letter


def test_a_changed_value_is_another_one() -> None:
    point = Point(x=1, y=2)
    assert changed(point, y=3) == Point(x=1, y=3)
    assert point.y == 2
    with pytest.raises(TypeError, match="no z"):
        changed(point, z=1)


def test_a_mapping_has_values_within_as_mappings() -> None:
    letter = Letter(to=Point(x=1), text="t")
    assert as_mapping(letter) == {
        "to": {"x": 1, "y": 0},
        "text": "t",
        "marks": [],
        "stamp": None,
    }


def test_defining_one_costs_less_than_a_dataclass() -> None:
    body = {"__annotations__": {"a": int, "b": str}, "b": ""}

    def best_of_five(define: Callable[[], object]) -> float:
        times = []
        for _ in range(5):
            begun = time.perf_counter()
            define()
            times.append(time.perf_counter() - begun)
        return min(times)

    mine = best_of_five(lambda: type(Value)("Made", (Value,), dict(body)))
    theirs = best_of_five(lambda: dataclass(frozen=True, slots=True)(type("Made", (), dict(body))))
    assert mine < theirs / 3
