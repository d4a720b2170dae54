"""The process that speaks SSH for one cluster: hosts are held here, and tunnels pass through.

It listens on a Unix socket that the driver has made, in a directory that the user alone can enter,
and on a loopback port of each host. Whoever connects says in 64 bytes what it wants::

    bigmachine/1 line            the driver, on the Unix socket: a host (`line`)
    bigmachine/1 via SUBJECT     anybody: to the endpoint of that host (`rpc.dialer`)

What passes through a tunnel is TLS from end to end, between parties that both prove themselves: the
switchboard sees none of it, and whoever else on a host connects to the port there gets no further
than to the front door of another.

What always holds: it ends with the driver (it watches that process), or when it is told to by
SIGTERM, and takes at most a few seconds for it; the Unix socket goes with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

from bigmachine import osdep
from bigmachine.systems.ssh.connect import Jumps
from bigmachine.systems.ssh.line import Line, serve_line
from bigmachine.systems.ssh.order import Order

logger = logging.getLogger(__name__)

PREAMBLE_BYTES: Final = 64
PREAMBLE_SECONDS: Final = 5.0
"""How long a peer may take to say what it wants; it may be behind a slow link."""
MAX_UNDECIDED: Final = 512
MAX_ORDER_BYTES: Final = 1 << 20
PIECE_BYTES: Final = 1 << 18
LINE_TARGET: Final = "line"
VIA: Final = "via "

_MAGIC: Final = b"bigmachine/1 "
_THROUGH: Final = b"\x01"
_NOT_THROUGH: Final = b"\x00"
_LAST_SECONDS: Final = 5.0


def main(config: Mapping[str, Any]) -> None:
    """Be a switchboard. Never returns.

    Args:
        config: ``socket``, the descriptor of the listening Unix socket; ``driver``, the process to
            end with; ``directory``, to be removed at the end.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.WARNING)  # to a file that the driver reads if this fails
    logging.getLogger("asyncssh").setLevel(logging.CRITICAL)
    try:
        watch = osdep.watch_process(config["driver"])
    except ProcessLookupError:
        watch = -1
    if watch >= 0:
        listener = socket.socket(fileno=config["socket"])
        asyncio.run(Switchboard(listener).run(watch))
    shutil.rmtree(config["directory"], ignore_errors=True)
    sys.stderr.flush()
    os._exit(0)


class Switchboard:
    """Made and used on one loop.

    Args:
        listener: Where the driver and its helpers connect.
    """

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._lines: dict[str, Line] = {}
        self._jumps = Jumps()
        self._undecided = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._ending: set[asyncio.Task[None]] = set()  # those of them that are at their end already

    def __repr__(self) -> str:
        return f"<Switchboard lines={list(self._lines)} connections={len(self._tasks)}>"

    async def run(self, watch: int) -> None:
        """Serve until the end.

        Args:
            watch: A descriptor that is readable when the driver has ended.
        """
        loop = asyncio.get_running_loop()
        ending = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, ending.set)
        loop.add_reader(watch, ending.set)
        server = await asyncio.start_unix_server(
            self._tracked(self._serve), sock=self._listener, limit=MAX_ORDER_BYTES
        )
        import asyncssh  # noqa: F401  while the first order is on its way

        await ending.wait()
        server.close()
        loop.remove_reader(watch)
        tasks = list(self._tasks)
        for task in set(tasks) - self._ending:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_LAST_SECONDS)
        self._jumps.close()

    def _tracked(
        self, serve: Callable[[Any, Any], Coroutine[Any, Any, None]]
    ) -> Callable[[Any, Any], Coroutine[Any, Any, None]]:
        """Have connections ended at the end, and closed in any case."""

        async def tracked(reader: Any, writer: Any) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            try:
                await serve(reader, writer)
            except (OSError, EOFError) as error:
                logger.debug("a connection ended: %s", error)
            finally:
                self._tasks.discard(task)
                with contextlib.suppress(Exception):
                    writer.close()

        return tracked

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection to the Unix socket."""
        target = await self._target(reader)
        if target == LINE_TARGET:
            await self._hold(reader, writer)
        elif target.startswith(VIA):
            await self._pass(target.removeprefix(VIA), reader, writer)

    async def _route(self, reader: Any, writer: Any) -> None:
        """Serve a connection that a host's port has taken: there are tunnels and nothing else."""
        target = await self._target(reader)
        if target.startswith(VIA):
            await self._pass(target.removeprefix(VIA), reader, writer)

    async def _target(self, reader: Any) -> str:
        """Return what a peer wants; "" when it says nothing of the kind, or nothing in time."""
        if self._undecided >= MAX_UNDECIDED:
            return ""
        self._undecided += 1
        try:
            async with asyncio.timeout(PREAMBLE_SECONDS):
                data: bytes = await reader.readexactly(PREAMBLE_BYTES)
        except (TimeoutError, asyncio.IncompleteReadError):
            return ""
        finally:
            self._undecided -= 1
        if not data.startswith(_MAGIC):
            return ""
        return data[len(_MAGIC) :].rstrip(b"\0").decode("ascii", "replace")

    async def _hold(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        order = Order.from_mapping(json.loads(await reader.readline()))
        line = Line(order, self._jumps, self._tracked(self._route))
        self._lines[order.subject] = line
        task = asyncio.current_task()
        assert task is not None
        try:
            await serve_line(reader, writer, line)
        finally:
            self._ending.add(task)
            await line.end()
            self._ending.discard(task)
            del self._lines[order.subject]

    async def _pass(self, subject: str, reader: Any, writer: Any) -> None:
        """Pipe a connection to a host's endpoint, both ways."""
        line = self._lines.get(subject)
        try:
            if line is None:
                raise ConnectionRefusedError("there is no such host, any more")
            far_reader, far_writer = await line.open_tunnel()
        except (OSError, TimeoutError) as error:
            writer.write(_NOT_THROUGH + str(error or "it takes too long").encode())
            await writer.drain()
            return
        try:
            writer.write(_THROUGH)
            await _both(_pump(reader, far_writer), _pump(far_reader, writer))
        finally:
            far_writer.close()


async def _both(*ways: Coroutine[Any, Any, None]) -> None:
    """Run both directions until both are at their end, or one breaks."""
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _pump(reader: Any, writer: Any) -> None:
    """Copy until the end of what is read, and pass that end on."""
    import asyncssh

    try:
        while data := await reader.read(PIECE_BYTES):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except (asyncssh.Error, OSError) as error:
        raise ConnectionResetError(str(error)) from error
