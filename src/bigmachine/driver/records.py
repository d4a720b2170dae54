"""What clusters there are: a file for each, in the user's state directory, while it is open.

``bigmachine ps`` lists them. The driver holds a lock on its file, and removes it at the end; the
file of a driver that was killed stays, so that ``bigmachine gc`` knows where to look for what it
may have left. The next cluster removes those that can have left nothing, ``bigmachine ps`` those
whose hosts, on this computer, have ended.

A file is replaced as a whole, by one that is locked already: whoever finds an unlocked file at its
place knows that its driver is gone, or has ended that cluster. A child that the driver has forked
shares the lock, so it is also looked at whether the driver's process lives. Nothing here ever fails
a program: where the directory cannot be written, there is no record.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, Final

from bigmachine.systems.origin import Origin, Whereabouts
from bigmachine.values import Value, hidden

__all__ = ["Record", "Standing", "default_directory", "records", "remove"]

FORGET_SECONDS: Final = 30 * 86400.0
"""After this long a record that nothing can be found out about is of no use to anybody."""
_VERSION: Final = 1
_ANSWER_SECONDS: Final = 0.5  # for a host of this computer to take a connection
_TRIES: Final = 5  # to read a file that is being replaced


class Standing(StrEnum):
    """What is known of a cluster."""

    OPEN = "open"
    GONE = "gone"
    """Its driver has ended without ending it."""
    ELSEWHERE = "elsewhere"
    """Its driver is, or was, on another computer that shares this directory."""


class Record(Value):
    """What is known of one cluster.

    Attributes:
        name: The cluster's name.
        origin: Its driver.
        program: What the driver runs.
        system: The name of its system.
        options: With these the system finds what is left of it (`System.recorded`).
        is_here: Whether its hosts are the driver's computer.
        started: When, in seconds since the epoch.
        hosts: The addresses of its hosts, by their ids.
    """

    name: str
    origin: Origin
    program: str
    system: str
    options: Mapping[str, Any] = hidden(default_factory=dict)
    is_here: bool = False
    started: float = 0.0
    hosts: Mapping[str, str | None] = {}

    def encode(self) -> bytes:
        """Return it as a file holds it."""
        content = {
            "v": _VERSION,
            "name": self.name,
            "origin": str(self.origin),
            "pid": self.origin.pid,
            "program": self.program,
            "system": self.system,
            "options": dict(self.options),
            "is_here": self.is_here,
            "started": self.started,
            "hosts": dict(self.hosts),
        }
        return json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")

    @classmethod
    def decode(cls, data: bytes) -> Record:
        """Read what a file holds.

        Raises:
            ValueError: It holds something else.
        """
        content = json.loads(data)
        try:
            return cls(
                name=str(content["name"]),
                origin=Origin.parse(content["origin"]),
                program=str(content["program"]),
                system=str(content["system"]),
                options=dict(content["options"]),
                is_here=bool(content["is_here"]),
                started=float(content["started"]),
                hosts=dict(content["hosts"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no record of a cluster: {error!r}") from error


def default_directory() -> str:
    """Return where this user's records are."""
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(home, "bigmachine", "clusters")


def records(directory: str | None = None) -> Iterator[tuple[str, Record, Standing]]:
    """Yield the path of each record, what it says, and what is known of the cluster; oldest first.

    Args:
        directory: Where they are; None: `default_directory`.
    """
    base = directory or default_directory()
    found = []
    for name in _names(base):
        path = os.path.join(base, name)
        with contextlib.suppress(OSError, ValueError):
            found.append((path, *_read(path)))
    found.sort(key=lambda each: each[1].started)
    yield from found


def path_of(record: Record, directory: str) -> str:
    """Return where a new record belongs."""
    letters = (char if char.isalnum() or char in "-_" else "-" for char in record.name)
    plain = "".join(letters)[:60]
    return os.path.join(directory, f"{plain}-{record.origin.pid}-{os.urandom(3).hex()}.json")


def remove(path: str) -> None:
    """Remove a record, of a cluster that is not open. Idempotent."""
    with contextlib.suppress(OSError):
        os.unlink(path)


def remove_ended(directory: str | None = None) -> None:
    """Remove the records of clusters of this computer whose driver and hosts have ended.

    What a host may have left all the same, ``bigmachine gc`` finds without a record.

    Args:
        directory: Where they are; None: `default_directory`.
    """
    for path, record, standing in records(directory):
        if standing is Standing.GONE and record.is_here:
            if any(_may_live(address) for address in record.hosts.values()):
                continue
            remove(path)


def _may_live(address: str | None) -> bool:
    """Whether the supervisor of a host of this computer may live: it holds its directory's lock.

    Of one with TLS the address does not tell where that is; but somebody answers there.
    """
    kind, _, endpoint = (address or "").partition("#")[0].partition(":")
    if kind == "unix":
        with contextlib.suppress(OSError):
            lock = os.path.join(os.path.dirname(endpoint), "lock")
            descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
            with os.fdopen(descriptor):
                return not _try_lock(descriptor, fcntl.LOCK_EX)
        return False
    if kind == "tls":
        host, _, port = endpoint.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), _ANSWER_SECONDS).close()
        except ConnectionRefusedError:
            return False
        except (OSError, ValueError):
            return True
        return True
    return False


def _names(directory: str) -> list[str]:
    try:
        return [name for name in os.listdir(directory) if name.endswith(".json")]
    except OSError:
        return []


def _read(path: str) -> tuple[Record, Standing]:
    """Read a record and find out whether it is locked.

    Raises:
        OSError: It is not there any more.
        ValueError: It is none.
    """
    for _ in range(_TRIES):
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as file:
            is_locked = not _try_lock(descriptor)
            if os.stat(path).st_ino != os.fstat(descriptor).st_ino:
                continue  # replaced meanwhile
            record = Record.decode(file.read())
            return record, _standing(record.origin.whereabouts, is_locked=is_locked)
    raise FileNotFoundError(path)


def _standing(whereabouts: Whereabouts, *, is_locked: bool) -> Standing:
    if whereabouts is Whereabouts.GONE:
        return Standing.GONE
    if is_locked:
        return Standing.OPEN
    return Standing.GONE if whereabouts is Whereabouts.LIVING else Standing.ELSEWHERE


def _try_lock(descriptor: int, how: int = fcntl.LOCK_SH) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def write_locked(path: str, data: bytes) -> int:
    """Put a file in its place that is locked; return the descriptor that holds the lock."""
    new = f"{path}.new"
    descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(descriptor, data)
        os.rename(new, path)
    except BaseException:
        os.close(descriptor)
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise
    return descriptor


def remove_useless(directory: str) -> None:
    """Remove the records of clusters that can have left nothing, and those nobody knows of."""
    for path, record, standing in records(directory):
        is_old = time.time() - record.started > FORGET_SECONDS
        if (standing is Standing.GONE and record.is_here) or (
            standing is Standing.ELSEWHERE and is_old
        ):
            remove(path)
