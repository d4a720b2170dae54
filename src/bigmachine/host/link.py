"""A connected socket between two processes of a host, for messages with descriptors attached.

Each message is a header, a pickle, and perhaps descriptors that travel with its first byte::

     0        4        5         5+n
    ┌────────┬────────┬─────────┐
    │ n      │ fds    │ pickle  │     n: the pickle's length, big-endian; fds: how many descriptors
    └────────┴────────┴─────────┘

Both ends belong to one user and one cluster and were born connected (``socketpair``), so pickle is
no risk here that these processes did not have anyway.

The socket never blocks: what does not fit waits in a queue. The same class serves processes with an
event loop (`attach`), and the template, which must not have one before it forks (`next`).
"""

from __future__ import annotations

import os
import pickle
import select
import socket
import struct
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    import asyncio

_HEADER: Final = struct.Struct("!IB")
_READ_BYTES: Final = 256 << 10
_MAX_FDS: Final = 8  # with one message
_MESSAGES_AT_ONCE: Final = 16  # each may hold descriptors, of which there are not many
_RETRY_SECONDS: Final = 0.005
_ANCILLARY_BYTES: Final = socket.CMSG_SPACE(_MAX_FDS * array("i").itemsize)
_RECEIVE_FLAGS: Final = getattr(socket, "MSG_CMSG_CLOEXEC", 0)

Message: TypeAlias = Any
Handler: TypeAlias = Callable[[Message, tuple[int, ...]], None]


class Link:
    """One end of such a socket, which it owns.

    Descriptors that are sent belong to the link from then on, which closes them when they are on
    their way; those that are received belong to the receiver.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._incoming = bytearray()
        self._batches: deque[list[int]] = deque()  # one for each message with descriptors
        self._outgoing: deque[tuple[memoryview, tuple[int, ...]]] = deque()
        self._messages: deque[tuple[Message, tuple[int, ...]]] = deque()
        self._ended = False
        self._loop: asyncio.AbstractEventLoop | None = None

    @classmethod
    def pair(cls) -> tuple[Link, int]:
        """Return one end as a link and the other as a descriptor, to be given to a child."""
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        return cls(near), far.detach()

    def __repr__(self) -> str:
        state = "ended" if self._ended else "open"
        return f"<Link {state} fd={self._socket.fileno()} backlog={self.backlog}>"

    def fileno(self) -> int:
        """Return the socket's descriptor, -1 when closed."""
        return self._socket.fileno()

    @property
    def backlog(self) -> int:
        """How many messages wait until the other side reads."""
        return len(self._outgoing)

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Send a message. Never blocks; after the other side's end it does nothing."""
        body = pickle.dumps(message, 5)
        data = _HEADER.pack(len(body), len(fds)) + body
        self._outgoing.append((memoryview(data), tuple(fds)))
        if len(self._outgoing) == 1:
            self._flush()

    def next(self, timeout: float | None = None) -> tuple[Message, tuple[int, ...]]:
        """Wait for a message and return it with its descriptors.

        For a process without an event loop. Sends what waits to be sent meanwhile.

        Raises:
            EOFError: The other side has ended.
            TimeoutError: ``timeout`` seconds have passed.
        """
        poller = select.poll()
        while not self._messages:
            if self._ended:
                raise EOFError("the other side of the link has ended")
            poller.register(self._socket, select.POLLIN | (select.POLLOUT if self._outgoing else 0))
            if not poller.poll(None if timeout is None else timeout * 1000):
                raise TimeoutError(f"no message within {timeout} s")
            self._flush()
            self._read()
        return self._messages.popleft()

    def waiting(self) -> bool:
        """Whether `next` would return at once."""
        if not self._messages and not self._ended:
            self._read()
        return bool(self._messages)

    def attach(
        self,
        loop: asyncio.AbstractEventLoop,
        on_message: Handler,
        on_end: Callable[[], None],
    ) -> None:
        """Have each message given to ``on_message``, on this loop, and its end to ``on_end``."""
        self._loop = loop

        def readable() -> None:
            self._read()
            while self._messages:
                on_message(*self._messages.popleft())
            if self._ended and self._loop is not None:
                self._detach()
                on_end()

        loop.add_reader(self._socket, readable)
        if self._outgoing:
            loop.add_writer(self._socket, self._flush)
        if self._messages or self._ended:
            loop.call_soon(readable)

    def close(self) -> None:
        """Close the socket, and descriptors that were on their way. Idempotent."""
        self._detach()
        self._ended = True
        self._socket.close()
        self._drop_outgoing()
        for fds in [*self._batches, *(fds for _, fds in self._messages)]:
            _close(fds)
        self._batches.clear()
        self._messages.clear()

    def _detach(self) -> None:
        if self._loop is not None and self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
        self._loop = None

    def _drop_outgoing(self) -> None:
        for _, fds in self._outgoing:
            _close(fds)
        self._outgoing.clear()

    def _flush(self) -> None:
        while self._outgoing and self._socket.fileno() >= 0:
            data, fds = self._outgoing[0]
            try:
                ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
                sent = self._socket.sendmsg([data], ancillary, getattr(socket, "MSG_NOSIGNAL", 0))
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                if _is_temporary(error):
                    self._flush_later()
                    return
                self._drop_outgoing()
                break
            self._outgoing.popleft()
            _close(fds)
            if sent < len(data):
                self._outgoing.appendleft((data[sent:], ()))
        if self._loop is not None and self._socket.fileno() >= 0:
            if self._outgoing:
                self._loop.add_writer(self._socket, self._flush)
            else:
                self._loop.remove_writer(self._socket)

    def _flush_later(self) -> None:
        """Try again when some of the descriptors under way have arrived: Linux limits how many."""
        if self._loop is None:
            select.poll().poll(_RETRY_SECONDS * 1000)
            return
        self._loop.remove_writer(self._socket)
        self._loop.call_later(_RETRY_SECONDS, self._flush)

    def _read(self) -> None:
        """Read until there is nothing more, now, or enough for one turn."""
        while not self._ended and len(self._messages) < _MESSAGES_AT_ONCE:
            try:
                data, ancillary, flags, _ = self._socket.recvmsg(
                    _READ_BYTES, _ANCILLARY_BYTES, _RECEIVE_FLAGS
                )
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                data, ancillary, flags = b"", [], 0
            fds = [fd for level, kind, raw in ancillary for fd in _descriptors(level, kind, raw)]
            if fds or flags & socket.MSG_CTRUNC:  # truncated: this process had no room for all
                self._batches.append(fds)
            if not data:
                self._ended = True
                return
            self._incoming += data
            self._parse()

    def _parse(self) -> None:
        while len(self._incoming) >= _HEADER.size:
            length, count = _HEADER.unpack_from(self._incoming)
            end = _HEADER.size + length
            if len(self._incoming) < end:
                return
            message = pickle.loads(memoryview(self._incoming)[_HEADER.size : end].tobytes())
            del self._incoming[:end]
            fds: tuple[int, ...] = ()
            if count and self._batches:
                batch = self._batches.popleft()
                if len(batch) == count:
                    fds = tuple(batch)
                else:  # the receiver sees that they are missing
                    _close(batch)
            self._messages.append((message, fds))


def _descriptors(level: int, kind: int, raw: bytes) -> list[int]:
    if level != socket.SOL_SOCKET or kind != socket.SCM_RIGHTS:
        return []
    fds = array("i")
    fds.frombytes(raw[: len(raw) - len(raw) % fds.itemsize])
    if not _RECEIVE_FLAGS:
        for fd in fds:
            os.set_inheritable(fd, False)
    return list(fds)


def _is_temporary(error: OSError) -> bool:
    import errno

    return error.errno in (errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM)


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
