"""Speaking to the boot file of a host that has no supervisor yet (`bigmachine.boot`).

The driver does, and in its stead a host of the same cluster that sends the runtime. Messages are a
length and JSON, and bytes may follow one, over mutual TLS.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import struct
import zlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from bigmachine.addresses import Address
    from bigmachine.image.store import Store
    from bigmachine.rpc.dialer import Dialer

BOOT_TARGET: Final = "boot"
"""Whom a connection to the boot file is for."""
CONNECT_SECONDS: Final = 5.0
"""How long a host that boots may take to let another host in; the driver is there, too."""

_HANDSHAKE_SECONDS: Final = 10.0
_CLOSE_SECONDS: Final = 1.0
_IDLE_SECONDS: Final = 45.0  # for an answer: the supervisor's start is the longest
_MAX_MESSAGE_BYTES: Final = 8 << 20
_LENGTH: Final = struct.Struct(">I")


class BootLink:
    """A connection to a boot file."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, sock: socket.socket, tls: ssl.SSLContext, subject: str) -> BootLink:
        """Prove who each side is, on a socket that has the preamble behind it.

        Args:
            sock: The socket: it is the link's from now on, and closed when there is none.
            tls: This side's context.
            subject: Who the other side has to be.

        Raises:
            OSError: It is nobody, or somebody else.
        """
        try:
            reader, writer = await asyncio.open_connection(
                sock=sock,
                ssl=tls,
                server_hostname=subject,
                ssl_handshake_timeout=_HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=_CLOSE_SECONDS,
            )
        except BaseException:
            sock.close()
            raise
        return cls(reader, writer)

    async def send(self, message: Mapping[str, Any], data: bytes = b"") -> None:
        """Send a message, and bytes that follow it.

        Raises:
            OSError: The connection broke, or stands still.
        """
        text = json.dumps(message).encode()
        self._writer.write(_LENGTH.pack(len(text)) + text + data)
        async with asyncio.timeout(_IDLE_SECONDS):
            await self._writer.drain()

    async def send_pack(self, layer: str, number: int, data: bytes) -> None:
        """Send a pack, `compressed`; errors as in `send`."""
        await self.send({"layer": layer, "pack": number, "bytes": len(data)}, data)

    async def receive(self) -> dict[str, Any]:
        """Wait for a message.

        Raises:
            OSError: The connection broke, or nothing has come for too long.
            EOFError: The other side has closed it.
            ValueError: What came is no message.
        """
        async with asyncio.timeout(_IDLE_SECONDS):
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            if length > _MAX_MESSAGE_BYTES:
                raise ValueError(f"a message of {length} bytes")
            message = json.loads(await self._reader.readexactly(length))
        if not isinstance(message, dict):
            raise ValueError("a message that is none")
        return message

    async def wait_closed(self) -> None:
        """Wait until the other side has closed the connection, which says nothing on it."""
        async with asyncio.timeout(_IDLE_SECONDS):
            await self._reader.read(1)

    async def close(self) -> None:
        """Close the connection, whatever the other side does."""
        self._writer.close()
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._writer.wait_closed()
        except (OSError, ssl.SSLError):
            self._writer.transport.abort()


def compressed(raw: bytes) -> bytes:
    """Return a pack as it travels to a boot file, which has no Zstandard."""
    return zlib.compress(raw, 6)


async def feed(
    dialer: Dialer, address: Address, store: Store, packs: Mapping[str, list[int]]
) -> None:
    """Send a host that boots what it lacks: it expects that from this host.

    Args:
        dialer: With this host's credentials.
        address: Where the host listens.
        store: Where the layers are, in use.
        packs: The layers and their packs, in the order in which the host wants them.

    Raises:
        OSError: It is not reached, or does not take all of it.
    """
    async with asyncio.timeout(CONNECT_SECONDS):
        sock = await dialer.connect(address.at(BOOT_TARGET))
        link = await BootLink.over(sock, dialer.context(), address.subject)
    try:
        for layer, numbers in packs.items():
            for number in numbers:
                raw = await asyncio.to_thread(store.read_pack, layer, number)
                await link.send_pack(layer, number, await asyncio.to_thread(compressed, raw))
        await link.wait_closed()
    finally:
        await link.close()
