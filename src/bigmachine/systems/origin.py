"""Who a driver is: written on what it launches, so that others can tell whether it still lives.

What a living driver uses must never be taken for something that was left behind; so of a driver on
another computer, or in another container, nothing is said but that it is elsewhere.
"""

from __future__ import annotations

import os
import sys
import zlib
from enum import StrEnum

from bigmachine import osdep
from bigmachine.values import Value

__all__ = ["Origin", "Whereabouts"]

_SEPARATOR = "/"


class Whereabouts(StrEnum):
    """What is known of a driver."""

    LIVING = "living"
    GONE = "gone"
    """It was on this computer, and is no more."""
    ELSEWHERE = "elsewhere"
    """It is, or was, where this process cannot see it."""


class Origin(Value):
    """A driver's process, named for good. As a text of at most 80 letters it fits into a tag.

    Attributes:
        computer: Names the computer.
        boot: Names this start of it, and the set of processes that the driver is one of.
        uid: The driver's user.
        pid: Its process id.
        started: When it started, as `osdep.process_start_time` has it.
    """

    computer: str
    boot: str
    uid: int
    pid: int
    started: float

    @classmethod
    def here(cls) -> Origin:
        """Return what names this very process."""
        pid = os.getpid()
        return cls(
            computer=_computer(),
            boot=_boot(),
            uid=os.getuid(),
            pid=pid,
            started=osdep.process_start_time(pid) or 0.0,
        )

    @classmethod
    def parse(cls, text: str) -> Origin:
        """Return what ``str`` has made a text of.

        Raises:
            ValueError: It has made no such text.
        """
        computer, boot, uid, pid, started = text.split(_SEPARATOR)
        return cls(computer=computer, boot=boot, uid=int(uid), pid=int(pid), started=float(started))

    def __str__(self) -> str:
        parts = (self.computer, self.boot, self.uid, self.pid, self.started)
        return _SEPARATOR.join(map(str, parts))

    @property
    def whereabouts(self) -> Whereabouts:
        """Whether the driver lives, at this moment."""
        if self.computer != _computer():
            return Whereabouts.ELSEWHERE
        boot, _, processes = self.boot.partition("+")
        own_boot, _, own_processes = _boot().partition("+")
        if boot != own_boot:
            return Whereabouts.GONE
        if processes != own_processes:
            return Whereabouts.ELSEWHERE
        same = osdep.process_start_time(self.pid) == self.started
        return Whereabouts.LIVING if same else Whereabouts.GONE


def _computer() -> str:
    """Return what names this computer: its name alone may be another's, as may its id (clones)."""
    try:
        with open("/etc/machine-id", "rb") as file:
            machine_id = file.read()
    except OSError:  # macOS, and small containers
        machine_id = b""
    host = os.uname().nodename.encode(errors="replace")
    return f"{zlib.crc32(machine_id):08x}{zlib.crc32(host):08x}"


def _boot() -> str:
    """Return what names this start of the computer, and the processes that are seen here."""
    processes = ""
    if sys.platform == "linux":
        processes = os.readlink("/proc/self/ns/pid").partition("[")[2].rstrip("]")
    return f"{osdep.boot_id()[:18]}+{processes}"
