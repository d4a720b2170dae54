"""What every system has to do, as tests: derive a class from `SystemConformance`.

::

    from bigmachine.testing.conformance import SystemConformance

    class TestRack(SystemConformance):
        def make_system(self) -> System:
            return Rack(hosts=["r1", "r2"])

pytest then finds some eighty tests in it. They need nothing but ``assert``, methods whose names
begin with ``test_`` and pytest's ``teardown_class``, so any runner will do that knows these; pytest
itself is not imported. Each waits at most ``limit_seconds`` for anything. Say what the system
cannot do by the class attributes (`Conformance.captures_output` and others): such tests are
skipped, by `unittest.SkipTest`.

The suite has parts, each a class of its own, for systems so slow that one wants to choose.
"""

from __future__ import annotations

from bigmachine.testing.conformance.base import Conformance
from bigmachine.testing.conformance.calls import CallConformance
from bigmachine.testing.conformance.errors import ErrorConformance
from bigmachine.testing.conformance.failures import FailureConformance
from bigmachine.testing.conformance.lifecycle import LifecycleConformance
from bigmachine.testing.conformance.peers import PeerConformance
from bigmachine.testing.conformance.streams import StreamConformance
from bigmachine.testing.conformance.supervision import SupervisionConformance

__all__ = [
    "CallConformance",
    "Conformance",
    "ErrorConformance",
    "FailureConformance",
    "LifecycleConformance",
    "PeerConformance",
    "StreamConformance",
    "SupervisionConformance",
    "SystemConformance",
]


class SystemConformance(
    LifecycleConformance,
    CallConformance,
    StreamConformance,
    ErrorConformance,
    FailureConformance,
    PeerConformance,
    SupervisionConformance,
):
    """The whole suite."""
