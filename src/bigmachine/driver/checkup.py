"""What every system needs of the driver's own computer, looked at as a doctor does."""

from __future__ import annotations

import os
import platform
import re
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from typing import Final

import bigmachine
from bigmachine.driver import records
from bigmachine.systems.checks import Check

OLDEST_PYTHON: Final = (3, 11)
LITTLE_BYTES: Final = 1 << 30
WRONG_CLOCK_SECONDS: Final = 86400.0  # certificates are valid from a day before they are made

_PACKAGES: Final = ("cloudpickle", "cryptography", "pathspec", "psutil", "zstandard")


def checks() -> Iterator[Check]:
    """Look at the interpreter, what the library needs, the clock and its directories."""
    yield _python()
    yield _packages()
    yield _clock()
    yield _directory("cache", _cache())
    yield _directory("state", records.default_directory())


def _python() -> Check:
    version = platform.python_version()
    seen = f"{platform.python_implementation()} {version}, {sys.executable}"
    if sys.version_info[:2] < OLDEST_PYTHON:
        return Check.fail("python", seen, "use Python 3.11 or newer")
    if sys.implementation.name != "cpython":
        return Check.warn("python", seen, "bigmachine is tested with CPython alone")
    return Check.ok("python", f"{seen}, bigmachine {bigmachine.__version__}")


def _packages() -> Check:
    from importlib import import_module
    from importlib.metadata import PackageNotFoundError, version

    found: list[str] = []
    faults: dict[str, str] = {}
    for name in _PACKAGES:
        try:
            import_module(name)
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(name)
        except Exception as error:  # their code runs, and may fail in any way
            faults[name] = f"{name} ({type(error).__name__}: {error})"
    if faults:
        remedy = f"{sys.executable} -m pip install --force-reinstall {' '.join(faults)}"
        seen = f"cannot be imported: {', '.join(faults.values())}"
        return Check.fail("packages", seen, remedy)
    return Check.ok("packages", ", ".join(found))


def _clock() -> Check:
    now = time.time()
    seen = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(now))
    written = os.stat(__file__).st_mtime
    if now < written - WRONG_CLOCK_SECONDS:
        return Check.fail(
            "clock", f"{seen}, before bigmachine was installed", "set it: timedatectl set-ntp true"
        )
    return Check.ok("clock", seen)


def _cache() -> str:
    from bigmachine.image.store import default_root

    return default_root()


def _directory(name: str, path: str) -> Check:
    """Look whether a directory can be made and written, and by nobody else."""
    there = path
    while not os.path.lexists(there) and os.path.dirname(there) != there:
        there = os.path.dirname(there)
    if not os.path.isdir(there):
        return Check.fail(name, f"{there} is no directory", f"remove it, or set {_variable(name)}")
    if not os.access(there, os.W_OK | os.X_OK):
        return Check.fail(
            name,
            f"{there} cannot be written by {_user()}",
            f"set {_variable(name)} to a directory that can",
        )
    status = os.stat(there)
    if there == path and status.st_uid == os.getuid() and status.st_mode & stat.S_IWOTH:
        return Check.fail(name, f"{path} can be written by others", f"chmod go-w {path}")
    free = shutil.disk_usage(there).free
    seen = f"{path}, {free / 1e9:.1f} GB free"
    if free < LITTLE_BYTES:
        return Check.warn(name, seen, "make room on this disk: images may take some hundred MB")
    return Check.ok(name, seen)


def _variable(name: str) -> str:
    return f"XDG_{name.upper()}_HOME"


def _user() -> str:
    import getpass

    try:
        return re.sub(r"\s", "", getpass.getuser())
    except (KeyError, OSError):  # no name for this number
        return f"user {os.getuid()}"
