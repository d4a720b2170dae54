"""Every system of this repository passes the public conformance suite."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import bigmachine as bm
from bigmachine.systems import Local, System
from bigmachine.testing import Faults, InProcess
from bigmachine.testing.conformance import (
    CallConformance,
    LifecycleConformance,
    PeerConformance,
    SystemConformance,
)


class TestLocal(SystemConformance):
    def make_system(self) -> System:
        return Local()


class TestLocalOverTLS(SystemConformance):
    def make_system(self) -> System:
        return Local(transport="tls")


class TestLocalSpawned(LifecycleConformance, PeerConformance):
    """Not the whole suite: each machine is an interpreter of its own, which takes its time."""

    def make_system(self) -> System:
        return Local(start_method="spawn")


class TestInProcess(SystemConformance):
    captures_output = False
    own_processes = False

    def make_system(self) -> System:
        return InProcess()

    def kill(self, system: Any, machine: bm.Machine) -> None:
        assert system.kill(machine)


class TestInProcessUnderDelays(CallConformance):
    """Slow connections change nothing but the time."""

    own_processes = False

    def make_system(self) -> System:
        return InProcess(faults=Faults(1, delay=(0.0, 0.003), where="all"))


class TestInProcessThatIsDisturbed(SystemConformance):
    """Connections break: only what is about them."""

    captures_output = False
    own_processes = False

    def make_system(self) -> System:
        return InProcess(faults=Faults(2, cut=0.1, refuse=0.1, active=False))

    def kill(self, system: Any, machine: bm.Machine) -> None:
        assert system.kill(machine)

    def disturb(self, system: Any) -> AbstractContextManager[object]:
        faults: Faults = system.faults
        return faults
