"""Images in files: as they were, whole or not at all, and held to what names them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from environments import Environment, content

from bigmachine.image.archive import is_archive
from bigmachine.image.build import Image
from bigmachine.image.layout import SITE
from bigmachine.image.listing import Listing


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    made = Environment(tmp_path.resolve())
    monkeypatch.setattr(sys, "prefix", str(made.prefix))
    monkeypatch.setattr(sys, "exec_prefix", str(made.prefix))
    made.install("thing", "thing/__init__.py")
    made.write(made.project / "main.py", "import thing\n" * 1000)
    return made


def read_all(path: Path) -> None:
    for layer in Image.load(path).layers.values():
        for number in range(len(Listing.decode(layer.listing).packs)):
            layer.read_pack(number)


def test_an_image_comes_back_as_it_was(env: Environment) -> None:
    image = env.build()
    path = env.root / "saved.image"
    image.save(path)
    back = Image.load(path)
    assert (back.digest, back.manifest) == (image.digest, image.manifest)
    for place in ("src/0/main.py", f"{SITE}/thing/__init__.py"):
        assert content(back, place) == content(image, place)
    for digest, layer in back.layers.items():
        was = image.layers[digest]
        assert (layer.digest, layer.name, layer.kind) == (digest, was.name, was.kind)
        assert (layer.size_bytes, layer.listing) == (was.size_bytes, was.listing)
    assert is_archive(str(path))
    assert not is_archive(str(env.project / "main.py"))
    assert not is_archive(str(env.root / "nowhere"))


def test_the_same_contents_are_in_it_once(env: Environment) -> None:
    path = env.root / "saved.image"
    data = os.urandom(100_000)
    for name in ("a.bin", "b.bin"):
        (env.project / name).write_bytes(data)
    env.build().save(path)
    assert path.stat().st_size < 150_000


def test_an_image_that_cannot_be_written_leaves_the_old_one(env: Environment) -> None:
    path = env.write(env.root / "saved.image", "old")
    image = env.build()
    env.write(env.site / "thing/__init__.py", "changed\n")
    with pytest.raises(OSError, match=r"thing/__init__\.py has changed"):
        image.save(path)
    assert path.read_text() == "old"
    assert [each.name for each in env.root.iterdir() if each.name.startswith(".")] == []


@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 0.95, 0.999])
def test_a_damaged_file_is_refused_at_last_when_it_is_read(env: Environment, place: float) -> None:
    path = env.root / "saved.image"
    image = env.build()
    image.save(path)
    data = bytearray(path.read_bytes())
    at = int(len(data) * place)
    data[at : at + 40] = bytes(byte ^ 0xFF for byte in data[at : at + 40])
    path.write_bytes(data)
    if place == 0.0:  # the first magic is for people, and for telling what a file is
        assert not is_archive(str(path))
        return
    with pytest.raises(ValueError):
        read_all(path)


@pytest.mark.parametrize("length", [0, 10, 60, 500])
def test_a_part_of_a_file_is_refused(env: Environment, length: int) -> None:
    path = env.root / "saved.image"
    env.build().save(path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"saved\.image is no image, or is damaged"):
        Image.load(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Image.load(tmp_path / "nowhere")
