"""One program, run in every manner that Python knows: objects of its classes go both ways.

The program is ``material/everything.py``. It prints, as JSON, what its machine saw: the command
line, and whether its classes there are those of the machine's own ``__main__``.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import coverage
import pytest

if TYPE_CHECKING:
    from .conftest import RunProgram

EVERYTHING = Path(__file__).with_name("material") / "everything.py"
SOURCE = EVERYTHING.read_text("utf-8")
UNGUARDED = SOURCE.replace('if __name__ == "__main__":\n    ', "")


def told(ran: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """What the program printed, and nothing else was."""
    assert ran.stderr == ""
    result: dict[str, Any] = json.loads(ran.stdout)
    assert (result.pop("driver"), result.pop("is_driver")) == (True, False)
    return result


def make_package(root: Path, name: str, main: str) -> Path:
    """Make a package of the program: its classes are in a module, ``main`` is its __main__."""
    package = root.joinpath(*name.split("."))
    package.mkdir(parents=True)
    for part in [package, *package.parents][: len(name.split("."))]:
        (part / "__init__.py").touch()
    (package / "everything.py").write_text(SOURCE, "utf-8")
    (package / "__main__.py").write_text(textwrap.dedent(main), "utf-8")
    return package


def test_a_script_with_a_guard(run_program: RunProgram) -> None:
    ran = run_program(EVERYTHING, "a", "--b=c", "")

    assert told(ran) == {"argv": [str(EVERYTHING), "a", "--b=c", ""], "is_main": True}


def test_a_script_without_a_guard(run_program: RunProgram, tmp_path: Path) -> None:
    (tmp_path / "bare.py").write_text(UNGUARDED, "utf-8")

    ran = run_program("", flags=("bare.py",))

    assert told(ran) == {"argv": ["bare.py"], "is_main": True}


def test_a_script_whose_machines_do_not_run_it(run_program: RunProgram, tmp_path: Path) -> None:
    script = tmp_path / "bare.py"
    script.write_text(UNGUARDED.replace("work()", 'work(program="bare")'), "utf-8")

    assert told(run_program(script, "a")) == {"argv": [str(script), "a"], "is_main": False}


def test_a_script_whose_machines_are_spawned(run_program: RunProgram, tmp_path: Path) -> None:
    script = tmp_path / "spawned.py"
    spawning = 'work(bm.systems.Local(start_method="spawn"))'
    script.write_text(UNGUARDED.replace("work()", spawning), "utf-8")

    assert told(run_program(script, "a")) == {"argv": [str(script), "a"], "is_main": True}


def test_a_module_in_the_development_mode(run_program: RunProgram) -> None:
    ran = run_program("", "a", flags=("-X", "dev", "-W", "error", "-m", "everything"),
                      cwd=EVERYTHING.parent)  # fmt: skip

    assert told(ran) == {"argv": [str(EVERYTHING), "a"], "is_main": True}


def test_a_package_with_relative_imports(run_program: RunProgram, tmp_path: Path) -> None:
    main = """
        import json
        from .everything import work
        from ..up import NAME
        print(json.dumps(work() | {"name": NAME, "package": __package__}))
    """
    package = make_package(tmp_path, "above.pkg", main)
    (tmp_path / "above" / "up.py").write_text("NAME = 'up'")

    ran = run_program("", "a", flags=("-m", "above.pkg"))

    assert told(ran) == {
        "argv": [str(package / "__main__.py"), "a"],
        "is_main": False,
        "name": "up",
        "package": "above.pkg",
    }


def test_a_module_deep_in_packages_under_a_path_with_spaces(
    run_program: RunProgram, tmp_path: Path
) -> None:
    root = tmp_path / "some where" / ("long " * 20).strip()
    package = make_package(root, "one.two.three.four.five", "")

    ran = run_program("", flags=("-m", "one.two.three.four.five.everything"), cwd=root)

    assert told(ran) == {"argv": [str(package / "everything.py")], "is_main": True}


def test_a_directory_with_a_main_module(run_program: RunProgram, tmp_path: Path) -> None:
    program = tmp_path / "the program"
    program.mkdir()
    (program / "__main__.py").write_text(SOURCE, "utf-8")

    assert told(run_program("", "a", flags=("the program",))) == {
        "argv": ["the program", "a"],
        "is_main": True,
    }


def test_an_installed_console_script(run_program: RunProgram, tmp_path: Path) -> None:
    make_package(tmp_path, "pkg", "def main():\n    import json; from pkg import everything\n"
                                  "    print(json.dumps(everything.work()))")  # fmt: skip
    script = tmp_path / "bin" / "count"
    script.parent.mkdir()
    # As pip writes it.
    script.write_text(
        f"#!{sys.executable}\n"
        "import sys\n"
        "from pkg.__main__ import main\n"
        'if __name__ == "__main__":\n'
        '    sys.argv[0] = sys.argv[0].removesuffix(".exe")\n'
        "    sys.exit(main())\n"
    )

    ran = run_program(script, "a", env={"PYTHONPATH": str(tmp_path)})

    assert told(ran) == {"argv": [str(script), "a"], "is_main": False}


def test_the_command_run_with_a_script(run_program: RunProgram) -> None:
    ran = run_program("", *("run", str(EVERYTHING), "a"), flags=("-m", "bigmachine"))

    assert told(ran) == {"argv": [str(EVERYTHING), "a"], "is_main": True}


@pytest.mark.parametrize("words", [[str(EVERYTHING)], ["-m", "everything"]], ids=["file", "module"])
def test_a_program_whose_coverage_is_measured(
    run_program: RunProgram, tmp_path: Path, words: list[str]
) -> None:
    env = {"PYTHONPATH": str(EVERYTHING.parent)}
    ran = run_program("", "run", *words, "a", flags=("-m", "coverage"), env=env)

    assert told(ran) == {"argv": [str(EVERYTHING), "a"], "is_main": True}
    assert [each.name for each in tmp_path.glob(".coverage*")] == [".coverage"]
    measured = coverage.CoverageData(basename=str(tmp_path / ".coverage"))
    measured.read()
    assert measured.lines(str(EVERYTHING))


def test_coverage_can_measure_what_runs_on_machines(
    run_program: RunProgram, tmp_path: Path
) -> None:
    (tmp_path / ".coveragerc").write_text("[run]\npatch = _exit\nparallel = true\n")

    run_program("", "run", str(EVERYTHING), flags=("-m", "coverage"))

    data = coverage.CoverageData(basename=str(tmp_path / "all"))
    for part in tmp_path.glob(".coverage.*"):
        measured = coverage.CoverageData(basename=str(part))
        # A template is killed in the end, though it may be writing: it has run no method.
        with contextlib.suppress(coverage.exceptions.DataError):
            measured.read()
            data.update(measured)
    method = (
        SOURCE.splitlines().index('        raise TroubleError(point, why="is out of bounds")') + 1
    )
    assert method in (data.lines(str(EVERYTHING)) or ())


def test_a_program_that_is_profiled(run_program: RunProgram) -> None:
    ran = run_program("", str(EVERYTHING), "a", flags=("-m", "cProfile"))

    first, _, profile = ran.stdout.partition("\n")
    assert json.loads(first)["argv"] == [str(EVERYTHING), "a"]
    assert "function calls" in profile


def test_machines_of_a_profiled_program_are_not_slowed_down(
    run_program: RunProgram, tmp_path: Path
) -> None:
    script = tmp_path / "profiled.py"
    script.write_text(
        "import sys\n"
        "import bigmachine as bm\n"
        "class Service:\n"
        "    async def profilers(self):\n"
        "        monitoring = getattr(sys, 'monitoring', None)\n"
        "        return sys.getprofile(), monitoring and monitoring.get_events(2)\n"
        "with bm.start() as cluster:\n"
        "    (machine,) = cluster.start(1, services={'S': Service()})\n"
        "    print(machine.call('S.profilers').result(30))\n",
    )

    ran = run_program("", str(script), flags=("-m", "cProfile"))

    assert ran.stdout.splitlines()[0] in ("(None, None)", "(None, 0)")


def test_a_program_on_the_command_line(run_program: RunProgram) -> None:
    assert told(run_program("", "a", flags=("-c", SOURCE))) == {
        "argv": ["-c", "a"],
        "is_main": False,
    }


def test_a_program_from_standard_input(run_program: RunProgram) -> None:
    assert told(run_program("", "-", "a", stdin=SOURCE)) == {"argv": ["-", "a"], "is_main": False}


def typed(source: str) -> str:
    """Return what somebody types who enters this source at a prompt: a blank line ends a block."""
    lines: list[str] = []
    for line in source.splitlines():
        if line.strip():
            if lines and lines[-1].startswith(" ") and not line.startswith((" ", ")", "}")):
                lines.append("")
            lines.append(line)
    return "\n".join([*lines, "", ""])


def test_a_prompt_whose_input_is_a_pipe(run_program: RunProgram) -> None:
    ran = run_program("", flags=("-i", "-q"), stdin=typed(SOURCE))

    assert "Traceback" not in ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1])["argv"] == [""]


def test_a_prompt_at_a_terminal_shows_what_machines_print(tmp_path: Path) -> None:
    session = """
        import bigmachine as bm
        class Talker:
            def talk(self): print("hello from afar"); return "answ" + "er"

        cluster = bm.start()
        (machine,) = cluster.start(1, services={"T": Talker()})
        machine.call(Talker.talk).result(30)
        cluster.shutdown().result(10)
        exit()
    """
    env = {**os.environ, "TERM": "dumb", "PYTHON_BASIC_REPL": "1"}
    primary, secondary = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-q"], stdin=secondary, stdout=secondary, stderr=secondary, cwd=tmp_path,
        env=env, start_new_session=True,
    ) as process:  # fmt: skip
        os.close(secondary)
        os.write(primary, textwrap.dedent(session).encode())
        screen = b""
        with contextlib.suppress(OSError):  # that is how a terminal ends
            while piece := os.read(primary, 1 << 16):
                screen += piece
        os.close(primary)
        assert process.wait(30) == 0, screen
    assert b"[m0] hello from afar" in screen
    assert b"'answer'" in screen


def test_a_script_that_ends_in_a_prompt(run_program: RunProgram) -> None:
    ran = run_program(EVERYTHING, flags=("-i",), stdin="print('then', work()['is_main'])\n")

    first, then = ran.stdout.splitlines()
    assert json.loads(first)["is_main"] is True
    assert then == "then False"


def test_clusters_of_both_kinds_in_one_program(run_program: RunProgram, tmp_path: Path) -> None:
    script = tmp_path / "both.py"
    work = """
with bm.start(program="bare") as bare, bm.start(program="main") as main:
    machines = [c.start(1, services={"S": Service(Point(1, Colour.RED))})[0] for c in (bare, main)]
    for machine in (*machines, *machines):
        moved = machine.call(Service.move, Point(1, Colour.RED), lambda x: x).result(30)
        print(type(moved) is Point, moved.x)
"""
    script.write_text(SOURCE[: SOURCE.index("if __name__")] + work, "utf-8")

    ran = run_program(script)

    assert (ran.stdout, ran.stderr) == ("True 2\n" * 4, "")


# Programs that call bm.start in unusual places.


def test_a_program_inside_an_event_loop(run_program: RunProgram) -> None:
    ran = run_program(
        """
        import asyncio
        import bigmachine as bm

        class Service:
            async def double(self, n):
                await asyncio.sleep(0)
                return 2 * n

            def loops(self):
                return type(asyncio.get_event_loop_policy()).__name__ and 7

        async def main(system):
            async with bm.start(system) as cluster:
                machines = cluster.start(2, services={"S": Service()})
                calls = [machine.call(Service.double, n) for n, machine in enumerate(machines)]
                async with asyncio.timeout(30):
                    return await asyncio.gather(*calls, machines[0].call(Service.loops))

        print(asyncio.run(main("local")))
        """
    )

    assert (ran.stdout, ran.stderr) == ("[0, 2, 7]\n", "")


def test_spawned_machines_inside_an_event_loop(run_program: RunProgram) -> None:
    ran = run_program(
        """
        import asyncio
        import bigmachine as bm

        class Service:
            async def double(self, n):
                return 2 * n

        async def main():
            async with bm.start(bm.systems.Local(start_method="spawn")) as cluster:
                machines = cluster.start(2, services={"S": Service()})
                print(await asyncio.gather(*(m.call(Service.double, 4) for m in machines)))

        asyncio.run(main())
        """
    )

    assert (ran.stdout, ran.stderr) == ("[8, 8]\n", "")


def test_a_program_that_starts_while_a_module_is_imported(
    run_program: RunProgram, tmp_path: Path
) -> None:
    package = tmp_path / "importing"
    package.mkdir()
    (package / "__init__.py").write_text("from . import inner\nfrom .inner import RESULT\n")
    inner = """
        import threading
        import bigmachine as bm

        class Item:
            def __init__(self, n):
                self.n = n

        class Service:
            def init(self, cluster):
                import importing.inner
                self.module = importing.inner

            def next(self, item):
                assert type(item) is self.module.Item
                return Item(item.n + 1)

            def items(self, n):
                yield from map(Item, range(n))

        with bm.start() as cluster:
            machines = cluster.start(2, services={"S": Service()})
            RESULT = [call.result(20).n for call in machines.call(Service.next, Item(1))]
            with machines[0].stream(Service.items, 3) as items:
                RESULT += [item.n for item in items]
            # Another thread asks for a value of a class whose module this one is importing.
            waiting = threading.Thread(
                target=lambda: RESULT.append(machines[0].call("S.next", Item(7)).result(10).n)
            )
            waiting.start()
            waiting.join(15)
    """
    (package / "inner.py").write_text(textwrap.dedent(inner))

    ran = run_program("import importing\nprint(importing.RESULT)")

    assert (ran.stdout, ran.stderr) == ("[2, 2, 0, 1, 2, 8]\n", "")
