"""Drivers that are killed at any point of what they do: nothing of their clusters is left.

The points are the calls of functions in the driver's part of the library, on all of its threads,
counted while a whole program runs: the program kills itself at the one that it is told.
"""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from .driven import driven, leftovers

SEED = 20_250_214

PROGRAM = """
import itertools

point, transport = int(sys.argv[1]), sys.argv[2]
numbers = itertools.count(1)
package = os.path.dirname(bm.__file__)
reached = 0


def count(frame, event, argument):
    global reached
    if event == "call" and frame.f_code.co_filename.startswith(package):
        reached = next(numbers)
        if reached == point:
            os.kill(os.getpid(), signal.SIGKILL)


class Parent(Probe):
    def leave_a_child(self):
        subprocess.Popen(["sleep", "600"], start_new_session=True)

    def count(self):
        yield from range(3)


if bm.is_driver():
    threading.setprofile(count)
    sys.setprofile(count)

with bm.start(Local(transport=transport, keepalive=1.0)) as cluster:
    machines = cluster.start(3, services={"P": Parent()})
    for call in machines.call(Parent.leave_a_child):
        call.result(20)
    later = cluster.start(2, services={"P": Parent()})
    dialled = cluster.dial(machines[0].addr)
    assert dialled.call("P.echo", 1).result(20) == 1
    assert list(machines[1].stream(Parent.count)) == [0, 1, 2]
    machines[2].shutdown().result(20)
    later[0].cancel()
    assert later[1].call(Parent.echo, bytes(100_000)).result(20)
say("points", reached)
"""


def count_points(tmp_path: Path, transport: str) -> int:
    """Let the program run to its end; nothing is left of those that were killed before, either."""
    with driven(PROGRAM, tmp_path, "0", transport) as program:
        points = program.expect(r"^points (\d+)$")[1]
        assert program.wait() == 0, program.shown()
        program.assert_gone()
        assert leftovers(tmp_path) == []
    return int(points)


def check_killed(tmp_path: Path, transport: str, seed: int, times: int) -> None:
    points = count_points(tmp_path, transport)
    chosen = random.Random(seed)
    killed = 0
    for _ in range(times):
        point = chosen.randrange(1, points)
        with driven(PROGRAM, tmp_path, str(point), transport) as program:
            code = program.process.wait(30)
            program.assert_gone()
            # One run has some points more than another: it may have come to its end before.
            assert code in (0, -signal.SIGKILL), program.shown()
            killed += code != 0
    assert killed >= times * 0.7
    count_points(tmp_path, transport)


@pytest.mark.parametrize("transport", ["unix", "tls"])
def test_nothing_is_left_of_a_driver_that_is_killed_at_any_point(
    tmp_path: Path, transport: str
) -> None:
    check_killed(tmp_path, transport, SEED, 6)


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize(("transport", "seed"), [("unix", SEED + 1), ("tls", SEED + 2)])
def test_nothing_is_left_of_drivers_that_are_killed_at_many_points(
    tmp_path: Path, transport: str, seed: int
) -> None:
    check_killed(tmp_path, transport, seed, 50)
