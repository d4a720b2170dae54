"""Says which words were allowed where another was given, and which of them was probably meant.

For the messages of errors: a wrong setting has to name what would have been right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["alternatives", "closest"]


def alternatives(word: str, allowed: Iterable[str]) -> str:
    """Return ``'a', 'b' (did you mean 'a'?)``: what is allowed instead of ``word``."""
    words = list(allowed)
    listed = ", ".join(repr(each) for each in words) or "there are none"
    near = closest(word, words)
    return f"{listed} (did you mean {near!r}?)" if near else listed


def closest(word: str, allowed: Iterable[str]) -> str | None:
    """Return the allowed word that is most like ``word``, if one is at all like it."""
    import difflib

    by_folded = {each.casefold(): each for each in allowed}
    matches = difflib.get_close_matches(word.casefold(), by_folded, n=1)
    return by_folded[matches[0]] if matches else None
