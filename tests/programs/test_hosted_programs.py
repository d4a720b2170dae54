"""Programs inside another one: test runners and notebooks. Machines run no main program there."""

from __future__ import annotations

import json
import os
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .conftest import RunProgram

TEST = """
import unittest
import bigmachine as bm

class Item:
    def __init__(self, n):
        self.n = n

class WrongError(Exception):
    pass

class Service:
    def next(self, item):
        assert type(item) is Item
        print("next")
        return Item(item.n + 1)

    def fail(self):
        raise WrongError("no")

def check():
    with bm.start() as cluster:
        (machine,) = cluster.start(1, services={"S": Service()})
        item = machine.call(Service.next, Item(1)).result(30)
        assert (type(item), item.n) == (Item, 2)
        try:
            machine.call(Service.fail).result(30)
        except WrongError as error:
            assert bm.is_remote(error)
        else:
            raise AssertionError("no exception arrived")

class TestService(unittest.TestCase):
    def test_it(self):
        check()
"""

PYTEST = (
    TEST
    + """
def test_it_shows_output(capsys):
    check()
    assert capsys.readouterr().out == "[m0] next\\n"
"""
)


@pytest.mark.parametrize("mode", ["prepend", "importlib"])
def test_a_test_under_pytest(run_program: RunProgram, tmp_path: Path, mode: str) -> None:
    tests = tmp_path / "suite" / "deep"
    tests.mkdir(parents=True)
    (tests / "test_program.py").write_text(PYTEST)
    (tmp_path / "pytest.ini").touch()

    options = ("-q", "-W", "error", f"--import-mode={mode}", "-p", "no:cacheprovider")
    ran = run_program("", *options, "suite", flags=("-P", "-m", "pytest"), check=False)

    assert "2 passed" in ran.stdout, ran.stdout


def test_a_test_under_unittest(run_program: RunProgram, tmp_path: Path) -> None:
    (tmp_path / "test_program.py").write_text(TEST)

    ran = run_program("", "test_program", flags=("-W", "error", "-m", "unittest"))

    assert ran.stdout == "[m0] next\n"
    assert ran.stderr.endswith("OK\n")


def test_a_script_that_runs_its_own_tests(run_program: RunProgram) -> None:
    ran = run_program(f"{TEST}\nif __name__ == '__main__':\n    unittest.main()\n")

    assert ran.stderr.endswith("OK\n")


def run_notebook(*cells: str) -> list[list[dict[str, Any]]]:
    """Run a notebook, a kernel in a process of its own, and return each cell's outputs."""
    import nbclient
    import nbformat.v4

    sources = [textwrap.dedent(cell).strip() for cell in cells]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(s) for s in sources])
    client = nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3")
    client.execute()
    return [json.loads(json.dumps(cell["outputs"])) for cell in notebook.cells]


@pytest.mark.filterwarnings("ignore")  # those of nbclient and its libraries
def test_a_notebook_whose_service_is_defined_in_a_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    for name in [name for name in os.environ if name.startswith("BIGMACHINE_")]:
        monkeypatch.delenv(name)
    outputs = run_notebook(
        """
        import bigmachine as bm
        class Item:
            def __init__(self, n): self.n = n
        class Service:
            def next(self, item):
                assert type(item) is Item
                print("a line of", item.n)
                return Item(item.n + 1)
            async def double(self, n):
                return 2 * n
        """,
        """
        cluster = bm.start()
        machine, = cluster.start(1, services={"S": Service()})
        item = machine.call(Service.next, Item(1)).result(30)
        assert type(item) is Item
        item.n
        """,
        "await machine.call(Service.double, 21)",
        "print(machine.call(Service.next, Item(5)).result(30).n); await cluster.shutdown()",
    )

    texts = ["".join(o.get("text", "") for o in cell) for cell in outputs]
    values = [o["data"]["text/plain"] for cell in outputs for o in cell if "data" in o]
    assert values == ["2", "42"]
    # A line may come after the answer, while the next cell runs, or between the two, where
    # nbclient listens to neither; the last cell waits for all. And a notebook's print writes its
    # text and its line end apart: a line may come between.
    first, last = "[m0] a line of 1\n", "[m0] a line of 5\n"
    shown = "".join(texts)
    assert last in texts[-1]
    assert shown.count(first) <= 1
    assert shown.replace(first, "").replace(last, "", 1) == "6\n"
