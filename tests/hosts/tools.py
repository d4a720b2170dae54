"""The Debian packages that test hosts are made with, and why tests that need them are skipped."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from typing import Final

PACKAGES: Final[Mapping[str, str]] = {
    "ip": "iproute2",
    "nft": "nftables",
    "mmdebstrap": "mmdebstrap",
    "ssh": "openssh-client",
    "gcc": "gcc",
    "rsync": "rsync",
    "systemd-nspawn": "systemd-container",
}
"""The programs that are needed, and the packages that they come with."""


def why_not() -> str | None:
    """Why there can be no test hosts here; None when there can."""
    if sys.platform != "linux" or not shutil.which("apt-get"):
        return "test hosts need Debian's packages and Linux"
    if os.geteuid() != 0:
        return "test hosts need root: they have networks and root file systems of their own"
    if os.environ.get("BIGMACHINE_TEST_HOSTS") == "0":
        return "test hosts are switched off by BIGMACHINE_TEST_HOSTS=0"
    if os.environ.get("CI") != "true" and os.environ.get("BIGMACHINE_TEST_HOSTS") != "1":
        return (
            "test hosts are not made unasked, since they install Debian packages and set up a"
            " bridge: set BIGMACHINE_TEST_HOSTS=1"
        )
    return None


@functools.cache
def install() -> None:
    """Install the packages that are lacking."""
    lacking = [package for program, package in PACKAGES.items() if not shutil.which(program)]
    if not lacking:
        return
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "update", "-qq"],
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *lacking],
    ):
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
