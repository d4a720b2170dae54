"""A driver program that a test runs, talks to, and does things to.

Its processes are found by a mark in the environment that they all inherit (`conftest.MARK`): that
finds machines, which lead sessions of their own, and what a dead driver has left behind, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import psutil

from .conftest import kill, marked_processes, program_environment, wait_until_gone

LIMIT_SECONDS: Final = 30.0
"""How long anything may take before the test fails."""

SLACK: Final = 4
"""By how much a limit of time is exceeded before a test fails: other tests run beside this one."""

GONE_SECONDS: Final = 1.0
"""How long after a driver's end something of its cluster may be left."""

PRELUDE: Final = """
import asyncio, ctypes, gc, json, os, re, signal, subprocess, sys, threading, time
import bigmachine as bm
from bigmachine.systems import Local

hold_lock = ctypes.PyDLL(None).usleep  # sleeps with the interpreter lock held; microseconds


def say(*words):
    print(*words, flush=True)


def listen():
    return sys.stdin.readline().strip()


class Probe:
    '''What the tests of this directory ask of a machine.'''

    def pid(self):
        return os.getpid()

    def echo(self, value):
        return value

    def block(self, seconds=60.0):
        threading.Event().wait(seconds)

    def hold(self, seconds):
        hold_lock(int(seconds * 1e6))

    def write(self, *lines):
        for line in lines:
            print(line)
"""
"""What the programs of these tests begin with."""


class Driven:
    """A program that runs.

    Args:
        command: Its command line.
        cwd: Where it runs.
        env: Changes to its environment.
        options: More for `subprocess.Popen`.
    """

    def __init__(
        self, command: Sequence[str], cwd: Path, env: Mapping[str, str] | None, **options: Any
    ) -> None:
        self.mark = uuid.uuid4().hex
        self._lines: dict[str, list[str]] = {"stdout": [], "stderr": []}
        self._changed = threading.Condition()
        environ = program_environment(self.mark, env)
        environ.pop("PYTHONUNBUFFERED", None)
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="backslashreplace",
            cwd=cwd,
            env=environ,
            **{"start_new_session": True, **options},
        )
        self._readers = [
            threading.Thread(target=self._read, args=(name,), daemon=True) for name in self._lines
        ]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def stdout(self) -> str:
        """What it has written so far."""
        return "\n".join(self._lines["stdout"])

    @property
    def stderr(self) -> str:
        return "\n".join(self._lines["stderr"])

    def expect(self, pattern: str, timeout: float = LIMIT_SECONDS) -> re.Match[str]:
        """Wait for a line of its stdout that matches, after those that were expected before."""
        found: list[re.Match[str]] = []

        def look() -> bool:
            while self._seen < len(self._lines["stdout"]) and not found:
                match = re.search(pattern, self._lines["stdout"][self._seen])
                self._seen += 1
                if match:
                    found.append(match)
            return bool(found) or not self._readers[0].is_alive()

        with self._changed:
            self._changed.wait_for(look, timeout)
        assert found, f"no line matches {pattern!r}\n{self.shown()}"
        return found[0]

    def record(self, name: str, timeout: float = LIMIT_SECONDS) -> Any:
        """Wait for the line ``name {json}`` and return what it says."""
        return json.loads(self.expect(rf"^{re.escape(name)} (.*)$", timeout)[1])

    def tell(self, line: str) -> None:
        """Write a line to its stdin."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def wait(self, timeout: float = LIMIT_SECONDS) -> int:
        """Wait for the driver's end and return its exit code."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout} s\n{self.shown()}") from None
        for reader in self._readers:
            reader.join(LIMIT_SECONDS)
        return code

    def processes(self) -> list[psutil.Process]:
        """All of its processes, the driver among them."""
        return marked_processes(self.mark)

    def supervisors(self) -> list[psutil.Process]:
        """Its supervisors: children of the driver that lead a session."""
        return [each for each in self.processes() if "host.headstart" in _command(each)]

    def hosted(self) -> list[psutil.Process]:
        """Its templates and machines: a fork has the command line of its template."""
        return [each for each in self.processes() if "host.template" in _command(each)]

    def assert_gone(
        self, timeout: float = GONE_SECONDS * SLACK, *, but: Sequence[int] = ()
    ) -> None:
        """Check that none of its processes is left after some seconds."""
        deadline = time.monotonic() + timeout
        while True:
            left = [each for each in self.processes() if each.pid not in but]
            if not left:
                return
            if time.monotonic() > deadline:
                break
            psutil.wait_procs(left, timeout=0.05)
        told = [f"{each.pid} {each.status()}: {_command(each)[-80:]}" for each in left]
        raise AssertionError(f"left after {timeout:.1f} s: {told}\n{self.shown()}")

    def shown(self) -> str:
        """Its output, for a failed test."""
        return f"stdout:\n{self.stdout}\nstderr:\n{self.stderr}"

    def end(self) -> None:
        """Kill whatever is left of it."""
        kill(wait_until_gone(self.mark, 0.0))
        self.process.wait(LIMIT_SECONDS)
        for reader in self._readers:
            reader.join(LIMIT_SECONDS)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):  # what was told to a dead program
                    stream.close()

    _seen = 0

    def _read(self, name: str) -> None:
        stream = getattr(self.process, name)
        for line in stream:
            with self._changed:
                self._lines[name].append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()


@contextlib.contextmanager
def driven(
    source: str,
    tmp_path: Path,
    *args: str,
    env: Mapping[str, str] | None = None,
    flags: Sequence[str] = (),
    **options: Any,
) -> Iterator[Driven]:
    """Run a program given by its source, after `PRELUDE`; kill what is left of it at the end."""
    path = tmp_path / f"driven{uuid.uuid4().hex[:8]}.py"
    path.write_text(PRELUDE + textwrap.dedent(source), "utf-8")
    # Sockets and directories where the test can look for what is left of them.
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o700, exist_ok=True)
    changed = {"XDG_RUNTIME_DIR": str(runtime), **(env or {})}
    program = Driven([sys.executable, *flags, str(path), *args], tmp_path, changed, **options)
    try:
        yield program
    finally:
        program.end()


def leftovers(tmp_path: Path) -> list[str]:
    """The directories, sockets and locks that supervisors have left."""
    return sorted(str(each) for each in (tmp_path / "run" / "bigmachine").glob("*"))


def wait_until(condition: Callable[[], object], timeout: float = LIMIT_SECONDS) -> None:
    """Wait for a condition that nobody announces, looking every 10 ms."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s"
        threading.Event().wait(0.01)


def _command(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def exists(pid: int) -> bool:
    """Whether a process lives, zombies not counted."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def send(pid: int, sig: int) -> float:
    """Send a signal to a process; return when (`time.monotonic`)."""
    os.kill(pid, sig)
    return time.monotonic()
