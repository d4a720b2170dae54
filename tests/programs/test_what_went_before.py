"""Programs that have done something before they call bigmachine.start."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import RunProgram

SERVICE = """
import bigmachine as bm

class Service:
    def double(self, n):
        return 2 * n

def work(**options):
    with bm.start(**options) as cluster:
        machines = cluster.start(2, services={"S": Service()})
        return [call.result(30) for call in machines.call(Service.double, 21)]
"""

BEFORE = {
    "numpy": """
import numpy
square = numpy.ones((300, 300))
assert (square @ square)[0, 0] == 300

class Service:
    def double(self, n):
        return int((square @ square)[0, 0]) - 300 + 2 * n
""",
    "a thread that runs": """
import threading
threading.Thread(target=threading.Event().wait, daemon=True).start()
""",
    "an executor": """
from concurrent.futures import ThreadPoolExecutor
executor = ThreadPoolExecutor(2)
assert list(executor.map(abs, [-1, -2])) == [1, 2]
""",
    "a pool of processes": """
import multiprocessing
pool = multiprocessing.get_context("fork").Pool(2)
assert pool.map(abs, [-1, -2]) == [1, 2]
import atexit
atexit.register(pool.terminate)
""",
    "a forked process": """
import multiprocessing
process = multiprocessing.get_context("fork").Process(target=abs, args=(-1,))
process.start()
process.join()
assert process.exitcode == 0
""",
    "a process executor that is done": """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as executor:
    assert executor.submit(abs, -1).result() == 1
""",
}
SPAWNING = {
    "a spawned process": 'multiprocessing.get_context("spawn")',
    "a fork server": 'multiprocessing.get_context("forkserver")',
}


@pytest.mark.parametrize("what", BEFORE)
def test_a_program_that_has_used(run_program: RunProgram, what: str) -> None:
    ran = run_program(f"{SERVICE}\n{BEFORE[what]}\nprint(work(), work(program='bare'))\n")

    assert (ran.stdout, ran.stderr) == ("[42, 42] [42, 42]\n", "")


@pytest.mark.parametrize("what", SPAWNING)
def test_a_guarded_program_that_has_used(run_program: RunProgram, what: str) -> None:
    ran = run_program(
        f"{SERVICE}\n"
        "import multiprocessing\n"
        "def run(queue): queue.put(5)\n"
        "if __name__ == '__main__':\n"
        f"    context = {SPAWNING[what]}\n"
        "    queue = context.SimpleQueue()\n"
        "    process = context.Process(target=run, args=(queue,))\n"
        "    process.start()\n"
        "    assert queue.get() == 5\n"
        "    process.join()\n"
        "    print(work())\n"
    )

    assert (ran.stdout, ran.stderr) == ("[42, 42]\n", "")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_what_the_program_has_begun_happens_once(
    run_program: RunProgram, tmp_path: Path, method: str
) -> None:
    notes, temporary = tmp_path / "notes", tmp_path / "temporary"
    notes.mkdir()
    temporary.mkdir()
    ran = run_program(
        f"""
        import atexit, os, pathlib, sys, tempfile
        import bigmachine as bm

        def note(what):
            name = "driver" if os.getpid() == DRIVER else "machine"
            pathlib.Path({str(notes)!r}, f"{{what}} {{name}} {{os.getpid()}}").touch()

        DRIVER = os.getpid() if bm.is_driver() else 0
        atexit.register(note, "before")
        directory = tempfile.TemporaryDirectory(prefix="before")
        file = pathlib.Path(directory.name, "file")
        file.write_text("here")
        print("unfinished, ", end="")
        sys.stderr.write("unfinished error, ")

        class Service:
            def init(self, cluster):
                self.directory = tempfile.TemporaryDirectory(prefix="after")
                atexit.register(note, "after")
                atexit.register(print, "the end of a machine")

            def read(self):
                return file.read_text()

        with bm.start(bm.systems.Local(start_method={method!r})) as cluster:
            one, two = cluster.start(2, services={{"S": Service()}})
            assert one.call(Service.read).result(20) == "here"
            one.shutdown().result(10)
            assert two.call(Service.read).result(20) == "here"
        print("finished")
        """,
        env={"TMPDIR": str(temporary)},
    )

    assert ran.stdout.count("unfinished, ") == 1
    assert ran.stdout.count("] the end of a machine") == 2
    assert ran.stdout.endswith("finished\n")
    assert ran.stderr == "unfinished error, "
    kinds = sorted(path.name.rsplit(" ", 1)[0] for path in notes.iterdir())
    assert kinds == ["after machine", "after machine", "before driver"]
    assert [path.name for path in temporary.iterdir() if "bigmachine" not in path.name] == []


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_temporary_file_goes_with_the_process_that_made_it(
    run_program: RunProgram, tmp_path: Path, method: str
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    ran = run_program(
        f"""
        import os, tempfile
        import bigmachine as bm

        of_module = tempfile.NamedTemporaryFile("w")
        of_module.write("here")
        of_module.flush()
        directory = tempfile.TemporaryDirectory()

        class Service:
            def init(self, cluster):
                self.own = tempfile.NamedTemporaryFile("w")
                self.own.write("kept")

            def paths(self):
                return [of_module.name, of_block.name, directory.name, self.own.name]

            def leave(self):  # what it did not make, but may think is its own
                of_module.close()
                directory.cleanup()

        def there(machine):
            return [os.path.exists(path) for path in machine.call(Service.paths).result(30)]

        with tempfile.NamedTemporaryFile() as of_block:
            with bm.start(bm.systems.Local(start_method={method!r})) as cluster:
                one, two = cluster.start(2, services={{"S": Service()}})
                print(there(one), there(two))
                one.call(Service.leave).result(30)
                print(there(two))
                one.shutdown().result(30)
                print(there(two))
            print([os.path.exists(path) for path in (of_module.name, of_block.name)])
        """,
        env={"TMPDIR": str(temporary)},
    )

    all_there = str([True] * 4)
    assert ran.stdout.splitlines() == [f"{all_there} {all_there}", *[all_there] * 2, "[True, True]"]
    assert ran.stderr == ""
    assert [path.name for path in temporary.iterdir() if "bigmachine" not in path.name] == []


def test_logging_that_was_set_up_before_holds(run_program: RunProgram) -> None:
    ran = run_program(
        """
        import logging
        import bigmachine as bm

        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
        logging.getLogger("bigmachine").setLevel(logging.ERROR)
        logger = logging.getLogger("app")

        class Service:
            def tell(self):
                logger.info("by logging")
                logger.debug("not this")

        with bm.start() as cluster:
            (machine,) = cluster.start(1, services={"S": Service()})
            machine.call(Service.tell).result(20)
        logger.info("here")
        """
    )

    assert ran.stderr == "[m0] INFO app by logging\nINFO app here\n"
