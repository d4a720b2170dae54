"""Programs that never reach bigmachine.start on their machines, and what the driver is told."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import RunProgram

PROGRAM = """
import json, os, sys
import bigmachine as bm

class Service:
    def double(self, n): return 2 * n

SYSTEM = bm.systems.Local(start_method=METHOD)
print("before the start")
BEFORE
with bm.start(SYSTEM) as cluster:
    machines = cluster.start(2, services={"S": Service()})
    deaths = []
    for machine in machines:
        try:
            machine.call(Service.double, 1).result(30)
        except bm.MachineStoppedError as error:
            deaths.append(error.death)
    first = deaths[0]
    print(json.dumps([len(deaths), first.kind, first.exit_code, first.signal, str(first)]))
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize(
    ("before", "exit_code", "signal", "shown"),
    [
        ("bm.is_driver() or sys.exit()", 0, None, "before it reached bigmachine.start"),
        ("bm.is_driver() or sys.exit('I must not')", 1, None, "I must not"),
        ("bm.is_driver() or 1 / 0", 1, None, "ZeroDivisionError: division by zero"),
        ("bm.is_driver() or os.abort()", None, "SIGABRT", "with signal SIGABRT"),
    ],
    ids=["end", "exit", "exception", "abort"],
)
def test_a_program_that_ends_before_it_starts_is_told(
    run_program: RunProgram,
    method: str,
    before: str,
    exit_code: int | None,
    signal: str | None,
    shown: str,
) -> None:
    source = PROGRAM.replace("METHOD", repr(method)).replace("BEFORE", before)

    ran = run_program(source, flags=("-u",))

    found = json.loads(ran.stdout.splitlines()[-1])
    assert found[:4] == [2, "boot", exit_code, signal]
    assert shown in found[4]
    if exit_code != 0:  # then all it wrote is shown
        assert "before the start" in found[4]


def test_a_program_that_starts_in_its_driver_alone_is_told(run_program: RunProgram) -> None:
    ran = run_program(
        """
        import bigmachine as bm

        class Service:
            def double(self, n): return 2 * n

        print("hello")
        if bm.is_driver():
            with bm.start() as cluster:
                (machine,) = cluster.start(1, services={"S": Service()})
                try:
                    machine.call(Service.double, 1).result(30)
                except bm.MachineStoppedError as error:
                    print(error.death.kind, error.death.exit_code, error.death.output, error)
        """
    )

    assert ran.stdout.startswith("hello\nboot 0 ('hello',) machine m0 never came up")
    assert "bigmachine.start" in ran.stdout
    assert ran.stderr == "[m0] hello\n"
