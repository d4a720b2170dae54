"""Streams: many items for one call, in either direction, with back-pressure.

The producer's side is an `Outlet`: it may be 1,000 items or 1 MiB ahead of its consumer, and then
waits for credit (a WINDOW frame). The consumer's side is an `Inlet`: a queue that grants credit
as items are taken out. Both are used by threads and by tasks alike: what waits, waits on a
`Future`.

    producer --put--> Outlet ==ITEM==> Inlet --take--> consumer
                        ^                |
                        +====WINDOW======+
"""

from __future__ import annotations

import contextlib
import io
from _thread import allocate_lock
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn, TypeVar

from bigmachine.errors import RemoteProtocolError, UsageError
from bigmachine.futures import Future, Wakes
from bigmachine.rpc import codec
from bigmachine.wire import frames

if TYPE_CHECKING:
    from types import TracebackType

    from bigmachine.rpc.transport import Channel

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

FILE_CHUNK_BYTES: Final = 256 * 1024
"""How much of a file travels in one item."""
_GRANT_ITEMS: Final = frames.WINDOW_ITEMS // 2
_GRANT_BYTES: Final = frames.WINDOW_BYTES // 2

_Entry = tuple[Callable[[], Any], int]


class StreamClosedError(Exception):
    """The other side wants no more items. Internal: it never reaches a user."""


class Wait(Future[None]):
    """What all who wait for the same thing share: who is cancelled leaves it to the others."""

    def _abandoned(self, hook: Any) -> None:
        self._unhook(hook)


class Inlet:
    """Where a stream's items arrive. Thread-safe; it has one consumer at a time.

    Args:
        grant: Gives the producer credit, for so many items and bytes.
        leave: Tells the producer to stop.
        later: Has something done by a loop, for `abandon`.
        grant_items: How many items are granted at once.
    """

    def __init__(
        self,
        grant: Callable[[int, int], None] | None = None,
        leave: Callable[[], None] | None = None,
        *,
        later: Callable[[Callable[[], None]], object] | None = None,
        grant_items: int = _GRANT_ITEMS,
    ) -> None:
        self._later = later
        self._grant = grant
        self._grant_items = grant_items
        self._leave = leave
        self._items: deque[_Entry] = deque()
        self._lock = allocate_lock()
        self._ended = False
        self._error: BaseException | Callable[[], BaseException] | None = None
        self._waiting: Wait | None = None
        self._taken_items = 0
        self._taken_bytes = 0
        self._ahead_items = 0  # that arrived from a peer, and are not granted anew
        self._ahead_bytes = 0

    def __repr__(self) -> str:
        return f"<Inlet {len(self._items)} items{', ended' if self._ended else ''}>"

    @property
    def ended(self) -> bool:
        """Whether no more items will arrive."""
        return self._ended

    def receive(self, decode: Callable[[], Any], size: int, wakes: Wakes | None = None) -> None:
        """Add an item that a peer has sent, and wake the consumer.

        Raises:
            RemoteProtocolError: The peer had no credit for it.
        """
        if self._ahead_items >= frames.WINDOW_ITEMS or self._ahead_bytes > frames.WINDOW_BYTES:
            if self._ended:
                return  # it does not know yet that nobody takes its items
            raise RemoteProtocolError(
                f"an item without credit: {self._ahead_items:,} items of {self._ahead_bytes:,} "
                "bytes together have not been taken"
            )
        with self._lock:
            self._ahead_items += 1
            self._ahead_bytes += size
        self.put(decode, size, wakes)

    def put(self, decode: Callable[[], Any], size: int, wakes: Wakes | None = None) -> None:
        """Add an item, and wake the consumer."""
        with self._lock:
            if self._ended:
                return
            self._items.append((decode, size))
            waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.resolve(wakes=wakes)

    def end(
        self,
        error: BaseException | Callable[[], BaseException] | None = None,
        wakes: Wakes | None = None,
    ) -> None:
        """End the stream: its consumer gets what is in the queue, then the error if any."""
        with self._lock:
            if self._ended:
                return
            self._ended = True
            self._error = error
            waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.resolve(wakes=wakes)

    def disown(self, error: BaseException) -> None:
        """End with an error, now, in a process that was forked from the stream's own."""
        self._lock = allocate_lock()
        self._items.clear()
        self._ended, self._error, self._leave = True, error, None
        if self._waiting is not None:
            self._waiting.disown(error)

    def close(self) -> None:
        """Leave: what is in the queue is dropped and the producer told to stop."""
        with self._lock:
            if self._leave is None and self._ended:
                self._items.clear()
                return
            ended, self._ended = self._ended, True
            self._items.clear()
            leave, self._leave = self._leave, None
            waiting, self._waiting = self._waiting, None
        if leave is not None and not ended:
            leave()
        if waiting is not None:
            waiting.resolve()

    def abandon(self) -> None:
        """Leave from where any lock may be held: a collection of garbage interrupts everything."""
        if self._ended:
            return
        if self._later is None:
            self.close()
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed, and the stream with it
            self._later(self.close)

    def take(self) -> _Entry | None:
        """Return the next item, or None when there is none now; raise when there never will be.

        Raises:
            EOFError: The stream has ended.
            BaseException: What the producer raised.
        """
        with self._lock:
            if not self._items:
                if self._ended:
                    self._raise_end()
                return None
            entry = self._items.popleft()
        if self._grant is not None:
            self._taken_items += 1
            self._taken_bytes += entry[1]
            if self._taken_items >= self._grant_items or self._taken_bytes >= _GRANT_BYTES:
                items, size = self._taken_items, self._taken_bytes
                self._taken_items = self._taken_bytes = 0
                with self._lock:
                    self._ahead_items -= items
                    self._ahead_bytes -= size
                if not self._ended:
                    self._grant(items, size)
        return entry

    def wait(self) -> Future[None]:
        """Return a future that resolves when `take` has something to say."""
        with self._lock:
            if self._items or self._ended:
                future = Wait()
                future.resolve()
                return future
            if self._waiting is None:
                self._waiting = Wait()
            return self._waiting

    def _raise_end(self) -> None:
        error = self._error
        if callable(error):
            error = self._error = error()
        if error is not None:
            raise error
        raise EOFError("the stream has ended")


_OF_FILES: Final = frozenset({"read", "readline", "readlines", "seek", "tell"})


class Stream(Generic[T]):
    """The items of a call, as they come. Iterate it with ``for`` or ``async for``, once.

    The producer is never more than 1,000 items or 1 MiB ahead. `close`, or leaving its ``with``,
    stops it. What the producer raises is raised here, after the items that came before.
    """

    def __init__(self, inlet: Inlet, label: str = "stream") -> None:
        self._inlet = inlet
        self._label = label

    def __repr__(self) -> str:
        return f"<bigmachine.Stream {self._label} {self._inlet!r}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a stream cannot be sent inside another value: send its items, list(stream), or the "
            "stream by itself, as an argument or from a method that is called with stream()"
        )

    if not TYPE_CHECKING:  # to a checker every attribute would be there

        def __getattr__(self, name: str) -> Any:
            """Say what to do, where a stream is taken for the file that it was."""
            text = f"{type(self).__name__!r} object has no attribute {name!r}"
            if name in _OF_FILES:
                text += (
                    ": a file arrives as a file if it was opened in binary mode ('rb'), else as a "
                    "stream of its lines; iterate it, or use its reader() where the items are bytes"
                )
            raise AttributeError(text)

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        inlet = self._inlet
        while True:
            try:
                entry = inlet.take()
            except EOFError:
                raise StopIteration from None
            if entry is not None:
                return entry[0]()  # type: ignore[no-any-return]
            inlet.wait().result()

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        inlet = self._inlet
        while True:
            try:
                entry = inlet.take()
            except EOFError:
                raise StopAsyncIteration from None
            if entry is not None:
                return entry[0]()  # type: ignore[no-any-return]
            await inlet.wait()

    def close(self) -> None:
        """Stop the producer and drop what has arrived. Idempotent, never blocks."""
        self._inlet.close()

    def reader(self) -> io.BufferedReader:
        """Return a binary file that reads the items, which must be bytes, one after another."""
        return io.BufferedReader(StreamReader(self), FILE_CHUNK_BYTES)

    def __enter__(self) -> Stream[T]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Stream[T]:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self._inlet.abandon()


class StreamReader(io.RawIOBase):
    """A raw binary file over a stream of bytes."""

    def __init__(self, stream: Stream[Any]) -> None:
        super().__init__()
        self._stream = stream
        self._inlet = stream._inlet
        self._left = memoryview(b"")

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with what comes next; 0 at the end."""
        while not self._left:
            try:
                item = next(self._stream)
            except StopIteration:
                return 0
            if not isinstance(item, (bytes, bytearray, memoryview)):
                raise UsageError(
                    f"reader() needs a stream of bytes; this one brought {type(item).__name__}"
                )
            self._left = memoryview(item).cast("B")
        view = memoryview(buffer).cast("B")
        count = min(len(view), len(self._left))
        view[:count] = self._left[:count]
        self._left = self._left[count:]
        return count

    def close(self) -> None:
        """Stop the producer."""
        if not self.closed:  # by its owner, or by a collection of garbage: nobody can tell
            self._inlet.abandon()
        super().close()


class Outlet:
    """Where a stream's items leave. One thread or task puts; any thread brings credit."""

    def __init__(self, channel: Channel, call: int, sub: int) -> None:
        self._channel = channel
        self._key = (call, sub)
        self._lock = allocate_lock()
        self._items = 0
        self._bytes = 0
        self._last_bytes = 0
        self._closed = False
        self._room: Wait | None = None

    def __repr__(self) -> str:
        return f"<Outlet {self._items} items, {self._bytes} bytes ahead>"

    def credit(self, items: int, size: int) -> None:
        """Allow so many more items and bytes."""
        with self._lock:
            self._items = max(0, self._items - items)
            self._bytes = max(0, self._bytes - size)
            room, self._room = self._room, None
        if room is not None:
            room.resolve()

    def close(self) -> None:
        """The consumer has left: the next `put` raises `StreamClosedError`."""
        with self._lock:
            self._closed = True
            room, self._room = self._room, None
        self._channel.abort(self._key)
        if room is not None:
            room.resolve()

    @property
    def closed(self) -> bool:
        """Whether the consumer has left."""
        return self._closed

    def room(self) -> Future[None] | None:
        """Return None when another item may be made, else what to wait for before asking again.

        Raises:
            StreamClosedError: The consumer has left.
        """
        with self._lock:
            if self._closed:
                raise StreamClosedError
            # The next item will be about as large as the last one. A consumer that has caught up
            # may keep up to `_GRANT_BYTES` of credit to itself, so no more than the rest is asked.
            ahead = self._bytes + min(self._last_bytes, _GRANT_BYTES)
            if self._items < frames.WINDOW_ITEMS and ahead <= frames.WINDOW_BYTES:
                return None
            if self._room is None:
                self._room = Wait()
            return self._room

    def put(self, value: Any) -> None:
        """Encode an item and send it; returns when there is room for another one.

        Raises:
            PayloadError: It cannot be encoded.
            StreamClosedError: The consumer has left.
        """
        self._send(codec.encode(codec.bulk(value), "item"))
        while (room := self.room()) is not None:
            room.result()

    async def put_async(self, value: Any) -> None:
        """Do as `put` does, for a task."""
        self._send(codec.encode(codec.bulk(value), "item"))
        while (room := self.room()) is not None:
            await room

    def _send(self, payload: codec.Payload) -> None:
        size = payload.size_bytes
        with self._lock:
            if self._closed:
                raise StreamClosedError
            self._items += 1
            self._bytes += size
            self._last_bytes = size
        self._channel.send_message(frames.ITEM, self._key, b"", payload)
