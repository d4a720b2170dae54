"""Takes down what a run of tests has set up, also when the run was killed.

A run has a directory below `BASE` with the process that owns it (``owner``) and all that it has
made: processes (``processes/``, one file each) and the names of its interfaces and packet filters
(``names``). Whatever a host holds beside these (mounts, addresses, its own processes) is in
namespaces that end with the host's first process.

As a program, ``warden.py DIRECTORY``, it waits for the owner's end and then takes the run down.
`sweep` does so for runs whose warden was killed as well. Standard library alone: it is started with
``-I -S``, so that it costs little.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

BASE: Final = Path("/run/bigmachine-test-hosts")
PREFIX: Final = "bmt"
"""What the names of our interfaces and tables begin with."""

GONE_SECONDS: Final = 10.0
"""How long killed processes may take to be gone."""


def identity(pid: int) -> str | None:
    """A text that names this very process, whatever runs under its number later."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    # The state and the start time: a zombie is gone.
    return None if fields[0] in "ZX" else f"{pid} {fields[19]}"


def note_process(directory: Path, pid: int) -> None:
    """Remember a process that ends with the run."""
    noted = directory / "processes" / str(pid)
    noted.write_text(identity(pid) or "", "ascii")


def forget_process(directory: Path, pid: int) -> None:
    """Forget a process that was waited for."""
    (directory / "processes" / str(pid)).unlink(missing_ok=True)


def kill(wanted: str) -> None:
    """Kill a process if it is still the one that was noted, and wait until it is gone."""
    if not wanted or identity(pid := int(wanted.split()[0])) != wanted:
        return
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            os.kill(pid, signal.SIGKILL)
            select.select([descriptor], [], [], GONE_SECONDS)
        finally:
            os.close(descriptor)


def take_down(directory: Path) -> None:
    """End and remove everything that a run has made."""
    for noted in directory.glob("processes/*"):
        with contextlib.suppress(FileNotFoundError):
            kill(noted.read_text("ascii"))
    names = directory.joinpath("names")
    for line in names.read_text("ascii").splitlines() if names.exists() else ():
        kind, _, name = line.partition(" ")
        if not name.startswith(PREFIX):
            continue
        command = {
            "link": ["ip", "link", "delete", name],
            "table": ["nft", "delete", "table", "bridge", name],
        }[kind]
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    shutil.rmtree(directory, ignore_errors=True)


def sweep(base: Path = BASE) -> None:
    """Take down the runs whose owner is no more."""
    for directory in base.glob("*"):
        try:
            owner = directory.joinpath("owner").read_text("ascii")
        except OSError:
            # Just being made, or half taken down: a minute tells.
            with contextlib.suppress(OSError):
                if time.time() - directory.stat().st_mtime > 60:
                    take_down(directory)
            continue
        if identity(int(owner.split()[0])) != owner:
            take_down(directory)


def main(directory: Path) -> None:
    """Wait for the owner's end, then take the run down."""
    owner = directory.joinpath("owner").read_text("ascii")
    try:
        descriptor = os.pidfd_open(int(owner.split()[0]))
    except ProcessLookupError:
        pass
    else:
        if identity(int(owner.split()[0])) == owner:
            select.select([descriptor], [], [])
    take_down(directory)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
