"""How images differ: which layers, which files of the user's, and how much of it travels."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

import pytest
from environments import Environment

from bigmachine.image.build import Image
from bigmachine.image.difference import Difference, compare


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    made = Environment(tmp_path.resolve())
    monkeypatch.setattr(sys, "prefix", str(made.prefix))
    monkeypatch.setattr(sys, "exec_prefix", str(made.prefix))
    made.install("thing", "thing/__init__.py")
    made.write(made.project / "main.py", "import thing\n")
    (made.project / "table.bin").write_bytes(os.urandom(5000))
    return made


def difference(old: Image, new: Image) -> Difference:
    return compare((old.manifest, old.layers), (new.manifest, new.layers))


def test_an_image_does_not_differ_from_itself(env: Environment) -> None:
    found = difference(env.build(), env.build())
    assert not found
    assert (found.same, found.travels_bytes) == (2, 0)


def test_an_edited_file_travels_alone(env: Environment) -> None:
    old = env.build()
    env.write(env.project / "main.py", "import thing, os\n")
    found = difference(old, env.build())
    (change,) = found.layers
    assert change.files == ("main.py",)
    assert found.travels_bytes == change.travels_bytes == len("import thing, os\n")
    assert found.same == 1


def test_files_that_come_go_or_may_be_run_are_named(env: Environment) -> None:
    old = env.build()
    (env.project / "table.bin").unlink()
    (env.project / "main.py").chmod(0o755)
    env.write(env.project / "more.py", "y = 2\n")
    (change,) = difference(old, env.build()).layers
    assert change.files == ("main.py", "more.py", "table.bin")
    assert change.travels_bytes == len("y = 2\n")


def test_distributions_come_and_go_and_change_their_version(env: Environment) -> None:
    env.install("gone", "gone.py")
    old = env.build()
    env.install("new", "new.py")
    for name in ("gone-1.0.dist-info/RECORD", "gone-1.0.dist-info/METADATA"):
        (env.site / name).unlink()
    for name in ("gone-1.0.dist-info/WHEEL", "gone.py"):
        (env.site / name).unlink()
    (env.site / "thing-1.0.dist-info").rename(env.site / "thing-2.0.dist-info")
    info = env.site / "thing-2.0.dist-info"
    env.write(info / "METADATA", "Name: thing\nVersion: 2.0\n")
    env.write(info / "RECORD", "thing/__init__.py,,\nthing-2.0.dist-info/METADATA,,\n")
    found = difference(old, env.build())
    versions = {
        change.name: (
            change.old and change.old.distribution[1],
            change.new and change.new.distribution[1],
        )
        for change in found.layers
    }
    assert versions == {"gone": ("1.0", None), "new": (None, "1.0"), "thing": ("1.0", "2.0")}


def test_other_pythons_and_paths_are_said(env: Environment) -> None:
    old = env.build()
    python = (3, 99, 0)
    new = Image(
        manifest=dataclasses.replace(old.manifest, python=python, sys_path=("src/0",)),
        layers=old.layers,
    )
    facts = {what: (was, now) for what, was, now in difference(old, new).facts}
    assert facts["Python"][1] == "3.99.0"
    assert set(facts) == {"Python", "sys.path"}
