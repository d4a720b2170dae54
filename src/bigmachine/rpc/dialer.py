"""Opening connections to machines and supervisors: sockets, preambles, and who proves what."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from typing import Final

from bigmachine.addresses import Address
from bigmachine.rpc import endpoints
from bigmachine.security.credentials import Credentials
from bigmachine.wire import frames

CONNECT_SECONDS: Final = 20.0
"""How long reaching a host may take."""

_LONGEST_UNIX_PATH = 100


class Dialer:
    """Opens sockets, with this process's credentials where the other side is another host."""

    def __init__(self, credentials: Credentials | None = None) -> None:
        self._credentials = credentials
        self._context: ssl.SSLContext | None = None

    def __repr__(self) -> str:
        return f"<Dialer {'with' if self._credentials else 'without'} credentials>"

    def tls(self, address: Address) -> ssl.SSLContext | None:
        """Return the context for an address; None where the socket needs no TLS."""
        return self.context() if address.kind == "tls" else None

    def context(self) -> ssl.SSLContext:
        """Return the context for connections to other hosts.

        Raises:
            ConnectionRefusedError: This process has no credentials.
        """
        if self._context is None:
            from bigmachine.security.tls import client_context

            if self._credentials is None:
                raise ConnectionRefusedError("this cluster has no credentials for other hosts")
            self._context = client_context(self._credentials)
        return self._context

    async def connect(self, address: Address) -> socket.socket:
        """Return a connected socket with the preamble sent.

        Raises:
            OSError: Nobody is reached there.
        """
        if address.kind == "inproc":
            return endpoints.connect(address.path, address.target)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_SECONDS):
            if address.kind == "unix":
                sock = await _connect_unix(address.path, loop)
            else:
                sock = await _connect_tcp(address, loop)
            try:
                await loop.sock_sendall(sock, frames.preamble(address.target))
            except BaseException:
                sock.close()
                raise
        return sock


async def _connect_unix(path: str, loop: asyncio.AbstractEventLoop) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    directory = None
    try:
        if len(path) > _LONGEST_UNIX_PATH:  # a socket's address has room for 108 bytes
            directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY)
            path = f"/proc/self/fd/{directory}/{os.path.basename(path)}"
        while True:
            try:
                await loop.sock_connect(sock, path)
                return sock
            except BlockingIOError:  # the listener's queue is full: on Unix sockets that is said
                await asyncio.sleep(0.002)
    except BaseException:
        sock.close()
        raise
    finally:
        if directory is not None:
            os.close(directory)


async def _connect_tcp(address: Address, loop: asyncio.AbstractEventLoop) -> socket.socket:
    found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    last: OSError | None = None
    for family, kind, protocol, _, where in found:
        sock = socket.socket(family, kind, protocol)
        sock.setblocking(False)
        try:
            await loop.sock_connect(sock, where)
            return sock
        except OSError as error:
            sock.close()
            last = error
        except BaseException:
            sock.close()
            raise
    raise last or ConnectionRefusedError(f"nothing is known of {address.host}")
