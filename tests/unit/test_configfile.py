"""Reading bigmachine.toml, and naming the line of what is wrong in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bigmachine.configfile import find_config_file, read_config_file
from bigmachine.errors import UsageError


def read(directory: Path, text: str | bytes):
    path = directory / "bigmachine.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_config_file(path)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('\ndefault_profil = "a"', ":2: default_profil: there is no such setting"),
        ('default_profil = "a"', "did you mean 'default_profile'?"),
        ("default_profile = 3", ":1: default_profile: a name in quotes is wanted here, not 3"),
        ("profiles = 3", ":1: profiles: a table is wanted here"),
        ("[profiles]\na = 3", ":2: profiles.a: a table is wanted here"),
        ('[profiles.a]\nsytem = "x"', ":2: profiles.a.sytem: there is no such setting"),
        ("[profiles.a]\nsystem = 3", ":2: profiles.a.system: a name in quotes"),
        ('[profiles.a]\nsystem = ""', ":2: profiles.a.system: a name in quotes"),
        ('[profiles."a b"]\n\n"sy" = 1', ":3: profiles.a b.sy: there is no such setting"),
        ("profiles.a.system = 1", ":1: profiles.a.system"),
        ('\nsystem = "ssh"', r":2: system: .* below \[profiles.NAME\], and here default_profile ="),
        (
            '[ssh]\nhosts = ["a"]',
            r":1: ssh: options .* \[profiles.NAME.ssh\], with default_profile",
        ),
        ("[rack]\nrow = 1", ":1: rack: there is no such setting; there are 'default_profile'"),
        (
            '[profiles.a]\nsystem = "ssh"\nhosts = ["a"]',
            r":3: profiles.a.hosts: .*; options of a system stand below \[profiles.a.ssh\]",
        ),
        (
            '[image]\ndate = ["x"]',
            ":2: image.date: there is no such setting; .*did you mean 'data'",
        ),
        ('[image]\ndata = "x"', ":2: image.data: a list of texts is wanted here, not 'x'"),
        ("[image]\nexclude = [3]", ":2: image.exclude: a list of texts"),
        ('[image]\ncache_gib = "20G"', ":2: image.cache_gib: a number above 0"),
        ("[image]\ncache_gib = 0", ":2: image.cache_gib: a number above 0"),
        ("[profiles.a\n", "is not TOML: .*line 1"),
        (b"a = '\xff'", "is not TOML"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, text: str | bytes, complaint: str):
    with pytest.raises(UsageError, match=complaint.replace("?", r"\?")):
        read(tmp_path, text)


def test_the_place_of_a_key_is_its_line_or_that_of_the_table_around_it(tmp_path: Path):
    file = read(
        tmp_path,
        '[profiles.a]\nlocal = { transport = "tls" }\n[profiles."b.c".local]\nkeepalive = 1\n',
    )
    assert file.place("profiles", "a", "local", "transport") == f"{file.path}:2"
    assert file.place("profiles", "b.c", "local", "keepalive") == f"{file.path}:4"
    assert file.place("nowhere") == str(file.path)


def test_a_file_without_profiles_is_fine(tmp_path: Path):
    file = read(tmp_path, "")
    assert (file.default_profile, dict(file.profiles)) == (None, {})


def test_a_file_that_is_a_directory_is_not_one(tmp_path: Path):
    (tmp_path / "a" / "bigmachine.toml").mkdir(parents=True)
    assert find_config_file(tmp_path / "a") != tmp_path / "a" / "bigmachine.toml"


def test_a_file_that_vanished_is_told_of(tmp_path: Path):
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_config_file(tmp_path / "bigmachine.toml")


def test_what_is_said_of_images_is_seen_from_the_file(tmp_path: Path) -> None:
    table = read(
        tmp_path, '[image]\ndata = ["a.csv", "/b"]\nexclude = ["out/"]\ncache_gib = 0.5\n'
    ).image
    assert table.data == (str(tmp_path / "a.csv"), "/b")
    assert (table.base, table.exclude) == (str(tmp_path), ("out/",))
    assert table.cache_bytes == 1 << 29
    assert read(tmp_path, "").image.cache_bytes is None


DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("page", ["configuration.md", "ec2.md", "hosts.md", "tutorial.md"])
def test_the_files_of_the_documentation_are_accepted(tmp_path: Path, page: str):
    blocks = (DOCS / page).read_text("utf-8").split("```toml\n")[1:]
    assert blocks
    for block in blocks:
        read(tmp_path, block.partition("```")[0])
