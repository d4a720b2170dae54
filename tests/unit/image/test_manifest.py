"""Manifests: what an image is, and where the driver's files are in it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bigmachine.image.manifest import LayerRef, Manifest, map_path

MANIFEST = Manifest(
    python=(3, 11, 7),
    platform={"system": "Linux", "machine": "x86_64", "libc": ["glibc", "2.36"]},
    layers=(
        LayerRef(
            digest="4f1c",
            name="numpy-2.1.0",
            kind="distribution",
            mount="",
            size_bytes=7,
            distribution=("numpy", "2.1.0"),
            tags=("cp311-cp311-manylinux_2_17_x86_64",),
        ),
        LayerRef(digest="9a3b", name="src:pi", kind="source", mount="src/0", size_bytes=5),
    ),
    sys_path=("src/0", "lib/python3.11/site-packages"),
    places=(
        ("/home/u/pi", "src/0"),
        ("/venv", ""),
        ("/venv/lib/python3.11/site-packages", "lib/python3.11/site-packages"),
        ("/home/u/data.csv", "data/0/data.csv"),
    ),
    scripts=("bin/tool",),
    left_out=(("/home/u/pi/.venv", "a virtual environment"),),
)


def test_a_manifest_is_what_its_text_says() -> None:
    assert Manifest.decode(MANIFEST.encode()) == MANIFEST
    assert MANIFEST.size_bytes == 12


def test_whatever_it_says_is_in_its_name() -> None:
    assert replace(MANIFEST, python=(3, 11, 8)).digest != MANIFEST.digest
    assert replace(MANIFEST, sys_path=()).digest != MANIFEST.digest


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"v":2}', MANIFEST.encode()[:-9], b"\xff"])
def test_garbage_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        Manifest.decode(text)


@pytest.mark.parametrize(
    ("path", "there"),
    [
        ("/home/u/pi", "src/0"),
        ("/home/u/pi/sub/x.py", "src/0/sub/x.py"),
        ("/home/u/pi/./a/../x.py", "src/0/x.py"),
        ("/venv/bin/tool", "bin/tool"),
        ("/venv/lib/python3.11/site-packages/numpy", "lib/python3.11/site-packages/numpy"),
        ("/home/u/data.csv", "data/0/data.csv"),
        ("/home/u/pizza", None),
        ("/home/u", None),
        ("/", None),
    ],
)
def test_a_path_of_the_driver_is_found(path: str, there: str | None) -> None:
    assert map_path(MANIFEST, path) == there
