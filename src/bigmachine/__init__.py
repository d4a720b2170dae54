"""bigmachine: a Python program that brings its own cluster.

::

    import bigmachine as bm

    with bm.start() as cluster:
        machines = cluster.start(5, services={"PI": CirclePI()})
        counts = [m.call(CirclePI.sample, 1_000_000) for m in machines]
        print(4 * sum(c.result() for c in counts) / 5_000_000)

Names are imported when they are first used: ``import bigmachine`` itself costs nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False  # As checkers know it; importing typing would cost more than all of this.
if TYPE_CHECKING:
    from bigmachine import driver, systems, testing
    from bigmachine.calls import Current, cancelled, current
    from bigmachine.cluster import Cluster, is_driver, start
    from bigmachine.deadlines import timeout
    from bigmachine.death import Death, DeathKind
    from bigmachine.driver.lifecycle import State
    from bigmachine.errors import (
        BigmachineError,
        CallError,
        CallTimeoutError,
        LocalProtocolError,
        MachineStoppedError,
        NoSuchMethodError,
        NoSuchServiceError,
        PayloadError,
        ProtocolError,
        ProvisionError,
        RemoteError,
        RemoteProtocolError,
        TransportError,
        UsageError,
        is_remote,
    )
    from bigmachine.futures import Future
    from bigmachine.info import DiskInfo, Info, LoadInfo, MemInfo, local_info
    from bigmachine.lines import OutputLine
    from bigmachine.machine import Machine
    from bigmachine.machines import Machines
    from bigmachine.rpc.streams import Stream
    from bigmachine.version import VERSION as __version__  # noqa: N811

_HOMES = {
    "driver": "",
    "systems": "",
    "testing": "",
    "BigmachineError": "errors",
    "CallError": "errors",
    "CallTimeoutError": "errors",
    "Cluster": "cluster",
    "Current": "calls",
    "Death": "death",
    "DeathKind": "death",
    "DiskInfo": "info",
    "Future": "futures",
    "Info": "info",
    "LoadInfo": "info",
    "LocalProtocolError": "errors",
    "Machine": "machine",
    "MachineStoppedError": "errors",
    "Machines": "machines",
    "MemInfo": "info",
    "NoSuchMethodError": "errors",
    "NoSuchServiceError": "errors",
    "OutputLine": "lines",
    "PayloadError": "errors",
    "ProtocolError": "errors",
    "ProvisionError": "errors",
    "RemoteError": "errors",
    "RemoteProtocolError": "errors",
    "State": "driver.lifecycle",
    "Stream": "rpc.streams",
    "TransportError": "errors",
    "UsageError": "errors",
    "cancelled": "calls",
    "current": "calls",
    "is_driver": "cluster",
    "is_remote": "errors",
    "local_info": "info",
    "start": "cluster",
    "timeout": "deadlines",
}

__all__ = [
    "BigmachineError",
    "CallError",
    "CallTimeoutError",
    "Cluster",
    "Current",
    "Death",
    "DeathKind",
    "DiskInfo",
    "Future",
    "Info",
    "LoadInfo",
    "LocalProtocolError",
    "Machine",
    "MachineStoppedError",
    "Machines",
    "MemInfo",
    "NoSuchMethodError",
    "NoSuchServiceError",
    "OutputLine",
    "PayloadError",
    "ProtocolError",
    "ProvisionError",
    "RemoteError",
    "RemoteProtocolError",
    "State",
    "Stream",
    "TransportError",
    "UsageError",
    "__version__",
    "cancelled",
    "current",
    "driver",
    "is_driver",
    "is_remote",
    "local_info",
    "start",
    "systems",
    "testing",
    "timeout",
]


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name == "__version__":
        return import_module("bigmachine.version").VERSION
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'bigmachine' has no attribute {name!r}")
    if not home:
        return import_module(f"bigmachine.{name}")
    value = getattr(import_module(f"bigmachine.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List what users are to find: not what this module needs itself, nor its submodules."""
    return sorted({name for name in globals() if name.startswith("__")} | set(__all__))
