"""One host, inside the switchboard's process: its SSH connections and the boot file.

The driver orders a line over a Unix socket of its own, and what happens on it comes back, each a
JSON object in a line::

    driver ── {"host", "settings", "subject", "python", "tunnel", "boot"} ──▶ switchboard
           ◀── {"problem"}: why the host cannot be used; then the end ──────
           ◀── {"up"}: what the boot file says of the host, and the ways to it ──
           ◀── {"away"}: the connection is lost, and why there is no other yet ──
           ◀── {"back"}: there is another ──────
           ◀── {"ended"}: how the boot file ended ──────

The driver's end of that socket holds the host: when it is closed, whoever closes it, what runs on
the host is ended and the connection closed. A connection that is lost is made anew for as long as
the driver holds the host; what runs there lives as long as its lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from bigmachine.systems.ssh import host_problems
from bigmachine.systems.ssh.connect import Connected, Jumps, connect
from bigmachine.systems.ssh.feeding import Feeding
from bigmachine.systems.ssh.hosts import parse
from bigmachine.systems.ssh.order import LOOPBACK, Order
from bigmachine.systems.ssh.problems import HostError, Problem
from bigmachine.systems.ssh.vigil import Vigil

if TYPE_CHECKING:
    import asyncssh

logger = logging.getLogger(__name__)

END_SECONDS: Final = 2.0
"""How long what runs on a host may take to end when it is told to."""
TUNNEL_SECONDS: Final = 10.0
"""How long it may take to open a tunnel; where the connection is lost, to have another one."""
OWN_SECONDS: Final = 30.0
"""How long a host may take to say how it was reached."""

RETRY_SECONDS: Final = (0.1, 0.3, 0.6, 1.0)
"""Between attempts to connect, when the server hangs up (MaxStartups)."""
AGAIN_SECONDS: Final = (0.1, 0.3, 1.0, 2.0, 4.0)
"""Between attempts to connect anew, when a connection was lost."""
AGAIN_CONNECT_SECONDS: Final = 6.0
"""How long one of them may take: one that begins when the network is back is the fastest."""
TAKE_UP_SECONDS: Final = 4.0
"""How long the server may take to have the old port again."""
GATEWAY_SECONDS: Final = (0.0, 0.1, 0.3, 0.6, 1.0)
"""Before attempts to have the old port again, which the server may just be about to let go."""

_PIECE_BYTES: Final = 65536

Route = Callable[[Any, Any], Coroutine[Any, Any, None]]
"""Takes a connection, as a reader and a writer, to where its preamble says."""


class Line:
    """A host, from the order to the end.

    Args:
        order: What the driver wants.
        jumps: Connections to jump hosts, shared by all lines.
        route: Where connections go that the host's machines make to other hosts.
    """

    def __init__(self, order: Order, jumps: Jumps, route: Route) -> None:
        self.order = order
        self._name = parse(order.host)
        self._jumps = jumps
        self._route = route
        self._connection: asyncssh.SSHClientConnection | None = None
        self._run: Feeding | Vigil = Feeding(order)
        self._is_there = asyncio.Event()  # there is a connection, as far as is known
        self._port = 0
        self._pid = 0
        self._gateway_port = 0

    def __repr__(self) -> str:
        return f"<Line to {self.order.host} as {self.order.subject} port={self._port}>"

    async def bring_up(self) -> dict[str, Any]:
        """Connect and run the boot file; return what the driver is to know.

        Raises:
            HostError: The host cannot be used.
        """
        connected = await self._connect()
        self._connection = connected.ssh
        assert isinstance(self._run, Feeding)
        facts, gateway, own = await asyncio.gather(
            self._run.begin(connected.ssh),
            self._open_gateway(connected.ssh),
            _nothing() if connected.peer else _own_address(connected.ssh),
        )
        self._port, self._pid, self._gateway_port = int(facts["port"]), int(facts["pid"]), gateway
        self._is_there.set()
        return {
            "facts": facts,
            "gateway": f"{LOOPBACK}:{gateway}" if gateway else None,
            "address": connected.peer or own,
            "direct": bool(connected.peer),
        }

    async def _connect(self) -> Connected:
        """Connect; again when the server hangs up: it does at random when many come at once."""
        for pause in RETRY_SECONDS:
            try:
                return await connect(self._name, self.order.settings, self._jumps)
            except HostError as error:
                if error.problem.kind != "dropped":
                    raise
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))
        return await connect(self._name, self.order.settings, self._jumps)

    async def _open_gateway(self, connection: asyncssh.SSHClientConnection, port: int = 0) -> int:
        """Have the host listen for what its machines want of others; 0 if that is forbidden."""
        import asyncssh

        if self.order.tunnel == "never":
            return 0
        try:
            listener = await connection.start_server(
                lambda _host, _port: self._route, LOOPBACK, port, encoding=None
            )
        except (asyncssh.ChannelListenError, asyncssh.Error, OSError) as error:
            logger.info("%s: no gateway there: %s", self.order.host, error)
            return 0
        return listener.get_port()

    # Its life

    async def wait_ended(self) -> dict[str, Any] | None:
        """Return how the boot file ended; None: the connection was lost before it did."""
        ended = await self._run.wait_ended()
        if ended is None:
            self._lose()
        return ended

    def _lose(self) -> None:
        """Note that the connection is of no use any more."""
        self._is_there.clear()
        self._run.close()
        if self._connection is not None:
            self._connection.close()

    async def come_back(self) -> AsyncIterator[Problem]:
        """Connect anew, until that works; yields why it did not, each time."""
        seconds = min(self.order.settings.connect_seconds, AGAIN_CONNECT_SECONDS)
        settings = replace(self.order.settings, connect_seconds=seconds)
        attempt = 0
        while True:
            try:
                connected = await connect(self._name, settings, self._jumps)
                await self._take_up(connected.ssh)
            except HostError as error:
                yield error.problem
            else:
                return
            pause = AGAIN_SECONDS[min(attempt, len(AGAIN_SECONDS) - 1)]
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))
            attempt += 1

    async def _take_up(self, connection: asyncssh.SSHClientConnection) -> None:
        """Use a connection in place of the one that was lost."""
        run = Vigil(self.order, self._pid)
        try:
            await run.begin(connection)
            async with asyncio.timeout(TAKE_UP_SECONDS):
                if self._gateway_port:
                    await self._open_gateway_again(connection)
        except BaseException as error:
            connection.close()
            if isinstance(error, TimeoutError):
                raise HostError(host_problems.LOST.of(self.order.host)) from error
            raise
        self._connection, self._run = connection, run
        self._is_there.set()

    async def _open_gateway_again(self, connection: asyncssh.SSHClientConnection) -> None:
        """Have the host listen where its machines know of."""
        for pause in GATEWAY_SECONDS:
            await asyncio.sleep(pause)
            if await self._open_gateway(connection, self._gateway_port):
                return
        logger.warning("%s: its machines reach no other host any more", self.order.host)

    async def open_tunnel(self) -> tuple[Any, Any]:
        """Return a reader and a writer to the host's endpoint.

        Raises:
            OSError: It cannot be reached.
        """
        import asyncssh

        if not self._port:
            raise ConnectionRefusedError("the host is not up")
        try:
            async with asyncio.timeout(TUNNEL_SECONDS):
                while True:
                    await self._is_there.wait()
                    connection = self._connection
                    assert connection is not None
                    try:
                        return await connection.open_connection(LOOPBACK, self._port, encoding=None)
                    except (asyncssh.Error, OSError) as error:
                        if not connection.is_closed():
                            reason = getattr(error, "reason", "") or str(error)
                            raise ConnectionRefusedError(reason) from error
                    if connection is self._connection:
                        self._is_there.clear()
        except TimeoutError as error:
            if self._is_there.is_set():
                raise
            raise ConnectionResetError("the SSH connection is lost") from error

    async def end(self) -> None:
        """End what runs on the host, as far as that can be reached, and close the connection."""
        connection = self._connection
        if connection is None:
            return
        if self._is_there.is_set():
            with contextlib.suppress(Exception):  # whatever it is, closing comes next
                async with asyncio.timeout(END_SECONDS):
                    await self._run.end()
        self._lose()
        with contextlib.suppress(Exception):
            async with asyncio.timeout(END_SECONDS):
                await connection.wait_closed()


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
    while (ended := await line.wait_ended()) is None:
        await _tell(writer, {"away": ""})
        async for problem in line.come_back():
            await _tell(writer, {"away": problem.what})
        await _tell(writer, {"back": True})
    await _tell(writer, {"ended": ended})


async def _own_address(connection: asyncssh.SSHClientConnection) -> str:
    """Return under which address the host was connected to, as its SSH server knows it."""
    with contextlib.suppress(Exception):  # it is nice to have
        async with asyncio.timeout(OWN_SECONDS):
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
