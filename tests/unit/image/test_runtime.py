"""What hosts get before anything else."""

from __future__ import annotations

import json
import sys
import zlib

import pytest

import bigmachine
from bigmachine.image import runtime
from bigmachine.image.platforms import Platform
from bigmachine.image.runtime import layers_for, runtime_layers


def paths(listing: bytes) -> list[str]:
    return [entry[0] for entry in json.loads(listing)["entries"]]


def test_bigmachine_comes_first_and_whole() -> None:
    own = runtime_layers()[0]
    assert own.name == f"bigmachine-{bigmachine.__version__}"
    found = paths(own.listing)
    assert {"bigmachine/__init__.py", "bigmachine/host/supervisor.py"} <= set(found)
    assert not any("__pycache__" in path or path.endswith(".pyc") for path in found)


def test_the_distributions_of_the_supervisor_follow() -> None:
    names = [layer.name.partition("-")[0] for layer in runtime_layers()]
    assert names[1:3] == ["psutil", "cloudpickle"]
    assert set(names[3:]) <= {"zstandard"}


def test_all_of_it_is_small() -> None:
    packs = [
        layer.read_pack(number)
        for layer in runtime_layers()
        for number in range(len(json.loads(layer.listing)["packs"]))
    ]
    assert sum(len(zlib.compress(pack)) for pack in packs) < 2 << 20


def test_hosts_of_the_drivers_kind_get_the_drivers_own() -> None:
    assert layers_for(Platform.here()) == runtime_layers()


def test_hosts_of_another_kind_get_theirs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    other = Platform.of(system="Linux", machine="riscv64", python=sys.version_info[:2])
    asked: list[tuple[str, str]] = []

    def resolve(
        wanted: list[tuple[str, str]], platform: Platform, directory: str
    ) -> dict[str, str]:
        from pathlib import Path

        asked.extend(wanted)
        for name, _ in wanted:
            package = Path(directory, name, name)
            package.mkdir(parents=True)
            (package / "__init__.py").write_text(f"# for {platform.machine}")
        return {name: f"{directory}/{name}" for name, _ in wanted}

    monkeypatch.setattr("bigmachine.image.resolve.resolve", resolve)
    runtime._foreign_layers.cache_clear()
    own, *others = layers_for(other)
    assert own == runtime_layers()[0]
    assert "psutil" in dict(asked)
    assert "cloudpickle" not in dict(asked)  # which is the same everywhere
    psutil = next(layer for layer in others if layer.name.startswith("psutil-"))
    assert psutil.read_pack(0) == b"# for riscv64"
    runtime._foreign_layers.cache_clear()
