"""Whole driver programs, run as processes of their own and checked to leave nothing behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import psutil
import pytest

MARK = "RUN_PROGRAM_MARK"
"""An environment variable that a program's processes inherit: machines lead sessions of their own,
so neither the process group nor the parent tells whose they are."""

GONE_SECONDS = 3.0
"""How long a program's processes may take to vanish after it has ended."""


class RunProgram(Protocol):
    """The type of the fixture ``run_program``."""

    def __call__(
        self,
        program: str | Path,
        *args: str,
        flags: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: str | None = None,
        timeout: float = 60.0,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]: ...


def marked_processes(mark: str) -> list[psutil.Process]:
    """The living processes whose environment at start had this mark."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def wait_until_gone(mark: str, timeout: float) -> list[psutil.Process]:
    """Wait for a program's processes to end; return those that did not."""
    deadline = time.monotonic() + timeout
    while (left := marked_processes(mark)) and time.monotonic() < deadline:
        psutil.wait_procs(left, timeout=0.1)
    return left


def kill(processes: list[psutil.Process]) -> None:
    """Kill these processes, whoever is still there."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()


def program_environment(mark: str, env: Mapping[str, str] | None) -> dict[str, str]:
    """This process's environment without settings of bigmachine that would change the outcome."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("BIGMACHINE_")}
    return {**inherited, MARK: mark, **(env or {})}


def communicate(
    process: subprocess.Popen[str], mark: str, stdin: str | None, timeout: float
) -> subprocess.CompletedProcess[str]:
    """Wait for the program; kill all its processes and show its output when it takes too long."""
    try:
        out, err = process.communicate(stdin, timeout=timeout)
    except subprocess.TimeoutExpired:
        state = "still running" if process.poll() is None else "its output still open"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        kill(marked_processes(mark))  # they may hold the pipes open
        out, err = process.communicate(timeout=10)
        pytest.fail(f"{state} after {timeout} s\nstdout:\n{out}\nstderr:\n{err}")
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.fixture
def run_program(tmp_path: Path) -> Iterator[RunProgram]:
    """Run a Python program (a path, or its source) and return what it printed.

    ``flags`` go to the interpreter, before the program (``("-m", "pkg")`` with an empty program
    runs a module). The program must end within ``timeout`` seconds, with exit code 0 unless
    ``check`` is false, and must leave no process behind.
    """
    marks: list[str] = []

    def run(
        program: str | Path,
        *args: str,
        flags: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: str | None = None,
        timeout: float = 60.0,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        mark = uuid.uuid4().hex
        marks.append(mark)
        if isinstance(program, str) and program:
            path = tmp_path / f"program{len(marks)}.py"
            path.write_text(textwrap.dedent(program), "utf-8")
            program = path
        process = subprocess.Popen(
            [sys.executable, *flags, *([str(program)] if program else []), *args],
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="backslashreplace",
            cwd=cwd or tmp_path,
            env=program_environment(mark, env),
            start_new_session=True,
        )
        result = communicate(process, mark, stdin, timeout)
        if check:
            shown = f"stdout:\n{result.stdout}\nstderr:\n{result.stderr}"
            assert result.returncode == 0, f"exit code {result.returncode}\n{shown}"
        return result

    yield run

    left = [process for mark in marks for process in wait_until_gone(mark, GONE_SECONDS)]
    told = [f"{process.pid}: {process.cmdline()}" for process in left if process.is_running()]
    kill(left)
    assert not told, f"processes were left behind: {told}"
