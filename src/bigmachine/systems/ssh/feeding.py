"""The boot file's run, as the connection sees it that has fed it: from its first word to its exit.

When that connection is lost, the run may go on: `vigil` watches it then.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

from bigmachine.systems import bootfile
from bigmachine.systems.ssh import host_problems
from bigmachine.systems.ssh.problems import HostError, Problem

if TYPE_CHECKING:
    import asyncssh

    from bigmachine.systems.ssh.order import Order

UP_SECONDS: Final = 30.0
"""How long the boot file may take, once there is a connection, until it listens."""
END_SIGNAL: Final = "USR2"
"""Tells the boot file to end everything at once (`bigmachine.boot`)."""

AT_END: Final = """\
read -r _ _ _ session _ < /proc/$PPID/stat && [ "$session" -gt 1 ] || exit 0
serves() { read -r name < "/proc/$session/comm" && case $name in sshd*) ;; *) false ;; esac }
(
    left=30
    while serves && [ $left -gt 0 ]; do
        sleep 0.1
        left=$((left - 1))
    done
    serves && kill "$session"
) > /dev/null 2>&1 &
"""
"""What a host does at its end, in any shell: where nobody closes the connection that the boot file
came by within three seconds, there is nobody, and the server's process for it (which is the boot
file's parent, and serves that connection alone) would keep it for as long as TCP is patient, with
the port that it listens on for us."""

_MAX_SAID_BYTES: Final = 4096
_PIECE_BYTES: Final = 65536


class Feeding:
    """One run of the boot file.

    Args:
        order: What the driver wants.
    """

    def __init__(self, order: Order) -> None:
        self._order = order
        self._connection: asyncssh.SSHClientConnection | None = None
        self._process: asyncssh.SSHClientProcess[bytes] | None = None
        self._pid = 0
        self._said = bytearray()
        self._stderr: asyncio.Future[None] | None = None

    async def begin(self, connection: asyncssh.SSHClientConnection) -> dict[str, Any]:
        """Run the boot file until it listens; return what it says of the host.

        Raises:
            HostError: It does not come to that.
        """
        import asyncssh

        host = self._order.host
        self._connection = connection
        payload = bootfile.payload(self._order.boot)
        try:
            async with asyncio.timeout(UP_SECONDS):
                process = await connection.create_process(
                    bootfile.command(self._order.python), encoding=None
                )
                self._process = process
                process.stdin.write(payload)
                facts = await self._listen(process)
        except TimeoutError as error:
            problem = host_problems.SLOW.of(host, self._text(), seconds=UP_SECONDS)
            raise HostError(problem) from error
        except asyncssh.ChannelOpenError as error:
            raise HostError(host_problems.NO_SESSION.of(host, error.reason)) from error
        except (asyncssh.Error, OSError) as error:
            raise HostError(host_problems.LOST.of(host, f"{error} {self._text()}")) from error
        self._pid = int(facts["pid"])
        return facts

    async def _listen(self, process: asyncssh.SSHClientProcess[bytes]) -> dict[str, Any]:
        self._stderr = asyncio.ensure_future(self._remember(process.stderr))
        while line := await process.stdout.readline():
            said = bootfile.read_line(line)
            if said is None:
                self._note(line)
            elif "error" in said:
                raise HostError(host_problems.of_boot(self._order.host, self._order.python, said))
            else:
                return said
        await self._stderr
        await process.wait_closed()
        raise HostError(self._of_shell(process))

    def _of_shell(self, process: asyncssh.SSHClientProcess[bytes]) -> Problem:
        signal = process.exit_signal
        return host_problems.of_shell(
            self._order.host,
            self._order.python,
            process.exit_status,
            signal[0] if signal else "",
            self._text(),
        )

    async def _remember(self, stream: Any) -> None:
        """Keep the end of what comes; read all of it, so that nobody over there has to wait."""
        while piece := await stream.read(_PIECE_BYTES):
            self._note(piece)

    def _note(self, piece: bytes) -> None:
        self._said += piece
        del self._said[:-_MAX_SAID_BYTES]

    def _text(self) -> str:
        return self._said.decode("utf-8", "replace").strip()

    async def wait_ended(self) -> dict[str, Any] | None:
        """Return how the boot file ended; None: the connection was lost before it did."""
        import asyncssh

        process = self._process
        assert process is not None
        assert self._stderr is not None
        with contextlib.suppress(asyncssh.Error, OSError):
            await asyncio.gather(self._remember(process.stdout), self._stderr)
            await process.wait_closed()
        signal = process.exit_signal
        if process.exit_status is None and not signal:
            return None
        return {
            "status": process.exit_status,
            "signal": signal[0] if signal else "",
            "said": self._text(),
        }

    async def end(self) -> None:
        """Have the boot file end everything, and wait for it. As long as the connection takes."""
        import asyncssh

        process, connection = self._process, self._connection
        if process is None or connection is None or not self._pid:
            return
        if process.exit_status is None:
            try:  # by a command: not every server passes signals on
                await connection.run(f"kill -{END_SIGNAL} {self._pid}")
            except asyncssh.ChannelOpenError:  # it has a limit of one session, say
                process.send_signal(END_SIGNAL)
            await process.wait_closed()

    def close(self) -> None:
        """Read what it says no longer."""
        if self._stderr is not None:
            self._stderr.cancel()
