"""Machines that are processes on this computer.

There is one host, this one, whose supervisor is a child of the driver. What always holds: the
supervisor ends within a second of the driver, however that ends (it watches the driver's process);
its directory, private to the user, goes with it, or at the next start at the latest.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from bigmachine.errors import ProvisionError, UsageError
from bigmachine.systems.base import Host, HostRequest, Keepalive, System
from bigmachine.systems.directories import base_directory, make_directory, remove_stale

if TYPE_CHECKING:
    import asyncio

    from bigmachine.addresses import Address
    from bigmachine.systems.checks import Check, Leftover

__all__ = ["Local"]

CAPACITY: Final = 100_000
START_SECONDS: Final = 30.0
AT_ONCE_SECONDS: Final = 0.5
"""How long a supervisor has to kill its machines and what they have started."""
SWEEPS: Final = 20
"""How often it is looked for processes that are left: they may be starting others."""
FILES_PER_MACHINE: Final = 8
"""How many files the supervisor has open for each machine, at most."""
FEW_MACHINES: Final = 64
_LENGTH: Final = struct.Struct(">I")  # before each of the two JSON texts of the boot socket


class Local(System):
    """Processes on this computer.

    Args:
        transport: How machines are spoken to: ``"unix"``, by Unix sockets that this user alone can
            open; ``"tls"``, by mutual TLS over the loopback interface, as between hosts.
        start_method: ``"fork"`` from a template that has run the program once, ``"spawn"`` for a
            process that runs it anew for each machine; ``"auto"`` forks where that is safe.
        keepalive: How often the supervisor is asked for a sign of life, in seconds.
    """

    name: ClassVar[str] = "local"
    is_here: ClassVar[bool] = True

    def __init__(
        self,
        transport: Literal["unix", "tls"] = "unix",
        start_method: Literal["auto", "fork", "spawn"] = "auto",
        keepalive: float | None = None,
    ) -> None:
        if transport not in ("unix", "tls"):
            raise UsageError(f"Local(transport={transport!r}): it is 'unix' or 'tls'")
        if start_method not in ("auto", "fork", "spawn"):
            raise UsageError(
                f"Local(start_method={start_method!r}): it is 'auto', 'fork' or 'spawn'"
            )
        self.transport = transport
        self.start_method = start_method
        self._begun: dict[str, LocalHost] = {}
        if keepalive is not None:
            self.keepalive = Keepalive.every(keepalive)

    def __repr__(self) -> str:
        return f"<system local transport={self.transport} start_method={self.start_method}>"

    def begin(self, cluster: str, boot: Mapping[str, Any] | None) -> None:
        """Start the supervisor's process; see `System.begin`."""
        if boot is None or cluster in self._begun:
            return
        host = LocalHost()
        try:
            host.begin(boot)
        except (ProvisionError, OSError):  # launch will meet it too, and say so
            host.kill()
        else:
            self._begun[cluster] = host

    def abandon(self, cluster: str) -> None:
        """End a supervisor that was begun for nothing; see `System.abandon`."""
        host = self._begun.pop(cluster, None)
        if host is not None:
            host.kill()

    async def launch(self, request: HostRequest) -> AsyncIterator[Host]:
        """Start the supervisor; see `System.launch`."""
        host = self._begun.pop(request.cluster, None) or LocalHost()
        try:
            if not host.begun:
                host.begin(request.boot(host.id))
            await host.ready()
        except BaseException:
            host.kill()
            raise
        self.event("launch", host=host.id)
        yield host

    async def doctor(self) -> AsyncIterator[Check]:
        """Look at what machines on this computer need; see `System.doctor`."""
        from bigmachine.systems.checks import Check

        try:
            directory, lock = make_directory("local")
        except ProvisionError as error:
            yield Check.fail("directories", str(error), error.remedy)
        else:
            shutil.rmtree(directory, ignore_errors=True)
            os.close(lock)
            yield Check.ok("directories", base_directory())
        yield _open_files_check()
        if sys.platform == "darwin":
            yield Check.ok("fork", "macOS: each machine runs the program anew")
        else:
            yield Check.ok("fork", "machines are forked from a program that has run once")

    async def gc(self, *, dry_run: bool) -> AsyncIterator[Leftover]:
        """Remove directories that killed processes have left; see `System.gc`."""
        from bigmachine.systems.checks import Leftover

        for path in remove_stale(dry_run=dry_run):
            yield Leftover(kind="directory", name=path, ended=not dry_run)


class LocalHost(Host):
    """This computer, with a supervisor that is a child of this process."""

    def __init__(self) -> None:
        self.id = f"local-{os.getpid()}-{os.urandom(2).hex()}"
        self.capacity = CAPACITY
        self.maxprocs = 1
        self._process: subprocess.Popen[bytes] | None = None
        self._boot: socket.socket | None = None
        self._directory = ""
        self._lock = -1
        self._mark = 0
        self._killing = threading.Lock()
        self._address: Address | None = None

    @property
    def begun(self) -> bool:
        """Whether the supervisor's process has been started."""
        return self._process is not None

    def begin(self, boot: Mapping[str, Any]) -> None:
        """Start the supervisor's process, and tell it what it is to be.

        Raises:
            ProvisionError: It cannot have a directory.
            OSError: The system refused.
        """
        self._directory, self._lock = make_directory("local")
        config = {**boot, "directory": self._directory, "driver_pid": os.getpid()}
        text = json.dumps(config).encode()
        ours, theirs = socket.socketpair()
        self._boot = ours
        try:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, len(text) * 2 + 4096)
            ours.settimeout(START_SECONDS)
            self._process = _spawn_supervisor(theirs)
            ours.sendall(_LENGTH.pack(len(text)) + text)
        finally:
            theirs.close()
        ours.setblocking(False)

    async def ready(self) -> None:
        """Wait until the supervisor is up.

        Raises:
            ProvisionError: It did not come up.
        """
        import asyncio

        loop = asyncio.get_running_loop()
        assert self._boot is not None
        try:
            async with asyncio.timeout(START_SECONDS):
                ready = json.loads(await _receive(self._boot, loop))
        except (OSError, EOFError, TimeoutError) as error:
            raise self._failure(str(error) or type(error).__name__) from error
        if not ready["ok"]:
            raise self._failure(ready["error"])
        from bigmachine.addresses import Address

        self._address = Address.parse(ready["address"])
        self.address = ready["address"]
        self._mark = ready["mark"]

    async def connect(self) -> socket.socket:
        """Return the control connection: the boot socket itself, or with TLS a new one."""
        from bigmachine.rpc.dialer import Dialer

        assert self._address is not None
        if self._address.kind == "unix":
            if self._boot is None:
                raise ConnectionRefusedError("the supervisor has ended")
            boot, self._boot = self._boot, None
            return boot
        return await Dialer().connect(self._address)

    async def stop(self, timeout: float) -> None:
        """Wait for the supervisor's end, and kill it when that takes too long."""
        import asyncio

        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.wait_closed(), timeout)
        self.kill()

    async def wait_closed(self) -> None:
        """Wait for the supervisor's end."""
        import asyncio

        while self._process is not None and self._process.poll() is None:  # noqa: ASYNC110
            await asyncio.sleep(0.002)

    def kill(self) -> None:
        """Kill the supervisor; its machines end with it."""
        with self._killing:
            if self._process is not None:
                _end_at_once(self._process)
                if self._process.returncode < 0:
                    self._sweep()
            if self._boot is not None:
                self._boot.close()
                self._boot = None
            if self._directory:
                shutil.rmtree(self._directory, ignore_errors=True)
            if self._lock >= 0:
                os.close(self._lock)
                self._lock = -1

    def reap(self, pids: Sequence[int]) -> None:
        """Kill what a supervisor that is gone has left of its machines."""
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)

    def _sweep(self) -> None:
        """Kill what machines have started: the supervisor, which would have, was killed itself."""
        from bigmachine.host import marks

        for _ in range(SWEEPS):
            left = marks.marked_like(self._mark) if self._mark else ()
            if not left:
                return
            for pid in left:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)

    def cause(self) -> str:
        """Return how the supervisor ended, where it has."""
        code = None if self._process is None else self._process.poll()
        if code is None:
            return ""
        if code < 0:
            return f"its supervisor was killed by {signal.Signals(-code).name}"
        return f"its supervisor ended with exit code {code}"

    def _failure(self, reason: str) -> ProvisionError:
        return ProvisionError(
            f"this host's supervisor did not come up: {reason}",
            system="local",
            requested=1,
            started=0,
            answer=self.cause() or reason,
            remedy=f"see whether {sys.executable} and the directory {base_directory()} work",
        )


def _open_files_check() -> Check:
    import resource

    from bigmachine.systems.checks import Check

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        return Check.ok("open-files", "no limit")
    machines = hard // FILES_PER_MACHINE
    seen = f"up to {hard}, enough for about {machines} machines"
    if machines >= FEW_MACHINES:
        return Check.ok("open-files", seen)
    return Check.warn("open-files", seen, "raise the hard limit: ulimit -Hn, or limits.conf")


def _end_at_once(process: subprocess.Popen[bytes]) -> None:
    from bigmachine.host.entry import AT_ONCE_SIGNAL

    if process.poll() is None:
        process.send_signal(AT_ONCE_SIGNAL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(AT_ONCE_SECONDS)
            return
        process.kill()
    process.wait()


def _spawn_supervisor(boot: socket.socket) -> subprocess.Popen[bytes]:
    from bigmachine.host.entry import supervisor_command

    return subprocess.Popen(
        supervisor_command(sys.executable, boot.fileno()),
        pass_fds=(boot.fileno(),),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )


async def _receive(sock: socket.socket, loop: asyncio.AbstractEventLoop) -> bytes:
    (length,) = _LENGTH.unpack(await _receive_exactly(sock, loop, _LENGTH.size))
    return await _receive_exactly(sock, loop, length)


async def _receive_exactly(
    sock: socket.socket, loop: asyncio.AbstractEventLoop, count: int
) -> bytes:
    data = b""
    while len(data) < count:
        piece = await loop.sock_recv(sock, count - len(data))
        if not piece:
            raise EOFError("it ended at once")
        data += piece
    return data
