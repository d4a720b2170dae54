"""One host, inside the switchboard's process: its SSH connection and the boot file that runs there.

The driver orders a line over a Unix socket of its own, and what happens on it comes back, each a
JSON object in a line::

    driver ── {"host", "settings", "subject", "python", "tunnel", "boot"} ──▶ switchboard
           ◀── {"problem"}: why the host cannot be used; then the end ──────
           ◀── {"up"}: what the boot file says of the host, and the ways to it ──
           ◀── {"ended"}: how the boot file ended, or the connection ──────

The driver's end of that socket holds the host: when it is closed, whoever closes it, what runs on
the host is ended and the connection closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from bigmachine.systems import bootfile
from bigmachine.systems.ssh import host_problems
from bigmachine.systems.ssh.connect import Connected, Jumps, connect
from bigmachine.systems.ssh.hosts import HostName, parse
from bigmachine.systems.ssh.problems import HostError, Problem
from bigmachine.systems.ssh.settings import ConnectSettings

if TYPE_CHECKING:
    import asyncssh

logger = logging.getLogger(__name__)

LOOPBACK: Final = "127.0.0.1"
UP_SECONDS: Final = 30.0
"""How long the boot file may take, once there is a connection, until it listens."""
END_SECONDS: Final = 2.0
"""How long what runs on a host may take to end when it is told to."""
END_SIGNAL: Final = "USR2"
"""Tells the boot file to end everything at once (`bigmachine.boot`)."""
TUNNEL_SECONDS: Final = 10.0
"""How long the host's SSH server may take to open a tunnel."""

RETRY_SECONDS: Final = (0.1, 0.3, 0.6, 1.0)
"""Between attempts to connect, when the server hangs up (MaxStartups)."""

_MAX_SAID_BYTES: Final = 4096
_PIECE_BYTES: Final = 65536

Route = Callable[[Any, Any], Coroutine[Any, Any, None]]
"""Takes a connection, as a reader and a writer, to where its preamble says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the driver wants.

    Attributes:
        host: The host, as the user names it.
        settings: How to connect.
        subject: Who it will be in the cluster.
        python: The interpreter that runs the boot file.
        tunnel: Whether there may, must or must not be tunnels.
        boot: The boot file's configuration.
    """

    host: str
    settings: ConnectSettings
    subject: str
    python: str
    tunnel: Literal["auto", "always", "never"]
    boot: Mapping[str, Any]

    def to_mapping(self) -> dict[str, Any]:
        """Return it as what fits into JSON."""
        return {
            "host": self.host,
            "settings": self.settings.to_mapping(),
            "subject": self.subject,
            "python": self.python,
            "tunnel": self.tunnel,
            "boot": dict(self.boot),
        }

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Order:
        """Rebuild it from `to_mapping`."""
        return cls(**{**values, "settings": ConnectSettings.from_mapping(values["settings"])})


class Line:
    """A host, from the order to the end.

    Args:
        order: What the driver wants.
        jumps: Connections to jump hosts, shared by all lines.
        route: Where connections go that the host's machines make to other hosts.
    """

    def __init__(self, order: Order, jumps: Jumps, route: Route) -> None:
        self.order = order
        self._jumps = jumps
        self._route = route
        self._connection: asyncssh.SSHClientConnection | None = None
        self._process: asyncssh.SSHClientProcess[bytes] | None = None
        self._port = 0
        self._pid = 0
        self._said = bytearray()
        self._stderr: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<Line to {self.order.host} as {self.order.subject} port={self._port}>"

    async def bring_up(self) -> dict[str, Any]:
        """Connect and run the boot file; return what the driver is to know.

        Raises:
            HostError: The host cannot be used.
        """
        name = parse(self.order.host)
        connected = await self._connect(name)
        self._connection = connected.ssh
        facts, gateway, own = await asyncio.gather(
            self._boot(connected.ssh),
            self._open_gateway(connected.ssh),
            _nothing() if connected.peer else _own_address(connected.ssh),
        )
        self._port, self._pid = int(facts["port"]), int(facts["pid"])
        return {
            "facts": facts,
            "gateway": gateway,
            "address": connected.peer or own,
            "direct": bool(connected.peer),
        }

    async def _connect(self, name: HostName) -> Connected:
        """Connect; again when the server hangs up: it does at random when many come at once."""
        for pause in RETRY_SECONDS:
            try:
                return await connect(name, self.order.settings, self._jumps)
            except HostError as error:
                if error.problem.kind != "dropped":
                    raise
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))
        return await connect(name, self.order.settings, self._jumps)

    async def _open_gateway(self, connection: asyncssh.SSHClientConnection) -> str | None:
        """Have the host listen for what its machines want of others; None if that is forbidden."""
        import asyncssh

        if self.order.tunnel == "never":
            return None
        try:
            listener = await connection.start_server(
                lambda _host, _port: self._route, LOOPBACK, 0, encoding=None
            )
        except (asyncssh.ChannelListenError, asyncssh.Error, OSError) as error:
            logger.info("%s: no gateway there: %s", self.order.host, error)
            return None
        return f"{LOOPBACK}:{listener.get_port()}"

    # The boot file

    async def _boot(self, connection: asyncssh.SSHClientConnection) -> dict[str, Any]:
        """Run the boot file until it listens; return what it says of the host."""
        import asyncssh

        payload = bootfile.payload(self.order.boot)
        try:
            async with asyncio.timeout(UP_SECONDS):
                process = await connection.create_process(
                    bootfile.command(self.order.python), encoding=None
                )
                self._process = process
                process.stdin.write(payload)
                return await self._listen(process)
        except TimeoutError as error:
            problem = host_problems.SLOW.of(self.order.host, self._text(), seconds=UP_SECONDS)
            raise HostError(problem) from error
        except asyncssh.ChannelOpenError as error:
            problem = host_problems.NO_SESSION.of(self.order.host, error.reason)
            raise HostError(problem) from error
        except (asyncssh.Error, OSError) as error:
            problem = host_problems.LOST.of(self.order.host, f"{error} {self._text()}")
            raise HostError(problem) from error

    async def _listen(self, process: asyncssh.SSHClientProcess[bytes]) -> dict[str, Any]:
        self._stderr = asyncio.ensure_future(self._remember(process.stderr))
        while line := await process.stdout.readline():
            said = bootfile.read_line(line)
            if said is None:
                self._note(line)
            elif "error" in said:
                raise HostError(host_problems.of_boot(self.order.host, self.order.python, said))
            else:
                return said
        await self._stderr
        await process.wait_closed()
        raise HostError(self._of_shell(process))

    def _of_shell(self, process: asyncssh.SSHClientProcess[bytes]) -> Problem:
        signal = process.exit_signal
        return host_problems.of_shell(
            self.order.host,
            self.order.python,
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

    # Its life

    async def wait_ended(self) -> dict[str, Any]:
        """Return how the boot file ended, or that the connection was lost before it did."""
        import asyncssh

        process = self._process
        assert process is not None
        assert self._stderr is not None
        with contextlib.suppress(asyncssh.Error, OSError):
            await asyncio.gather(self._remember(process.stdout), self._stderr)
            await process.wait_closed()
        signal = process.exit_signal
        if process.exit_status is None and not signal:
            return {"lost": True, "said": self._text()}
        return {
            "lost": False,
            "status": process.exit_status,
            "signal": signal[0] if signal else "",
            "said": self._text(),
        }

    async def open_tunnel(self) -> tuple[Any, Any]:
        """Return a reader and a writer to the host's endpoint.

        Raises:
            OSError: It cannot be reached.
        """
        import asyncssh

        if self._connection is None or not self._port:
            raise ConnectionRefusedError("the host is not up")
        try:
            async with asyncio.timeout(TUNNEL_SECONDS):
                return await self._connection.open_connection(LOOPBACK, self._port, encoding=None)
        except asyncssh.ChannelOpenError as error:
            raise ConnectionRefusedError(error.reason) from error
        except (asyncssh.Error, ConnectionError) as error:
            raise ConnectionResetError(f"the SSH connection is lost: {error}") from error

    async def end(self) -> None:
        """End what runs on the host, as far as that can be reached, and close the connection."""
        process, connection = self._process, self._connection
        if connection is None:
            return
        if process is not None and self._port and process.exit_status is None:
            with contextlib.suppress(Exception):  # whatever it is, closing comes next
                async with asyncio.timeout(END_SECONDS):
                    await self._signal(connection, process)
                    await process.wait_closed()
        if self._stderr is not None:
            self._stderr.cancel()
        connection.close()
        with contextlib.suppress(Exception):
            async with asyncio.timeout(END_SECONDS):
                await connection.wait_closed()

    async def _signal(
        self, connection: asyncssh.SSHClientConnection, process: asyncssh.SSHClientProcess[bytes]
    ) -> None:
        """Tell the boot file to end, by a command: not every server passes signals on."""
        import asyncssh

        try:
            await connection.run(f"kill -{END_SIGNAL} {self._pid}")
        except asyncssh.ChannelOpenError:  # it has a limit of one session, say
            process.send_signal(END_SIGNAL)


async def serve_line(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: Line
) -> None:
    """Do what the driver has ordered, and tell it, until it closes its end or the host ends.

    Then the line is to be ended, by `Line.end`.

    Args:
        reader: From the driver, past the order.
        writer: To the driver.
        line: The host.
    """
    held = asyncio.ensure_future(_closed(reader))
    work = asyncio.ensure_future(_live(line, writer))
    try:
        await asyncio.wait((held, work), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (held, work):
            task.cancel()
        await asyncio.wait((held, work))


async def _live(line: Line, writer: asyncio.StreamWriter) -> None:
    try:
        up = await line.bring_up()
    except HostError as error:
        await _tell(writer, {"problem": error.problem.to_mapping()})
        return
    except Exception as error:
        logger.exception("%s: the line failed", line.order.host)
        problem = Problem(
            host=line.order.host,
            kind="fault",
            what=f"its line failed with {type(error).__name__}: {error}",
            remedy="this is a fault of bigmachine: report it",
        )
        await _tell(writer, {"problem": problem.to_mapping()})
        return
    await _tell(writer, {"up": up})
    await _tell(writer, {"ended": await line.wait_ended()})


async def _own_address(connection: asyncssh.SSHClientConnection) -> str:
    """Return under which address the host was connected to, as its SSH server knows it."""
    with contextlib.suppress(Exception):  # it is nice to have
        async with asyncio.timeout(UP_SECONDS):
            done = await connection.run("echo $SSH_CONNECTION")
            return str(done.stdout).split()[2]
    return ""


async def _nothing() -> str:
    return ""


async def _tell(writer: asyncio.StreamWriter, message: Mapping[str, Any]) -> None:
    writer.write(json.dumps(message).encode() + b"\n")
    await writer.drain()


async def _closed(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError):
        while await reader.read(_PIECE_BYTES):
            pass
