"""The opening of a client's connection: when there is something to send, once for all who wait.

What always holds: what is submitted is sent once, over the connection that is there or the next
one that comes to be; where none does, the user is told, and what was waiting is dropped.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from bigmachine.rpc.secure import Tls
from bigmachine.rpc.transport import Channel, Handler

HANDSHAKE_SECONDS: Final = 10.0
"""How long the TLS handshake may take; how long reaching the peer may, its connector knows."""

Connector = Callable[[], Awaitable[socket.socket]]
Security = Callable[[], tuple[ssl.SSLContext | None, str | None]]
_Send = Callable[[Channel], None]


class Waiting(Handler, Protocol):
    """Whom the connection is for."""

    label: str

    def on_open(self, channel: Channel) -> None:
        """Learn of the connection, before anything is sent. On the loop, under the lock."""

    def on_no_connection(self, reason: str, cause: BaseException | None) -> None:
        """Learn that there is none, and that what was submitted was not sent. On the loop."""

    def soon(self, action: Callable[[], object]) -> None:
        """Do something on the loop, from any thread."""


class Opening:
    """Opens the connection of a client, and opens it again after it was lost.

    Args:
        loop: The loop that will read it.
        connector: Opens a connected socket, the preamble already sent.
        tls: Returns the context for the connection (None where it needs no TLS) and whom the
            peer's certificate must name; called when the socket is connected.
        user: Whom it is for.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        connector: Connector,
        tls: Security | None,
        user: Waiting,
    ) -> None:
        self._loop = loop
        self._connector = connector
        self._tls = tls
        self._user = user
        self._lock = threading.RLock()  # a finalizer may make a call while it is held
        self._channel: Channel | None = None
        self._backlog: list[_Send] = []
        self._under_way = False
        self._refused = False
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        state = "open" if self._channel else "under way" if self._under_way else "idle"
        return f"<Opening of {self._user.label} {state}>"

    def submit(self, send: _Send) -> None:
        """Send when connected; connect where that has not begun. From any thread."""
        with self._lock:
            channel = self._channel
            if channel is None:
                self._backlog.append(send)
                if self._under_way:
                    return
                self._under_way = True
        if channel is not None:
            send(channel)
            return
        self._user.soon(self._begin)

    def lost(self) -> None:
        """Note that the connection is gone: the next one to submit opens another."""
        with self._lock:
            self._channel = None

    def refuse(self) -> None:
        """Begin no more connections; from any thread."""
        self._refused = True

    def close(self) -> None:
        """Close the connection, or give up to open it. On the loop."""
        self._refused = True
        if self._task is not None:
            self._task.cancel()
        if self._channel is not None:
            self._channel.close()

    def disown(self) -> None:
        """Forget the connection, in a process that was forked from its own."""
        self._lock = threading.RLock()
        self._channel = None

    def _begin(self) -> None:
        if not self._refused:
            self._task = self._loop.create_task(self._open(), name=f"connect {self._user.label}")

    async def _open(self) -> None:
        label = self._user.label
        sock: socket.socket | None = None
        try:
            sock = await self._connector()
            tls = await self._secure(sock)
        except Exception as error:  # whatever the connector or the verifier raises: all are told
            if sock is not None:
                sock.close()
            self._give_up(f"no connection to {label}: {error or type(error).__name__}", error)
            return
        except asyncio.CancelledError:
            if sock is not None:
                sock.close()
            self._give_up(f"the connection to {label} was closed", None)
            raise
        channel = Channel(sock, self._loop, self._user, tls=tls, movable=True)
        channel.open()
        with self._lock:
            self._channel = channel
            self._user.on_open(channel)
            backlog, self._backlog = self._backlog, []
            self._under_way = False
        for send in backlog:
            send(channel)

    async def _secure(self, sock: socket.socket) -> Tls | None:
        context, subject = (None, None) if self._tls is None else self._tls()
        if context is None:
            return None
        sock.setblocking(False)
        tls = Tls(context, server_side=False, server_hostname=subject)
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            await tls.handshake(sock, self._loop)
        return tls

    def _give_up(self, reason: str, cause: BaseException | None) -> None:
        with self._lock:
            self._backlog.clear()
            self._under_way = False
        self._user.on_no_connection(reason, cause)
