"""The driver's hand in the records of clusters (`driver.records`).

Light, since every start has to wait for it: what it takes to write is imported by the thread that
writes, while the hosts come up.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["Recorder"]

logger = logging.getLogger(__name__)

_JOIN_SECONDS: Final = 0.2


class Recorder:
    """The driver's record of one cluster.

    Methods may be called from any thread, and return at once: a thread of its own writes, which
    ends when it has nothing more to do.

    Args:
        details: What is known at the beginning: ``name``, ``program``, ``system``, ``options`` and
            ``is_here`` of a `records.Record`.
        directory: Where the record is to be; None: `records.default_directory`.
    """

    def __init__(self, details: Mapping[str, Any], directory: str | None = None) -> None:
        self._details = details
        self._started = time.time()
        self._hosts: dict[str, str | None] = {}
        self._directory = directory
        self._path = ""
        self._lock_fd = -1
        self._state = threading.Lock()
        self._writing = threading.Lock()  # held while the file is touched
        self._changed = False
        self._busy = False
        self._closed = False
        self._writer: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"<Recorder {self._path or 'unwritten'}>"

    def open(self) -> None:
        """Note that there is such a cluster. Idempotent."""
        if self._writer is None:
            self._note()

    def add(self, host_id: str, address: str | None) -> None:
        """Note a host."""
        with self._state:
            self._hosts[host_id] = address
        self._note()

    def remove(self, host_id: str) -> None:
        """Note that a host has ended. Idempotent."""
        with self._state:
            known = host_id in self._hosts
            self._hosts.pop(host_id, None)
        if known:
            self._note()

    def close(self) -> None:
        """Remove the record: the cluster has ended. Idempotent."""
        with self._state:
            if self._closed:
                return
            self._closed = True
        with self._writing:
            if self._lock_fd >= 0:
                with contextlib.suppress(OSError):
                    os.unlink(self._path)
                os.close(self._lock_fd)
                self._lock_fd = -1
        if self._writer is not None:
            self._writer.join(_JOIN_SECONDS)

    def _note(self) -> None:
        with self._state:
            self._changed = True
            if self._busy or self._closed:
                return
            self._busy = True
        writer = threading.Thread(target=self._write, name="bigmachine-record", daemon=True)
        self._writer = writer
        with contextlib.suppress(RuntimeError):  # the interpreter ends
            writer.start()

    def _write(self) -> None:
        while True:
            with self._state:
                if self._closed or not self._changed:
                    self._busy = False
                    return
                self._changed = False
                hosts = dict(self._hosts)
            try:
                self._replace(hosts)
            except (OSError, ValueError, TypeError) as error:
                logger.debug("no record of cluster %s: %s", self._details["name"], error)

    def _replace(self, hosts: Mapping[str, str | None]) -> None:
        from bigmachine.driver import records
        from bigmachine.systems.origin import Origin

        record = records.Record(
            **self._details, origin=Origin.here(), started=self._started, hosts=hosts
        )
        first = not self._path
        if first:
            directory = self._directory or records.default_directory()
            os.makedirs(directory, mode=0o700, exist_ok=True)
            self._path = records.path_of(record, directory)
        with self._writing:
            if self._closed:
                return
            descriptor = records.write_locked(self._path, record.encode())
            before, self._lock_fd = self._lock_fd, descriptor
        if before >= 0:
            os.close(before)
        if first:
            records.remove_useless(os.path.dirname(self._path))
