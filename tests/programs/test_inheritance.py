"""What machines on this computer inherit of their driver, and what they do not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .conftest import RunProgram

INHERIT = """
import argparse, json, locale, logging, os, re, resource, signal, sys, warnings
import bigmachine as bm

class Service:
    def look(self):
        return look()

def look():
    return {
        "argv": sys.argv[1:],
        "verbose": OPTIONS.verbose,
        "cwd": os.getcwd(),
        "umask": re.findall("Umask:.*", open("/proc/self/status").read())[0],
        "cores": resource.getrlimit(resource.RLIMIT_CORE)[0],
        "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "decimals": locale.setlocale(locale.LC_NUMERIC),
        "encoding": sys.stdout.encoding,
        "path": sys.path,
        "environ": {name: os.environ.get(name) for name in ("KEPT", "SET", "GONE", "LATE")},
        "level": logging.getLogger("my").getEffectiveLevel(),
        "handlers": [type(handler).__name__ for handler in logging.getLogger().handlers],
        "warnings": [entry[0] for entry in warnings.filters[:1]],
        "usr1": signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN,
    }

parser = argparse.ArgumentParser()
parser.add_argument("--verbose", action="store_true")
parser.add_argument("words", nargs="*")
OPTIONS = parser.parse_args()
os.umask(0o027)
os.makedirs("inside", exist_ok=True)
os.chdir("inside")
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_NOFILE, (99, 4096))
locale.setlocale(locale.LC_ALL, "C")
locale.setlocale(locale.LC_NUMERIC, "C.UTF-8")
logging.basicConfig(level=logging.ERROR)
logging.getLogger("my").setLevel(logging.DEBUG)
warnings.simplefilter("error", UserWarning)
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
sys.path.insert(0, "/somewhere/first")
sys.path.append("/somewhere/last")
os.environ["SET"] = "by the program"

if __name__ == "__main__":
    with bm.start(program=PROGRAM) as cluster:
        sys.path.append("/somewhere/late")
        os.environ["LATE"] = "after bm.start"
        (machine,) = cluster.start(1, services={"S": Service()}, **MORE)
        print(json.dumps([look(), machine.call(Service.look).result(30)]))
"""


def inherit(
    run_program: RunProgram, *args: str, program: str = "main", more: str = "{}"
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run it and return what the driver and its machine look like."""
    source = INHERIT.replace("PROGRAM", repr(program)).replace("MORE", more)
    env = {"KEPT": "by all", "GONE": "soon", "LC_ALL": "C.UTF-8"}
    driver, machine = json.loads(run_program(source, *args, env=env).stdout)
    return driver, machine


def test_a_machine_has_what_its_driver_has(run_program: RunProgram, tmp_path: Path) -> None:
    driver, machine = inherit(run_program, "--verbose", "a", "b")

    assert machine == driver
    assert machine["argv"] == ["--verbose", "a", "b"]
    assert machine["cwd"] == str(tmp_path / "inside")
    assert (machine["umask"], machine["files"]) == ("Umask:\t0027", 99)
    assert machine["environ"]["LATE"] == "after bm.start"


def test_a_machine_without_the_program_has_what_is_the_processes(run_program: RunProgram) -> None:
    driver, machine = inherit(run_program, "--verbose", "a", program="bare")

    for of_the_program in ("level", "handlers", "warnings", "usr1"):
        del driver[of_the_program], machine[of_the_program]
    assert machine == driver


def test_arguments_and_environment_of_machines_can_be_changed(run_program: RunProgram) -> None:
    more = '{"args": ["c", 4], "env": {"GONE": None, "LATE": "their own", "KEPT": ""}}'
    _, machine = inherit(run_program, "--verbose", "a", "b", more=more)

    assert (machine["argv"], machine["verbose"]) == (["c", "4"], False)
    assert machine["environ"] == {
        "KEPT": "",
        "SET": "by the program",
        "GONE": None,
        "LATE": "their own",
    }


@pytest.mark.parametrize("launcher", ["bigmachine", "cProfile"])
def test_arguments_of_machines_leave_the_launcher_its_own(
    run_program: RunProgram, tmp_path: Path, launcher: str
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, bigmachine as bm\n"
        "class Service:\n    def argv(self): return sys.argv\n"
        "with bm.start() as cluster:\n"
        "    (m,) = cluster.start(1, services={'S': Service()}, args=['x', 'y'])\n"
        "    print(m.call('S.argv').result(30))\n"
    )
    words = ["run"] if launcher == "bigmachine" else []

    ran = run_program("", *words, str(script), "a", flags=("-m", launcher))

    assert ran.stdout.splitlines()[0] == str([str(script), "x", "y"])


def test_a_machine_has_no_input_and_no_interrupts(run_program: RunProgram) -> None:
    ran = run_program(
        """
        import os, signal, subprocess, sys
        import bigmachine as bm

        def note(*_): print("handled")
        signal.signal(signal.SIGINT, note)
        signal.signal(signal.SIGTERM, note)

        class Service:
            def look(self):
                os.kill(os.getpid(), signal.SIGINT)
                subprocess.run(["true"], check=True)
                return (
                    sys.stdin.read(), os.path.realpath("/proc/self/fd/0"),
                    signal.getsignal(signal.SIGINT).name, signal.getsignal(signal.SIGTERM).name,
                    os.getsid(0) == os.getpid(), os.isatty(1),
                )

        with bm.start() as cluster:
            (machine,) = cluster.start(1, services={"S": Service()})
            print(*machine.call(Service.look).result(30))
        """,
        stdin="the driver's own input",
    )

    assert ran.stdout == " /dev/null SIG_IGN SIG_DFL True False\n"


@pytest.mark.parametrize("program", ["main", "bare"])
@pytest.mark.parametrize("seeding", ["", "random.seed(1); numpy.random.seed(1)"])
def test_machines_draw_different_random_numbers(
    run_program: RunProgram, seeding: str, program: str
) -> None:
    ran = run_program(
        f"""
        import random, sys
        import numpy
        import bigmachine as bm

        {seeding}

        class Service:
            def draw(self): return random.random(), float(numpy.random.random())

        for method in ("fork", "spawn"):
            local = bm.systems.Local(start_method=method)
            with bm.start(local, name=method, program={program!r}) as cluster:
                machines = cluster.start(2, services={{"S": Service()}})
                drawn = [call.result(30) for call in machines.call(Service.draw)]
                own = (random.random(), float(numpy.random.random()))
                print(len({{number for pair in [*drawn, own] for number in pair}}))
        """
    )

    assert ran.stdout == "6\n6\n"


@pytest.mark.parametrize("variable", ["TMPDIR", "XDG_RUNTIME_DIR"])
def test_sockets_may_lie_deeper_than_their_addresses_allow(
    run_program: RunProgram, tmp_path: Path, variable: str
) -> None:
    deep = tmp_path / ("a long name" * 9) / ("another long name" * 7)
    deep.mkdir(parents=True, mode=0o700)
    script = """
    import os, tempfile
    import bigmachine as bm

    class Service:
        def greet(self, other): return other.call(Service.name).result(20)
        def name(self): return "ok"

    with bm.start() as cluster:
        one, two = cluster.start(2, services={"S": Service()}).running().result(20)
        print(one.call(Service.greet, two).result(30), one.addr)
    """

    env = {"XDG_RUNTIME_DIR": "", variable: str(deep)}
    answer, address = run_program(script, env=env).stdout.split(" ", 1)

    assert answer == "ok"
    assert str(deep)[:40] in address
    assert not [each for each in deep.rglob("*") if not each.is_dir()]


def test_a_machine_works_where_the_driver_is_when_it_is_started(run_program: RunProgram) -> None:
    ran = run_program(
        """
        import os
        import bigmachine as bm

        class Service:
            def where(self): return os.path.basename(os.getcwd())

        os.mkdir("one"), os.mkdir("two")
        with bm.start(program="bare") as cluster:
            for name in ("one", "two"):
                os.chdir(name)
                (machine,) = cluster.start(1, services={"S": Service()})
                print(machine.call(Service.where).result(30))
                os.chdir("..")
        """
    )

    assert ran.stdout == "one\ntwo\n"
    assert os.sep not in ran.stdout
