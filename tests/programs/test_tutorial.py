"""What docs/tutorial.md and the README show is what happens, and was measured.

A section of the tutorial is a test, in a directory of its own. In it

- a python or toml block whose first line is a comment with a file's name is that file;
- a console block has commands, and what each prints: the files run by these, and by nothing else;
- python blocks without a name are the cells of a notebook, and a text block is what the cell before
  it prints.

``...`` stands for anything within what is printed.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import RunProgram

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NAME = re.compile(r"# ([\w.]+\.(?:py|toml))\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A block of code, or of output."""

    language: str
    text: str

    @property
    def file_name(self) -> str:
        """The name of the file that it is; "" if it is none."""
        named = NAME.match(self.text)
        return named[1] if named and self.language in ("python", "toml") else ""


def blocks(text: str) -> list[Block]:
    return [Block(language=found[1], text=found[2]) for found in BLOCK.finditer(text)]


def sections() -> dict[str, list[Block]]:
    """The tutorial's blocks, by the headings they stand under."""
    _, *parts = re.split(
        r"^## ", (ROOT / "docs/tutorial.md").read_text("utf-8"), flags=re.MULTILINE
    )
    return {part.partition("\n")[0]: found for part in parts if (found := blocks(part))}


def commands(block: Block) -> Iterator[tuple[str, str]]:
    """The commands of a console block, each with what it prints."""
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, printed = part.partition("\n")
        yield command, printed


def check_printed(printed: str, shown: str) -> None:
    pattern = ".*?".join(re.escape(part) for part in shown.rstrip().split("..."))
    if not re.fullmatch(pattern, printed.rstrip(), re.DOTALL):
        assert printed == shown


def run_command(command: str, directory: Path, run_program: RunProgram) -> str:
    """Run a command line and return what it printed: variables, then python or a module."""
    words = shlex.split(command)
    env = {}
    while "=" in words[0]:
        name, _, env[name] = words.pop(0).partition("=")
    flags = words[1:] if words[0] == "python" else ["-m", *words]
    ran = run_program("", flags=flags, env=env, cwd=directory)
    return ran.stdout + ran.stderr


def run_cells(cells: list[tuple[str, str]]) -> None:
    """Run a notebook, and compare what each cell prints with what is shown."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source) for source, _ in cells]
    )
    nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    for cell, (_, shown) in zip(notebook.cells, cells, strict=True):
        if shown:
            printed = [each.text for each in cell.outputs if each.output_type == "stream"]
            check_printed("".join(printed), shown)


@pytest.mark.slow  # together; what they show is tested on every Python elsewhere
@pytest.mark.parametrize("section", sections())
def test_a_section_of_the_tutorial_does_what_it_shows(
    section: str, tmp_path: Path, run_program: RunProgram
) -> None:
    shown = sections()[section]
    files = {block.file_name: block.text for block in shown if block.file_name}
    for name, text in files.items():
        (tmp_path / name).write_text(text, "utf-8")

    ran = [each for block in shown if block.language == "console" for each in commands(block)]
    for command, printed in ran:
        check_printed(run_command(command, tmp_path, run_program), printed)
    for name in files:
        assert name.endswith(".toml") or any(name in command for command, _ in ran), name

    cells: list[tuple[str, str]] = []
    for block in shown:
        if block.language == "python" and not block.file_name:
            cells.append((block.text, ""))
        elif block.language == "text":
            cells[-1] = (cells[-1][0], block.text)
    if cells:
        run_cells(cells)


def test_the_readmes_program_estimates_pi(tmp_path: Path, run_program: RunProgram) -> None:
    [program] = [b.text for b in blocks((ROOT / "README.md").read_text("utf-8")) if b.language]
    (tmp_path / "pi.py").write_text(program, "utf-8")

    ran = run_program(tmp_path / "pi.py")

    assert abs(float(ran.stdout) - 3.14159) < 0.01
    assert ran.stderr == ""


def test_the_readmes_figures_are_those_of_the_recorded_run() -> None:
    recorded = json.loads((ROOT / "benchmarks/results/peers.json").read_text("utf-8"))["figures"]
    by_title = {f"{each['title']}, {each['unit']}": each for each in recorded.values()}
    names = ("bigmachine", "bigmachine-tls", "ray", "dask", "grpc", "managers")
    table = (ROOT / "README.md").read_text("utf-8").partition("## How fast")[2].partition("## ")[0]
    _, _, *rows = re.findall(r"^\| (.+) \|$", table, re.MULTILINE)

    assert rows
    for title, *shown in (row.split(" | ") for row in rows):
        found = by_title[title]["contestants"]
        for name, figure in zip(names, shown, strict=True):
            if figure == "-":
                assert name not in found, (title, name)
            else:
                assert float(figure) == pytest.approx(found[name]["median"], rel=0.1), (title, name)


@pytest.mark.parametrize("page", [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))],
                         ids=lambda page: str(page.relative_to(ROOT)))  # fmt: skip
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!\w+:)([^)#]+)", page.read_text("utf-8")):
        assert (page.parent / link).exists(), link
