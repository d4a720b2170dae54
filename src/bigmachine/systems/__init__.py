"""Systems: where machines come from. Each is one file, and knows hosts alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bigmachine.systems.base import Host, HostRequest, Keepalive, System
    from bigmachine.systems.local import Local

__all__ = ["Host", "HostRequest", "Keepalive", "Local", "System"]


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name == "Local":
        return import_module("bigmachine.systems.local").Local
    if name in __all__:
        return getattr(import_module("bigmachine.systems.base"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
