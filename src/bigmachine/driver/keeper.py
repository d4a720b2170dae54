"""The keeper as the driver sees it: a process of its own that renews the leases of hosts elsewhere.

See `bigmachine.driver.keeping`, which runs there.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from bigmachine.host import frames
from bigmachine.host.entry import KEEPER_STUB, package_root

if TYPE_CHECKING:
    from bigmachine.security.credentials import Credentials

logger = logging.getLogger(__name__)

_END_SECONDS: Final = 1.0
_BUFFER_BYTES: Final = 1 << 20  # for orders that the process has not read yet


class Keeper:
    """The keeper's process, started when the first host needs it. Nothing here blocks but `close`.

    Where it has been killed, the next host starts another one, which keeps all of them.

    Args:
        credentials: The driver's.
    """

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._process: subprocess.Popen[bytes] | None = None
        self._link: socket.socket | None = None
        self._hosts: dict[str, Mapping[str, Any]] = {}

    def __repr__(self) -> str:
        pid = None if self._process is None else self._process.pid
        return f"<Keeper {pid}>"

    @property
    def pid(self) -> int | None:
        """Its process; None before the first host."""
        return None if self._process is None else self._process.pid

    def add(
        self,
        host_id: str,
        address: str,
        *,
        period: float,
        timeout: float,
        tunnel: str | None = None,
        direct: bool = True,
    ) -> None:
        """Keep a host alive.

        Args:
            host_id: Which.
            address: Where its supervisor is.
            period: How often, in seconds.
            timeout: How long a renewal is good for, in seconds.
            tunnel: The gateway that leads there, if there is one.
            direct: Whether it may be reached directly all the same.
        """
        self._hosts[host_id] = {
            "do": "add",
            "id": host_id,
            "address": address,
            "period": period,
            "timeout": timeout,
            "tunnel": tunnel,
            "direct": direct,
        }
        if self._process is not None and self._process.poll() is None:
            self._send(self._hosts[host_id])
            return
        self._start()
        for order in self._hosts.values():
            self._send(order)

    def remove(self, host_id: str) -> None:
        """Keep a host alive no longer. Idempotent."""
        self._hosts.pop(host_id, None)
        if self._link is not None:
            self._send({"do": "remove", "id": host_id})

    def close(self) -> None:
        """End the process. Idempotent; from any thread; waits a second at most."""
        link, self._link = self._link, None
        process, self._process = self._process, None
        if link is not None:
            link.close()
        if process is not None:
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start(self) -> None:
        if self._link is not None:
            self._link.close()
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        ours.setblocking(False)
        command = [sys.executable, "-I", "-S", "-c", KEEPER_STUB]
        with theirs:
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno()), package_root()],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._link = ours
        self._send(
            {
                "credentials": asdict(self._credentials),
                "driver_pid": os.getpid(),
                "sys_path": [entry for entry in sys.path if isinstance(entry, str)],
            }
        )

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._link is not None
        with contextlib.suppress(OSError):  # it has ended, which the host's own lease will tell
            self._link.sendall(frames.frame(json.dumps(message).encode()))
