"""The system: hosts that are reached by SSH, and one switchboard for each cluster that has some."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from bigmachine.errors import ProvisionError, UsageError
from bigmachine.host import role
from bigmachine.systems.base import Host, HostRequest, Keepalive, System
from bigmachine.systems.ssh.board import Board
from bigmachine.systems.ssh.connect import require_asyncssh
from bigmachine.systems.ssh.feeding import AT_END
from bigmachine.systems.ssh.hosts import HostName, parse_all, read_file
from bigmachine.systems.ssh.launch import Held, Launch
from bigmachine.systems.ssh.order import LOOPBACK, Order
from bigmachine.systems.ssh.problems import Problem, provision_error
from bigmachine.systems.ssh.settings import CONNECT_SECONDS, ConnectSettings

if TYPE_CHECKING:
    from pathlib import Path

    from bigmachine.systems.checks import Check

__all__ = ["SSH"]

SHUTDOWN_SECONDS: Final = 2.0
"""How long the switchboard may take to end hosts that are left, and itself."""


class SSH(System):
    """Hosts that are reached by SSH. They need Python 3.8 or newer, and nothing else.

    The keys, the agent, the known hosts and the configuration are those of your own ``ssh``; what
    it logs in to without asking, this does. Host keys are always checked.

    Args:
        hosts: The hosts: ``"a"``, ``"user@b:2222"``, aliases of the SSH configuration.
        hosts_file: A file of hosts, one on each line, ``#`` before comments.
        user: Whom to log in as, where the host does not say.
        port: The SSH server's port, where the host does not say.
        key: A private key, or several; by default the agent's and those in ``~/.ssh``.
        known_hosts: Files of known hosts; by default the usual ones.
        jump: A host to connect through; several, one after the other, have commas between them.
        config: An SSH configuration in place of ``~/.ssh/config``.
        cpus_per_machine: How many processors each machine has to itself; ``"host"``: all of its
            host's, one machine to a host.
        tunnel: Whether machines are reached through the SSH connection: ``"auto"``, where the
            network lets nobody in directly; ``"always"``, and hosts listen for nobody but
            themselves; ``"never"``, and a host that is not reached directly is an error.
        python: The interpreter on the hosts that runs the boot file.
        directory: Where hosts keep their cache; by default ``~/.cache/bigmachine``.
        keepalive: How often each host is asked for a sign of life, in seconds.
        connect_seconds: How long a host may take to let us in.
    """

    name: ClassVar[str] = "ssh"

    def __init__(
        self,
        hosts: Sequence[str] = (),
        *,
        hosts_file: Path | str | None = None,
        user: str | None = None,
        port: int | None = None,
        key: Sequence[str] | str | None = None,
        known_hosts: Sequence[str] | str | None = None,
        jump: str | None = None,
        config: str | None = None,
        cpus_per_machine: int | Literal["host"] = 1,
        tunnel: Literal["auto", "always", "never"] = "auto",
        python: str = "python3",
        directory: str | None = None,
        keepalive: float | None = None,
        connect_seconds: float = CONNECT_SECONDS,
    ) -> None:
        self._texts = [hosts] if isinstance(hosts, str) else list(hosts)
        self._hosts_file = hosts_file
        if role.current is role.Role.DRIVER:  # machines run the program up to here, and need none
            require_asyncssh()
            if not self.hosts:
                raise UsageError("SSH: name hosts, hosts=['a', 'user@b:2222'], or a hosts_file=")
        if tunnel not in ("auto", "always", "never"):
            raise UsageError(f"SSH(tunnel={tunnel!r}): it is 'auto', 'always' or 'never'")
        if cpus_per_machine != "host" and not (_is_int(cpus_per_machine) and cpus_per_machine > 0):
            raise UsageError(
                f"SSH(cpus_per_machine={cpus_per_machine!r}): it is a number from 1 on, or 'host'"
            )
        if connect_seconds <= 0:
            raise UsageError(f"SSH(connect_seconds={connect_seconds!r}): it is positive")
        if keepalive is not None:
            self.keepalive = Keepalive.every(keepalive)
        self._settings = ConnectSettings(
            user=user,
            port=port,
            key=_texts(key),
            known_hosts=_texts(known_hosts),
            jump=jump,
            config=config,
            connect_seconds=connect_seconds,
            alive_seconds=self.keepalive.timeout,
        )
        self._cpus_per_machine: int | Literal["host"] = cpus_per_machine
        self._tunnel: Literal["auto", "always", "never"] = tunnel
        self._python = python
        self._directory = directory
        self._boards: dict[str, Held] = {}
        self._cpus: dict[HostName, int] = {}  # of those that have been up

    def __repr__(self) -> str:
        return f"<system ssh hosts={','.join(self._texts)} hosts_file={self._hosts_file}>"

    @functools.cached_property
    def hosts(self) -> tuple[HostName, ...]:
        """The hosts, as they were named.

        Raises:
            UsageError: One is no host, or their file cannot be read.
        """
        file = self._hosts_file
        return parse_all([*self._texts, *([] if file is None else read_file(_path(file)))])

    @property
    def settings(self) -> ConnectSettings:
        """How they are connected to."""
        return self._settings

    def begin(self, cluster: str, boot: Mapping[str, Any] | None) -> None:
        """Start the switchboard's process; see `System.begin`."""
        del boot
        if cluster not in self._boards:
            with contextlib.suppress(ProvisionError, OSError):  # launch will meet it too
                self._boards[cluster] = Held(Board())

    async def launch(self, request: HostRequest) -> AsyncIterator[Host]:
        """Bring up hosts until there is room for the machines; see `System.launch`."""
        held = await self._hold(request.cluster)
        used = {host.name for host in held.hosts if not host.is_released}
        free = [name for name in self.hosts if name not in used]
        if not free:
            raise self._exhausted(request, [], 0)
        launch = Launch(self, held, request)
        try:
            async for host in launch.run(free):
                yield host
        finally:
            await launch.close()
        if launch.room < request.machines:
            raise self._exhausted(request, launch.problems, launch.room)

    async def _hold(self, cluster: str) -> Held:
        """Return a cluster's switchboard; a new one where there is none, or it was killed."""
        held = self._boards.get(cluster)
        if held is None or held.closing:
            held = self._boards[cluster] = Held(Board())
        elif not await held.board.is_alive():
            await held.board.close(0.0)
            held.board = Board()
        return held

    def _exhausted(
        self, request: HostRequest, problems: list[Problem], room: int
    ) -> ProvisionError:
        why = ""
        if len(problems) != 1 or room:
            all_of_them = f"all {len(self.hosts)} hosts" if len(self.hosts) > 1 else "the host"
            working = len(self.hosts) - len(problems)
            used = all_of_them if not problems else f"the {working} hosts that can be used"
            why = f"{used} together have no room for so many machines" if working else ""
        return provision_error(problems, requested=request.machines, started=room, exhausted=why)

    def order(self, name: HostName, host_id: str, request: HostRequest) -> Order:
        """Return what the switchboard is told of a host."""
        boot = dict(request.boot(host_id))
        boot["at_end"] = AT_END
        boot["listen"] = LOOPBACK if self._tunnel == "always" else ""
        if self._directory is not None:
            boot["directory"] = self._directory
        return Order(
            host=name.text,
            settings=self._settings,
            subject=host_id,
            python=self._python,
            tunnel=self._tunnel,
            boot=boot,
        )

    def expect(self, name: HostName) -> int:
        """Return how many machines a host will hold: if it is new, as few as any other so far."""
        cpus = self._cpus.get(name) or min(self._cpus.values(), default=0)
        return self.share(cpus)[0] if cpus else 1

    def learn(self, name: HostName, cpus: int) -> tuple[int, int]:
        """Remember how many processors a host has, and return what `share` makes of it."""
        self._cpus[name] = cpus
        return self.share(cpus)

    def share(self, cpus: int) -> tuple[int, int]:
        """Return how many machines a host with so many processors holds, and what each has."""
        if self._cpus_per_machine == "host":
            return 1, cpus
        each = min(self._cpus_per_machine, cpus)
        return max(1, cpus // each), each

    @property
    def python(self) -> str:
        """The interpreter on the hosts."""
        return self._python

    @property
    def directory(self) -> str | None:
        """Where the hosts keep their cache; None: in the usual place."""
        return self._directory

    @property
    def tunnel(self) -> Literal["auto", "always", "never"]:
        """Whether there may, must or must not be tunnels."""
        return self._tunnel

    async def doctor(self) -> AsyncIterator[Check]:
        """Look at all hosts; see `System.doctor`."""
        from bigmachine.systems.ssh.doctor import diagnose

        async for check in diagnose(self):
            yield check

    def abandon(self, cluster: str) -> None:
        """End the switchboard as soon as it holds no host any more; see `System.abandon`."""
        held = self._boards.get(cluster)
        if held is not None:
            held.closing = True

    async def shutdown(self) -> None:
        """End the switchboards of clusters that have ended; see `System.shutdown`."""
        over = {cluster: held for cluster, held in self._boards.items() if held.closing}
        for cluster in over:
            del self._boards[cluster]
        if over:
            await asyncio.wait(
                [
                    asyncio.ensure_future(held.board.close(SHUTDOWN_SECONDS))
                    for held in over.values()
                ]
            )
        await super().shutdown()


def _path(text: Path | str) -> Path:
    from pathlib import Path

    return Path(os.fspath(text))


def _texts(given: Sequence[str] | str | None) -> tuple[str, ...]:
    if given is None:
        return ()
    return (given,) if isinstance(given, str) else tuple(map(str, given))


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
