"""The user's own files: what travels of a directory, and what is left out and said."""

from __future__ import annotations

import os
import py_compile
from pathlib import Path

import pytest

from bigmachine.errors import UsageError
from bigmachine.image import archive, sources
from bigmachine.image.gitignore import Exclusion
from bigmachine.image.sources import Found, collect


def write(root: Path, *paths: str, data: str = "x = 1\n") -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(data)


def names(found: Found) -> list[str]:
    return sorted(found.sources)


def reasons(found: Found, root: Path) -> dict[str, str]:
    return {os.path.relpath(path, root): why for path, why in found.left_out}


def test_modules_and_what_lies_beside_them_travel(tmp_path: Path) -> None:
    write(tmp_path, "pi.py", "pkg/__init__.py", "pkg/table.csv", "pkg/deep/er.py", ".env")
    assert names(collect(str(tmp_path))) == [
        ".env",
        "pi.py",
        "pkg/__init__.py",
        "pkg/deep/er.py",
        "pkg/table.csv",
    ]


def test_what_the_user_excludes_is_left_out_and_said(tmp_path: Path) -> None:
    write(tmp_path, "a.py", "a.log", "out/1.csv", "pkg/out/2.csv", "pkg/b.log", "pkg/b.py")
    exclusion = Exclusion(patterns=["*.log", "/out/"], base=str(tmp_path))
    found = collect(str(tmp_path), exclusion=exclusion)
    assert names(found) == ["a.py", "pkg/b.py", "pkg/out/2.csv"]
    said = dict.fromkeys(("a.log", "out", "pkg/b.log"), "named by exclude")
    assert reasons(found, tmp_path) == said


def test_saved_images_are_left_out_unless_they_are_named(tmp_path: Path) -> None:
    write(tmp_path, "a.py", "tables/t.csv")
    for path in ("saved.image", "tables/other"):  # whatever they are called
        (tmp_path / path).write_bytes(archive.MAGIC + b"packs")
    found = collect(str(tmp_path))
    assert names(found) == ["a.py", "tables/t.csv"]
    said = reasons(found, tmp_path)
    assert said.keys() == {"saved.image", "tables/other"}
    assert "a saved image" in said["saved.image"]
    assert "saved.image" in names(collect(str(tmp_path), keep=["saved.image"]))


def test_exclusions_are_seen_from_where_they_are_made(tmp_path: Path) -> None:
    write(tmp_path / "pkg", "a.py", "out/1.csv")
    root = str(tmp_path / "pkg")
    for base, pattern in ((tmp_path, "/pkg/out/"), (tmp_path / "else", "/out/")):
        exclusion = Exclusion(patterns=[pattern], base=str(base))
        assert names(collect(root, exclusion=exclusion)) == ["a.py"]
    exclusion = Exclusion(patterns=["/out/"], base=str(tmp_path))
    assert names(collect(root, exclusion=exclusion)) == ["a.py", "out/1.csv"]


def test_what_is_named_or_imported_travels_though_it_is_excluded(tmp_path: Path) -> None:
    write(tmp_path, "lib/a.py", "lib/b.py", "models/m.bin", "m.bin")
    exclusion = Exclusion(patterns=["lib/", "*.bin"], base=str(tmp_path))
    found = collect(str(tmp_path), keep=["lib/a.py", "models"], exclusion=exclusion)
    assert names(found) == ["lib/a.py", "models/m.bin"]


def test_a_pattern_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"exclude=\['!'\]"):
        collect(str(tmp_path), exclusion=Exclusion(patterns=["!"], base=str(tmp_path)))


def test_what_is_no_part_of_a_program_is_left_out_and_said(tmp_path: Path) -> None:
    write(tmp_path, "pi.py", ".git/config", "node_modules/x/y.js", ".mypy_cache/z")
    write(tmp_path, "env/pyvenv.cfg", "env/lib/thing.py", "__pycache__/pi.cpython-27.pyc")
    found = collect(str(tmp_path))
    assert names(found) == ["pi.py"]
    assert reasons(found, tmp_path) == {
        ".git": "no part of a program",
        "node_modules": "no part of a program",
        ".mypy_cache": "no part of a program",
        "env": "an environment",
    }


def test_gitignore_is_heeded_at_every_level(tmp_path: Path) -> None:
    write(tmp_path, ".gitignore", data="*.log\nbuild/\n/out\n!keep.log\n")
    write(tmp_path, "a.py", "x.log", "keep.log", "build/b.py", "out/c.py", "pkg/out/d.py")
    write(tmp_path, "pkg/.gitignore", data="secret*\n!x.log\n")
    write(tmp_path, "pkg/secret.txt", "pkg/x.log", "secret.txt")
    found = collect(str(tmp_path))
    assert names(found) == [
        ".gitignore",
        "a.py",
        "keep.log",
        "pkg/.gitignore",
        "pkg/out/d.py",
        "pkg/x.log",
        "secret.txt",
    ]
    assert set(reasons(found, tmp_path)) == {"x.log", "build", "out", "pkg/secret.txt"}


def test_a_repositorys_rules_hold_in_a_directory_of_it(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    write(tmp_path, ".gitignore", data="*.log\n/src/out\n")
    write(tmp_path, "src/a.py", "src/x.log", "src/out/b.py")
    assert names(collect(str(tmp_path / "src"))) == ["a.py"]


def test_rules_above_hold_in_a_repository_alone(tmp_path: Path) -> None:
    write(tmp_path, ".gitignore", data="*\n")
    write(tmp_path, "src/a.py")
    assert names(collect(str(tmp_path / "src"))) == ["a.py"]


def test_what_is_named_travels_out_of_a_directory_that_is_ignored(tmp_path: Path) -> None:
    write(tmp_path, ".gitignore", data="build/\n")
    write(tmp_path, "build/a/model.bin", "build/a/other.bin", "build/b.bin")
    found = collect(str(tmp_path), keep=["build/a/model.bin"])
    assert names(found) == [".gitignore", "build/a/model.bin"]


def test_large_files_have_to_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 2 << 20)
    (tmp_path / "big.bin").write_bytes(b"x" * (3 << 20))
    found = collect(str(tmp_path))
    assert (
        reasons(found, tmp_path)["big.bin"] == "it has 3 MiB: name it as data if machines need it"
    )
    assert names(collect(str(tmp_path), keep=["big.bin"])) == ["big.bin"]


def test_of_a_directory_that_is_no_programs_only_modules_travel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_FILES", 3)
    write(tmp_path, "pi.py", "helper/__init__.py", "a.txt", "b.txt", "c.txt", "My Photos/d.py")
    found = collect(str(tmp_path))
    assert names(found) == ["helper/__init__.py", "pi.py"]
    assert "more than a program" in reasons(found, tmp_path)["."]


def test_links_within_are_kept_and_others_followed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(root, "a.py", "sub/b.py")
    write(tmp_path, "outside.py", "elsewhere/b.py", "elsewhere/sub/c.py")
    (root / "same.py").symlink_to("a.py")
    (root / "sub/up.py").symlink_to(root / "a.py")
    (root / "around.py").symlink_to("../root/a.py")
    (root / "out.py").symlink_to(tmp_path / "outside.py")
    (root / "dir").symlink_to(tmp_path / "elsewhere")
    found = collect(str(root))
    assert names(found) == ["a.py", "dir/b.py", "dir/sub/c.py", "out.py", "sub/b.py"]
    assert found.links == {"same.py": "a.py", "sub/up.py": "../a.py", "around.py": "a.py"}


def test_links_that_lead_nowhere_are_left_out_and_said(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(root, "a.py", ".git/config")
    write(tmp_path, "pictures/c.png")
    (root / "gone").symlink_to("nowhere")
    (root / "round").symlink_to("round")
    (root / "up").symlink_to("..")
    (root / "config").symlink_to(".git/config")
    (root / "pictures").symlink_to("../pictures")
    found = collect(str(root))
    assert names(found) == ["a.py"]
    assert found.links == {}
    assert set(reasons(found, root)) == {".git", "gone", "round", "up", "config", "pictures"}
    assert reasons(found, root)["config"] == f"a link to {root}/.git/config, which is left out"
    assert reasons(found, root)["gone"] == f"a link to {root}/nowhere, where nothing is"


def test_links_do_not_lead_in_circles(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(root, "a.py")
    write(tmp_path, "one/b.py", "two/c.py")
    (root / "one").symlink_to(tmp_path / "one")
    (tmp_path / "one/two").symlink_to(tmp_path / "two")
    (tmp_path / "two/one").symlink_to(tmp_path / "one")
    assert names(collect(str(root))) == ["a.py", "one/b.py", "one/two/c.py"]


def test_modules_of_packages_travel_though_git_ignores_them(tmp_path: Path) -> None:
    write(tmp_path, ".gitignore", data="_version.py\n*.so\nbuild/\n")
    write(tmp_path, "pkg/__init__.py", "pkg/_version.py", "pkg/fast.so", "_version.py")
    write(tmp_path, "build/pkg/__init__.py", "libtool.so")
    found = collect(str(tmp_path))
    assert names(found) == [".gitignore", "pkg/__init__.py", "pkg/_version.py", "pkg/fast.so"]
    assert set(reasons(found, tmp_path)) == {"_version.py", "build", "libtool.so"}


def test_what_is_to_be_kept_is_found_wherever_it_lies(tmp_path: Path) -> None:
    write(tmp_path, ".gitignore", data="out/\n")
    write(tmp_path, "out/deep/a.csv", "out/b.csv", ".cache/c.bin", ".cache/d/e.bin", ".git/f")
    keep = ["out/deep/a.csv", ".cache"]
    assert names(collect(str(tmp_path), keep=keep)) == [
        ".cache/c.bin",
        ".cache/d/e.bin",
        ".gitignore",
        "out/deep/a.csv",
    ]


def test_data_that_is_named_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_BYTES", 100)
    monkeypatch.setattr(sources, "MAX_FILES", 2)
    write(tmp_path, "a.py", "notes.txt", "data/x", "data/y", "data/z", data="x" * 60)
    assert len(collect(str(tmp_path / "data"), keep=["."]).sources) == 3
    monkeypatch.setattr(sources, "MAX_BYTES", 200)
    found = collect(str(tmp_path), keep=["data"])
    assert names(found) == ["a.py", "data/x", "data/y", "data/z", "notes.txt"]


def test_credentials_stay_here(tmp_path: Path) -> None:
    write(tmp_path, "a.py", ".ssh/id_ed25519", ".aws/credentials", ".netrc", "sub/.pypirc")
    found = collect(str(tmp_path))
    assert names(found) == ["a.py"]
    assert set(reasons(found, tmp_path)) == {".ssh", ".aws", ".netrc", "sub/.pypirc"}
    assert "credentials" in reasons(found, tmp_path)[".ssh"]
    assert ".netrc" in names(collect(str(tmp_path), keep=[".netrc"]))


def test_of_a_home_only_modules_travel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, "pi.py", "pkg/__init__.py", "pkg/a.csv", "Documents/letter.txt", ".history")
    write(tmp_path, "work/other/x.py")  # a directory that holds no modules is nobody's package
    found = collect(str(tmp_path))
    assert names(found) == ["pi.py", "pkg/__init__.py"]
    assert "name data that machines need" in reasons(found, tmp_path)["."]


def test_what_is_no_file_is_left_out(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    found = collect(str(tmp_path))
    assert reasons(found, tmp_path) == {"pipe": "neither a file nor a directory"}


def test_valid_compiled_modules_come_with_theirs(tmp_path: Path) -> None:
    write(tmp_path, "pi.py", "old.py")
    compiled = Path(py_compile.compile(str(tmp_path / "pi.py"), doraise=True))
    py_compile.compile(str(tmp_path / "old.py"), doraise=True)
    os.utime(tmp_path / "old.py", (1, 1))
    assert names(collect(str(tmp_path))) == [f"__pycache__/{compiled.name}", "old.py", "pi.py"]


def test_excluded_directories_are_none_of_it(tmp_path: Path) -> None:
    write(tmp_path, "pi.py", "cache/x.py")
    found = collect(str(tmp_path), excluded=[str(tmp_path / "cache")])
    assert names(found) == ["pi.py"]
    assert not found.left_out
