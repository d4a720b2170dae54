"""Machines on instances of Amazon EC2: `EC2`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bigmachine.systems.ec2.system import EC2

__all__ = ["EC2"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from bigmachine.systems.ec2 import system

        return getattr(system, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
