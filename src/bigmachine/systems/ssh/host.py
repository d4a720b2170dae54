"""A host that the switchboard holds, as the driver sees it.

What always holds: a host is held by a socket to the switchboard (`line`); when that is closed, by
`SSHHost.kill`, by the end of this process or by anything else, what runs on the host is ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from bigmachine.systems.base import Host
from bigmachine.systems.ssh import host_problems
from bigmachine.systems.ssh.order import LOOPBACK
from bigmachine.systems.ssh.problems import HostError

if TYPE_CHECKING:
    from bigmachine.systems.ssh.board import LineHolder
    from bigmachine.systems.ssh.hosts import HostName

DIRECT_SECONDS: Final = 1.5
"""How long a host may take to be reached directly, until it is a tunnel."""

_FRESH_SECONDS: Final = 1.0  # a connection may be kept so long before it says what it wants
_REJOIN_SECONDS: Final = 0.2  # between attempts to reach a host anew


class SSHHost(Host):
    """A host that the switchboard holds.

    Args:
        name: As the user names it.
        host_id: As the cluster does.
        line: The driver's end of its line.
        up: What the switchboard said when it was up.
        tunnel: The switchboard's Unix socket.
        lease_seconds: How long what runs on it lives without a word of the driver's.
    """

    def __init__(
        self,
        name: HostName,
        host_id: str,
        line: LineHolder,
        up: Mapping[str, Any],
        *,
        tunnel: str,
        lease_seconds: float,
    ) -> None:
        self.id = host_id
        self.name = name
        self.facts: Mapping[str, Any] = up["facts"]
        self.gateway = up["gateway"]
        self.tunnel = tunnel
        self.direct = bool(up["direct"])
        self._place = Place(up["address"] or name.name, int(up["facts"]["port"]))
        self._line = line
        self._probe: tuple[float, socket.socket] | None = None
        self._lease_seconds = lease_seconds
        self._following: asyncio.Task[None] | None = None
        self._cause = ""
        self._released = False

    # The ways to it

    async def find_way(self, tunnel: Literal["auto", "always", "never"]) -> None:
        """Find out whether the host is reached directly, else see that a tunnel works.

        Raises:
            HostError: There is no way that is allowed.
        """
        reason = "it is behind another host"
        if tunnel == "always":
            self.direct = False
        elif self.direct or tunnel == "never":
            reason = await self._try_directly()
            self.direct = not reason
        if tunnel == "never":
            self.tunnel = None
            if not self.direct:
                where = str(self._place)
                raise HostError(
                    host_problems.NOT_DIRECT.of(self.name.text, place=where, reason=reason)
                )
        elif not self.direct:
            await self._try_tunnel()
        self.address = self._place.address(self.id, tunnelled=tunnel == "always")

    async def _try_directly(self) -> str:
        """Connect, and keep the socket for the first use; return why it did not work, or ""."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(DIRECT_SECONDS):
                self._probe = (loop.time(), await self._place.connect())
        except TimeoutError:
            return f"no answer within {DIRECT_SECONDS:g} s"
        except OSError as error:
            return error.strerror or str(error)
        return ""

    async def _try_tunnel(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._probe = (loop.time(), await self._through())
        except OSError as error:
            problem = host_problems.NO_TUNNEL.of(self.name.text, str(error))
            raise HostError(problem) from error

    async def connect(self) -> socket.socket:
        """Return a socket to the host's endpoint; see `Host.connect`."""
        probe, self._probe = self._probe, None
        if probe is not None:
            since, sock = probe
            if asyncio.get_running_loop().time() - since < _FRESH_SECONDS:
                return sock
            sock.close()
        if self.direct:
            return await self._place.connect()
        return await self._through()

    async def _through(self) -> socket.socket:
        from bigmachine.rpc.dialer import connect_through

        assert self.tunnel is not None
        return await connect_through(self.tunnel, self.id)

    async def rejoin(self) -> bool:
        """Wait until a tunnel leads to it again; see `Host.rejoin`."""
        while not (self.direct or self._released or self._has_ended):
            try:
                sock = await self._through()
            except OSError:
                await asyncio.sleep(_REJOIN_SECONDS)
            else:
                self._drop_probe()
                self._probe = (asyncio.get_running_loop().time(), sock)
                return True
        return False

    # Its end

    def follow(self) -> None:
        """Begin to listen to what becomes of it."""
        self._following = asyncio.ensure_future(self._follow())

    async def _follow(self) -> None:
        """Return when the host has ended, or was out of reach for as long as its lease."""
        end: float | None = None
        try:
            while True:
                async with asyncio.timeout_at(end):
                    message = await self._line.receive()
                if message is None:
                    return
                if "ended" in message:
                    self._cause = _cause(message["ended"])
                    return
                if "back" in message:
                    end, self._cause = None, ""
                elif "away" in message:
                    if end is None and not self.direct:
                        end = asyncio.get_running_loop().time() + self._lease_seconds
                    why = f": {message['away']}" if message["away"] else ""
                    self._cause = f"the SSH connection is lost{why}"
        except TimeoutError:
            self._cause += f"; it did not come back within the lease of {self._lease_seconds:g} s"
        finally:
            self._line.close()
            self._drop_probe()

    @property
    def is_released(self) -> bool:
        """Whether the driver has let it go."""
        return self._released

    async def stop(self, timeout: float) -> None:
        """Wait for the boot file's end, which comes after the supervisor's; then let it go."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self.wait_closed()
        self.kill()

    def kill(self) -> None:
        """Have everything on the host ended, at once; see `Host.kill`."""
        self._released = True
        self._line.release()

    async def wait_closed(self) -> None:
        """Wait until the boot file has ended, as far as that can be seen."""
        if self._following is not None:
            await asyncio.wait((self._following,))

    @property
    def _has_ended(self) -> bool:
        return self._following is None or self._following.done()

    def cause(self) -> str:
        """Return how it ended, as far as the SSH connection has shown."""
        return self._cause

    def _drop_probe(self) -> None:
        probe, self._probe = self._probe, None
        if probe is not None:
            probe[1].close()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a host's endpoint is."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def address(self, subject: str, *, tunnelled: bool) -> str:
        """Return it as a text for others."""
        from bigmachine.addresses import Address

        host = LOOPBACK if tunnelled else self.host
        return str(
            Address(kind="tls", host=host, port=self.port, subject=subject, tunnelled=tunnelled)
        )

    async def connect(self) -> socket.socket:
        """Return a socket that is connected to it."""
        from bigmachine.rpc.dialer import connect_tcp

        return await connect_tcp(self.host, self.port)


def _cause(ended: Mapping[str, Any]) -> str:
    said = f": {ended['said']}" if ended.get("said") else ""
    if ended.get("status") is None and not ended.get("signal"):
        return "its boot file ended, unseen, for the SSH connection had been lost"
    if ended.get("signal"):
        return f"its boot file was killed by SIG{ended['signal']}{said}"
    return f"its boot file ended with exit code {ended.get('status')}{said}"
