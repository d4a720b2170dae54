"""Turning settings into the values that a system's parameters want."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigmachine.systems.options import convert, describe


class Speed(enum.Enum):
    SLOW = "slow"
    FAST = "fast"


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (int, "60", 60),
        (float, "1.5", 1.5),
        (str, "60", "60"),
        (str, "", ""),
        (bool, "Yes", True),
        (bool, "0", False),
        (Path, "/tmp/x", Path("/tmp/x")),
        (Literal["unix", "tls"], "tls", "tls"),
        (Literal["host", 1, 2], "2", 2),
        (Speed, "fast", Speed.FAST),
        (int | None, "none", None),
        (float | None, "3", 3.0),
        (str | int, "7", 7),
        (str | int, "seven", "seven"),
        (list[str], "a, b,", ["a", "b"]),
        (Sequence[int], "1,2", (1, 2)),
        (tuple[float, ...], "1", (1.0,)),
        (set[str], "a,a", {"a"}),
        (Mapping[str, int], "a=1,b=2", {"a": 1, "b": 2}),
        (dict, "a=1", {"a": "1"}),
        (list, "a", ["a"]),
        (Annotated[int, "metres"], "5", 5),
        (Callable[[], int] | float, "5", 5.0),
        (Any, "as it is", "as it is"),
        (TypeVar("Client") | None, "as it is", "as it is"),
    ],
)
def test_a_text_becomes_what_the_annotation_says(kind: Any, text: str, value: object):
    converted = convert(kind, text, text=True)
    assert converted == value
    assert type(converted) is type(value)


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (float, 2, 2.0),
        (int, 2, 2),
        (bool, True, True),
        (Path, "x", Path("x")),
        (list[str], ["a,b"], ["a,b"]),
        (dict[str, float], {"a": 1}, {"a": 1.0}),
        (Literal["unix", "tls"], "unix", "unix"),
        (float | None, 1, 1.0),
        (str | float, "x", "x"),
    ],
)
def test_a_value_of_toml_keeps_its_type(kind: Any, value: object, expected: object):
    converted = convert(kind, value, text=False)
    assert converted == expected
    assert type(converted) is type(expected)


@pytest.mark.parametrize(
    ("kind", "value", "complaint"),
    [
        (int, "1.5", "'1.5' is not a whole number"),
        (float, "nan", "'nan' is not a number"),
        (float, "1e999", "is not a number"),
        (bool, "maybe", "'maybe' is not true or false"),
        (Literal["unix", "tls"], "tsl", "'tsl' is not 'unix' or 'tls'"),
        (Speed, "medium", "'medium' is not 'slow' or 'fast'"),
        (float | None, "soon", "'soon' is not a number or none"),
        (list[int], "1,x", "'x' is not a whole number"),
        (dict[str, int], "a", "is not a table of whole numbers"),
        (Callable[[], int], "x", "only the program itself"),
    ],
)
def test_a_text_that_does_not_fit_is_told_what_would(kind: Any, value: str, complaint: str):
    with pytest.raises(ValueError, match=complaint.replace("(", r"\(")):
        convert(kind, value, text=True)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (int, "60"),
        (int, True),
        (int, 1.0),
        (float, "1"),
        (str, 1),
        (bool, 1),
        (Literal[1, 2], "1"),
        (Literal[1, 2], True),
        (list[str], "a"),
        (dict[str, str], "a=b"),
        (Path, 1),
    ],
)
def test_a_value_of_toml_is_not_bent_to_another_type(kind: Any, value: object):
    with pytest.raises(ValueError, match="is not"):
        convert(kind, value, text=False)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_survives_being_written_as_text(number: float):
    assert convert(float, repr(number), text=True) == number


@given(st.text(), st.sampled_from([int, float, bool, Literal["a"], Speed, list[int], int | None]))
def test_any_text_either_fits_or_is_refused_with_a_reason(text: str, kind: Any):
    try:
        convert(kind, text, text=True)
    except ValueError as exc:
        reason = str(exc)
    else:
        return
    assert "is not" in reason


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Literal["unix", "tls"] | None, "'unix' or 'tls' or none"),
        (Callable[[], int] | float, "a number"),
        (list[str], "a list of texts"),
        (list[Literal["a", "b"]], "a list of which each is 'a' or 'b'"),
        (Mapping[str, float], "a table of numbers"),
        (Sequence[int] | None | str, "text or a list of whole numbers or none"),
        (Path | str | None, "a path or none"),
        (TypeVar("Client") | None, "Client or none"),
        (Any, "anything"),
        (Callable[[], int], "set in the program only"),
    ],
)
def test_what_an_option_allows_is_said_in_words(kind: Any, words: str):
    assert describe(kind) == words
