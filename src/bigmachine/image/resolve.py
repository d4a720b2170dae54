"""Compiled distributions for another platform: the same versions, had by ``uv``.

A distribution that was compiled for the driver's computer does not run on every host. The index
that the driver's own environment came from usually has the same version for the host's platform,
too; ``uv`` finds and unpacks it here, whatever this computer is. What cannot be had is named, with
the choice that the user has.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from bigmachine.errors import ProvisionError

if TYPE_CHECKING:
    from bigmachine.image.platforms import Platform

AT_ONCE: Final = 4
"""How many distributions are looked for at a time."""
LIMIT_SECONDS: Final = 600.0
"""How long one of them may take."""

_LAST_LINES: Final = 6


def resolve(
    wanted: Iterable[tuple[str, str]], platform: Platform, directory: str
) -> dict[str, str]:
    """Have distributions unpacked for a platform; blocks until all are there.

    Args:
        wanted: Names and versions.
        platform: Where they are to run.
        directory: Where they are put, and kept for the next time.

    Returns:
        For each name the directory that corresponds to its ``site-packages``.

    Raises:
        ProvisionError: One or more cannot be had. All are named.
    """
    jobs = sorted(set(wanted))
    places = {job: _place(job, platform, directory) for job in jobs}
    lacking = [job for job in jobs if not os.path.isdir(places[job])]
    problems: list[str] = []
    if lacking:
        uv = find_uv(platform)
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="bigmachine-uv") as pool:
            problems = list(pool.map(lambda job: _install(uv, job, platform, places[job]), lacking))
    missing = [
        f"{name}=={version} ({problem})"
        for (name, version), problem in zip(lacking, problems, strict=True)
        if problem
    ]
    if missing:
        raise ProvisionError(
            f"not every distribution of the program is to be had for {platform}: "
            + "; ".join(missing),
            system="image",
            requested=len(jobs),
            started=len(jobs) - len(missing),
            remedy="use a version that is published as a wheel for that platform, leave the "
            "distribution out of the image, or use hosts of the driver's own platform",
        )
    return {name: places[name, version] for name, version in jobs}


def _place(job: tuple[str, str], platform: Platform, directory: str) -> str:
    kind = f"{platform.uv_name}-py{platform.python[0]}.{platform.python[1]}"
    return os.path.join(directory, kind, "-".join(job))


def find_uv(platform: Platform) -> str:
    """Return the path of ``uv``.

    Args:
        platform: What it is wanted for; for the message.

    Raises:
        ProvisionError: It is not installed, or has no name for the platform.
    """
    here = os.path.join(os.path.dirname(sys.executable), "uv")
    found = here if os.access(here, os.X_OK) else shutil.which("uv")
    if found is not None and platform.uv_name:
        return found
    remedy = "use hosts of the driver's own platform"
    if found is None:
        remedy = f"pip install uv, which the extra bigmachine[cross] brings, or {remedy}"
    raise ProvisionError(
        f"the host is {platform}, which the driver is not: its distributions have to be resolved "
        f"for it by uv, which {'is not installed' if found is None else 'does not know it'}",
        system="image",
        requested=1,
        started=0,
        remedy=remedy,
    )


def _install(uv: str, job: tuple[str, str], platform: Platform, place: str) -> str:
    """Unpack one distribution; return why that failed, or ""."""
    name, version = job
    os.makedirs(os.path.dirname(place), exist_ok=True)
    with tempfile.TemporaryDirectory(dir=os.path.dirname(place), prefix=".new-") as directory:
        problem = _run(uv, f"{name}=={version}", platform, os.path.join(directory, "new"))
        if not problem:
            with contextlib.suppress(OSError):  # somebody else was faster
                os.rename(os.path.join(directory, "new"), place)
    return problem


def _run(uv: str, requirement: str, platform: Platform, target: str) -> str:
    command = [
        uv,
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--link-mode=copy",
        f"--python={sys.executable}",
        f"--python-platform={platform.uv_name}",
        f"--python-version={platform.python[0]}.{platform.python[1]}",
        f"--target={target}",
        requirement,
    ]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=LIMIT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"nothing was found within {LIMIT_SECONDS:g} s"
    if done.returncode == 0:
        return ""
    lines = done.stdout.decode("utf-8", "replace").split("\n")
    words = " ".join(" ".join(lines[-_LAST_LINES - 1 :]).split())
    return words.removeprefix("error: ") or f"uv ended with exit code {done.returncode}"
