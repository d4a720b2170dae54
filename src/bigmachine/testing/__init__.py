"""For tests: machines inside this process, seeded faults, and what every system has to do.

::

    import bigmachine as bm

    system = bm.testing.InProcess()
    with bm.start(system) as cluster:
        [machine] = cluster.start(1, services={"Counter": Counter()})
        assert machine.call(Counter.add, 2).result(5) == 2
        system.kill(machine)
        ...

`InProcess` tests services without processes: in milliseconds, under a debugger, with coverage.
`Faults` make its connections slow, lossy and short-lived, the same way each time. The suite
`bigmachine.testing.conformance` is for the authors of systems.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bigmachine.testing import conformance
    from bigmachine.testing.faults import Fault, Faults
    from bigmachine.testing.inprocess import InProcess

__all__ = ["Fault", "Faults", "InProcess", "conformance"]


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name == "InProcess":
        return import_module("bigmachine.testing.inprocess").InProcess
    if name in ("Fault", "Faults"):
        return getattr(import_module("bigmachine.testing.faults"), name)
    if name == "conformance":
        return import_module("bigmachine.testing.conformance")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
