"""The way to what does not pickle."""

from __future__ import annotations

import functools
import pickle
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigmachine.rpc.diagnose import MAX_PATH_CHARS, MAX_REASON_CHARS, find_unpicklable

LOCK = threading.Lock()
REFUSAL = "TypeError: cannot pickle '_thread.lock' object"


class Model:
    def __init__(self) -> None:
        self.weights = np.zeros(1000)
        self._lock = LOCK

    def predict(self) -> None:
        """Do nothing; bound to its model all the same."""


class Service:
    def __init__(self) -> None:
        self.name = "service"
        self.model = Model()


class Slotted:
    __slots__ = ("__hidden", "plain", "unset")

    def __init__(self, *, plain: object = None, hidden: object = None) -> None:
        self.plain = plain
        self.__hidden = hidden


@dataclass(frozen=True, slots=True)
class Message:
    body: object


class Row(NamedTuple):
    key: str
    value: object


class MakesItsState:
    def __getstate__(self) -> dict[str, object]:
        return {"made": threading.Lock()}


class Refuses:
    def __init__(self, text: str = "not me") -> None:
        self.text = text

    def __reduce__(self) -> str:
        raise RuntimeError(self.text)

    def __repr__(self) -> str:
        raise RuntimeError("no repr either")


class Treacherous:
    """Raises at every attribute that it does not have."""

    def __init__(self) -> None:
        self.lock = LOCK

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        raise RuntimeError("no such thing")


def items() -> Iterator[int]:
    yield 1


def closure_over(captured: object) -> Callable[[], object]:
    return lambda: captured


def default_of(default: object) -> Callable[..., object]:
    return lambda value=default: value


@pytest.mark.parametrize(
    ("value", "way"),
    [
        (LOCK, "value"),
        (Service(), "value.model._lock"),
        (({"f": LOCK},), "value[0]['f']"),
        ([1, "a", [None, {3: (b"", LOCK)}]], "value[2][1][3][1]"),
        ({"a": {"b": deque([LOCK])}}, "value['a']['b'][0]"),
        (Slotted(plain=LOCK), "value.plain"),
        (Slotted(hidden=LOCK), "value.__hidden"),
        (Message(body=[LOCK]), "value.body[0]"),
        (Row("k", LOCK), "value.value"),
        (functools.partial(print, LOCK), "value.args[0]"),
        (functools.partial(print, end=LOCK), "value.keywords['end']"),
        (Model().predict, "value.__self__._lock"),
        (closure_over(LOCK), "value closure's captured"),
        (closure_over(closure_over(LOCK)), "value closure's captured closure's captured"),
        (default_of(LOCK), "value.__defaults__[0]"),
        (defaultdict(closure_over(LOCK)), "value.default_factory closure's captured"),
        (Treacherous(), "value.lock"),
        ([0, MakesItsState()], "value[1]"),
    ],
    ids=lambda each: each if isinstance(each, str) else type(each).__name__,
)
def test_the_part_that_does_not_pickle_is_named(value: object, way: str) -> None:
    assert find_unpicklable(value) == (way, REFUSAL)


def test_the_value_goes_by_the_name_that_it_is_given() -> None:
    assert find_unpicklable(Service(), root="service")[0] == "service.model._lock"
    assert find_unpicklable((1, LOCK), root="args")[0] == "args[1]"


def test_a_key_is_named_as_well() -> None:
    assert find_unpicklable({closure_over(LOCK): 1})[0].startswith("value key <function closure_")


def test_an_object_whose_repr_raises_is_named_by_its_class() -> None:
    assert find_unpicklable({Refuses(): 1}) == ("value key <Refuses>", "RuntimeError: not me")
    assert find_unpicklable([frozenset([Refuses()])])[0] == "value[0]{<Refuses>}"


def test_a_generator_in_an_attribute_is_named() -> None:
    service = Service()
    service.model = items()  # type: ignore[assignment]

    assert find_unpicklable(service) == (
        "value.model",
        "TypeError: cannot pickle 'generator' object",
    )


def test_a_class_with_a_lock_that_goes_by_value_is_named_by_what_holds_it() -> None:
    class Local:
        shared = LOCK

    assert find_unpicklable({"a": Local()}) == ("value['a']", REFUSAL)


def test_what_plain_pickle_cannot_do_is_found_when_that_is_the_pickler() -> None:
    way, reason = find_unpicklable([{"f": lambda: 1}], pickler=pickle.Pickler)

    assert way == "value[0]['f']"
    assert "<lambda>" in reason


def test_a_pickler_of_ones_own_is_asked_as_it_would_be() -> None:
    class Leniently(pickle.Pickler):
        def persistent_id(self, obj: object) -> object:
            return "lock" if obj is LOCK else None

    value = [LOCK, {"other": threading.Lock()}]

    assert find_unpicklable(value, pickler=Leniently)[0] == "value[1]['other']"


def test_a_value_that_pickles_after_all_is_said_to() -> None:
    way, reason = find_unpicklable([1, 2])

    assert way == "value"
    assert "it pickles now" in reason


def test_the_value_is_not_changed_and_cycles_are_no_trouble() -> None:
    value: list[Any] = [{"a": 1}]
    value.append(value)
    value[0]["back"] = value
    value.append(LOCK)

    assert find_unpicklable(value)[0] == "value[2]"
    assert value == [{"a": 1, "back": value}, value, LOCK]


def test_nesting_too_deep_for_pickle_is_said_in_a_text_of_bounded_length() -> None:
    value: list[Any] = []
    for _ in range(20_000):
        value = [value]

    way, reason = find_unpicklable(value)

    assert len(way) < MAX_PATH_CHARS + 10
    assert "recursion" in reason


def test_a_long_reason_is_cut() -> None:
    assert len(find_unpicklable(Refuses("x" * 10_000))[1]) == MAX_REASON_CHARS


@pytest.mark.parametrize(
    "bulk",
    [
        lambda: [object()] * 5_000_000,
        lambda: [[index] for index in range(1_000_000)],
        lambda: dict.fromkeys(range(2_000_000), "x"),
        lambda: np.zeros(50_000_000),
        lambda: bytes(200_000_000),
    ],
    ids=["references", "lists", "dict", "array", "bytes"],
)
def test_a_huge_value_takes_no_longer(bulk: Callable[[], object]) -> None:
    value = {"bulk": bulk(), "lock": LOCK}

    begun = time.process_time()
    found = find_unpicklable(value)

    assert time.process_time() - begun < 1
    assert found == ("value['lock']", REFUSAL)


STEPS = st.sampled_from(["[1]", "['k']", ".plain", ".body"])


@given(st.lists(STEPS, max_size=30))
def test_any_way_is_found(steps: list[str]) -> None:
    value: object = LOCK
    for step in reversed(steps):
        match step:
            case "[1]":
                value = ["x", value]
            case "['k']":
                value = {"j": 1.0, "k": value}
            case ".plain":
                value = Slotted(plain=value)
            case _:
                value = Message(body=value)

    assert find_unpicklable(value) == ("value" + "".join(steps), REFUSAL)
