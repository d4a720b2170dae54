"""The supervisor: one process for each host and cluster, with no user code in it.

It owns the host's endpoint, its machines and their processes, and the lease. It begins with a boot
socket that it has inherited::

    driver ── length, JSON: HostConfig ──▶ supervisor
           ◀── length, JSON: HostReady ──
           ◀═══ the control connection (unix), or nothing but an end-of-file (tls) ═══▶

and starts the first template before it has even imported its own event loop, so that both are ready
at about the same time.

What always holds: when the driver is gone, or the lease has lapsed, everything that descends from
this process is killed, and it ends itself; it never waits for the driver without a limit.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import signal
import socket
import struct
import sys
from typing import TYPE_CHECKING, Any, Final

from bigmachine import osdep
from bigmachine.host import frames, processes
from bigmachine.host.directory import PrivateDirectory
from bigmachine.host.entry import AT_ONCE_SIGNAL
from bigmachine.host.launcher import Launcher, Surroundings
from bigmachine.host.messages import HostConfig, HostReady
from bigmachine.values import as_mapping

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from bigmachine.addresses import Address
    from bigmachine.death import Death, DeathKind
    from bigmachine.host.headstart import Begun
    from bigmachine.host.hosted_template import BootFailure
    from bigmachine.host.messages import KeepaliveReply, LaunchSpec, MachineEvent
    from bigmachine.host.processes import Exit

DEFAULT_GRACE_SECONDS: Final = 5.0
"""For a graceful end that SIGTERM asks for."""

_TICK_SECONDS: Final = 0.5
_OOM_SAMPLE_TICKS: Final = 2
_LONELY_TICKS: Final = 4  # without any connection, then it ends
_FAREWELL_SECONDS: Final = 1.0  # for the driver to take what is left, at least
_KILL_SECONDS: Final = 0.5  # for killed processes to be gone
_MAX_EARLY: Final = 4096
_LEASE: Final = struct.Struct(">d")  # for how long it was renewed, in seconds: `bigmachine.boot`


def main(boot: socket.socket, values: dict[str, Any], begun: Begun | None, first_mark: int) -> None:
    """Be a supervisor. Never returns.

    Args:
        boot: The boot socket.
        values: What the driver has said: a `HostConfig`, as a mapping; or under ``error`` why that
            could not be read, or the first template not be started.
        begun: The first template's process.
        first_mark: The first of the marks for machines (`host.marks`).
    """
    osdep.set_child_subreaper()
    try:
        if "error" in values:
            raise ValueError(values["error"])
        _run(HostConfig.from_mapping(values), boot, begun, first_mark)
    except BaseException as error:
        text = f"{type(error).__name__}: {error}"
        if not _send(boot, HostReady(ok=False, pid=os.getpid(), error=text)):
            print(f"bigmachine: the supervisor failed: {text}", file=sys.stderr)
        processes.kill_everything((), timeout=_KILL_SECONDS)
    os._exit(1)


def _run(config: HostConfig, boot: socket.socket, begun: Begun | None, first_mark: int) -> None:
    sys.path += [entry for entry in config.sys_path if entry not in sys.path]
    watch = None if config.driver_pid is None else osdep.watch_process(config.driver_pid)
    directory = PrivateDirectory(config.directory)
    marks = itertools.count(first_mark)
    surroundings = Surroundings(
        supervisor_pid=os.getpid(),
        open_files=osdep.raise_open_files_limit(),
        credentials=config.credentials,
        new_mark=lambda: next(marks),
    )
    launcher = Launcher(surroundings)
    if config.template is not None:
        launcher.prepare(config.template, begun)

    import asyncio

    async def live() -> None:
        supervisor = Supervisor(config, launcher, directory)
        gc.freeze()
        gc.enable()
        await supervisor.run(boot, watch)

    with asyncio.Runner() as runner:
        runner.run(live())


class Supervisor:
    """The supervisor's state. Made and used on its event loop.

    Args:
        config: What it has been told.
        launcher: What makes its machines.
        directory: The host's private directory.
    """

    def __init__(self, config: HostConfig, launcher: Launcher, directory: PrivateDirectory) -> None:
        import asyncio

        from bigmachine.host.events import EventLog
        from bigmachine.host.hosted import Home, HostedMachine
        from bigmachine.host.oom import OomWatch
        from bigmachine.host.spool import Spool
        from bigmachine.host.watchdog import Watchdog
        from bigmachine.rpc.server import Server

        self.config = config
        self.loop = asyncio.get_running_loop()
        self.hostname = os.uname().nodename
        self.spool = Spool(asyncio.Event)
        self.events = EventLog()
        self.machines: dict[str, HostedMachine] = {}
        self.server = Server(name=f"supervisor of {config.cluster}")
        self.watchdog: Watchdog | None = None
        if config.lease_seconds is not None:
            self.watchdog = Watchdog(now=self.loop.time(), period=config.lease_seconds)
        self._new_machine = HostedMachine
        self._launcher = launcher
        self._directory = directory
        self._oom = OomWatch()
        self._main_files: dict[str, str] = {}
        self._by_pid: dict[int, HostedMachine] = {}
        self._early: dict[int, Exit] = {}  # of processes that may turn out to be machines
        self._orphanage = processes.Orphanage(self._is_known)
        self._reaper = processes.Reaper(self._on_ended, self._on_reaped)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._tick_number = 0
        self._lonely_ticks = 0
        self._stopping: asyncio.Task[None] | None = None
        self._boot: socket.socket | None = None
        self._guardian_is_gone = False
        self._notice = ""
        self._finished = asyncio.Event()
        self._home = Home(
            loop=self.loop,
            spool=self.spool,
            oom=self._oom,
            emit=self._emit,
            sweep=self._sweep,
            withdraw=launcher.withdraw,
        )

    async def run(self, boot: socket.socket, watch: int | None) -> None:
        """Serve until the end of it all; does not return."""
        from bigmachine.host.services import HostService, SupervisorService

        self._reaper.attach(self.loop)
        self._launcher.attach(self.loop, on_started=self._on_started, on_failed=self._on_failed)
        self.server.register("Host", HostService(self))
        self.server.register("Supervisor", SupervisorService(self))
        if self.config.cache:
            from bigmachine.host.images import images_service

            self.server.register("Images", images_service(self.config, self.server))
        self._open_door()
        self.loop.add_signal_handler(signal.SIGTERM, self._on_told_to_end)
        self.loop.add_signal_handler(AT_ONCE_SIGNAL, self.lapse)
        if watch is not None:
            self.loop.add_reader(watch, self.lapse)
        mark = self._launcher.surroundings.new_mark()
        _send(boot, HostReady(ok=True, pid=os.getpid(), address=str(self.address), mark=mark))
        if self.config.transport == "unix":
            self.server.adopt(boot)
        else:
            boot.setblocking(False)
            self._boot = boot
            self.loop.add_reader(boot, self._on_boot_socket)
        self.loop.call_later(_TICK_SECONDS, self._tick)
        if self.config.metadata:
            self.spawn(self._heed_notice(self.config.metadata))
        await self._finished.wait()
        self._leave(0)

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Run a coroutine as a task of this supervisor."""
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Machines

    def launch(self, spec: LaunchSpec) -> None:
        """Start machines; what becomes of them is told by events."""
        from bigmachine.host.hosted_template import BootFailure
        from bigmachine.host.messages import MachineStart
        from bigmachine.host.parcel import write_parcel

        _make_directories(spec)
        template = spec.template(os.environ)
        modules: frozenset[str] = frozenset()
        if spec.program.is_bare:
            from bigmachine.host.preload import modules_of_services

            modules = modules_of_services(spec.services)
        parcel = write_parcel(spec.services)
        try:
            for each in spec.machines:
                machine = self._add(spec, each.id, each.index)
                start = MachineStart(
                    identity=machine.identity,
                    supervisor_pid=os.getpid(),
                    mark=machine.mark,
                    sys_path=spec.sys_path,
                    cwd=spec.cwd,
                )
                try:
                    fds = machine.open(parcel)
                except OSError as error:  # too many open files, above all; the others go on
                    detail = f"its supervisor cannot make its pipes: {error} (ulimit -n)"
                    machine.failed(BootFailure(detail=detail))
                    continue
                if self._stopping is None:
                    self._launcher.launch(template, (start, fds), modules=modules)
                else:
                    self._refuse(machine, fds)
        finally:
            os.close(parcel)

    def _add(self, spec: LaunchSpec, machine_id: str, index: int) -> Any:
        from bigmachine.host.messages import MachineIdentity

        identity = MachineIdentity(
            cluster=spec.cluster,
            id=machine_id,
            index=index,
            address=str(self.address.at(machine_id)),
            maxprocs=spec.maxprocs,
            hostname=self.hostname,
            bare=spec.program.is_bare,
            credentials=self.config.credentials,
            gateway=self.config.gateway,
        )
        machine = self._new_machine(identity, self._launcher.surroundings.new_mark(), self._home)
        self.machines[machine_id] = machine
        self._main_files[machine_id] = spec.program.main_file
        return machine

    def _refuse(self, machine: Any, fds: tuple[int, ...]) -> None:
        from bigmachine.death import DeathKind
        from bigmachine.host.hosted_template import BootFailure

        for fd in fds:
            os.close(fd)
        machine.stop(0.0, DeathKind.SHUTDOWN)
        machine.failed(BootFailure(detail=""))

    def _on_started(self, machine_id: str, pid: int, stack_fd: int) -> None:
        machine = self.machines[machine_id]
        self._by_pid[pid] = machine
        machine.started(pid, stack_fd, self._early.pop(pid, None))

    def _on_failed(self, machine_id: str, failure: BootFailure) -> None:
        self.machines[machine_id].failed(failure)

    def _emit(self, event: MachineEvent) -> None:
        self.events.add(event)

    # Processes

    def _is_known(self, pid: int) -> bool:
        return pid in self._by_pid or self._launcher.owns(pid)

    def _on_ended(self, pid: int) -> None:
        if self._is_known(pid):
            osdep.kill_process_group(pid, signal.SIGKILL)

    def _on_reaped(self, ended: Exit) -> None:
        machine = self._by_pid.pop(ended.pid, None)
        if machine is not None:
            machine.reaped(ended)
            return
        mark = self._launcher.mark_of(ended.pid)
        if self._launcher.reaped(ended):
            self._orphanage.sweep(lambda each: each == mark, [ended.pid])
        elif self._launcher.is_forking and len(self._early) < _MAX_EARLY:
            self._early[ended.pid] = ended
        else:
            self._early.clear()

    def _sweep(self, machine: Any) -> int:
        sessions = () if machine.pid is None else (machine.pid,)
        return self._orphanage.sweep(lambda mark: mark == machine.mark, sessions)

    # Connections

    @property
    def address(self) -> Address:
        """Where this host is reached."""
        return self._door.address

    def _open_door(self) -> None:
        from bigmachine.addresses import Address
        from bigmachine.host import door

        config = self.config
        self._tls = None
        if config.transport == "unix":
            listener, address = door.listen_unix(config.directory)
        else:
            from bigmachine.security.credentials import Credentials
            from bigmachine.security.tls import server_context

            credentials = Credentials(**(config.credentials or {}))
            self._tls = server_context(credentials)
            subject = credentials.subject
            if config.listen_fd is None:
                listener, address = door.listen_tcp(config.listen, config.port, subject)
            else:
                listener, address = door.listen_inherited(config.listen_fd, subject)
            if config.address:
                address = Address.parse(config.address)
        self._door = door.Door(listener, address, self._hand_over)

    def _hand_over(self, sock: socket.socket, target: str) -> None:
        from bigmachine.addresses import HOST_TARGET

        if target == HOST_TARGET:
            self.server.adopt(sock, tls=self._tls)
        elif target in self.machines:
            self.machines[target].adopt(sock)
        else:
            sock.close()

    def _on_boot_socket(self) -> None:
        assert self._boot is not None
        with contextlib.suppress(BlockingIOError):
            try:
                ended = not self._boot.recv(4096)
            except ConnectionError:
                ended = True
            if ended:  # of the driver, or of the guardian that has started this process
                self._guardian_is_gone = True
                self.lapse()

    def main_file(self, machine_id: str) -> str:
        """Return the path of a machine's main program; "" when it has none."""
        return self._main_files.get(machine_id, "")

    def keepalive(self, period: float) -> KeepaliveReply:
        """Renew the lease for ``period`` seconds; where there is none, only say how things are.

        Raises:
            ValueError: ``period`` is not positive.
        """
        import psutil

        from bigmachine.host.messages import KeepaliveReply
        from bigmachine.host.watchdog import is_healthy

        accepted = 0.0
        if self.watchdog is not None:
            accepted = self.watchdog.feed(self.loop.time(), period)
            self._tell_guardian(accepted)
        healthy = is_healthy(psutil.virtual_memory().percent)
        return KeepaliveReply(accepted=accepted, healthy=healthy)

    # The end

    def begin_shutdown(
        self, grace: float, reason: DeathKind | None = None, detail: str = ""
    ) -> None:
        """Begin a graceful end of everything, within ``grace`` seconds. Idempotent.

        Args:
            grace: How long it may take, in seconds.
            reason: What machines die of; None is that the driver wants no more.
            detail: More about that, for a person.
        """
        if self._stopping is None:
            self._stopping = self.loop.create_task(self._shut_down(grace, reason, detail))

    async def _heed_notice(self, metadata: str) -> None:
        """Tell the driver that the provider will take this host back."""
        from bigmachine.host.messages import EventKind, MachineEvent
        from bigmachine.host.notices import wait_notice

        self._notice = await wait_notice(metadata)
        self._emit(MachineEvent(machine_id="", kind=EventKind.NOTICE, notice=self._notice))

    def _on_told_to_end(self) -> None:
        """End in good order: by somebody's wish, or because the whole host is shut down."""
        from bigmachine.death import DeathKind

        if self._notice:
            self.begin_shutdown(DEFAULT_GRACE_SECONDS, DeathKind.SPOT, self._notice)
        elif self.config.cache:
            detail = "its supervisor was told to end, as when a host is shut down"
            self.begin_shutdown(DEFAULT_GRACE_SECONDS, DeathKind.HOST, detail)
        else:
            self.begin_shutdown(DEFAULT_GRACE_SECONDS)

    async def wait_machines(self) -> None:
        """Wait until all machines are dead."""
        for machine in list(self.machines.values()):
            await machine.dead.wait()

    async def _shut_down(self, grace: float, reason: DeathKind | None, detail: str) -> None:
        from bigmachine.death import DeathKind

        end = self.loop.time() + grace
        self._launcher.retire()
        for machine in list(self.machines.values()):
            machine.stop(grace, reason or DeathKind.SHUTDOWN, detail)
        await self._within(end, self.wait_machines())
        self.spool.close()
        self.events.close()
        end = max(end, self.loop.time() + _FAREWELL_SECONDS)
        await self._within(end, self._farewell())
        await self.server.close(0.0)
        self._finished.set()

    async def _farewell(self) -> None:
        """Wait until the driver has taken everything and closed its connection."""
        import asyncio

        while self.server.connections:  # noqa: ASYNC110  the server tells nobody
            await asyncio.sleep(0.005)

    async def _within(self, end: float, coroutine: Coroutine[Any, Any, None]) -> None:
        import asyncio

        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(coroutine, max(0.0, end - self.loop.time()))

    def _tell_guardian(self, seconds: float) -> None:
        """Tell the boot file that it need not end this process for so long."""
        if self.config.cache and self._boot is not None:
            with contextlib.suppress(OSError):  # it is gone, which will be seen
                self._boot.send(_LEASE.pack(seconds))

    def lapse(self) -> None:
        """The driver is gone, or says so: kill everything and end, at once."""
        self._leave(1)

    def _leave(self, code: int) -> None:
        self._door.close()
        pids = [*self._by_pid, *self._launcher.pids()]
        self._launcher.kill()
        processes.kill_everything(pids, timeout=_KILL_SECONDS)
        self._directory.remove()
        if self._guardian_is_gone and self.config.at_end:
            processes.start_apart(self.config.at_end)
        os._exit(code)

    def _tick(self) -> None:
        self.loop.call_later(_TICK_SECONDS, self._tick)
        self._tick_number += 1
        if self.watchdog is not None and self.watchdog.expired(self.loop.time()):
            self.lapse()
        if self._tick_number % _OOM_SAMPLE_TICKS == 0:
            self._oom.sample()
        # A driver that has closed its connection without a word wants no more; on a host of its
        # own the lease decides, for there it may come back.
        is_lonely = self.watchdog is None and not self.server.connections
        self._lonely_ticks = self._lonely_ticks + 1 if is_lonely else 0
        if self._lonely_ticks >= _LONELY_TICKS:
            self.begin_shutdown(DEFAULT_GRACE_SECONDS)

    def death_of(self, machine_id: str) -> Death | None:
        """Return what a machine died of, None while it lives."""
        machine = self.machines.get(machine_id)
        return None if machine is None else machine.death


def _send(boot: socket.socket, ready: HostReady) -> bool:
    """Tell the driver; whether that worked."""
    import json

    body = json.dumps(as_mapping(ready)).encode()
    try:
        boot.sendall(frames.frame(body))
    except OSError:
        return False
    return True


def _make_directories(spec: LaunchSpec) -> None:
    """Make the program's directories where the image has none: it has no empty ones."""
    for directory in {spec.program.directory, spec.cwd}:
        if spec.image_root and directory.startswith(os.path.join(spec.image_root, "")):
            with contextlib.suppress(OSError):  # who needs it fails there, and says so
                os.makedirs(directory, exist_ok=True)
