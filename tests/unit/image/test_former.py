"""Listings that hosts were given: remembered for as long as they may be of use."""

from __future__ import annotations

import os
import time
from pathlib import Path

from textlayers import TextLayer, layer_of

from bigmachine.image.former import Former
from bigmachine.image.listing import Kind

MANY = 300


def source(version: int, *, name: str = "src:app", kind: Kind = "source") -> TextLayer:
    files = {f"m{number}.py": f"{number}\n".encode() for number in range(MANY)}
    return layer_of({**files, "edited.py": f"{version}\n".encode()}, name=name, kind=kind)


def test_earlier_versions_are_known_the_newest_first(tmp_path: Path) -> None:
    former, now = Former(str(tmp_path)), time.time()
    for version in range(3):
        former.keep(source(version))
        for age, path in enumerate(reversed(former._paths(""))):
            os.utime(path, (now - 100 + age, now - 100 + age))
    former.keep(source(0))  # which is in use again
    digests = [source(version).digest for version in (0, 2)]
    assert former.versions(source(1)) == digests
    assert former.versions(source(9, name="src:other")) == []
    assert former.listing("src:app", digests[0]) == source(0).listing


def test_a_damaged_one_is_none(tmp_path: Path) -> None:
    former = Former(str(tmp_path))
    former.keep(source(0))
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    assert former.listing("src:app", source(0).digest) is None
    assert former.listing("src:app", "0" * 64) is None


def test_what_travels_in_a_few_kilobytes_and_what_hardly_changes_is_not_kept(
    tmp_path: Path,
) -> None:
    former = Former(str(tmp_path / "new"))
    former.keep(layer_of({"a.py": b"1\n"}, name="src:app", kind="source"))
    former.keep(source(0, name="numpy-2.0", kind="distribution"))
    assert not (tmp_path / "new").exists()
    assert former.versions(source(0)) == []


def test_old_ones_are_forgotten(tmp_path: Path) -> None:
    former = Former(str(tmp_path))
    former.keep(source(0, name="src:other"))
    for path in tmp_path.iterdir():
        os.utime(path, (1, 1))
    for version in range(12):
        former.keep(source(version))
    assert len(former.versions(source(99))) == 8
    assert len(list(tmp_path.iterdir())) == 8


def test_where_nothing_can_be_kept_it_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    former = Former(str(tmp_path / "file"))
    former.keep(source(0))
    assert former.versions(source(1)) == []
