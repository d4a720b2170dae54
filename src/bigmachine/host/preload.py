"""Which modules a launch's services need, so that a template imports them once for all machines.

Machines that run no user's main program would each import what their services are made of; with
numpy in it that takes longer, and more memory, than all the rest of a machine. A pickle names the
modules that it refers to, so they are read out of it, and nothing is executed for that. The answer
may have gaps: what is missing is imported by each machine, as ever.
"""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from bigmachine.rpc.codec import Payload

MAX_PICKLE_BYTES: Final = 1 << 20
"""Larger pickles are not looked into: that would take longer than it saves."""

_SUBIMPORT: Final = object()  # stands for cloudpickle's function that imports what it is given
_LEFT_OUT: Final = frozenset({"__main__", "builtins"})


def modules_of_services(services: Payload) -> frozenset[str]:
    """Return the modules that the services of a `messages.LaunchSpec` refer to."""
    views = services.flat()
    payloads: dict[str, Payload] = pickle.loads(services.body, buffers=views)
    found: set[str] = set()
    for payload in payloads.values():
        if len(payload.body) <= MAX_PICKLE_BYTES:
            found |= modules_of(bytes(payload.body))
    return frozenset(found)


def modules_of(data: bytes) -> set[str]:
    """Return the modules that a pickle refers to, those of functions sent by value included.

    Pure. What is no pickle has none.
    """
    import pickletools

    reader = _Reader()
    try:
        for operation, argument, _ in pickletools.genops(data):
            reader.read(operation.name, argument)
    except (ValueError, IndexError):  # it is not for this to complain
        pass
    return reader.modules - _LEFT_OUT


class _Reader:
    """Follows the texts in a pickle, and what is made of them; nothing else of it."""

    def __init__(self) -> None:
        self.modules: set[str] = set()
        self._texts: list[str] = []  # those that are on the stack, the last one last
        self._memo: list[object] = []
        self._top: object = None  # of the stack, if it is a text or `_SUBIMPORT`

    def read(self, operation: str, argument: Any) -> None:
        match operation:
            case "SHORT_BINUNICODE" | "BINUNICODE":
                self._push(argument)
            case "BINGET" | "LONG_BINGET":
                self._push(self._memo[argument])
            case "MEMOIZE":
                self._memo.append(self._top)
            case "STACK_GLOBAL":
                self.modules.add(self._texts[-2])
                self._top = _SUBIMPORT if self._texts[-1] == "subimport" else None
            case "FRAME" | "PROTO":
                pass
            case _:
                self._top = None

    def _push(self, value: object) -> None:
        if isinstance(value, str):
            self._texts.append(value)
            if self._top is _SUBIMPORT:
                self.modules.add(value)
        self._top = value


def import_all(modules: Iterable[str]) -> None:
    """Import modules; those that cannot be are left to whoever needs them, to say so."""
    for name in sorted(modules):
        try:
            importlib.import_module(name)
        except Exception:  # whatever a module does; the machine meets it again, and tells it
            continue
        except SystemExit:
            continue
