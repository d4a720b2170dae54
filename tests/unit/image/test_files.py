"""Layers made of files: read when needed, noticed when changed, compiled modules kept valid."""

from __future__ import annotations

import importlib.util
import os
import py_compile
from pathlib import Path

import pytest

from bigmachine.image.files import FileLayer, Source, compiled_source, make_layer
from bigmachine.image.listing import FIXED_MTIME, PACK_BYTES, Listing


def layer_of(directory: Path, **more: object) -> FileLayer:
    sources = {path.name: Source(str(path)) for path in directory.iterdir()}
    return make_layer("src:test", "source", sources, **more)  # type: ignore[arg-type]


def contents(layer: FileLayer) -> bytes:
    count = len(Listing.decode(layer.listing).packs)
    return b"".join(layer.read_pack(number) for number in range(count))


def test_packs_are_what_the_files_hold(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes(b"one")
    (tmp_path / "b.bin").write_bytes(b"two" * PACK_BYTES)
    (tmp_path / "c").write_bytes(b"")
    assert contents(layer_of(tmp_path)) == b"one" + b"two" * PACK_BYTES


def test_a_layer_does_not_know_when_its_files_were_written(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes(b"one")
    before = layer_of(tmp_path).digest
    os.utime(tmp_path / "a.py", (1, 1))
    assert layer_of(tmp_path).digest == before


def test_it_knows_what_can_be_run(tmp_path: Path) -> None:
    (tmp_path / "tool").write_bytes(b"#!/bin/sh\n")
    before = layer_of(tmp_path).digest
    (tmp_path / "tool").chmod(0o755)
    layer = layer_of(tmp_path)
    assert layer.digest != before
    assert [entry.mode for entry in layer.entries] == [0o755]


def test_links_and_directories_are_part_of_it(tmp_path: Path) -> None:
    layer = layer_of(tmp_path, links={"x.so": "x.so.1"}, directories=["empty"])
    assert [(e.path, e.size, e.target) for e in layer.entries] == [
        ("empty", None, None),
        ("x.so", None, "x.so.1"),
    ]


def test_a_file_that_changes_later_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes(b"one")
    layer = layer_of(tmp_path)
    (tmp_path / "a.py").write_bytes(b"two")
    with pytest.raises(OSError, match=r"a\.py has changed since the image was built"):
        layer.read_pack(0)


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes(b"one")
    layer = layer_of(tmp_path)
    (tmp_path / "a.py").unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.py"):
        layer.read_pack(0)


def test_what_is_held_is_what_it_was(tmp_path: Path) -> None:
    source = tmp_path / "mod.py"
    source.write_text("x = 1\n")
    found = compiled_source(str(compiled(source)), str(source))
    assert found is not None
    sources = {"mod.py": Source(str(source)), "mod.pyc": found}
    layer = make_layer("src:test", "source", sources, hold=True)
    was = contents(layer)
    assert layer.listing == make_layer("src:test", "source", sources).listing
    source.write_text("x = 2\n")
    Path(found.path).unlink()
    assert contents(layer) == was


def compiled(source: Path) -> Path:
    path = Path(importlib.util.cache_from_source(str(source)))
    py_compile.compile(str(source), str(path), doraise=True)
    return path


def test_a_valid_compiled_module_is_valid_on_hosts(tmp_path: Path) -> None:
    source = tmp_path / "mod.py"
    source.write_text("x = 1\n")
    found = compiled_source(str(compiled(source)), str(source))
    assert found is not None
    data = contents(make_layer("m", "distribution", {"mod.pyc": found}))
    assert int.from_bytes(data[8:12], "little") == FIXED_MTIME
    assert data[16:] == compiled(source).read_bytes()[16:]


def test_a_compiled_module_of_another_version_of_its_source_is_left_out(tmp_path: Path) -> None:
    source = tmp_path / "mod.py"
    source.write_text("x = 1\n")
    path = compiled(source)
    os.utime(source, (1_000_000_000, 1_000_000_000))
    assert compiled_source(str(path), str(source)) is None


def test_a_compiled_module_of_another_python_is_left_out(tmp_path: Path) -> None:
    source = tmp_path / "mod.py"
    source.write_text("x = 1\n")
    path = compiled(source)
    path.write_bytes(b"\0\0\0\0" + path.read_bytes()[4:])
    assert compiled_source(str(path), str(source)) is None
    path.write_bytes(b"short")
    assert compiled_source(str(path), str(source)) is None
