"""Systems: where machines come from. Each is one file, and knows hosts alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bigmachine.systems.base import Host, HostRequest, Keepalive, System
    from bigmachine.systems.ec2 import EC2
    from bigmachine.systems.local import Local
    from bigmachine.systems.ssh import SSH

__all__ = ["EC2", "SSH", "Host", "HostRequest", "Keepalive", "Local", "System"]

_SYSTEMS = {
    "EC2": "bigmachine.systems.ec2",
    "Local": "bigmachine.systems.local",
    "SSH": "bigmachine.systems.ssh",
}


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name in _SYSTEMS:
        return getattr(import_module(_SYSTEMS[name]), name)
    if name in __all__:
        return getattr(import_module("bigmachine.systems.base"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({name for name in globals() if name.startswith("__")} | set(__all__))
