"""Tracebacks as text of bounded size, to be sent along with an exception.

The standard library's ``traceback`` parses each line for the carets it draws under it, formats the
whole chain of causes, and shows a thousand frames of a recursion one by one. Here one exception's
own frames are written, in the same shape, with the middle of a deep stack left out. The frames of
the library that led to the user's method are left out too, and in the library's own errors those
that the user's method led to; of an error that is none of the library's they stay where there is
nothing else, since it is a fault there.
"""

from __future__ import annotations

import linecache
from collections import deque
from types import TracebackType

__all__ = ["describe", "format_frames", "type_name"]

MAX_FIRST_FRAMES = 20
MAX_LAST_FRAMES = 40
MAX_LINE_CHARS = 400
MAX_MESSAGE_CHARS = 64 * 1024

_OWN_MODULES = ("bigmachine.rpc.", "bigmachine.host.")
_OTHERS_MODULES = ("bigmachine.testing.",)  # whose services are as a user's


def format_frames(tb: TracebackType | None, *, told: bool = False) -> str:
    """Return a traceback's frames, outermost first, with source lines; "" if there are none.

    Args:
        tb: The traceback.
        told: Whether the error's text says it all: the library raised it, or passed it on.
    """
    tb = _skip_own(tb)
    end = _last_of_others(tb) if told else None
    if told and end is None:
        return ""
    first: list[TracebackType] = []
    last: deque[TracebackType] = deque(maxlen=MAX_LAST_FRAMES)
    total = 0
    while tb is not None:
        if total < MAX_FIRST_FRAMES:
            first.append(tb)
        else:
            last.append(tb)
        total += 1
        tb = None if tb is end else tb.tb_next
    lines = [_format_frame(step) for step in first]
    if left_out := total - len(first) - len(last):
        lines.append(f"  [{left_out} frames left out]")
    lines += [_format_frame(step) for step in last]
    return "\n".join(lines)


def type_name(cls: type) -> str:
    """Return a class's full name, as a traceback shows it: built-in ones without a module."""
    module = cls.__module__
    return cls.__qualname__ if module == "builtins" else f"{module}.{cls.__qualname__}"


def describe(exc: BaseException) -> str:
    """Return the text of an exception, whatever its ``__str__`` does, of bounded size."""
    try:
        text = str(exc)
    except Exception as error:  # a user's __str__ may do anything
        return f"<its text cannot be had: str() raised {type(error).__name__}>"
    if len(text) > MAX_MESSAGE_CHARS:
        left_out = len(text) - MAX_MESSAGE_CHARS
        text = f"{text[:MAX_MESSAGE_CHARS]}... [{left_out} characters left out]"
    return text


def _skip_own(tb: TracebackType | None) -> TracebackType | None:
    """Return where the traceback leaves the library; all of it if it never does."""
    step = tb
    while step is not None:
        if not str(step.tb_frame.f_globals.get("__name__", "")).startswith(_OWN_MODULES):
            return step
        step = step.tb_next
    return tb


def _last_of_others(tb: TracebackType | None) -> TracebackType | None:
    """Return the innermost frame that is not the library's; None if all are."""
    found = None
    while tb is not None:
        name = str(tb.tb_frame.f_globals.get("__name__", ""))
        if not name.startswith("bigmachine.") or name.startswith(_OTHERS_MODULES):
            found = tb
        tb = tb.tb_next
    return found


def _format_frame(step: TracebackType) -> str:
    code = step.tb_frame.f_code
    where = f'  File "{code.co_filename}", line {step.tb_lineno}, in {code.co_name}'
    source = linecache.getline(code.co_filename, step.tb_lineno, step.tb_frame.f_globals)
    source = source.strip()[:MAX_LINE_CHARS]
    return f"{where}\n    {source}" if source else where
