"""A relay before an SSH server, which can part the two sides without a word to either."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from sshd import Server


class Relay:
    """Passes connections on, until they are parted.

    Attributes:
        port: Its port, on 127.0.0.1.
    """

    def __init__(self) -> None:
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self._parted = asyncio.Event()

    def part(self, *, for_good: bool = False) -> None:
        """Have nothing pass any more on the connections that there are; later ones may work."""
        self._parted.set()
        if not for_good:
            self._parted = asyncio.Event()

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int
    ) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        self._writers += [writer, far_writer]
        for way in (self._pump(reader, far_writer), self._pump(far_reader, writer)):
            task = asyncio.ensure_future(way)
            self._tasks.add(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parted = asyncio.ensure_future(self._parted.wait())
        reading = asyncio.ensure_future(reader.read(65536))
        try:
            while True:
                await asyncio.wait((parted, reading), return_when=asyncio.FIRST_COMPLETED)
                if parted.done():
                    return
                if not (data := reading.result()):
                    break
                writer.write(data)
                reading = asyncio.ensure_future(reader.read(65536))
            writer.close()
        except OSError:
            writer.close()
        finally:
            parted.cancel()
            reading.cancel()

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for writer in self._writers:
            writer.transport.abort()


@contextlib.asynccontextmanager
async def relaying(server: Server) -> AsyncIterator[Relay]:
    """Run a relay; the server's key is known to be found there."""
    relay = Relay()
    listener = await asyncio.start_server(
        lambda reader, writer: relay.serve(reader, writer, server.port), "127.0.0.1", 0
    )
    relay.port = listener.sockets[0].getsockname()[1]
    server.keys.know(relay.port)
    try:
        yield relay
    finally:
        listener.close()
        relay.close()
