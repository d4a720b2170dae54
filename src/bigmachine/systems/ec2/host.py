"""The host: one instance, as the driver sees it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Final

from bigmachine.addresses import Address
from bigmachine.death import DeathKind
from bigmachine.errors import ProvisionError
from bigmachine.systems.base import Host

if TYPE_CHECKING:
    from bigmachine.systems.ec2.instances import Instance, Watcher
    from bigmachine.systems.ec2.terminator import Terminator

METADATA: Final = "169.254.169.254:80"
"""Where an instance learns of itself."""
CONNECT_SECONDS: Final = 3.0


class EC2Host(Host):
    """One instance.

    Args:
        host_id: What the cluster calls it.
        instance: What is known of it.
        ip: Where it is reached.
        port: At which port.
        watcher: Who asks EC2 what has become of it.
        terminator: Who ends it.
    """

    cause_seconds = 3.0  # to ask EC2, and for it to know
    metadata = METADATA

    def __init__(
        self,
        host_id: str,
        instance: Instance,
        ip: str,
        port: int,
        *,
        watcher: Watcher,
        terminator: Terminator,
    ) -> None:
        self.id = host_id
        self.instance = instance
        self.ip = ip
        self._port = port
        self._watcher = watcher
        self._terminator = terminator
        self.address = str(Address(kind="tls", host=ip, port=port, subject=host_id))

    @property
    def place(self) -> str:
        """Where it is reached, for a person."""
        return f"[{self.ip}]:{self._port}" if ":" in self.ip else f"{self.ip}:{self._port}"

    async def connect(self) -> socket.socket:
        """Return a socket to the instance; see `Host.connect`."""
        if self.instance.ended.is_set():
            raise ProvisionError(
                f"the instance {self.instance.id} has ended: {self.instance.reason}",
                system="ec2",
                requested=1,
                started=0,
                temporary=True,
            )
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in self.ip else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await loop.sock_connect(sock, (self.ip, self._port))
        except BaseException:
            sock.close()
            raise
        return sock

    async def stop(self, timeout: float) -> None:
        """Terminate the instance; see `Host.stop`."""
        self._terminator.end(self.instance.id)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._terminator.wait()

    def kill(self) -> None:
        """Terminate the instance; see `Host.kill`."""
        self._terminator.end_now(self.instance.id)

    async def wait_closed(self) -> None:
        """Return when EC2 says that the instance has ended, or is about to."""
        self._watcher.wake()
        await self.instance.ended.wait()

    def cause(self) -> str:
        """Return why it ended, as EC2 says."""
        if self.instance.is_reclaimed:
            return f"AWS took the spot instance {self.instance.id} back"
        return f"{self.instance.id}: {self.instance.reason}" if self.instance.reason else ""

    def take_notice(self, notice: str) -> None:
        """Take note that AWS wants it back, of which the instance knows first."""
        del notice
        self._watcher.notice(self.instance)

    def death_kind(self) -> DeathKind | None:
        """Return ``spot`` where AWS took it back."""
        return DeathKind.SPOT if self.instance.is_reclaimed else None
