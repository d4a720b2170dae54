"""The subcommand ``bigmachine image``: what travels, how much of it, and why."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pathspec  # noqa: F401 - before the path leads elsewhere
import pytest
import zstandard  # noqa: F401

from bigmachine.cli import main

Run = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program, in an environment that has one distribution."""
    root = tmp_path.resolve()
    site = root / f"venv/lib/python3.{sys.version_info[1]}/site-packages"
    info = site / "thing-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "thing.py").write_text("x = 1\n")
    (info / "METADATA").write_text("Name: thing\nVersion: 1.0\n")
    (info / "RECORD").write_text("thing.py,,\nthing-1.0.dist-info/METADATA,,\n")
    project = root / "project"
    (project / ".git").mkdir(parents=True)
    (project / "main.py").write_text("import thing\n")
    stdlib = sysconfig.get_path("stdlib")
    monkeypatch.setattr(sys, "path", ["", stdlib, f"{stdlib}/lib-dynload", str(site)])
    monkeypatch.setenv("XDG_CACHE_HOME", str(root / "cache"))
    monkeypatch.chdir(project)
    return project


@pytest.fixture
def image(project: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*words: str) -> tuple[int, list[str]]:
        status = main(["image", *words])
        return status, capsys.readouterr().out.splitlines()

    return run


def test_it_lists_what_travels_and_why_and_what_is_left_out(project: Path, image: Run) -> None:
    status, lines = image("ls", "main.py")
    assert status == 0
    first, second, total, title, left_out = lines
    assert first.split(maxsplit=3)[2:] == ["thing-1.0", "installed"]
    assert second.split(maxsplit=3) == ["13", "B", "src:project", f"on sys.path: {project}"]
    assert " in 2 layers; image " in total
    assert (title, left_out) == ("left out:", f"  {project}/.git: no part of a program")


def test_what_travels_besides_and_what_does_not_is_said_in_the_file_and_in_words(
    project: Path, image: Run
) -> None:
    for name in ("out/1.csv", "2.log", "../data/3.csv", "../data/4.csv"):
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text("1\n")
    (project / "bigmachine.toml").write_text(
        '[image]\ndata = ["../data/3.csv"]\nexclude = ["/out/", "*.toml"]\n'
    )
    _, lines = image("ls", "main.py", "--exclude", "*.log", "--data", "../data/4.csv")
    assert [f"  {project}/{name}: named by exclude" for name in ("2.log", "bigmachine.toml")] == [
        line for line in lines if line.endswith("named by exclude") and "/out" not in line
    ]
    assert f"  {project}/out: named by exclude" in lines
    travel = [line.split(maxsplit=3)[3] for line in lines if "named as data" in line]
    assert travel == [f"named as data: {project.parent}/data/{n}.csv" for n in (3, 4)]


def test_a_program_is_not_run(project: Path, image: Run) -> None:
    (project / "main.py").write_text("raise SystemExit('it was run')\n")
    assert image("ls", "main.py")[0] == 0


def test_the_programs_directory_leads_the_path(project: Path, image: Run) -> None:
    (project / "deep").mkdir()
    (project / "deep/other.py").write_text("y = 1\n")
    _, lines = image("show", "deep/other.py")
    assert lines[lines.index("sys.path:") + 1] == "  src/0"
    assert any(line.split() == ["src/0", str(project / "deep")] for line in lines)


def test_data_is_listed(project: Path, image: Run) -> None:
    data = project.parent / "table.csv"
    data.write_text("1,2\n" * 1000)
    _, lines = image("ls", "--data", str(data))
    assert any(line.endswith(f"data:table.csv  named as data: {data}") for line in lines)


def test_it_shows_where_things_are(project: Path, image: Run) -> None:
    status, lines = image("show", "main.py")
    assert status == 0
    assert lines[0].startswith("image      ")
    assert lines[1] == f"python     {'.'.join(map(str, sys.version_info[:3]))}"
    assert any(line.split() == ["src/0", str(project)] for line in lines)


def test_it_shows_the_files_of_a_layer(image: Run) -> None:
    status, lines = image("show", "--layer", "thing")
    assert status == 0
    assert any(line.endswith("site-packages/thing.py") for line in lines)
    assert any(line.split()[:2] == ["6", "B"] for line in lines)


def test_what_was_built_is_shown_like_what_is(project: Path, image: Run) -> None:
    status, lines = image("build", "main.py", "-o", "../saved.image")
    assert status == 0
    assert lines[0].startswith("../saved.image: ")
    assert image("ls", "../saved.image") == image("ls", "main.py")


def test_it_says_what_has_changed_since(project: Path, image: Run) -> None:
    image("build", "main.py", "-o", "../saved.image")
    assert image("diff", "../saved.image", "main.py") == (0, ["the same: 2 layers"])
    (project / "main.py").write_text("import thing, os\n")
    assert image("diff", "../saved.image", "main.py") == (
        1,
        [
            "~ src:project  17 B, 1 file",
            "      main.py",
            "1 layer the same; 17 B would travel to a host that has the first",
        ],
    )


def test_two_saved_images_are_compared(project: Path, image: Run) -> None:
    image("build", "main.py", "-o", "../old.image")
    for number in range(12):
        (project / f"more{number:02}.py").write_text("y = 2\n")
    image("build", "main.py", "-o", "../new.image")
    status, lines = image("diff", "../old.image", "../new.image")
    assert status == 1
    assert lines[0] == "~ src:project  6 B, 12 files"
    assert lines[-2] == "      and 4 files more"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["ls", "nowhere.py"], "no such program or image: nowhere.py"),
        (["ls", "--data", "nowhere"], "data='nowhere': there is no such file or directory"),
        (["diff", "main.py"], "main.py is no image, or is damaged"),
        (["diff", "nowhere.image"], "No such file or directory"),
        (["show", "--layer", "nothing"], "there is no layer 'nothing'"),
        (["build", "-o", "/nowhere/at/all"], "No such file or directory"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    project: Path, words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["image", *words]) == 2
    err = capsys.readouterr().err
    assert err.startswith("bigmachine image: ")
    assert complaint in err
    assert err.count(os.linesep) == 1


def test_without_an_action_it_says_which_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["image"]) == 2
    first, *actions = capsys.readouterr().err.splitlines()
    assert first == "bigmachine image: say what to do:"
    assert [line.split()[2] for line in actions] == ["ls", "show", "build", "diff"]
