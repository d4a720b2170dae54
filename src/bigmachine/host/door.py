"""The host's one endpoint: it accepts connections and finds out whom they are for.

A peer that connects sends a preamble first, 64 bytes in clear, that names its target: a machine of
this host, or the host itself::

    bigmachine/1 3-9f3a01c2␀␀␀…␀

That is all that is read here. The socket then goes to whoever it is for, TLS handshake and all. A
peer that does not say within 2 s what it wants is dropped; so are those beyond the first hundreds
that have not said it yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable
from typing import Final

from bigmachine import osdep
from bigmachine.addresses import Address

logger = logging.getLogger(__name__)

PREAMBLE_BYTES: Final = 64
PREAMBLE_SECONDS: Final = 2.0
MAX_UNDECIDED: Final = 512
"""How many connections may be open that have not said whom they are for."""
SOCKET_NAME: Final = "host.sock"

_MAGIC: Final = b"bigmachine/1 "
_BACKLOG: Final = 4096


def read_preamble(data: bytes) -> str:
    """Return the target that a preamble names.

    Raises:
        ValueError: It is none, or one of another version.
    """
    name = data[len(_MAGIC) :].rstrip(b"\0")
    if len(data) != PREAMBLE_BYTES or not data.startswith(_MAGIC) or not name.isascii():
        raise ValueError(f"no preamble of this protocol: {data[:24]!r}")
    return name.decode("ascii")


class Door:
    """A listening socket.

    Args:
        listener: The socket.
        address: Where it is reached.
        hand_over: Takes the socket of a peer and the target that it named.
    """

    def __init__(
        self,
        listener: socket.socket,
        address: Address,
        hand_over: Callable[[socket.socket, str], None],
    ) -> None:
        self.address = address
        self._listener = listener
        self._hand_over = hand_over
        self._loop = asyncio.get_running_loop()
        self._undecided: set[asyncio.Task[None]] = set()
        listener.setblocking(False)
        self._loop.add_reader(listener, self._accept)

    def __repr__(self) -> str:
        return f"<Door {self.address} undecided={len(self._undecided)}>"

    def close(self) -> None:
        """Accept no more. Idempotent."""
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener)
            self._listener.close()
        for task in self._undecided:
            task.cancel()

    def _accept(self) -> None:
        for _ in range(_BACKLOG):
            try:
                sock, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # out of descriptors: later, without a busy loop meanwhile
                logger.warning("a connection cannot be accepted: %s", error)
                self._loop.remove_reader(self._listener)
                self._loop.call_later(0.1, self._resume)
                return
            self._receive(sock)

    def _resume(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.add_reader(self._listener, self._accept)

    def _receive(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        if len(self._undecided) >= MAX_UNDECIDED or not _is_own_user(sock):
            sock.close()
            return
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        data = b""
        with contextlib.suppress(BlockingIOError, ConnectionError):
            data = sock.recv(PREAMBLE_BYTES)  # it is usually there already
        task = self._loop.create_task(self._decide(sock, data))
        self._undecided.add(task)
        task.add_done_callback(self._undecided.discard)

    async def _decide(self, sock: socket.socket, data: bytes) -> None:
        """Read exactly the preamble, of which ``data`` has come, and hand the socket over."""
        try:
            async with asyncio.timeout(PREAMBLE_SECONDS):
                while len(data) < PREAMBLE_BYTES:
                    more = await self._loop.sock_recv(sock, PREAMBLE_BYTES - len(data))
                    if not more:
                        raise ValueError("the peer has left")
                    data += more
            target = read_preamble(data)
        except asyncio.CancelledError:
            sock.close()
            raise
        except (OSError, TimeoutError, ValueError) as error:
            logger.info("a connection was dropped: %s", error or "it did not say for whom")
            sock.close()
            return
        self._hand_over(sock, target)


def listen_unix(directory: str) -> tuple[socket.socket, Address]:
    """Listen in a private directory."""
    path = os.path.join(directory, SOCKET_NAME)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with osdep.socket_path(path) as short:
            listener.bind(short)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener, Address(kind="unix", path=path)


def listen_inherited(descriptor: int, subject: str) -> tuple[socket.socket, Address]:
    """Take over a socket that listens already, for TLS.

    Args:
        descriptor: The socket's.
        subject: Who answers there, as its certificate says.
    """
    listener = socket.socket(fileno=descriptor)
    host, port = listener.getsockname()[:2]
    return listener, Address(kind="tls", host=host, port=port, subject=subject)


def listen_tcp(host: str, port: int, subject: str) -> tuple[socket.socket, Address]:
    """Listen on an IP address, for TLS.

    Args:
        host: The address.
        port: The port; 0 is any.
        subject: Who answers there, as its certificate says.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    address = Address(kind="tls", host=host, port=listener.getsockname()[1], subject=subject)
    return listener, address


def _is_own_user(sock: socket.socket) -> bool:
    """Whether the peer's user is this one (or root), where the socket can tell."""
    if sock.family != socket.AF_UNIX:
        return True
    try:
        return osdep.peer_uid(sock) in (os.getuid(), 0)
    except OSError:
        return False
