"""Temporary files and directories that Python removes with the object that stands for them.

One that the program has made before ``bigmachine.start`` belongs to the process that ran the
program: the template, or the machine that it becomes. Its copies may use it and must not remove it,
nor may the one process that owns it end without. None of these processes ends as Python expects it
(``os._exit``), so each says here what it is::

    template  find ──▶ … ──▶ remove
                 └─ fork ──▶ machine  disclaim ──▶ … ──▶ remove: what it has made itself
"""

from __future__ import annotations

import contextlib
import gc
import sys
import weakref
from typing import Any

_found: list[weakref.ref[Any]] = []  # what closes the template's named files


def find() -> None:
    """Take down the named files there are, in the template: its copies shall not have to search."""
    _found[:] = map(weakref.ref, _file_closers())


def disclaim() -> None:
    """Leave the files and directories of before to the template, of which this process is a copy.

    What happens when a ``TemporaryDirectory`` is collected is a finalizer; those are to be dropped
    as well.
    """
    for reference in _found:
        if (closer := reference()) is not None:
            closer.delete = False
    _found.clear()
    for _, info in directories():
        if (directory := info.weakref()) is not None:
            directory.cleanup = _do_nothing


def remove() -> None:
    """Remove what this process has made and not removed; it is about to end."""
    for closer in _file_closers():
        with contextlib.suppress(Exception):  # nobody is there any more to be told
            # Since Python 3.12 ``close`` leaves files that are to outlive it.
            getattr(closer, "cleanup", closer.close)()
    for finalizer, _ in directories():
        with contextlib.suppress(Exception):
            finalizer()


def directories() -> list[tuple[Any, Any]]:
    """Return the entries of ``weakref.finalize`` that belong to a ``TemporaryDirectory``."""
    kind = getattr(sys.modules.get("tempfile"), "TemporaryDirectory", None)
    if kind is None:
        return []
    entries: list[tuple[Any, Any]] = list(weakref.finalize._registry.items())  # type: ignore[attr-defined]
    return [(each, info) for each, info in entries if isinstance(info.weakref(), kind)]


def _file_closers() -> list[Any]:
    """Return what closes, and so removes, each ``NamedTemporaryFile``."""
    tempfile = sys.modules.get("tempfile")
    kind = getattr(tempfile, "_TemporaryFileCloser", None)
    # Without a name having been made up there is no such file, and no need for a search.
    if kind is None or getattr(tempfile, "_name_sequence", kind) is None:
        return []
    gc.unfreeze()  # the search does not see what is frozen
    # Objects refer to their class. The search writes to none of them: memory stays shared.
    return [each for each in gc.get_referrers(kind) if isinstance(each, kind)]


def _do_nothing() -> None:
    pass
