"""Root file systems of Debian, made once and kept between runs.

They are kept in the directory that ``BIGMACHINE_TEST_ROOTS`` names, by default in the user's cache,
about 250 MB each; making one takes half a minute. A root is named by all that it was made of, so a
change of its packages makes a new one. Hosts lay a file system of their own over it and never
write to it.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from . import tools

SUITES: Final = {(3, 11): "bookworm", (3, 13): "trixie"}
"""The release of Debian whose python3 is of a version."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """What a root file system is made of.

    Attributes:
        suite: The release of Debian.
        packages: What is in it beside the essential packages.
        commands: What mmdebstrap runs in the end, with the root as ``$1``.
    """

    suite: str
    packages: tuple[str, ...]
    commands: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        digest = hashlib.sha256(repr(self).encode()).hexdigest()[:12]
        return f"{self.suite}-{digest}"


WORKER: Final = 'chroot "$1" useradd --create-home --shell /bin/bash --password "*" worker'
"""A user who is not root."""

PRUNE: Final = 'rm -rf "$1"/usr/share/doc "$1"/usr/share/man "$1"/usr/share/locale'

BARE: Final = Root(
    suite="bookworm",
    packages=("python3", "openssh-server", "ca-certificates"),
    commands=(WORKER, PRUNE),
)
"""A Debian with nothing but python3 (3.11), reached by SSH."""

LOOK_AT_HARDWARE: Final = (
    "sed -i 's/if is_container():/if False:/' \"$1\"/usr/lib/python3/dist-packages/cloudinit/dmi.py"
)
"""cloud-init asks for the hardware's maker in a container, too, and so finds that it is on EC2."""

CLOUD: Final = Root(
    suite="bookworm",
    packages=(
        "python3",
        "openssh-server",
        "ca-certificates",
        "systemd",
        "systemd-sysv",
        "dbus",
        "iproute2",
        "cloud-init",
    ),
    commands=(WORKER, PRUNE, LOOK_AT_HARDWARE),
)
"""A Debian as a cloud has it: systemd, cloud-init."""


def bare(**changes: str | tuple[str, ...]) -> Root:
    """The bare root whose python3 is of this interpreter's version, where Debian has one."""
    suite = SUITES.get(sys.version_info[:2], BARE.suite)
    return dataclasses.replace(BARE, suite=suite, **changes)  # type: ignore[arg-type]


def directory() -> Path:
    """Where the roots are kept."""
    named = os.environ.get("BIGMACHINE_TEST_ROOTS")
    if named:
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "bigmachine-test-roots"


def get(root: Root) -> Path:
    """Return the directory of a root, made first if it is not there."""
    kept = directory()
    made = kept / root.name
    if made.exists():
        return made
    kept.mkdir(parents=True, exist_ok=True)
    with open(kept / f"{root.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            _make(root, made)
    return made


def _make(root: Root, made: Path) -> None:
    """Make a root beside its place and move it there when it is whole."""
    tools.install()
    making = made.with_name(made.name + ".making")
    shutil.rmtree(making, ignore_errors=True)
    hooks = [f"--customize-hook={command}" for command in root.commands]
    command = [
        "mmdebstrap",
        "--quiet",
        "--mode=root",
        "--variant=minbase",
        f"--include={','.join(root.packages)}",
        *hooks,
        root.suite,
        str(making),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    os.rename(making, made)
