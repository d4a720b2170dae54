"""The bytes of one connection: sent from any thread, read by its event loop.

Sending is a combining queue: a thread appends its frame and, if nobody is writing, writes it at
once, without waiting for the loop (a hop to another thread costs more than the system call).
Whoever writes looks again after letting go of the lock, so no frame is left behind. A burst from
one event loop is joined into one write. What the socket does not take at once, and all but the
first megabyte of a bulk transfer, is written by the loop.

TLS is an `ssl.SSLObject` over memory buffers: asyncio's own TLS layer costs three times as much.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from _thread import allocate_lock
from asyncio import _get_running_loop
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from bigmachine.errors import ProtocolError, RemoteProtocolError
from bigmachine.rpc import watch
from bigmachine.rpc.hurry import hurry
from bigmachine.version import VERSION
from bigmachine.wire import frames
from bigmachine.wire.frames import Event
from bigmachine.wire.receiver import Receiver
from bigmachine.wire.sender import Key, Sender

if TYPE_CHECKING:
    from bigmachine.futures import Future
    from bigmachine.rpc.codec import Payload
    from bigmachine.rpc.secure import Tls

logger = logging.getLogger(__name__)

SOCKET_BUFFER_BYTES: Final = 1024 * 1024
"""Asked of the system for each direction of a connection on one host: small calls wait behind no
more than that of a bulk transfer."""
TLS_SOCKET_BUFFER_BYTES: Final = 256 * 1024
"""The same with TLS, which takes several times as long for as much."""
_WRITE_BYTES: Final = 1024 * 1024
"""How much one thread writes in one go: others get their turn then."""
_BURST_FRAMES: Final = 64
"""A burst is written in pieces of so many frames: the peer works on one while the next is made."""
_GUARD_SECONDS: Final = 0.005
"""How long what a busy loop has not sent waits for the channel's own loop, about."""
_READS: Final = 16
"""How often one connection is read in a row before others get their turn; with TLS once."""
_LARGE_MESSAGE_BYTES: Final = 64 * 1024 * 1024


class Message(NamedTuple):
    """A message in parts: `Sender.push_message`'s arguments."""

    kind: int
    key: Key
    head: bytes
    parts: list[tuple[memoryview, int]]
    flags: int
    on_sent: Callable[[], object] | None = None


Submission = bytes | tuple[bytes, Key] | Message
"""What is sent: a frame, one that stays behind others of its key, or a message in parts."""


class Handler(Protocol):
    """Who is told what a connection brings, on the thread that reads it."""

    def on_events(self, events: list[Event]) -> None:
        """Handle what one read brought, in order."""

    def on_closed(self, error: BaseException | None) -> None:
        """Note that the connection is gone; None when this side closed it. Called once."""


class Channel:
    """One connection. Constructed and closed on its loop's thread; `send` works from any."""

    def __init__(
        self,
        sock: socket.socket,
        loop: asyncio.AbstractEventLoop,
        handler: Handler,
        *,
        tls: Tls | None = None,
        movable: bool = False,
    ) -> None:
        self._sock = sock
        self.loop = self._loop = loop
        self._handler = handler
        self._tls = tls
        self._receiver = Receiver()
        self._sender = Sender()
        self._inbox: deque[Submission] = deque()
        self._unsent: list[bytes | memoryview] = []
        self._lock = allocate_lock()
        self._read_lock = threading.RLock()
        self._movable = movable and watch.available
        self.reader: watch.Reader | None = None
        self._ended: BaseException | None = None
        self._waiting_to_write = False
        self._dropped = False
        self._burst = 0  # 1: a frame was sent since the last read; 2: more wait for their turn
        self._bursting: asyncio.AbstractEventLoop | None = None  # who sends these soon
        self._guarded = False
        self._guarded_bursts = 0
        self._greeted = False
        self.closed = False
        sock.setblocking(False)
        _tune(sock, SOCKET_BUFFER_BYTES if tls is None else TLS_SOCKET_BUFFER_BYTES)

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open"
        return f"<Channel {state} {'tls' if self._tls else 'plain'} {self._sender!r}>"

    def open(self) -> None:
        """Greet the peer and begin to read."""
        self.send(frames.hello(VERSION))
        descriptor = self._sock.fileno()
        if self._movable:
            self.reader = watch.Reader(
                descriptor, self._loop, self._on_readable, turn=self._read_lock
            )
        else:
            self._loop.add_reader(descriptor, self._on_readable)
        if self._tls is not None:  # the handshake may have brought the first frames along
            self._loop.call_soon(self._on_readable)

    # Sending, from any thread.

    def send(self, item: Submission) -> None:
        """Send one frame, or one message in parts, as soon as possible; never blocks."""
        if type(item) is bytes and not self._inbox and self._send_now(item):
            return
        self._inbox.append(item)
        if not self._waiting_to_write:
            self.flush()

    def _send_now(self, frame: bytes) -> bool:
        """Write a frame at once where nothing else waits to be written; whether it was."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            if self._unsent or self._waiting_to_write or self._sender.waiting or self._inbox:
                return False
            data: bytes | bytearray = frame
            try:
                if self._tls is not None:
                    data = self._tls.encrypt((frame,))
                sent = self._sock.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                self._drop_all()
                self._close_soon(error)
                return True
            if sent < len(data):
                self._unsent.append(memoryview(data)[sent:])
        finally:
            self._lock.release()
        if self._inbox or self._unsent:
            self.flush()
        return True

    def send_in_burst(self, item: Submission, loop: asyncio.AbstractEventLoop) -> None:
        """Like `send`, from a running loop: the first frame after one was read goes at once, those
        that follow in the same iteration go together.
        """  # noqa: D205
        if not self._burst:
            self._burst = 1
            self.send(item)
            return
        inbox = self._inbox
        inbox.append(item)  # before the look at who sends it, who looks after having said so
        if self._bursting is not loop:
            self._burst, self._bursting = 2, loop
            loop.call_soon(self._end_burst)
        if len(inbox) >= _BURST_FRAMES:
            self.flush()
        elif loop is not self._loop and not self._guarded:
            # Should the caller's loop be busy for long, the channel's own sends them meanwhile.
            self._guarded = True
            with contextlib.suppress(RuntimeError):  # it is closed: so is this
                self._loop.call_soon_threadsafe(self._guard)

    def send_message(
        self,
        kind: int,
        key: Key,
        head: bytes,
        payload: Payload,
        flags: int = 0,
        on_sent: Callable[[], object] | None = None,
    ) -> None:
        """Send a message of any size; ``head`` stands before its payload.

        ``on_sent`` is called when all that is sent from then on leaves after the message.
        """
        if payload.inline:
            body = head + payload.body
            header = frames.HEADER.pack(len(body), kind, flags, key[1], key[0])
            self.send((header + body, key))
            if on_sent is not None:
                on_sent()
            return
        parts = payload.parts()
        size = payload.size_bytes
        if size >= _LARGE_MESSAGE_BYTES:
            _log_large(size, key)
        self.send(Message(kind, key, head, parts, flags, on_sent))

    def abort(self, key: Key) -> bool:
        """Stop sending the message in parts with a key; whether it had begun to leave."""
        with self._lock:
            self._accept()
            begun = self._sender.abort(key)
        self.flush()
        return begun

    @property
    def has_unsent(self) -> bool:
        """Whether something waits to be written."""
        return bool(self._inbox or self._sender or self._unsent)

    def flush(self) -> None:
        """Write what waits, as far as the socket takes it."""
        while self.has_unsent and not self._waiting_to_write:
            if not self._lock.acquire(blocking=False):
                return  # whoever holds it looks again
            try:  # closed meanwhile: its descriptor may be another socket's in a moment
                more = not self._dropped and self._write()
            finally:
                self._lock.release()
            if more:
                self._wait_to_write()
                return

    def _end_burst(self) -> None:
        self._burst, self._bursting = 0, None
        if self._inbox:
            self._guarded_bursts += 1
            self.flush()

    def _guard(self) -> None:
        """Look after bursts of other loops, every few milliseconds while there are any."""
        seen = self._guarded_bursts

        def look() -> None:
            if seen == self._guarded_bursts:
                self._guarded = False
            elif not self.closed:
                self._guard()
            if self._inbox:
                self.flush()

        self._loop.call_later(_GUARD_SECONDS, look)

    def _accept(self) -> None:
        """Move what was submitted into the sender's order."""
        inbox, sender = self._inbox, self._sender
        while inbox:
            item = inbox.popleft()
            if isinstance(item, bytes):
                sender.push(item)
            elif isinstance(item, Message):
                sender.push_message(*item)
            else:
                sender.push(*item)

    def _write(self) -> bool:
        """Write up to a limit; return whether more is left for the loop. The lock is held."""
        written = 0
        while written < _WRITE_BYTES:
            try:
                if not self._unsent:
                    self._accept()
                    batch = self._sender.take()
                    if not batch:
                        return False
                    self._unsent = batch if self._tls is None else [self._tls.encrypt(batch)]
                sent = self._write_once()
            except (BlockingIOError, InterruptedError):
                return True
            except OSError as error:
                self._drop_all()
                self._close_soon(error)
                return False
            written += sent
        return bool(self._inbox or self._sender or self._unsent)

    def _write_once(self) -> int:
        unsent = self._unsent
        sent = self._sock.send(unsent[0]) if len(unsent) == 1 else self._sock.sendmsg(unsent)
        left = sent
        while unsent:
            size = len(unsent[0])
            if left < size:
                if left:
                    unsent[0] = memoryview(unsent[0])[left:]
                break
            left -= size
            del unsent[0]
        return sent

    def _wait_to_write(self) -> None:
        self._waiting_to_write = True
        if _get_running_loop() is self._loop:
            self._add_writer()
        else:
            with contextlib.suppress(RuntimeError):  # the loop is closed: so is this
                self._loop.call_soon_threadsafe(self._add_writer)

    def _add_writer(self) -> None:
        if not self.closed:
            self._loop.add_writer(self._sock.fileno(), self._on_writable)

    def _on_writable(self) -> None:
        with self._lock:
            with hurry:
                more = self._write()
            if not more:
                self._waiting_to_write = self._dropped
                if not self.closed:
                    self._loop.remove_writer(self._sock.fileno())
        if not more:
            self.flush()

    # Reading: by a loop, or by a thread that waits for an answer.

    def read_until(
        self, future: Future[Any], timeout: float | None, idle: Callable[[], bool]
    ) -> None:
        """Read on this thread until a future is done or ``timeout`` seconds are over.

        Returns early when another thread reads, and when the connection has ended.
        """
        reader = self.reader
        if reader is not None and not self.closed:
            reader.lead(self._read_once, future, timeout, idle)

    def read(self) -> None:
        """Read what is there, whoever reads otherwise. On the loop's thread."""
        self._read_once()

    def _on_readable(self) -> None:
        self._read_once(by_loop=True)

    def _read_once(self, *, by_loop: bool = False) -> bool:
        """Read what is there and handle it; False when the connection has ended."""
        with self._read_lock:
            if by_loop and self.reader is not None and self.reader.led:
                return True
            if self.closed or self._ended is not None:
                return False
            try:
                if self._receiver.is_filling:
                    with hurry:
                        self._read()
                else:
                    self._read()
            except (BlockingIOError, InterruptedError):
                return True
            except (ProtocolError, EOFError, OSError) as error:
                self._ended = error
            except BaseException:  # a signal handler of the program's raised: frames may be lost
                self._ended = RuntimeError("reading was interrupted by an exception")
                self._close_soon(self._ended)
                raise
        if self._ended is None:
            return True
        if _get_running_loop() is self._loop:
            self.close(self._ended)
        else:
            self._close_soon(self._ended)
        return False

    def _read(self) -> None:
        if self._tls is None:
            self._read_plain()
        else:
            self._read_tls(self._tls)

    def _read_plain(self) -> None:
        receiver, sock = self._receiver, self._sock
        for _ in range(_READS):
            buffer = receiver.buffer()
            count = sock.recv_into(buffer)
            if not count:
                raise EOFError("the other side closed the connection")
            full = count == len(buffer)
            del buffer  # who holds a view of a bytearray keeps its new owner from resizing it
            self._deliver(receiver.received(count))
            if self.closed or not full:
                return

    def _read_tls(self, tls: Tls) -> None:
        receiver = self._receiver
        try:
            ended = tls.fill(self._sock)
        except (BlockingIOError, InterruptedError):
            ended = False
        while (count := tls.read(receiver.buffer())) > 0:
            self._deliver(receiver.received(count))
            if self.closed:
                return
            if tls.drained:
                break
        if ended or count == 0:
            raise EOFError("the other side closed the connection")

    def _deliver(self, events: list[Event]) -> None:
        if not events:
            return
        if self._burst == 1:
            self._burst = 0
        if not self._greeted:
            first = events.pop(0)
            if first.kind != frames.HELLO:
                raise RemoteProtocolError("the peer did not greet: its first frame is no HELLO")
            frames.check_hello(first.body, VERSION)
            self._greeted = True
            if not events:
                return
        self._handler.on_events(events)

    # Closing.

    def close(self, error: BaseException | None = None) -> None:
        """Close the connection and tell the handler why. On the loop's thread; idempotent."""
        if self.closed:
            return
        self.closed = True
        descriptor = self._sock.fileno()
        if self.reader is None:
            self._loop.remove_reader(descriptor)
        else:
            self.reader.close()
        self._loop.remove_writer(descriptor)
        with self._lock:
            if error is None or isinstance(error, ProtocolError):
                with contextlib.suppress(OSError):
                    self._write()
            self._drop_all()
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)  # wakes a thread that reads
        with self._read_lock:
            self._sock.close()
        self._handler.on_closed(error)

    def _close_soon(self, error: BaseException | None) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.close, error)

    def _drop_all(self) -> None:
        self._waiting_to_write = self._dropped = True  # nobody writes any more
        self._inbox.clear()
        self._unsent = []
        self._sender.clear()


def _tune(sock: socket.socket, buffer_bytes: int) -> None:
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not _is_loopback(sock):
            return  # the kernel finds the buffers that a real network needs
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, buffer_bytes)


def _is_loopback(sock: socket.socket) -> bool:
    try:
        host = str(sock.getpeername()[0])
    except OSError:  # it is gone already, as reading it will tell
        return False
    return host.startswith("127.") or host == "::1"


_last_logged = 0.0


def _log_large(size: int, key: Key) -> None:
    """Log a large message, at most one a second."""
    import time

    global _last_logged
    now = time.monotonic()
    if now - _last_logged >= 1:
        _last_logged = now
        logger.info("call %d carries a large message: %.0f MiB", key[0], size / 2**20)
