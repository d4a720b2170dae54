"""A machine as its supervisor sees it: pipes, a link, a process, and at last a death.

::

    opened ─▶ STARTED (it has a process) ─▶ READY (its link says so) ─▶ DIED
                                                                         ▲
    process reaped ─▶ descendants killed ─▶ pipes and link read to their end ┘  (at most 0.2 s)

What always holds: DIED comes last and exactly once, after everything that the machine had written
was read; how its process ended is never lost, also if that is known before its process id is.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from bigmachine import osdep
from bigmachine.death import Death, DeathKind
from bigmachine.errors import MachineStoppedError
from bigmachine.host import cause, processes
from bigmachine.host.link import Link
from bigmachine.host.messages import (
    Answer,
    Ask,
    Connection,
    EventKind,
    InitFailed,
    MachineEvent,
    MachineIdentity,
    Ready,
    Stop,
)
from bigmachine.host.stacks import busy_stacks
from bigmachine.lines import STREAMS, Stream

if TYPE_CHECKING:
    import socket

    from bigmachine.host.hosted_template import BootFailure
    from bigmachine.host.oom import OomWatch
    from bigmachine.host.processes import Exit
    from bigmachine.host.spool import Spool

DRAIN_SECONDS: Final = 0.2
"""How long a surviving descendant, which holds the pipes open, may delay the report of a death."""
MAX_HANDOVERS: Final = 1024
"""How many connections may wait for a machine that does not look."""

_READ_BYTES: Final = 256 << 10
_READS_AT_ONCE: Final = 4  # then others have their turn
_READS_AT_END: Final = 256  # far more than a pipe holds
_EVIDENCE_LINES: Final = 300  # among which a crash report is looked for
_STACK_SECONDS: Final = 0.15  # for a machine to write the stacks of its threads
_STACK_STEP_SECONDS: Final = 0.005
_SWEEP_SECONDS: Final = 0.005
_KILL_SHARE: Final = 0.7  # of the time for a graceful end, after which it is killed


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """What a supervisor lends its machines.

    Attributes:
        loop: Its event loop.
        spool: Where output goes.
        oom: Who watches memory.
        emit: Takes what is to be told to the driver.
        sweep: Kills what a dead machine has left behind; says how many processes it found.
        withdraw: Takes a launch back, if it is not under way yet.
    """

    loop: asyncio.AbstractEventLoop
    spool: Spool
    oom: OomWatch
    emit: Callable[[MachineEvent], None]
    sweep: Callable[[HostedMachine], int]
    withdraw: Callable[[str], bool]


class HostedMachine:
    """One machine of this host.

    Args:
        identity: Who it is.
        mark: What marks its descendants.
        home: What the supervisor lends it.
    """

    def __init__(self, identity: MachineIdentity, mark: int, home: Home) -> None:
        self.identity = identity
        self.mark = mark
        self.pid: int | None = None
        self.is_ready = False
        self.death: Death | None = None
        self.dead = asyncio.Event()
        self._home = home
        self._stack_fd = -1
        self._exit: Exit | None = None
        self._ended = False  # its process is gone, or there never will be one
        self._drained = False
        self._booted = False
        self._reason: DeathKind | None = None
        self._detail = ""
        self._stack = ""
        self._init_failed: InitFailed | None = None
        self._asked: dict[int, asyncio.Future[Answer]] = {}
        self._asks = 0
        self._killing: asyncio.Task[None] | None = None
        self._stop_timer: asyncio.TimerHandle | None = None
        self._link: Link  # from `open` on
        self._link_open = False
        self._pipes: dict[Stream, int] = {}

    def __repr__(self) -> str:
        state = "dead" if self.death else "ready" if self.is_ready else "starting"
        return f"<HostedMachine {self.identity.id} {state} pid={self.pid}>"

    @property
    def id(self) -> str:
        """Its unique id."""
        return self.identity.id

    @property
    def is_ending(self) -> bool:
        """Whether its process has ended, also while it is not known yet what of."""
        return self._ended

    # Beginning

    def open(self, parcel: int) -> tuple[int, ...]:
        """Make its pipes and its link.

        Args:
            parcel: The descriptor of its services.

        Returns:
            Descriptors for its stdout, its stderr, its link and its services.

        Raises:
            OSError: There is no room for them.
        """
        far: list[int] = []
        try:
            for stream in STREAMS:
                near, other = os.pipe()
                far.append(other)
                os.set_blocking(near, False)
                self._pipes[stream] = near
                self._home.loop.add_reader(near, self._read, stream)
            far.append(os.dup(parcel))
            self._link, link_fd = Link.pair()
        except OSError:
            for fd in far:
                os.close(fd)
            raise
        self._link_open = True
        self._link.attach(self._home.loop, self._on_message, self._on_link_end)
        stdout, stderr, services = far
        return stdout, stderr, link_fd, services

    def started(self, pid: int, stack_fd: int, ended: Exit | None) -> None:
        """It has a process.

        Args:
            pid: Which.
            stack_fd: Where that writes its stacks when asked.
            ended: How it has ended already, if it has.
        """
        self.pid = pid
        self._stack_fd = stack_fd
        self._booted = True
        self._home.emit(MachineEvent(machine_id=self.id, kind=EventKind.STARTED, pid=pid))
        if ended is not None:
            self.reaped(ended)
            return
        self._home.oom.add(pid)
        if self._killing is not None:
            processes.kill(pid, signal.SIGKILL)

    def failed(self, failure: BootFailure) -> None:
        """It will never have a process."""
        self._detail = self._detail or failure.detail
        self._home.spool.append(self.id, "stderr", failure.output)
        self._exit = failure.exit
        self._gone()

    def adopt(self, sock: socket.socket) -> None:
        """Hand a peer's connection over to it; close it if it cannot be."""
        if self._ended or not self._link_open or self._link.backlog > MAX_HANDOVERS:
            sock.close()
            return
        self._link.send(Connection(), (sock.detach(),))

    async def ask(
        self,
        what: Literal["register", "vars", "runtime"],
        *args: Any,
        fds: tuple[int, ...] = (),
    ) -> Answer:
        """Ask it something that it alone can answer.

        Raises:
            MachineStoppedError: It is dead, or dies meanwhile.
        """
        if self._ended or not self._link_open:
            for fd in fds:
                os.close(fd)
            await self.dead.wait()
            raise self.stopped_error()
        self._asks += 1
        number = self._asks
        answer: asyncio.Future[Answer] = self._home.loop.create_future()
        self._asked[number] = answer
        try:
            self._link.send(Ask(number=number, what=what, args=args), fds)
            return await answer
        finally:
            self._asked.pop(number, None)

    def stopped_error(self) -> MachineStoppedError:
        """Return the error that says what it died of."""
        assert self.death is not None
        return MachineStoppedError(machine=str(self.identity.address), death=self.death)

    # Ending

    def stop(self, grace: float, reason: DeathKind = DeathKind.SHUTDOWN, detail: str = "") -> None:
        """Have it end gracefully, and after most of ``grace`` seconds by force."""
        if self._ended:
            return
        if self._reason is None:
            self._reason, self._detail = reason, detail
        if self.pid is None and self._home.withdraw(self.id):
            self._gone()
            return
        self._link.send(Stop(grace=grace * _KILL_SHARE))
        if self._stop_timer is None:
            self._stop_timer = self._home.loop.call_later(grace * _KILL_SHARE, self.kill, reason)

    def kill(self, reason: DeathKind, detail: str = "") -> None:
        """End it by force, after a look at its stacks."""
        if self._ended:
            return
        if self._reason is None:
            self._reason, self._detail = reason, detail
        if self._killing is None:
            self._killing = self._home.loop.create_task(self._kill())

    async def _kill(self) -> None:
        if self.pid is None:
            if self._home.withdraw(self.id):
                self._gone()
            return  # `started` sees to it, or the template's end
        self._stack = self._stack or await self._ask_for_stacks(self.pid)
        if not self._ended:
            processes.kill(self.pid, signal.SIGKILL)

    async def _ask_for_stacks(self, pid: int) -> str:
        """Have it write the stacks of its threads, which it does even in the midst of C code."""
        if osdep.STACK_DUMP_SIGNAL is None:
            return ""
        try:
            file = os.open(f"/proc/{pid}/fd/{self._stack_fd}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # it is gone
            return ""
        try:
            before = seen = os.fstat(file).st_size
            processes.kill(pid, osdep.STACK_DUMP_SIGNAL)
            end = self._home.loop.time() + _STACK_SECONDS
            while self._home.loop.time() < end and not self._ended:
                await asyncio.sleep(_STACK_STEP_SECONDS)
                size = os.fstat(file).st_size
                if size == seen > before:
                    break
                seen = size
            return busy_stacks(os.pread(file, 1 << 20, before).decode("utf-8", "replace"))
        finally:
            os.close(file)

    def reaped(self, ended: Exit) -> None:
        """Its process has ended in this way."""
        self._exit = ended
        self._gone()

    def _gone(self) -> None:
        if self._ended:
            return
        self._ended = True
        if self._stop_timer is not None:
            self._stop_timer.cancel()
        if self.pid is None:  # the other ends may be nobody's any more, or this process's
            self._drain_no_longer()
            return
        self._home.loop.call_later(DRAIN_SECONDS, self._drain_no_longer)
        self._sweep()
        self._check_drained()

    def _sweep(self) -> None:
        """Kill the descendants it has left behind, until there are none."""
        if self._home.sweep(self):
            self._home.loop.call_later(_SWEEP_SECONDS, self._sweep)

    def _check_drained(self) -> None:
        if self._ended and not self._pipes and not self._link_open:
            self._conclude()

    def _drain_no_longer(self) -> None:
        if self._drained:
            return
        for stream in list(self._pipes):
            self._read(stream)
            self._close_pipe(stream)
        self._close_link()
        self._conclude()

    def _conclude(self) -> None:
        """Say what it died of, once everything is known."""
        if self._drained:
            return
        self._drained = True
        spool = self._home.spool
        spool.end(self.id)
        self.death = self._explain(spool.last_lines(self.id, _EVIDENCE_LINES))
        failed = self._init_failed
        is_init = failed is not None and self.death.kind is DeathKind.INIT
        self._home.emit(
            MachineEvent(
                machine_id=self.id,
                kind=EventKind.DIED,
                death=self.death,
                init_error=failed.error if failed is not None and is_init else None,
            )
        )
        self.dead.set()
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(self.stopped_error())

    def _explain(self, output: tuple[str, ...]) -> Death:
        ended, failed = self._exit, self._init_failed
        oom = None
        if ended is not None and self.pid is not None:
            oom = self._home.oom.explain(self.pid, peak_bytes=ended.peak_memory_bytes)
        return cause.explain(
            cause.Ending(
                machine=str(self.identity.address),
                status=None if ended is None else ended.status,
                reason=self._reason if self._reason is not None else self._boot_reason(),
                reason_detail=self._detail,
                booted=self._booted,
                init_error=None if failed is None else failed.text,
                oom=oom,
                output=output,
                stack=self._stack,
                peak_memory_bytes=None if ended is None else ended.peak_memory_bytes,
            )
        )

    def _boot_reason(self) -> DeathKind | None:
        return None if self._booted else DeathKind.BOOT

    # What it writes and says

    def _read(self, stream: Stream) -> None:
        """Read a pipe: all that it holds if the machine is dead, else a few times."""
        for _ in range(_READS_AT_END if self._ended else _READS_AT_ONCE):
            if stream not in self._pipes:
                return
            try:
                data = os.read(self._pipes[stream], _READ_BYTES)
            except BlockingIOError:
                return
            if data:
                self._home.spool.append(self.id, stream, data)
                if len(data) < _READ_BYTES and not self._ended:
                    return
            else:
                self._close_pipe(stream)
                self._check_drained()

    def _close_pipe(self, stream: Stream) -> None:
        descriptor = self._pipes.pop(stream, None)
        if descriptor is not None:
            self._home.loop.remove_reader(descriptor)
            os.close(descriptor)

    def _on_message(self, message: object, fds: tuple[int, ...]) -> None:
        for fd in fds:
            os.close(fd)
        match message:
            case Ready():
                self.is_ready = True
                identity = self.identity
                self._home.emit(
                    MachineEvent(
                        machine_id=self.id,
                        kind=EventKind.READY,
                        address=identity.address,
                        maxprocs=identity.maxprocs,
                        hostname=identity.hostname,
                    )
                )
            case InitFailed():
                self._init_failed = message
            case Answer():
                answer = self._asked.get(message.number)
                if answer is not None and not answer.done():
                    answer.set_result(message)

    def _on_link_end(self) -> None:
        self._close_link()
        self._check_drained()

    def _close_link(self) -> None:
        if self._link_open:
            self._link_open = False
            self._link.close()


def wait_all(machines: list[HostedMachine]) -> Awaitable[Any]:
    """Wait until all these are dead."""
    return asyncio.gather(*(machine.dead.wait() for machine in machines))
