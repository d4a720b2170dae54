"""Machines on hosts that were brought up as hosts elsewhere are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import bigmachine as bm
from bigmachine.image.build import Image
from bigmachine.testing.booted import Booted

LIMIT = 60.0


def where() -> Any:
    """A service of a class that travels by value, since these tests are in no image."""

    class Where:
        def file(self) -> str:
            return bm.__file__

        def variable(self, name: str) -> str | None:
            return os.environ.get(name)

    return Where()


def test_an_image_is_fetched_back_and_used_again(
    tmp_path: Path, small_image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    with bm.start(Booted(directory=str(tmp_path / "first"))) as cluster:
        (machine,) = cluster.start(1, services={"W": where()}, image=small_image)
        machine.call("W.file").result(LIMIT)
        fetched = machine.image().result(LIMIT)
    assert fetched.digest == small_image.digest
    with bm.start(Booted(directory=str(tmp_path / "second"))) as cluster:
        (machine,) = cluster.start(1, services={"W": where()}, image=fetched)
        assert str(tmp_path / "second") in machine.call("W.file").result(LIMIT)


def test_a_machine_of_this_host_has_no_image() -> None:
    with bm.start() as cluster:
        (machine,) = cluster.start(1, services={"W": where()})
        machine.wait().result(LIMIT)
        with pytest.raises(bm.UsageError, match="no image"):
            machine.image().result(LIMIT)


def test_nothing_of_the_drivers_environment_goes_elsewhere_but_what_is_named(
    tmp_path: Path, small_image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET", "of this computer")
    with bm.start(Booted(directory=str(tmp_path))) as cluster:
        (machine,) = cluster.start(
            1, services={"W": where()}, image=small_image, env={"NAMED": "yes"}
        )
        assert machine.call("W.variable", "A_SECRET").result(LIMIT) is None
        assert machine.call("W.variable", "NAMED").result(LIMIT) == "yes"
        assert machine.call("W.variable", "PATH").result(LIMIT).startswith(str(tmp_path))
