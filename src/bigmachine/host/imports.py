"""Modules that are in the midst of their import when ``bigmachine.start`` is called.

A program may call it while a module is being imported. Until that has ended, the import system has
every other thread that needs the module wait: it would wait for a thread that waits for it, or, on
a machine, for ever, since ``bigmachine.start`` does not return there.
"""

from __future__ import annotations

import sys
from types import FrameType


def finish_imports() -> None:
    """Let other threads have the modules whose import has led here, as far as they have come.

    Modules that other threads are importing are left alone.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "<module>":
            _finish(frame.f_globals.get("__name__"), frame.f_globals.get("__spec__"))
        frame = frame.f_back


def _finish(name: object, spec: object) -> None:
    if not isinstance(name, str) or not getattr(spec, "_initializing", False):
        return
    spec._initializing = False  # type: ignore[attr-defined]
    package, _, child = name.rpartition(".")
    module, parent = sys.modules.get(name), sys.modules.get(package)
    if parent is not None and module is not None and not hasattr(parent, child):
        setattr(parent, child, module)  # as the import system would at the end
