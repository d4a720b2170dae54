"""Iterators and files as arguments: read at the caller, streamed to the method.

`extract` takes them out of a call's arguments and leaves `Placeholder`s; each becomes a `Feed`,
which reads it in a thread (an async iterator in a task) as fast as the method takes the items.
At the machine `bind` puts an iterator or a file where each placeholder stands. `extract` looks
at the arguments themselves, not into them.
"""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from bigmachine.rpc import codec
from bigmachine.rpc.exceptions import encode_exception
from bigmachine.rpc.streams import FILE_CHUNK_BYTES, Outlet, Stream, StreamClosedError
from bigmachine.wire import frames

if TYPE_CHECKING:
    from bigmachine.rpc.streams import Inlet
    from bigmachine.rpc.transport import Channel

_PLAIN: Final = frozenset({int, str, float, bool, type(None), list, dict, tuple, set, frozenset})


@dataclass(frozen=True, slots=True)
class Placeholder:
    """What stands for a streamed argument: which one, and whether it is read as a file."""

    sub: int
    file: bool


def extract(
    args: tuple[Any, ...], kwargs: Mapping[str, Any] | None
) -> tuple[tuple[Any, ...], Mapping[str, Any] | None, list[Feed]]:
    """Take what is to be streamed, or sent out of band, out of a call's arguments."""
    feeds: list[Feed] = []
    for arg in args:
        if type(arg) not in _PLAIN:
            args = tuple([_replace(arg, feeds) for arg in args])
            break
    if kwargs:
        kwargs = {name: _replace(arg, feeds) for name, arg in kwargs.items()}
    return args, kwargs, feeds


def _replace(arg: Any, feeds: list[Feed]) -> Any:
    kind = type(arg)
    if kind in _PLAIN:
        return arg
    if kind is bytes or kind is bytearray:
        return codec.bulk(arg)
    file = is_binary_file(arg)
    if not file and not hasattr(kind, "__next__") and not hasattr(kind, "__anext__"):
        return arg
    feed = Feed(arg, len(feeds) + 1, file=file)
    feeds.append(feed)
    return Placeholder(feed.sub, file)


def is_binary_file(value: Any) -> bool:
    """Return whether a value is a file that is read in bytes."""
    if isinstance(value, io.TextIOBase):
        return False
    return isinstance(value, io.IOBase) or (
        hasattr(type(value), "read") and hasattr(type(value), "readable")
    )


def bind(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], inlet: Callable[[int], Inlet]
) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Put an iterator or a file where a placeholder stands."""

    def place(arg: Any) -> Any:
        if type(arg) is not Placeholder:
            return arg
        stream: Stream[Any] = Stream(inlet(arg.sub), f"argument {arg.sub}")
        return stream.reader() if arg.file else stream

    if any(type(arg) is Placeholder for arg in args):
        args = tuple([place(arg) for arg in args])
    if kwargs:
        kwargs = {name: place(arg) for name, arg in kwargs.items()}
    return args, kwargs


def read_chunks(file: Any) -> Iterator[bytes]:
    """Yield a binary file's content in chunks."""
    while chunk := file.read(FILE_CHUNK_BYTES):
        yield chunk


def read_and_close(file: Any) -> Iterator[bytes]:
    """Yield a binary file's content in chunks, and close it: its method has handed it over."""
    try:
        yield from read_chunks(file)
    finally:
        file.close()


class Feed:
    """One argument being streamed."""

    def __init__(self, source: Any, sub: int, *, file: bool) -> None:
        self.sub = sub
        self._source = read_chunks(source) if file else source
        self._outlet: Outlet | None = None
        self._stopped = False
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None

    def start(self, channel: Channel, call: int) -> None:
        """Begin to read it and to send it on a connection; never blocks.

        Whoever writes to the connection calls this, under its lock.
        """
        self._outlet = Outlet(channel, call, self.sub)
        if self._stopped:  # the call has ended while its last bytes were written
            return
        try:
            if hasattr(type(self._source), "__next__"):
                name = f"bigmachine-feed-{call}-{self.sub}"
                pump = threading.Thread(
                    target=self._pump, args=(channel, call), name=name, daemon=True
                )
                pump.start()
            else:
                self._start_task(channel, call)
        except RuntimeError as error:  # no more threads, or the loop has ended: it is not read
            self._end(channel, call, error)

    def _start_task(self, channel: Channel, call: int) -> None:
        pump = self._pump_async(channel, call)
        try:
            task = asyncio.run_coroutine_threadsafe(pump, self._loop or channel.loop)
        except RuntimeError:
            pump.close()
            raise

        def end(_: object) -> None:
            if task.cancelled():  # the caller's loop ends: nothing more will come
                self._end(channel, call, asyncio.CancelledError())

        task.add_done_callback(end)

    def stop(self) -> None:
        """The method takes no more; idempotent, from any thread."""
        self._stopped = True
        if self._outlet is not None:
            self._outlet.close()

    def credit(self, items: int, size: int) -> None:
        """The method has taken so many items and bytes."""
        if self._outlet is not None:
            self._outlet.credit(items, size)

    def _pump(self, channel: Channel, call: int) -> None:
        assert self._outlet is not None
        source = cast("Iterator[Any]", self._source)
        try:
            for item in source:
                self._outlet.put(item)
            self._end(channel, call, None)
        except StreamClosedError:
            close = getattr(source, "close", None)
            if close is not None:
                close()
        except BaseException as error:  # the user's iterator raised: its method is to know
            self._end(channel, call, error)

    async def _pump_async(self, channel: Channel, call: int) -> None:
        assert self._outlet is not None
        source = cast("AsyncIterator[Any]", self._source)
        try:
            async for item in source:
                await self._outlet.put_async(item)
            self._end(channel, call, None)
        except StreamClosedError:
            close = getattr(source, "aclose", None)
            if close is not None:
                await close()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # as above
            self._end(channel, call, error)

    def _end(self, channel: Channel, call: int, error: BaseException | None) -> None:
        key = (call, self.sub)
        if error is None:
            channel.send((frames.frame(frames.END, *key), key))
        else:
            payload = codec.Payload(encode_exception(error))
            channel.send_message(frames.ERROR, key, b"", payload)
