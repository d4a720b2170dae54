"""Machines that run the user's program: what it may do before it reaches ``bigmachine.start``."""

from __future__ import annotations

import asyncio
import os
import sys
import textwrap
import time
import types
import zipapp
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hosting import BARE, Hosting, hosting, script
from services_for_tests import Probe

from bigmachine.death import DeathKind
from bigmachine.host.messages import Program, TemplateSpec


def run(program: Program, test: Callable[[Hosting], Awaitable[None]], **options: str) -> None:
    """Run a test with a supervisor that prepares this program's template at once."""

    async def main() -> None:
        start_method = options.get("start_method", "auto")
        template = TemplateSpec(program=program, start_method=start_method)  # type: ignore[arg-type]
        async with hosting(template) as host:
            await test(host)
            if host.process.poll() is None:
                await host.shutdown()

    asyncio.run(main())


def write(path: Path, source: str) -> Program:
    path.write_text(textwrap.dedent(source), "utf-8")
    return script(path)


async def evaluate(host: Hosting, machine: str, source: str) -> object:
    return await host.call(machine, "Probe.evaluate", textwrap.dedent(source))


async def start(host: Hosting, program: Program, n: int = 1, **options: str) -> list[str]:
    machines = await host.launch(n, {"Probe": Probe()}, program, **options)
    await host.wait_ready(*machines)
    return machines


def test_a_script_is_main_on_the_machine_up_to_start(tmp_path: Path) -> None:
    program = write(
        tmp_path / "program.py",
        """
        import sys
        import bigmachine

        class InMain:
            pass

        def main():
            before = 1
            bigmachine.start()
            raise SystemExit("never reached")

        main()
        """,
    )
    source = f"""
        import __main__, sys, os
        result = (__main__.InMain.__module__, __main__.__file__, sys.argv, __main__.__spec__,
                  os.path.realpath(sys.path[0]), sys.orig_argv, os.getcwd())
        assert result[6] == {str(tmp_path)!r}
    """
    real = os.path.realpath(tmp_path)

    async def test(host: Hosting) -> None:
        for machine in await start(host, script(tmp_path / "program.py", "-n", "5"), 2):
            found = await evaluate(host, machine, source)
            assert isinstance(found, tuple)
            path = str(tmp_path / "program.py")
            assert found[:2] == ("__main__", path)
            assert found[2:4] == ([path, "-n", "5"], None)
            assert found[4] == real
            assert found[5] == [sys.executable, path, "-n", "5"]

    run(program, test)


def test_a_module_a_directory_and_an_archive_are_run_as_the_interpreter_does(
    tmp_path: Path,
) -> None:
    package = tmp_path / "pkg"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text("import bigmachine; HERE = 1; bigmachine.start()")
    zipapp.create_archive(package, tmp_path / "app.pyz")
    common = {"executable": sys.executable, "directory": str(tmp_path)}
    module = Program(how="module", target="pkg", argv=("-m", "x"), orig_argv=(), **common)  # type: ignore[arg-type]
    as_directory = Program(how="script", target="pkg", argv=("pkg",), **common)  # type: ignore[arg-type]
    archive = Program(how="script", target="app.pyz", argv=("app.pyz",), **common)  # type: ignore[arg-type]
    source = """
        import __main__, sys
        result = __main__.HERE, sys.argv, __main__.__spec__.name, sys.path[0]
    """

    async def test(host: Hosting) -> None:
        main = str(package / "__main__.py")
        expected = [
            (1, [main, "x"], "pkg.__main__", str(tmp_path)),
            (1, ["pkg"], "__main__", "pkg"),
            (1, ["app.pyz"], "__main__", "app.pyz"),
        ]
        for program, wanted in zip([module, as_directory, archive], expected, strict=True):
            (machine,) = await start(host, program)
            assert await evaluate(host, machine, source) == wanted

    run(module, test)


@pytest.mark.parametrize(
    ("source", "text", "code"),
    [
        ("print('I do nothing')", "exit code 0", 0),
        ("print('I do nothing'); import sys; sys.exit(7)", "exit code 7", 7),
        ("print('I do nothing'); 1 / 0", "exit code 1", 1),
        ("print('I do nothing', flush=True); import os; os.abort()", "signal SIGABRT", None),
    ],
)
def test_a_program_that_never_reaches_start_is_told_with_its_output(
    tmp_path: Path, source: str, text: str, code: int | None
) -> None:
    program = write(tmp_path / "program.py", source)

    async def test(host: Hosting) -> None:
        machines = await host.launch(2, {"Probe": Probe()}, program)
        for machine in machines:
            death = await host.wait_death(machine)
            assert death.kind is DeathKind.BOOT
            assert death.exit_code == code
            assert text in str(death)
            assert "I do nothing" in death.output
            if code == 1:
                assert "ZeroDivisionError: division by zero" in death.output
                shown = "\n".join(death.output)
                assert "bigmachine" not in shown  # frames of the replay are not the user's

    run(program, test)


def test_an_interpreter_that_is_not_there_is_told(tmp_path: Path) -> None:
    program = Program(how="bare", executable=str(tmp_path / "nothing"))

    async def main() -> None:
        async with hosting() as host:
            (machine,) = await host.launch(1, {"Probe": Probe()}, program)
            death = await host.wait_death(machine)
            assert death.kind is DeathKind.BOOT
            assert "could not be started" in str(death)
            await host.shutdown()

    asyncio.run(main())


def test_output_before_start_is_not_shown_nor_doubled(tmp_path: Path) -> None:
    program = write(
        tmp_path / "program.py",
        """
        import sys, ctypes
        sys.stdout.write("buffered")
        ctypes.CDLL(None).printf(b"in the C library")
        import bigmachine
        bigmachine.start()
        """,
    )

    async def test(host: Hosting) -> None:
        machines = await start(host, program, 2)
        for machine in machines:
            await evaluate(host, machine, "print('here')")
        await host.shutdown()
        for machine in machines:
            assert bytes(host.output[machine, "stdout"]) == b"here\n"
            assert not host.output.get((machine, "stderr"))

    run(program, test)


def test_native_output_arrives_line_by_line(tmp_path: Path) -> None:
    program = write(tmp_path / "program.py", "import bigmachine; bigmachine.start()")

    async def test(host: Hosting) -> None:
        (machine,) = await start(host, program)
        await evaluate(host, machine, "import ctypes; ctypes.CDLL(None).printf(b'native\\n')")
        await host.wait_output(machine, "native")

    run(program, test)


def test_what_belongs_to_the_template_survives_its_machines(tmp_path: Path) -> None:
    program = write(
        tmp_path / "program.py",
        f"""
        import atexit, tempfile, weakref
        scratch = tempfile.TemporaryDirectory(dir={str(tmp_path)!r}, prefix="scratch")
        atexit.register(open, {str(tmp_path / "exit-handler-ran")!r}, "w")
        class Held: pass
        held = Held()
        weakref.finalize(held, open, {str(tmp_path / "finalizer-ran")!r}, "w")
        import bigmachine
        bigmachine.start()
        """,
    )
    source = """
        import __main__, atexit, gc, os, weakref
        os.listdir(__main__.scratch.name)
        del __main__.scratch, __main__.held
        gc.collect()
        atexit.register(print, "own handler")
        class Own: pass
        own = Own()
        weakref.finalize(own, print, "own finalizer")
        self.own = own
    """

    async def test(host: Hosting) -> None:
        first, second = await start(host, program, 2)
        await evaluate(host, first, source)
        await host.call_host("Host.stop", first, 5.0)
        assert set((await host.wait_death(first)).output) == {"own handler", "own finalizer"}
        check = "import __main__, os; result = os.path.isdir(__main__.scratch.name)"
        assert await evaluate(host, second, check) is True
        await host.shutdown()

    run(program, test)
    left = [path.name for path in tmp_path.iterdir()]
    assert left == ["program.py"]  # the template has removed its own directory at its end


def test_start_inside_asyncio_run(tmp_path: Path) -> None:
    program = write(
        tmp_path / "program.py",
        """
        import asyncio, bigmachine
        async def main():
            await asyncio.sleep(0)
            bigmachine.start()
        asyncio.run(main())
        """,
    )

    async def test(host: Hosting) -> None:
        first, second = await start(host, program, 2)
        assert await host.call(first, "Probe.pid") != await host.call(second, "Probe.pid")

    run(program, test)


@pytest.mark.parametrize("start_method", ["auto", "spawn"])
def test_start_while_a_module_is_being_imported(tmp_path: Path, start_method: str) -> None:
    program = write(tmp_path / "program.py", "import inner")
    (tmp_path / "inner.py").write_text(
        "class Service:\n    def answer(self): return 42\nimport bigmachine; bigmachine.start()\n"
    )
    source = """
        import pickle, threading
        found = []
        def work():
            import inner
            found.append(pickle.loads(b'\\x80\\x04\\x8c\\x05inner\\x8c\\x07Service\\x93)\\x81.').answer())
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(5)
        result = found
    """

    async def test(host: Hosting) -> None:
        (machine,) = await start(host, program, start_method=start_method)
        assert await evaluate(host, machine, source) == [42]

    run(program, test, start_method=start_method)


@pytest.mark.parametrize("where", ["main", "asyncio", "thread"])
def test_a_program_with_threads_is_spawned(tmp_path: Path, where: str) -> None:
    calls = {
        "main": "bigmachine.start()",
        "asyncio": "asyncio.run(begin())",
        "thread": "threading.Thread(target=bigmachine.start).start()",
    }
    program = write(
        tmp_path / "program.py",
        f"""
        import asyncio, threading, time, bigmachine
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
        async def begin():
            bigmachine.start()
        {calls[where]}
        """,
    )
    source = "import os; result = os.getpid(), os.getppid(), os.getsid(0)"

    async def test(host: Hosting) -> None:
        machines = await start(host, program, 3)
        found = [await evaluate(host, machine, source) for machine in machines]
        for pid, parent, session in found:  # type: ignore[misc]
            assert (parent, session) == (host.process.pid, pid)
        assert len(set(found)) == 3
        more = await start(host, program, 2)
        assert len(more) == 2

    run(program, test)


def test_spawned_machines_fail_one_by_one(tmp_path: Path) -> None:
    program = write(
        tmp_path / "program.py",
        f"""
        import os, bigmachine
        try:
            os.mkdir({str(tmp_path / "first")!r})
        except FileExistsError:
            raise SystemExit("I am not the first")
        bigmachine.start()
        """,
    )

    async def test(host: Hosting) -> None:
        machines = await host.launch(3, {"Probe": Probe()}, program, start_method="spawn")
        end = time.monotonic() + 20
        kinds: list[list[str]] = []
        while sorted(kinds) != [["died"], ["died"], ["started", "ready"]]:
            assert time.monotonic() < end, kinds
            await asyncio.sleep(0.01)
            kinds = [[event.kind.value for event in host.events.get(each, ())] for each in machines]

    run(program, test, start_method="spawn")


@pytest.mark.parametrize("seed", ["", "random.seed(1); numpy.random.seed(1)"])
@pytest.mark.parametrize("start_method", ["auto", "spawn"])
def test_generators_are_seeded_anew(tmp_path: Path, seed: str, start_method: str) -> None:
    program = write(
        tmp_path / "program.py",
        f"""
        import random, numpy, bigmachine
        {seed}
        bigmachine.start()
        """,
    )
    source = "import random, numpy; result = random.random(), float(numpy.random.rand())"

    async def test(host: Hosting) -> None:
        machines = await start(host, program, 3, start_method=start_method)
        drawn = [await evaluate(host, machine, source) for machine in machines]
        numbers = {number for pair in drawn for number in pair}  # type: ignore[attr-defined]
        assert len(numbers) == 6

    run(program, test, start_method=start_method)


def test_handlers_filters_and_flags_hold(tmp_path: Path) -> None:
    program = write(
        tmp_path / "program.py",
        """
        import logging, signal, warnings, bigmachine
        signal.signal(signal.SIGUSR1, lambda *args: None)
        warnings.simplefilter("ignore", ResourceWarning)
        logging.getLogger("mine").setLevel(17)
        bigmachine.start()
        """,
    )
    source = """
        import logging, signal, sys, warnings
        result = (callable(signal.getsignal(signal.SIGUSR1)), logging.getLogger("mine").level,
                  warnings.filters[0][2].__name__, sys.flags.dev_mode, logging.getLogger().handlers)
    """
    with_flags = script(tmp_path / "program.py", flags=("-X", "dev"))

    async def test(host: Hosting) -> None:
        (machine,) = await start(host, with_flags)
        expected = (True, 17, "ResourceWarning", True, [])
        assert await evaluate(host, machine, source) == expected

    del program
    run(with_flags, test)


def test_each_environment_and_argument_list_has_its_template(tmp_path: Path) -> None:
    program = write(
        tmp_path / "program.py",
        "import os, sys; SEEN = os.environ.get('WHO'), sys.argv[1:]\n"
        "import bigmachine; bigmachine.start()",
    )
    source = "import __main__; result = __main__.SEEN"

    async def test(host: Hosting) -> None:
        seen = []
        for env, args in [({}, None), ({"WHO": "me"}, None), ({}, ("a", "b"))]:
            (machine,) = await start(host, program, env=env, args=args)  # type: ignore[arg-type]
            seen.append(await evaluate(host, machine, source))
        assert seen == [(None, []), ("me", []), (None, ["a", "b"])]

    run(program, test)


def test_a_child_of_the_program_before_start_is_not_the_machines(tmp_path: Path) -> None:
    program = write(
        tmp_path / "program.py",
        """
        import multiprocessing, bigmachine
        if __name__ == "__main__":
            with multiprocessing.get_context("fork").Pool(2) as pool:
                SUM = sum(pool.map(abs, [-1, -2]))
            pool.join()
            child = multiprocessing.get_context("fork").Process(target=__import__("time").sleep,
                                                                args=(600,), daemon=True)
            child.start()
            bigmachine.start()
        """,
    )
    source = """
        import __main__, multiprocessing, os
        os.kill(__main__.child.pid, 0)
        result = __main__.SUM, multiprocessing.active_children()
    """

    async def test(host: Hosting) -> None:
        first, second = await start(host, program, 2)
        assert await evaluate(host, first, source) == (3, [])
        await host.call_host("Host.stop", first, 5.0)
        assert await evaluate(host, second, source) == (3, [])

    run(program, test)


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str) -> Any:
    """A service whose module is imported on machines, and never here."""
    module = types.ModuleType(name)
    service = type("Service", (), {"__module__": name})
    module.Service = service  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, name, module)
    return service()


def test_what_services_need_is_imported_once_for_all_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "heavy.py").write_text(
        "import os\nIMPORTED_BY = os.getpid()\n"
        "class Service:\n    def imported_by(self): return IMPORTED_BY, os.getpid()\n"
    )
    (tmp_path / "threaded.py").write_text(
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
        "class Service:\n    def one(self): return 1\n"
    )
    source = "import heavy, os; result = heavy.IMPORTED_BY, os.getpid()"

    async def test(host: Hosting) -> None:
        heavy, threaded = (stand_in(monkeypatch, name) for name in ("heavy", "threaded"))
        path = tuple(sys.path)
        machines = await host.launch(2, {"Probe": Probe(), "S": heavy}, BARE, sys_path=path)
        await host.wait_ready(*machines)
        found = [await evaluate(host, machine, source) for machine in machines]
        importers = {importer for importer, _ in found}  # type: ignore[misc]
        assert len(importers) == 1
        assert importers.isdisjoint(own for _, own in found)  # type: ignore[misc]
        # A module that starts threads makes forking unsafe from then on.
        machines = await host.launch(3, {"S": threaded}, BARE, sys_path=path)
        await host.wait_ready(*machines)
        assert [await host.call(machine, "S.one") for machine in machines] == [1, 1, 1]

    monkeypatch.syspath_prepend(str(tmp_path))
    run(BARE, test)
