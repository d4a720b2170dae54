"""Connecting to hosts, each through its jump hosts if it has any.

What fails is told by a `HostError` (`problems`).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from bigmachine.systems.ssh.attempt import Attempt, peek
from bigmachine.systems.ssh.hosts import HostName, parse
from bigmachine.systems.ssh.problems import HostError
from bigmachine.systems.ssh.way_problems import of_connecting, of_jump

if TYPE_CHECKING:
    import asyncssh

    from bigmachine.systems.ssh.settings import ConnectSettings

_MAX_JUMPS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    """A connection.

    Attributes:
        ssh: The connection itself.
        peer: The IP address that it leads to; "" where that is another's: a jump host's, a proxy's.
    """

    ssh: asyncssh.SSHClientConnection
    peer: str


async def connect(name: HostName, settings: ConnectSettings, jumps: Jumps) -> Connected:
    """Connect to a host, through its jump hosts if it has any.

    Raises:
        HostError: It failed; the error says what to do.
    """
    try:
        options = peek(name, settings)
    except (OSError, ValueError) as error:
        raise HostError(of_connecting(Attempt(name, settings), error)) from error
    through = settings.jump
    if through is None and isinstance(options.tunnel, str):
        through = options.tunnel  # ProxyJump
    if through and through != "none":
        tunnel = await jumps.reach(name, through, settings)
        ssh = await _open(Attempt(name, settings, via=through), tunnel)
        return Connected(ssh=ssh, peer="")
    ssh = await _open(Attempt(name, settings), None)
    peer = None if options.proxy_command else ssh.get_extra_info("peername")
    return Connected(ssh=ssh, peer=peer[0] if peer else "")


async def _open(
    attempt: Attempt, tunnel: asyncssh.SSHClientConnection | None
) -> asyncssh.SSHClientConnection:
    connection: asyncssh.SSHClientConnection = await attempt.open(tunnel)
    return connection


class Jumps:
    """Connections to jump hosts, one to each, which all hosts behind it share."""

    def __init__(self) -> None:
        self._open: dict[str, asyncssh.SSHClientConnection] = {}
        self._turn = asyncio.Lock()

    async def reach(
        self, name: HostName, through: str, settings: ConnectSettings
    ) -> asyncssh.SSHClientConnection:
        """Return the connection to the last of several jump hosts.

        Raises:
            HostError: One cannot be connected to.
        """
        # User and port are the hosts', and a jump host's own jump hosts are written out.
        plain = replace(settings, user=None, port=None, jump="none")
        connection: asyncssh.SSHClientConnection | None = None
        hops = [each.strip() for each in through.split(",") if each.strip()][:_MAX_JUMPS]
        for count, hop in enumerate(hops):
            path = ",".join(hops[: count + 1])
            async with self._turn:
                known = self._open.get(path)
                if known is None or known.is_closed():
                    via = ",".join(hops[:count])
                    try:
                        known = await _open(Attempt(parse(hop), plain, via=via), connection)
                    except HostError as error:
                        problem = of_jump(name.text, hop, error.problem)
                        raise HostError(problem) from error
                    self._open[path] = known
            connection = known
        assert connection is not None
        return connection

    def close(self) -> None:
        """Close them all."""
        for connection in self._open.values():
            connection.close()


def require_asyncssh() -> None:
    """See that asyncssh is there, without importing it: the switchboard's process does.

    Raises:
        UsageError: It is not.
    """
    import importlib.util

    if importlib.util.find_spec("asyncssh") is None:
        from bigmachine.errors import UsageError

        raise UsageError(
            "the system ssh needs asyncssh, which the extra bigmachine[ssh] brings: "
            "pip install asyncssh"
        )
