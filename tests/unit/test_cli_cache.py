"""The subcommand ``bigmachine cache``."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from bigmachine.cli import main
from bigmachine.cli_cache import describe_size, size_bytes
from bigmachine.image.listing import Cutter, Entry, Listing
from bigmachine.image.store import Store


@pytest.fixture
def cache(tmp_path: Path) -> str:
    """A cache with two layers of 3,000 bytes, one of them in use by somebody."""
    path = str(tmp_path / "cache")
    for name in ("old", "used"):
        store = Store(path)
        cutter = Cutter("distribution")
        cutter.feed(name.encode().ljust(3000))
        packs = cutter.close()
        listing = Listing(
            name=name, kind="distribution", entries=(Entry("f", 0o644, 3000),), packs=packs
        )
        receiving = store.begin(listing.encode())
        receiving.write_pack(0, name.encode().ljust(3000))
        receiving.finish()
        if name == "old":
            store.close()
    return path


def test_it_lists_what_is_there_and_what_is_in_use(
    cache: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cache", "ls", "--directory", cache]) == 0
    old, used, total = capsys.readouterr().out.splitlines()
    assert old.startswith("layer")
    assert old.endswith("old")
    assert used.endswith("used  in use")
    assert total.endswith(f"in {cache}, of 10.0 GiB")


def test_without_an_action_it_lists_what_this_user_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert main(["cache", "ls"]) == 0
    listed = capsys.readouterr().out
    assert str(tmp_path) in listed
    assert main(["cache"]) == 0
    assert capsys.readouterr().out == listed


def test_it_removes_what_is_not_in_use(cache: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "prune", "--directory", cache]) == 0
    assert capsys.readouterr().out.startswith("removed 0")
    assert main(["cache", "prune", "--limit", "5K", "--directory", cache]) == 0
    assert "removed 1" in capsys.readouterr().out
    assert main(["cache", "prune", "--clear", "--directory", cache]) == 0
    assert "1 of 1 in use" in capsys.readouterr().out


def test_a_cache_that_cannot_be_used_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tmp_path.chmod(0o777)
    assert main(["cache", "ls", "--directory", str(tmp_path)]) == 1
    assert "can be written by others" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("12", 12), ("1.5k", 1536), ("10G", 10 << 30), ("2 MiB", 2 << 20)]
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert size_bytes(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1", "ten", "nan", "1x"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        size_bytes(text)


def test_sizes_are_written_as_people_read_them() -> None:
    assert [describe_size(size) for size in (0, 2000, 5 << 20, 3 << 40)] == [
        "0 B",
        "2.0 KiB",
        "5.0 MiB",
        "3.0 TiB",
    ]
