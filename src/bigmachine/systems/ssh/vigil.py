"""The boot file's run, as a later connection sees it: a process that is no child of its own.

A few lines of Python run on the host for as long as the connection lasts, watch that process, and
end it when they are told to. First they end what is left there of the connection before: where the
network alone was parted, its server's process still waits for us, and holds the port at which the
host's machines ask for other hosts. At the end, where nobody closes their own connection, they do
the same to that one.
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from typing import TYPE_CHECKING, Any, Final

from bigmachine.systems.ssh import host_problems
from bigmachine.systems.ssh.problems import HostError

if TYPE_CHECKING:
    import asyncssh

    from bigmachine.systems.ssh.order import Order

BEGIN_SECONDS: Final = 15.0
"""How long it may take to begin."""

_MARK: Final = b"bigmachine-vigil "
_LIVES: Final = _MARK + b"lives"
_ENDED: Final = _MARK + b"ended"
# For Python 3.8 and later. A process id may be another's by now, so its command line is looked at.
_WATCH: Final = """\
import os, select, signal, sys
pid = {pid}
def read(path):
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""
def lives():
    if os.path.exists("/proc/self/stat"):
        return b"bigmachine_boot" in read("/proc/%d/cmdline" % pid)
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True
def say(word):
    sys.stdout.write("bigmachine-vigil " + word + chr(10))
    sys.stdout.flush()
if lives():
    stat = read("/proc/%d/stat" % pid).rpartition(b")")[2].split()
    parent = int(stat[1]) if stat else 0
    if parent > 1 and parent != os.getppid() and read("/proc/%d/comm" % parent)[:4] == b"sshd":
        try:
            os.kill(parent, signal.SIGTERM)
        except OSError:
            pass
    say("lives")
while lives():
    if select.select([0], [], [], 0.1)[0]:
        if not os.read(0, 64):
            sys.exit(0)
        os.kill(pid, signal.SIGUSR2)
say("ended")
if not select.select([0], [], [], 3)[0] and read("/proc/%d/comm" % os.getppid())[:4] == b"sshd":
    os.kill(os.getppid(), signal.SIGTERM)
"""


class Vigil:
    """Watches a boot file that another connection has fed.

    Args:
        order: What the driver wants.
        pid: The boot file's process.
    """

    def __init__(self, order: Order, pid: int) -> None:
        self._order = order
        self._pid = pid
        self._process: asyncssh.SSHClientProcess[bytes] | None = None
        self._ended = False

    async def begin(self, connection: asyncssh.SSHClientConnection) -> None:
        """Begin to watch.

        Raises:
            HostError: The host does not let us.
        """
        import asyncssh

        host = self._order.host
        program = _WATCH.format(pid=self._pid)
        python = shlex.quote(self._order.python)
        try:
            async with asyncio.timeout(BEGIN_SECONDS):
                self._process = await connection.create_process(
                    f"exec {python} -c {shlex.quote(f'exec({program!r})')}", encoding=None
                )
                if not await self._hear():
                    raise HostError(host_problems.LOST.of(host))
        except asyncssh.ChannelOpenError as error:
            raise HostError(host_problems.NO_SESSION.of(host, error.reason)) from error
        except (asyncssh.Error, OSError) as error:  # a timeout is one
            raise HostError(host_problems.LOST.of(host, str(error))) from error

    async def _hear(self) -> bool:
        """Wait for its next word; whether one has come."""
        assert self._process is not None
        while line := await self._process.stdout.readline():
            if line.startswith(_MARK):
                self._ended = line.startswith(_ENDED)
                return True
        return False

    async def wait_ended(self) -> dict[str, Any] | None:
        """Return that the boot file has ended; None: this connection was lost, too."""
        import asyncssh

        with contextlib.suppress(asyncssh.Error, OSError):
            while not self._ended and await self._hear():
                pass
        return {"status": None, "signal": "", "said": ""} if self._ended else None

    async def end(self) -> None:
        """Have the boot file end everything, and wait for it. As long as the connection takes."""
        if self._process is not None and not self._ended:
            self._process.stdin.write(b"end\n")
            await self.wait_ended()

    def close(self) -> None:
        """Nothing else is held."""
