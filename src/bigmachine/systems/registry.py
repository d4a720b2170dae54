"""Finds systems by name: the built-in ones, and those that installed packages offer.

A package offers a system by an entry point in the group ``bigmachine.systems``. The built-in ones
are known without one, so that a source tree that was never installed has them, and so that finding
``local`` reads no package metadata (which takes tens of milliseconds). A package cannot take the
name of a built-in one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigmachine.errors import UsageError
from bigmachine.spelling import alternatives

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from bigmachine.systems.base import System

__all__ = ["GROUP", "find_system", "system_names"]

GROUP = "bigmachine.systems"

_BUILT_IN = {
    "local": ("bigmachine.systems.local", "Local"),
    "inprocess": ("bigmachine.testing.inprocess", "InProcess"),
    "ssh": ("bigmachine.systems.ssh", "SSH"),
    "ec2": ("bigmachine.systems.ec2", "EC2"),
}


def system_names() -> list[str]:
    """Return the names of all systems that this interpreter knows, the built-in ones first."""
    return [*_BUILT_IN, *sorted(_offered().keys() - _BUILT_IN.keys())]


def find_system(name: str, *, source: str) -> type[System]:
    """Import the class of a system and return it.

    Args:
        name: What settings call the system.
        source: Where the name was set, for the error.

    Raises:
        UsageError: There is no system of this name, or its package cannot be imported.
    """
    if name in _BUILT_IN:
        return _load_built_in(name)
    entry_point = _offered().get(name)
    if entry_point is None:
        known = alternatives("the systems here are", name, system_names())
        raise UsageError(f"{source}: there is no system {name!r}; {known}")
    return _load(entry_point, source)


def _load_built_in(name: str) -> type[System]:
    import importlib

    module, attribute = _BUILT_IN[name]
    loaded: type[System] = getattr(importlib.import_module(module), attribute)
    return loaded


def _offered() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points

    return {entry_point.name: entry_point for entry_point in entry_points(group=GROUP)}


def _load(entry_point: EntryPoint, source: str) -> type[System]:
    from bigmachine.systems.base import System

    package = entry_point.dist.name if entry_point.dist else "an unnamed package"
    offer = f"the system {entry_point.name!r} of {package} ({entry_point.value})"
    try:
        loaded = entry_point.load()
    except Exception as exc:
        # Importing runs somebody else's code: whatever it raises, the setting led here.
        reason = f"{type(exc).__name__}: {exc}"
        raise UsageError(f"{source}: {offer} cannot be loaded: {reason}") from exc
    if not (isinstance(loaded, type) and issubclass(loaded, System)):
        raise UsageError(f"{source}: {offer} is no subclass of bigmachine.systems.base.System")
    return loaded
