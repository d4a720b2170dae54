"""The subcommand ``bigmachine systems``."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Any

import pytest

from bigmachine.cli import main
from bigmachine.cli_listing import describe_default


class Speed(enum.Enum):
    FAST = "fast"


def listed(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, list[str]]]:
    """Return the exit status and the lines of each system."""
    status = main(["systems"])
    blocks = capsys.readouterr().out.split("\n\n")
    return status, {block.split()[0]: block.splitlines() for block in blocks}


def test_each_option_is_listed_with_its_type_its_default_and_what_it_is_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, systems = listed(capsys)
    lines = systems["ssh"]
    assert lines[0].startswith("ssh  Hosts that are reached by SSH.")
    at = lines.index("  hosts_file: a path or none (default none)")
    assert lines[at + 1] == "      A file of hosts, one on each line, # before comments."
    names = [line.split(":")[0].strip() for line in lines if line[2:3].strip()]
    assert {"hosts", "tunnel", "connect_seconds"} < set(names)


def test_every_option_of_the_library_says_what_it_is_for_in_lines_that_fit(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, systems = listed(capsys)
    for name in ("local", "inprocess", "ssh", "ec2"):
        _, *lines = systems[name]
        assert max(map(len, lines)) <= 100
        assert all(": anything" not in line for line in lines)
        for line, following in zip(lines, [*lines[1:], ""], strict=True):
            assert line.startswith("      ") or following.startswith("      "), line


@pytest.mark.usefixtures("rack")
def test_a_system_that_says_nothing_of_its_options_is_listed_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, systems = listed(capsys)
    assert status == 1  # another one of that package cannot be loaded
    assert systems["rack"] == [
        "rack  Hosts in the rack next door.",
        "  rows: a whole number (default 1)",
        "  power: 'high' or 'low' (default 'low')",
        "  hosts: a list of texts or none (default none)",
        "  load: a number (default 0.5)",
    ]
    assert systems["rack-strict"] == ["rack-strict", "  key: text (required)"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "none"),
        (True, "true"),
        (15.0, "15"),
        (0, "0"),
        ("unix", "'unix'"),
        ("", "empty"),
        ((), "empty"),
        (("a", "b"), "a,b"),
        ({"a": 1}, "a=1"),
        (Speed.FAST, "'fast'"),
        (Path("/tmp"), "'/tmp'"),
    ],
)
def test_a_default_is_said_as_a_flag_would_say_it(value: Any, words: str) -> None:
    assert describe_default(value) == words
