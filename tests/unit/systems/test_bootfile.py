"""What a host is given to run first."""

from __future__ import annotations

import ast
import gzip
import json
import os
import shlex
import subprocess
import sys
import zlib
from dataclasses import asdict
from pathlib import Path

import pytest

import bigmachine
from bigmachine.security.authority import Authority
from bigmachine.systems.bootfile import MARK, command, payload, read_line, source

BOOT = Path(bigmachine.__file__).parent / "boot.py"
CONFIG = {
    "cluster": "bigpi-4f1c",
    "id": "h1",
    "credentials": asdict(Authority().issue("h1")),
    "at_end": "echo 'a' \"b\" \\ '''c''' > /dev/null",
}


def test_the_boot_file_has_ten_kilobytes_at_most() -> None:
    assert len(zlib.compress(BOOT.read_bytes())) <= 10 << 10


def test_user_data_has_room_for_it() -> None:
    assert len(gzip.compress(source(CONFIG))) < 14 << 10


def test_it_imports_the_standard_library_alone() -> None:
    tree = ast.parse(BOOT.read_text(), feature_version=(3, 8))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names.add(str(node.module))
    assert names
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names


def test_the_source_is_a_program_with_the_configuration_in_it() -> None:
    text = source(CONFIG).decode()
    assert text.startswith("#!/usr/bin/env python3\n")
    values = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
    }
    assert json.loads(values["CONFIG"]) == CONFIG
    assert values["BOOT"] == BOOT.read_text()


def test_no_key_stands_in_the_command() -> None:
    assert "PRIVATE" not in command()
    size, data = payload(CONFIG)[:4], payload(CONFIG)[4:]
    assert int.from_bytes(size, "big") == len(data)
    assert b"PRIVATE" in zlib.decompress(data)


def test_the_command_is_one_line_that_any_shell_takes() -> None:
    words = shlex.split(command("/opt/a python/bin/python3"))
    assert words[:3] == ["exec", "/opt/a python/bin/python3", "-c"]
    assert len(words) == 4
    assert not set("\n!") & set(command())
    compile(words[3], "the command", "exec")


def test_a_command_that_is_fed_nothing_ends() -> None:
    done = subprocess.run(["/bin/sh", "-c", command(sys.executable)], input=b"", timeout=10)
    assert done.returncode == 4


def test_modules_in_the_working_directory_are_not_imported(tmp_path: Path) -> None:
    (tmp_path / "ssl.py").write_text("raise SystemExit(99)")
    done = subprocess.run(
        ["/bin/sh", "-c", command(sys.executable)],
        input=b"",
        timeout=10,
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    assert done.returncode == 4


@pytest.mark.parametrize(
    "line", [b"", b"Welcome!\n", b'{"port": 1}\n', MARK + b"{", MARK + b"[1]", MARK + b"\xff"]
)
def test_lines_of_others_are_none_of_its(line: bytes) -> None:
    assert read_line(line) is None


def test_its_own_lines_are_read() -> None:
    assert read_line(MARK + b'{"port": 4123}\r\n') == {"port": 4123}
