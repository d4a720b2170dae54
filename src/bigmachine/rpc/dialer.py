"""Opening connections to machines and supervisors: sockets, preambles, and who proves what.

A host that cannot be reached directly may be reached through a *gateway*, an endpoint that pipes
bytes to any host of the cluster (`systems.ssh.switchboard`). It is asked by a preamble of its own
and answers before anything else passes::

    dialer ── bigmachine/1 via SUBJECT ──▶ gateway     64 bytes
           ◀── 1, or 0 and why not ───────
           ── the preamble for the host, TLS … ──────▶ the host itself: it is end to end
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from dataclasses import dataclass
from typing import Final

from bigmachine import osdep
from bigmachine.addresses import Address
from bigmachine.rpc import endpoints
from bigmachine.security.credentials import Credentials
from bigmachine.wire import frames

CONNECT_SECONDS: Final = 20.0
"""How long reaching a host may take."""

DIRECT_SECONDS: Final = 3.0
"""How long a host may take to be reached directly where there is a gateway, too."""
UNREACHED_SECONDS: Final = 60.0
"""For how long a host that was not reached directly is not tried again."""

_MAX_REASON_BYTES = 1024
_THROUGH = b"\x01"


@dataclass(slots=True)
class _Way:
    """The way to one host: through which gateway, and until when only so (monotonic)."""

    gateway: str
    indirect_until: float = 0.0


class Dialer:
    """Opens sockets, with this process's credentials where the other side is another host.

    Args:
        credentials: What this process proves itself with to other hosts.
        gateway: Where hosts are asked for that cannot be reached directly: ``unix:PATH`` or
            ``HOST:PORT``; None: there is no such place.
    """

    def __init__(
        self, credentials: Credentials | None = None, *, gateway: str | None = None
    ) -> None:
        self._credentials = credentials
        self._context: ssl.SSLContext | None = None
        self._gateway = gateway
        self._ways: dict[str, _Way] = {}

    def __repr__(self) -> str:
        return f"<Dialer {'with' if self._credentials else 'without'} credentials>"

    @property
    def credentials(self) -> Credentials | None:
        """What this process proves itself with to other hosts."""
        return self._credentials

    def use_gateway(self, subject: str, gateway: str, *, direct: bool) -> None:
        """Reach a host through a gateway from now on.

        Args:
            subject: The host, as its certificate says.
            gateway: ``unix:PATH`` or ``HOST:PORT``.
            direct: Whether it may be reached directly, which is then tried first.
        """
        self._ways[subject] = _Way(gateway, 0.0 if direct else float("inf"))

    def forget_gateway(self, subject: str) -> None:
        """Forget what `use_gateway` has said about a host."""
        self._ways.pop(subject, None)

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
                sock = await connect_unix(address.path)
            else:
                sock = await self._reach(address)
            try:
                await loop.sock_sendall(sock, frames.preamble(address.target))
            except BaseException:
                sock.close()
                raise
        return sock

    async def _reach(self, address: Address) -> socket.socket:
        """Connect to another host, directly or through its gateway."""
        if self._is_own(address):  # which may not reach itself under the name others know
            return await connect_tcp("127.0.0.1", address.port)
        way = self._way(address)
        if way is None:
            return await connect_tcp(address.host, address.port)
        if not address.tunnelled and time.monotonic() >= way.indirect_until:
            try:
                async with asyncio.timeout(DIRECT_SECONDS):
                    return await connect_tcp(address.host, address.port)
            except OSError:  # a timeout is one
                sock = await connect_through(way.gateway, address.subject)
                way.indirect_until = time.monotonic() + UNREACHED_SECONDS
                return sock
        return await connect_through(way.gateway, address.subject)

    def _is_own(self, address: Address) -> bool:
        """Whether it is this very host, which has a gateway and so listens on loopback, too."""
        if self._gateway is None or self._credentials is None:
            return False
        return address.subject == self._credentials.subject

    def _way(self, address: Address) -> _Way | None:
        """Return the way to a host through a gateway; None where there is none."""
        way = self._ways.get(address.subject)
        if way is None and self._gateway is not None and address.subject:
            way = self._ways[address.subject] = _Way(self._gateway)
        return way


async def connect_through(gateway: str, subject: str) -> socket.socket:
    """Return a socket that leads through a gateway to a host's endpoint, before any preamble.

    Args:
        gateway: ``unix:PATH`` or ``HOST:PORT``.
        subject: The host.

    Raises:
        OSError: The gateway is not there, or does not reach the host.
    """
    loop = asyncio.get_running_loop()
    kind, _, path = gateway.partition(":")
    if kind == "unix":
        sock = await connect_unix(path)
    else:
        host, _, port = gateway.rpartition(":")
        sock = await connect_tcp(host.strip("[]"), int(port))
    try:
        await loop.sock_sendall(sock, frames.preamble(f"via {subject}"))
        answer = await loop.sock_recv(sock, 1)
        if answer != _THROUGH:
            reason = await loop.sock_recv(sock, _MAX_REASON_BYTES) if answer else b""
            text = reason.decode("utf-8", "replace") or "it is gone"
            raise ConnectionRefusedError(f"no way to {subject} through the gateway: {text}")
    except BaseException:
        sock.close()
        raise
    return sock


async def connect_unix(path: str) -> socket.socket:
    """Return a socket that is connected to a Unix socket, however long its path is.

    Raises:
        OSError: Nobody listens there.
    """
    loop = asyncio.get_running_loop()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        with osdep.socket_path(path) as short:
            while True:
                try:
                    await loop.sock_connect(sock, short)
                    return sock
                except BlockingIOError:  # the listener's queue is full: Unix sockets say so
                    await asyncio.sleep(0.002)
    except BaseException:
        sock.close()
        raise


async def connect_tcp(host: str, port: int) -> socket.socket:
    """Return a socket that is connected to a host.

    Raises:
        OSError: Nobody is reached there.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
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
    raise last or ConnectionRefusedError(f"nothing is known of {host}")
