"""The guide to writing a system, and the configuration's reference, hold what they promise."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bigmachine.cli import main
from bigmachine.configfile import read_config_file
from bigmachine.systems.base import MISSING, System

DOCS = Path(__file__).parents[3] / "docs"


def block(page: str, language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", (DOCS / page).read_text("utf-8"), re.DOTALL)
    assert found
    return found[1]


def test_the_guides_system_is_one_with_the_options_it_says():
    namespace: dict[str, object] = {"__name__": "rack_system"}
    exec(compile(block("systems.md", "python"), "systems.md", "exec"), namespace)
    rack = namespace["Rack"]
    assert isinstance(rack, type)
    assert issubclass(rack, System)
    assert {name: option.default for name, option in rack.options().items()} == {
        "hosts": MISSING,
        "user": "root",
        "cpus": 4,
    }
    assert rack.options()["hosts"].type == list[str]


def test_the_references_file_is_one_that_can_be_read(tmp_path: Path):
    path = tmp_path / "bigmachine.toml"
    path.write_text(block("configuration.md", "toml"), "utf-8")
    file = read_config_file(path)
    assert file.default_profile == "laptop"
    assert file.profiles["laptop"].options["local"]["keepalive"] == 5


def test_the_reference_has_every_command(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["--help"])
    commands = re.findall(r"^    (\w+) ", capsys.readouterr().out, re.MULTILINE)
    assert len(commands) > 5
    page = (DOCS / "configuration.md").read_text("utf-8")
    assert [name for name in commands if f"bigmachine {name}" not in page] == []
