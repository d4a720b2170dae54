"""The system: hosts that are reached by SSH, brought up as many at a time as machines need.

What always holds: a host is held by a socket to the switchboard (`line`); when that is closed, by
`SSHHost.kill`, by the end of this process or by anything else, what runs on the host is ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import secrets
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from bigmachine.errors import ProvisionError, UsageError
from bigmachine.host import role
from bigmachine.systems.base import Host, HostRequest, Keepalive, System
from bigmachine.systems.ssh import errors
from bigmachine.systems.ssh.board import Board, LineHolder
from bigmachine.systems.ssh.connect import ConnectSettings, require_asyncssh
from bigmachine.systems.ssh.errors import Problem
from bigmachine.systems.ssh.hosts import HostName, parse_all, read_file
from bigmachine.systems.ssh.line import LOOPBACK, Order

if TYPE_CHECKING:
    from pathlib import Path

    from bigmachine.systems.checks import Check

__all__ = ["SSH", "SSHHost"]

logger = logging.getLogger(__name__)

DIRECT_SECONDS: Final = 1.5
"""How long a host may take to be reached directly, until it is a tunnel."""
AT_ONCE: Final = 32
"""How many hosts are brought up at a time."""
PREFER_SECONDS: Final = 1.0
"""How long a host waits for those that were named before it and are not up yet."""
SHUTDOWN_SECONDS: Final = 2.0
"""How long the switchboard may take to end hosts that are left, and itself."""

_FRESH_SECONDS: Final = 1.0  # a connection may be kept so long before it says what it wants


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
        tunnel: ``"auto"``: machines are reached directly where the network allows, else through
            the SSH connection. ``"always"``: hosts listen for nobody but themselves. ``"never"``:
            a host that is not reached directly is an error.
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
        connect_seconds: float = 15.0,
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
        self._boards: dict[str, _Held] = {}
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
                self._boards[cluster] = _Held(Board())

    async def launch(self, request: HostRequest) -> AsyncIterator[Host]:
        """Bring up hosts until there is room for the machines; see `System.launch`."""
        held = await self._hold(request.cluster)
        used = {host.name for host in held.hosts if not host.is_released}
        free = [name for name in self.hosts if name not in used]
        if not free:
            raise self._exhausted(request, [], 0)
        launch = _Launch(self, held, request)
        try:
            async for host in launch.run(free):
                yield host
        finally:
            await launch.close()
        if launch.room < request.machines:
            raise self._exhausted(request, launch.problems, launch.room)

    async def _hold(self, cluster: str) -> _Held:
        """Return a cluster's switchboard; a new one where there is none, or it was killed."""
        held = self._boards.get(cluster)
        if held is None or held.closing:
            held = self._boards[cluster] = _Held(Board())
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
        return errors.provision_error(
            problems, requested=request.machines, started=room, exhausted=why
        )

    def order(self, name: HostName, host_id: str, request: HostRequest) -> Order:
        """Return what the switchboard is told of a host."""
        boot = dict(request.boot(host_id))
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


class _Held:
    """A cluster's switchboard, and its hosts."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.hosts: list[SSHHost] = []
        self.closing = False

    def add(self, host: SSHHost) -> None:
        self.hosts = [each for each in self.hosts if not each.is_released]
        self.hosts.append(host)


class _Launch:
    """One launch: hosts come up side by side, until there is room enough.

    Those that were named first are preferred: one that has come up and will not be needed if they
    come up too is held back for a moment.
    """

    def __init__(self, system: SSH, held: _Held, request: HostRequest) -> None:
        self._system = system
        self._held = held
        self._request = request
        self._order: list[HostName] = []
        self._tasks: dict[HostName, asyncio.Task[SSHHost]] = {}
        self._ready: dict[HostName, tuple[SSHHost, float]] = {}  # and since when
        self.room = 0
        self.problems: list[Problem] = []

    async def run(self, names: Sequence[HostName]) -> AsyncIterator[Host]:
        """Yield hosts as they come up."""
        self._order = list(names)
        waiting = list(names)
        while self.room < self._request.machines:
            self._begin(waiting)
            if not self._tasks and not self._ready:
                return
            for name in [each for each in self._order if each in self._ready]:
                host, since = self._ready[name]
                if self._is_needed(name, since):
                    del self._ready[name]
                    self.room += host.capacity
                    self._held.add(host)
                    yield host
            if self.room < self._request.machines and self._tasks:
                await self._wait()

    def _begin(self, waiting: list[HostName]) -> None:
        """Begin to bring up as many hosts as may be needed, for all that is known of them."""
        expected = self.room + sum(map(self._system.expect, (*self._tasks, *self._ready)))
        while waiting and expected < self._request.machines and len(self._tasks) < AT_ONCE:
            name = waiting.pop(0)
            expected += self._system.expect(name)
            self._tasks[name] = asyncio.ensure_future(self._bring_up(name))

    def _is_needed(self, name: HostName, since: float) -> bool:
        """Whether a host is to be used now, and not one that was named before it."""
        if self.room >= self._request.machines:
            return False
        before = self._order[: self._order.index(name)]
        coming = sum(self._system.expect(each) for each in before if each in self._tasks)
        waited = asyncio.get_running_loop().time() - since
        return self.room + coming < self._request.machines or waited >= PREFER_SECONDS

    async def _wait(self) -> None:
        """Wait until one more host is up or has failed, or one was held back for long enough."""
        loop = asyncio.get_running_loop()
        ends = [since + PREFER_SECONDS - loop.time() for _, since in self._ready.values()]
        await asyncio.wait(
            self._tasks.values(),
            timeout=max(0.0, min(ends)) if ends else None,
            return_when=asyncio.FIRST_COMPLETED,
        )
        for name, task in list(self._tasks.items()):
            if task.done():
                del self._tasks[name]
                host = self._result(name, task)
                if host is not None:
                    self._ready[name] = host, loop.time()

    def _result(self, name: HostName, task: asyncio.Task[SSHHost]) -> SSHHost | None:
        try:
            return task.result()
        except errors.HostError as error:
            self._system.event("hostFailed", host=name.text, problem=error.problem.kind)
            logger.info("%s", error)
            self.problems.append(error.problem)
        return None

    async def _bring_up(self, name: HostName) -> SSHHost:
        host_id = f"ssh-{name.word}-{secrets.token_hex(4)}"
        order = self._system.order(name, host_id, self._request)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        line = await self._held.board.order(order)
        try:
            up = await line.receive()
            if up is None:
                raise self._held.board.failure(name.text)
            if "problem" in up:
                raise errors.HostError(Problem.from_mapping(up["problem"]))
            host = SSHHost(name, host_id, line, up["up"], self._held.board.gateway)
            host.capacity, host.maxprocs = self._system.learn(name, int(host.facts["cpus"]))
            await host.find_way(self._system.tunnel)
        except BaseException:
            line.close()
            raise
        host.follow()
        seconds = round(loop.time() - begun, 3)
        self._system.event("launch", host=host_id, seconds=seconds, direct=host.direct)
        return host

    async def close(self) -> None:
        """End what is under way, and what has come up and is not needed any more."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        surplus = [host for host, _ in self._ready.values()]
        surplus += [
            task.result() for task in tasks if not task.cancelled() and task.exception() is None
        ]
        for host in surplus:
            host.kill()


class SSHHost(Host):
    """A host that the switchboard holds.

    Args:
        name: As the user names it.
        host_id: As the cluster does.
        line: The driver's end of its line.
        up: What the switchboard said when it was up.
        tunnel: The switchboard's Unix socket.
    """

    def __init__(
        self, name: HostName, host_id: str, line: LineHolder, up: Mapping[str, Any], tunnel: str
    ) -> None:
        self.id = host_id
        self.name = name
        self.facts: Mapping[str, Any] = up["facts"]
        self.gateway = up["gateway"]
        self.tunnel = tunnel
        self.direct = bool(up["direct"])
        self._place = _Place(up["address"] or name.name, int(up["facts"]["port"]))
        self._line = line
        self._probe: tuple[float, socket.socket] | None = None
        self._ended: asyncio.Task[Mapping[str, Any] | None] | None = None
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
                raise errors.HostError(errors.of_direct(self.name.text, where, reason))
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
            raise errors.HostError(errors.of_tunnel(self.name.text, str(error))) from error

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

    # Its end

    def follow(self) -> None:
        """Begin to listen to what becomes of it."""
        self._ended = asyncio.ensure_future(self._line.receive())
        self._ended.add_done_callback(self._on_ended)

    def _on_ended(self, done: asyncio.Task[Mapping[str, Any] | None]) -> None:
        self._line.close()
        self._drop_probe()
        message = None if done.cancelled() else done.result()
        if message is not None and "ended" in message:
            self._cause = _cause(message["ended"])

    @property
    def is_released(self) -> bool:
        """Whether the driver has let it go. One whose SSH connection is lost may still be used."""
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
        """Wait until the boot file has ended, or the connection has."""
        if self._ended is not None:
            await asyncio.wait((self._ended,))

    def cause(self) -> str:
        """Return how it ended, as far as the SSH connection has shown."""
        return self._cause

    def _drop_probe(self) -> None:
        probe, self._probe = self._probe, None
        if probe is not None:
            probe[1].close()


@dataclass(frozen=True, slots=True)
class _Place:
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
    if ended.get("lost"):
        return f"the SSH connection was lost{said}"
    if ended.get("signal"):
        return f"its boot file was killed by SIG{ended['signal']}{said}"
    return f"its boot file ended with exit code {ended.get('status')}{said}"


def _path(text: Path | str) -> Path:
    from pathlib import Path

    return Path(os.fspath(text))


def _texts(given: Sequence[str] | str | None) -> tuple[str, ...]:
    if given is None:
        return ()
    return (given,) if isinstance(given, str) else tuple(map(str, given))


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
