"""Images assembled of layers."""

from __future__ import annotations

import errno
import importlib.util
import os
import py_compile
import subprocess
import sys
from pathlib import Path

import pytest
from test_store import put
from textlayers import TextLayer, layer_of, manifest_of

from bigmachine.image.assemble import Assembled, DamagedLayerError, assemble, find_manifest
from bigmachine.image.listing import FIXED_MTIME
from bigmachine.image.prune import items, prune
from bigmachine.image.store import Store

PYTHON = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
VERSION = f"python{sys.version_info[0]}.{sys.version_info[1]}"
SITE = f"lib/{VERSION}/site-packages"
SCRIPT = b"#!/home/ada/venv/bin/python3 -I\nimport sys, pkg\nprint(sys.prefix, pkg.x)\n"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "cache"))


def pkg() -> TextLayer:
    files = {f"{SITE}/pkg/__init__.py": b"x = 1\n", "bin/tool": SCRIPT, "share/doc": b"doc"}
    return layer_of(files, name="pkg-1.0", mode=0o755)


def source(text: bytes = b"y = 2\n") -> TextLayer:
    return layer_of({"mine.py": text}, name="src:mine", kind="source")


def make(store: Store, *layers: TextLayer, **more: object) -> Assembled:
    for layer in layers:
        put(store, layer)
    manifest = manifest_of(*layers, mounts={"src:mine": "src/0"}, scripts=("bin/tool",), **more)
    return assemble(store, manifest, PYTHON)


def run(image: Assembled, *words: str) -> str:
    command = [image.python, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={})
    return done.stdout + done.stderr


def test_an_image_is_a_virtual_environment_of_links(store: Store) -> None:
    image = make(store, pkg(), source())
    root = Path(image.root)
    say = "import sys, pkg; print(sys.prefix, pkg.__file__)"
    assert run(image, "-c", say).split() == [image.root, f"{root}/{SITE}/pkg/__init__.py"]
    done = subprocess.run([root / "bin/tool"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [image.root, "1"]
    assert (root / "src/0/mine.py").read_bytes() == b"y = 2\n"
    assert (root / "share/doc").stat().st_nlink == 2
    layer_script = Path(store.tree(pkg().digest), "bin/tool")
    assert layer_script.read_bytes() == SCRIPT, "the layer's own stays"


def test_a_compiled_module_stays_valid_and_new_ones_do_not_touch_the_layer(
    store: Store, tmp_path: Path
) -> None:
    path = tmp_path / "compiled.py"
    path.write_text("z = 3\n")
    os.utime(path, (1.5e9, 1.5e9))
    py_compile.compile(str(path))
    cached = Path(importlib.util.cache_from_source(str(path)))
    code = cached.read_bytes()
    code = code[:8] + FIXED_MTIME.to_bytes(4, "little") + code[12:]
    files = {
        f"{SITE}/compiled.py": b"z = 3\n",
        f"{SITE}/__pycache__/{cached.name}": code,
        f"{SITE}/fresh.py": b"w = 4\n",
    }
    layer = layer_of(files, name="compiled-1.0")
    image = make(store, layer)
    said = run(image, "-v", "-c", "import compiled, fresh")
    assert f"matches {image.root}/{SITE}/compiled.py" in said
    assert f"created '{image.root}/{SITE}/__pycache__/fresh" in said
    assert f"matches {image.root}/{SITE}/fresh.py" in run(image, "-v", "-c", "import fresh")
    names = os.listdir(Path(store.tree(layer.digest), SITE, "__pycache__"))
    assert names == [cached.name]


def test_a_second_time_it_is_there(store: Store) -> None:
    first = make(store, pkg())
    marker = Path(first.root, "made-by-a-machine")
    marker.write_text("")
    again = assemble(store, manifest_of(pkg(), scripts=("bin/tool",)), PYTHON)
    assert again.root == first.root
    assert marker.exists()
    other = assemble(store, manifest_of(pkg(), scripts=("bin/tool",)), "/usr/bin/other-python")
    assert other.root != first.root
    assert not os.listdir(store.path("tmp"))


def test_the_later_of_two_layers_holds_and_nothing_goes_through_links(
    store: Store, tmp_path: Path
) -> None:
    early = layer_of({"a": b"early", "d/x": b"x", "l/x": b"x"}, name="early")
    late = layer_of({"a": b"late", "d": "a", "l": "a"}, name="late")
    root = Path(make(store, early, late).root)
    assert (root / "a").read_bytes() == b"late"
    assert os.readlink(root / "d") == "a"
    assert sorted(os.listdir(root)) == ["a", "bin", "d", "l", "lib", "lib64", "manifest.json",
                                        "pyvenv.cfg"]  # fmt: skip


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EMLINK])
def test_where_links_are_impossible_files_are_copied(
    store: Store, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def impossible(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", impossible)
    image = make(store, pkg())
    assert run(image, "-c", "import pkg; print(pkg.x)") == "1\n"
    found = Path(image.root, SITE, "pkg/__init__.py").stat()
    assert (found.st_mtime, found.st_nlink) == (FIXED_MTIME, 1)


def test_a_file_that_was_changed_in_the_cache_is_noticed(store: Store) -> None:
    layer = pkg()
    put(store, layer)
    path = Path(store.tree(layer.digest), SITE, "pkg/__init__.py")
    path.chmod(0o644)
    path.write_bytes(b"x = 7\n")
    with pytest.raises(DamagedLayerError) as caught:
        make(store, layer)
    assert caught.value.digest == layer.digest
    assert not os.listdir(store.path("images"))
    assert not os.listdir(store.path("tmp"))


def test_long_paths_are_no_obstacle_for_scripts(tmp_path: Path) -> None:
    store = Store(str(tmp_path / ("long" * 40) / "with spaces"))
    image = make(store, pkg())
    done = subprocess.run([f"{image.root}/bin/tool"], capture_output=True, text=True, check=True)
    assert done.stdout == f"{image.root} 1\n"


def test_an_image_can_be_found_by_its_digest(store: Store) -> None:
    make(store, pkg())
    manifest = manifest_of(pkg(), scripts=("bin/tool",))
    assert find_manifest(store, manifest.digest) == manifest.encode()
    assert find_manifest(store, "0" * 64) is None


def test_what_an_image_in_use_needs_stays(store: Store) -> None:
    image = make(store, pkg())
    store.close()
    assert prune(store, 0) == []
    assert all(item.in_use for item in items(store))
    os.close(image.lock)
    assert {item.kind for item in prune(store, 0)} == {"image", "layer"}


def test_an_interpreter_among_the_layers_is_the_one_that_runs(store: Store) -> None:
    fake = layer_of({f"bin/{VERSION}": b"#!/bin/sh\necho shipped\n"}, name="cpython",
                    kind="interpreter", mode=0o755)  # fmt: skip
    put(store, fake)
    image = assemble(store, manifest_of(fake, mounts={"cpython": "python"}), PYTHON)
    assert run(image) == "shipped\n"
