"""The environment of a program that changes its own: on machines that happens once, as in it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .conftest import RunProgram

CHANGES = """
import ctypes, json, os, sys
import bigmachine as bm

WATCHED = ("EXTENDED", "TAKEN", "MADE", "LATE", "PLAIN", "BYTES", "PYTHONHASHSEED")
BEGINNING = {name: os.environ.get(name) for name in WATCHED}
os.environ["EXTENDED"] = "program:" + os.environ["EXTENDED"]
taken = os.environ.pop("TAKEN")
os.environ["MADE"] = "by the program"
os.environb[b"BYTES"] = b"\\xff"

class Service:
    def look(self):
        return look()

def look():
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_char_p
    return {
        "taken": taken,
        "beginning": BEGINNING,
        "environ": dict(os.environ),
        "native": {name: str(getenv(name.encode())) for name in WATCHED},
        "hash": hash("text"),
    }

if __name__ == "__main__":
    METHOD, MORE = sys.argv[1], json.loads(sys.argv[2])
    with bm.start(bm.systems.Local(start_method=METHOD), program="main") as cluster:
        os.environ["LATE"] = "after bm.start"
        machines = cluster.start(2, services={"S": Service()}, **MORE)
        print(json.dumps([look(), *(call.result(30) for call in machines.call(Service.look))]))
"""
GIVEN = {"EXTENDED": "given", "TAKEN": "secret", "PLAIN": "1"}

fork_and_spawn = pytest.mark.parametrize("method", ["fork", "spawn"])


def looks(ran: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """What the driver and its machines look like."""
    found: list[dict[str, Any]] = json.loads(ran.stdout)
    assert len(found) == 3
    return found


@fork_and_spawn
def test_a_machine_changes_its_environment_once_as_its_driver_did(
    run_program: RunProgram, method: str
) -> None:
    driver, *machines = looks(run_program(CHANGES, method, "{}", env=GIVEN))

    assert driver["environ"]["EXTENDED"] == "program:given"
    for machine in machines:
        assert {**machine, "hash": 0} == {**driver, "hash": 0}


@fork_and_spawn
def test_what_env_names_holds_from_the_beginning_to_the_end(
    run_program: RunProgram, method: str
) -> None:
    env = {"EXTENDED": "env", "MADE": "env", "PLAIN": None, "PYTHONHASHSEED": "7"}

    driver, *machines = looks(
        run_program(CHANGES, method, json.dumps({"env": env}), env={**GIVEN, "PYTHONHASHSEED": "5"})
    )

    wanted = {name: value for name, value in env.items() if value is not None}
    for machine in machines:
        assert machine["beginning"] == {**driver["beginning"], **env}
        left = {name: value for name, value in driver["environ"].items() if name != "PLAIN"}
        assert machine["environ"] == {**left, **wanted}
        assert machine["native"]["PLAIN"] == "None"
        assert machine["hash"] == machines[0]["hash"] != driver["hash"]


@pytest.mark.parametrize("transport", ["unix", "tls"])
def test_the_program_is_run_once_more_for_machines_with_an_environment_of_their_own(
    run_program: RunProgram, tmp_path: Path, transport: str
) -> None:
    ran = run_program(
        """
        import os, sys
        import bigmachine as bm

        with open("runs", "a") as runs:
            runs.write(f"{bm.is_driver()} {sys.argv[1:]}\\n")

        class Service:
            def look(self): return os.environ["PLAIN"]

        with bm.start(bm.systems.Local(transport=os.environ["TRANSPORT"])) as cluster:
            for _ in range(2):
                (machine,) = cluster.start(
                    1, services={"S": Service()}, env={"PLAIN": "2"}, args=["a"]
                )
                print(machine.call(Service.look).result(30))
        """,
        env={"TRANSPORT": transport},
    )

    assert ran.stdout == "2\n2\n"
    runs = (tmp_path / "runs").read_text().splitlines()
    assert sorted(runs) == ["False ['a']", "True []"]


def test_a_second_launch_has_the_environment_of_its_own_time(run_program: RunProgram) -> None:
    ran = run_program(
        """
        import os
        import bigmachine as bm

        os.environ["COUNT"] = os.environ.get("COUNT", "") + "x"

        class Service:
            def look(self): return os.environ["COUNT"], os.environ.get("TURN")

        with bm.start() as cluster:
            for turn in "ab":
                os.environ["TURN"] = turn
                (machine,) = cluster.start(1, services={"S": Service()})
                print(*machine.call(Service.look).result(30))
        """
    )

    assert ran.stdout == "x a\nx b\n"


def test_a_module_that_is_imported_meets_what_it_met_in_the_driver(
    run_program: RunProgram, tmp_path: Path
) -> None:
    (tmp_path / "reads.py").write_text("import os\nTHREADS = os.environ.get('THREADS')\n")
    ran = run_program(
        """
        import os
        os.environ["THREADS"] = "1"
        import reads
        os.environ["THREADS"] = "8"
        import bigmachine as bm

        class Service:
            def look(self): return reads.THREADS, os.environ["THREADS"]

        with bm.start() as cluster:
            (machine,) = cluster.start(1, services={"S": Service()})
            print(*machine.call(Service.look).result(30))
        """
    )

    assert ran.stdout == "1 8\n"


def test_a_driver_that_was_forked_begins_as_its_parent_did(run_program: RunProgram) -> None:
    ran = run_program(
        """
        import os
        import bigmachine as bm

        os.environ["EXTENDED"] = "program:" + os.environ["EXTENDED"]

        class Service:
            def look(self): return os.environ["EXTENDED"]

        if bm.is_driver() and (child := os.fork()):
            os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        with bm.start() as cluster:
            (machine,) = cluster.start(1, services={"S": Service()})
            print(machine.call(Service.look).result(30))
        """,
        env=GIVEN,
    )

    assert ran.stdout == "program:given\n"


@pytest.mark.skipif(sys.platform != "linux", reason="how the title is kept differs")
def test_a_program_that_has_overwritten_its_first_environment_still_has_machines(
    run_program: RunProgram,
) -> None:
    # As setproctitle does it: the title takes the room that the arguments and the environment had.
    ran = run_program(
        """
        import ctypes, os
        import bigmachine as bm

        if bm.is_driver():
            fields = open("/proc/self/stat").read().rpartition(")")[2].split()
            begin, end = int(fields[47]), int(fields[48])  # proc(5): env_start, env_end
            ctypes.memset(begin, 0, end - begin)
            ctypes.memmove(begin, b"rest of a title", 15)

        class Service:
            def look(self): return os.environ["PLAIN"], bool(os.environ["PATH"])

        with bm.start() as cluster:
            (machine,) = cluster.start(1, services={"S": Service()})
            print(*machine.call(Service.look).result(30))
        """,
        env=GIVEN,
    )

    assert ran.stdout == "1 True\n"


@pytest.mark.parametrize("launcher", [("-m", "bigmachine", "run"), ("-m", "coverage", "run")])
def test_under_a_launcher_too(
    run_program: RunProgram, tmp_path: Path, launcher: tuple[str, ...]
) -> None:
    if "coverage" in launcher:
        pytest.importorskip("coverage")
    script = tmp_path / "launched.py"
    script.write_text(CHANGES, "utf-8")

    ran = run_program("", *launcher[2:], str(script), "fork", "{}", flags=launcher[:2], env=GIVEN)

    driver, *machines = looks(ran)
    for machine in machines:
        assert machine["environ"] == driver["environ"]
        assert machine["environ"]["EXTENDED"] == "program:given"
