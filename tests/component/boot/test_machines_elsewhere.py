"""Machines on hosts that were brought up as hosts elsewhere are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from booting import wait_until

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


def test_hosts_keep_as_much_as_the_file_says(
    tmp_path: Path, small_image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bigmachine.toml").write_text("[image]\ncache_gib = 0.001\n")
    monkeypatch.chdir(tmp_path)
    system = Booted(directory=str(tmp_path))
    unused = Path(system.home(0), ".cache/bigmachine/layers", "0" * 64)
    (unused / "tree").mkdir(parents=True)
    (unused / "tree" / "large.bin").write_bytes(bytes(2 << 20))
    with bm.start(system) as cluster:
        (machine,) = cluster.start(1, services={"W": where()}, image=small_image)
        assert str(tmp_path) in machine.call("W.file").result(LIMIT)
        wait_until(lambda: not unused.exists())


def test_what_is_wrong_in_the_file_is_said_before_anything_is_launched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bigmachine.toml").write_text("[image]\ncache = 1\n")
    monkeypatch.chdir(tmp_path)
    system = Booted(directory=str(tmp_path))
    with (
        bm.start(system) as cluster,
        pytest.raises(bm.UsageError, match=r"toml:2: image\.cache: there is no such setting"),
    ):
        cluster.start(1, services={"W": where()})
    assert system.hosts == []
