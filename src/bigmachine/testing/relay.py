"""Stands in the middle of a connection and does to its frames what `Faults` decide.

::

    caller ◀──socketpair──▶ relay: split into frames ▶ verdict ▶ hold up ▶ pass on ◀──▶ server

Two tasks for each direction, one that reads and one that writes: a delay holds up each frame for
itself and not those behind it for the sum. What always holds: frames keep their order; when either
side has closed, what is under way is delivered and then the other side is closed too.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Final

from bigmachine.testing.faults import Connection, Lane
from bigmachine.wire import frames

_READ_BYTES: Final = 256 * 1024
_QUEUE_FRAMES: Final = 1024

_Entry = tuple[float, bytes]


class Relay:
    """One relayed connection. Used on its loop.

    Args:
        caller: The relay's end of the pair whose other end the caller has.
        server: Likewise for the server's.
        connection: What happens on the way.
    """

    def __init__(
        self, caller: socket.socket, server: socket.socket, connection: Connection
    ) -> None:
        self._socks = (caller, server)
        self._connection = connection

    def __repr__(self) -> str:
        return f"<Relay {self._connection!r}>"

    async def run(self) -> None:
        """Pass frames on until either side closes, or the connection is cut."""
        caller, server = self._socks
        there = asyncio.ensure_future(_pass_on(caller, server, self._connection.lane("there")))
        back = asyncio.ensure_future(_pass_on(server, caller, self._connection.lane("back")))
        try:
            await asyncio.wait((there, back), return_when=asyncio.FIRST_COMPLETED)
        finally:
            there.cancel()
            back.cancel()
            await asyncio.gather(there, back, return_exceptions=True)

    def close(self) -> None:
        """Close both sides, once `run` has ended or will never begin."""
        for sock in self._socks:
            sock.close()


async def _pass_on(source: socket.socket, sink: socket.socket, lane: Lane) -> None:
    """Pass one direction on until it ends or is cut."""
    queue: asyncio.Queue[_Entry | None] = asyncio.Queue(_QUEUE_FRAMES)
    writer = asyncio.ensure_future(_write(sink, queue))
    try:
        await _read(source, queue, lane)
        await queue.put(None)
        await writer
    finally:
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)


async def _read(source: socket.socket, queue: asyncio.Queue[_Entry | None], lane: Lane) -> None:
    loop = asyncio.get_running_loop()
    splitter = Splitter()
    with contextlib.suppress(OSError):
        while data := await loop.sock_recv(source, _READ_BYTES):
            for frame in splitter.feed(data):
                verdict = lane.next()
                if verdict.cut:
                    return
                if not verdict.drop:
                    await queue.put((loop.time() + verdict.delay, frame))


async def _write(sink: socket.socket, queue: asyncio.Queue[_Entry | None]) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        while (entry := await queue.get()) is not None:
            due, frame = entry
            if (left := due - loop.time()) > 0:
                await asyncio.sleep(left)
            await loop.sock_sendall(sink, frame)


class Splitter:
    """Splits a flow of bytes into frames, headers included. Pure."""

    def __init__(self) -> None:
        self._held = bytearray()

    def __repr__(self) -> str:
        return f"<Splitter holds {len(self._held)} bytes>"

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes; return the frames that are whole now."""
        held = self._held
        held += data
        found: list[bytes] = []
        at = 0
        while len(held) - at >= frames.HEADER_BYTES:
            end = at + frames.HEADER_BYTES + frames.HEADER.unpack_from(held, at)[0]
            if len(held) < end:
                break
            found.append(bytes(held[at:end]))
            at = end
        del held[:at]
        return found
