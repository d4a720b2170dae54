"""Taking out of docstrings what parameters are for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigmachine.docstrings import first_sentence, purposes

DOCSTRING = """Hosts in a rack. With lamps.

    What stands: here has nothing to do with it.

    Args:
        rows: How many rows there are. Each has
            a lamp.
        power (str, optional): ``"high"``, or low (e.g. Sundays): what
            the `Fuse` bears.

            There is more of it: much.
        **more: Whatever else.
        bare:
            Begins a line later.
      odd: indented less than the others.

    Raises:
        ValueError: No rows.
    """


def test_each_parameter_has_its_first_sentence() -> None:
    assert purposes(DOCSTRING) == {
        "rows": "How many rows there are.",
        "power": '"high", or low (e.g. Sundays): what the Fuse bears.',
        "more": "Whatever else.",
        "bare": "Begins a line later.",
        "odd": "indented less than the others.",
    }


@pytest.mark.parametrize(
    "docstring", [None, "", "Hosts.", "Args: none", "Args:", "Hosts.\n\nArgs:\n    no entry here\n"]
)
def test_of_other_docstrings_nothing_comes(docstring: str | None) -> None:
    assert purposes(docstring) == {}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("A path; by default ``~/.aws/config``. Or none.", "A path; by default ~/.aws/config."),
        ("Python 3.8 or newer, e.g. Debian's", "Python 3.8 or newer, e.g. Debian's"),
        ("One (of two.) Two", "One (of two.)"),
        ('Whether? "Yes".', "Whether?"),
        ("", ""),
    ],
)
def test_a_sentence_ends_where_another_one_begins(text: str, sentence: str) -> None:
    assert first_sentence(text) == sentence


@given(st.text())
def test_no_docstring_is_too_odd(text: str) -> None:
    assert all("\n" not in purpose for purpose in purposes(f"Args:\n{text}").values())
