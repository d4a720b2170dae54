"""The library's flags in a program's own parser."""

from __future__ import annotations

import argparse
import subprocess
import sys

import pytest

from bigmachine import driver
from bigmachine.config import Flags
from bigmachine.errors import UsageError


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("-n", type=int, default=1)
    driver.add_arguments(parser)
    return parser


def test_flags_are_read_beside_the_programs_own(parser: argparse.ArgumentParser):
    words = [
        "-n",
        "3",
        "--system",
        "rack",
        "--profile",
        "big",
        "--system-option",
        "a=1",
        "--system-option",
        "b=x=y",
    ]
    args = parser.parse_args(words)
    assert args.n == 3
    assert driver.flags_of(args) == Flags(
        system="rack", profile="big", options=(("a", "1"), ("b", "x=y"))
    )


def test_without_flags_nothing_is_said(parser: argparse.ArgumentParser):
    assert driver.flags_of(parser.parse_args([])) == Flags()


@pytest.mark.parametrize("wrong", ["a", "=1", ""])
def test_an_option_that_is_no_pair_is_refused_by_the_parser(
    parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str], wrong: str
):
    with pytest.raises(SystemExit):
        parser.parse_args(["--system-option", wrong])
    assert "is not KEY=VALUE" in capsys.readouterr().err


def test_arguments_of_a_parser_without_the_flags_are_refused():
    with pytest.raises(UsageError, match="add_arguments"):
        driver.start(argparse.ArgumentParser().parse_args([]))


def test_naming_the_driver_imports_no_runtime():
    program = (
        "import sys; import bigmachine.driver; import bigmachine.config; "
        "heavy = {'asyncio', 'ssl', 'psutil', 'cloudpickle', 'argparse', 'bigmachine.cluster'}; "
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
