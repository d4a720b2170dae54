"""TLS for a channel: an `ssl.SSLObject` between two memory buffers."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterable
from typing import Final, cast

_CIPHER_BYTES: Final = 512 * 1024


class Tls:
    """The cipher of one connection: encrypts from any thread, decrypts on the reader's."""

    def __init__(
        self,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_hostname: str | None = None,
    ) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ssl = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_side,
            server_hostname=server_hostname,
        )
        # An SSL object must not be used by two threads at once; but a finalizer that runs while
        # this one reads may send something.
        self._lock = threading.RLock()
        self._cipher = memoryview(bytearray(_CIPHER_BYTES))
        self.drained = True
        """Whether the last `read` left nothing: another one would say so by an exception."""

    def __repr__(self) -> str:
        return f"<Tls {self._ssl.version() or 'before the handshake'}>"

    @property
    def object(self) -> ssl.SSLObject:
        """The SSL object, to ask who the peer is."""
        return self._ssl

    async def handshake(self, sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        """Shake hands over a non-blocking socket.

        Raises:
            ssl.SSLError: The peer was not accepted, or did not accept this side.
            ConnectionError: It went away.
        """
        while True:
            try:
                self._ssl.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                done = False
            except ssl.SSLError:
                await self._send_pending(sock, loop)  # the alert tells the peer why
                raise
            await self._send_pending(sock, loop)
            if done:
                return
            data = await loop.sock_recv(sock, 64 * 1024)
            if not data:
                raise ConnectionResetError("the peer went away during the TLS handshake")
            self._incoming.write(data)

    async def _send_pending(self, sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        data = self._outgoing.read()
        if data:
            await loop.sock_sendall(sock, data)

    def encrypt(self, batch: Iterable[bytes | memoryview]) -> bytes:
        """Return the ciphertext of some plaintext."""
        with self._lock:
            for piece in batch:
                self._ssl.write(piece)
            return self._outgoing.read()

    def fill(self, sock: socket.socket) -> bool:
        """Read ciphertext from a socket; return whether it has ended."""
        count = sock.recv_into(self._cipher)
        if count:
            with self._lock:
                self._incoming.write(self._cipher[:count])
        return not count

    def read(self, buffer: memoryview) -> int:
        """Decrypt into a buffer; return the count, 0 at the end, -1 when more must come first."""
        with self._lock:
            try:
                count = cast("int", self._ssl.read(len(buffer), buffer))
                self.drained = not (self._incoming.pending or self._ssl.pending())
                return count
            except ssl.SSLWantReadError:
                return -1
            except ssl.SSLZeroReturnError:
                return 0
