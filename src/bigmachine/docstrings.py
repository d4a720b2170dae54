"""Takes out of a docstring in Google's style what it says of parameters. Pure."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["first_sentence", "purposes"]

_SECTION: Final = re.compile(r"(Keyword )?Arg(ument)?s:$")
_ENTRY: Final = re.compile(r"\*{0,2}(\w+)\s*(?:\([^)]*\))?:(?:\s+(.*))?$")
# A stop, not after an abbreviation, then what begins a sentence.
_END: Final = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\bcf)[.!?][)\"']*(?=\s+[A-Z0-9\"'(])")


def purposes(docstring: str | None) -> dict[str, str]:
    """Return what a docstring says each parameter is for, in one sentence, by name.

    Args:
        docstring: One with a section ``Args:``; from any other one nothing comes.
    """
    import inspect

    found: dict[str, list[str]] = {}
    words: list[str] | None = None
    in_section, indent = False, 0
    for line in inspect.cleandoc(docstring or "").splitlines():
        text = line.strip()
        depth = len(line) - len(line.lstrip())
        if text and not depth:
            in_section, indent = _SECTION.match(text) is not None, 0
        elif text and in_section:
            indent = indent or depth
            entry = _ENTRY.match(text)
            if depth <= indent:
                words = found.setdefault(entry[1], [entry[2] or ""]) if entry else None
            elif words is not None:
                words.append(text)
    return {name: first_sentence(" ".join(words)) for name, words in found.items()}


def first_sentence(text: str) -> str:
    """Return the first sentence of a text, as one line and without the marks of code."""
    plain = " ".join(text.replace("`", "").split())
    end = _END.search(plain)
    return plain[: end.end()] if end else plain
