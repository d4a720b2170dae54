"""Says which words were allowed where another was given, and which of them was probably meant.

For the messages of errors: a wrong setting has to name what would have been right, and what it is
about, once.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["about", "alternatives", "closest", "names"]


def alternatives(beginning: str, word: str, allowed: Iterable[str]) -> str:
    """Return what is allowed instead of ``word``: ``there are 'a', 'b' (did you mean 'a'?)``.

    Args:
        beginning: How the clause begins where something is allowed: ``there are``.
        word: What was given.
        allowed: What might have been.
    """
    words = list(allowed)
    if not words:
        return "there are none"
    listed = f"{beginning} {', '.join(repr(each) for each in words)}"
    near = closest(word, words)
    return f"{listed} (did you mean {near!r}?)" if near else listed


def closest(word: str, allowed: Iterable[str]) -> str | None:
    """Return the allowed word that is most like ``word``, if one is at all like it."""
    import difflib

    by_folded = {each.casefold(): each for each in allowed}
    matches = difflib.get_close_matches(word.casefold(), by_folded, n=1)
    return by_folded[matches[0]] if matches else None


def about(subject: str, text: str) -> str:
    """Return a text that says what it is about: with that in front, unless it names it itself."""
    return text if names(text, subject) else f"{subject}: {text}"


def names(text: str, word: str) -> bool:
    """Return whether a text has a word in it, in upper or lower case."""
    return re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) is not None
