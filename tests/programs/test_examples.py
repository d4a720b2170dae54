"""Each example, run as a user runs it, with small parameters."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import RunProgram

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_every_example_is_tested() -> None:
    programs = {path.stem for path in EXAMPLES.glob("*.py")}
    tested = {name for name in programs if f'"{name}.py"' in Path(__file__).read_text("utf-8")}

    assert tested == programs


def test_bigpi_prints_the_digits_that_the_samples_warrant(run_program: RunProgram) -> None:
    ran = run_program(EXAMPLES / "bigpi.py", "-n", "1_000_000", "--machines", "3")

    result = re.search(
        r"^pi = (\S+) \(estimate (\S+) ± (\S+), n = 1,000,000\)$", ran.stdout, re.MULTILINE
    )
    assert result is not None, ran.stdout
    shown, estimate, error = result.groups()
    assert re.fullmatch(r"3\.\d\d", shown)
    assert float(error) == pytest.approx(0.0016, rel=0.1)
    assert abs(float(estimate) - 3.14159) < 6 * float(error)


def test_bigpi_shows_each_machines_output_with_its_prefix(run_program: RunProgram) -> None:
    ran = run_program(EXAMPLES / "bigpi.py", "-n", "900_000", "--machines", "3")

    lines = re.findall(r"^\[m(\d+)\] threw ([\d,]+) points$", ran.stdout, re.MULTILINE)
    assert sorted(machine for machine, _ in lines) == ["0", "1", "2"]
    assert sum(int(points.replace(",", "")) for _, points in lines) == 900_000


def test_bigpi_writes_no_progress_where_there_is_no_terminal(run_program: RunProgram) -> None:
    ran = run_program(EXAMPLES / "bigpi.py", "-n", "10_000", "--machines", "1")

    assert ran.stderr == ""
    assert "\r" not in ran.stdout


def test_multisys_runs_two_clusters_side_by_side(run_program: RunProgram) -> None:
    ran = run_program(EXAMPLES / "multisys.py", "-n", "20_000", "--machines", "2")

    assert ran.stdout.endswith("2,262 primes below 20,000\n")
    # Python's print writes a text and its line end apart: a machine's line may come between them.
    assert re.search(r"^cluster 'configured': unix:\S+ unix:\S+", ran.stdout, re.MULTILINE)
    assert re.search(r"^cluster 'tls': tls:\S+ tls:\S+", ran.stdout, re.MULTILINE)
    assert "after 'configured' ended, 'tls' still counts: 25 below 100" in ran.stdout
    assert len(re.findall(r"\[m[01]\] pid \d+: \d+ primes", ran.stdout)) == 5


def test_bigoom_tells_what_became_of_the_machine(run_program: RunProgram) -> None:
    ran = run_program(EXAMPLES / "bigoom.py", "--limit", "160")

    assert "] ate 16 MiB" in ran.stdout
    if "falling back to RLIMIT_AS" in ran.stdout:
        assert "the method raised MemoryError; the machine is RUNNING" in ran.stdout
    else:
        assert "the machine died: kind oom" in ran.stdout
        assert "out of memory" in ran.stdout


def test_diskbench_streams_its_figures(run_program: RunProgram) -> None:
    ran = run_program(EXAMPLES / "diskbench.py", "--size", "8", "--step", "2")

    figures = re.findall(r"^ *(write|read) +([\d,]+) MiB +[\d,.]+ MiB/s$", ran.stdout, re.MULTILINE)
    assert figures == [(phase, str(n)) for phase in ("write", "read") for n in (2, 4, 6, 8)]


def test_wordcount_agrees_with_a_count_in_one_process(run_program: RunProgram) -> None:
    ran = run_program(
        EXAMPLES / "wordcount.py", "--machines", "3", "--files", "120", "--batch", "7", "--check"
    )

    assert len(re.findall(r"^ *[\d,]+ [a-z]+$", ran.stdout, re.MULTILINE)) == 10
    assert re.search(r"^[\d,]+ words, [\d,]+ distinct, in 120 files$", ran.stdout, re.MULTILINE)
    assert ran.stdout.endswith("checked against a count in one process\n")
