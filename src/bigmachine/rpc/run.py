"""One call in progress on the machine: run, fed, cancelled, and answered once.

An ``async`` method runs as a task of the server's loop, a plain one and a plain generator in a
thread. What always holds: whatever the method does, its caller gets exactly one answer, unless the
connection is gone; `Run` is the scope that `bigmachine.cancelled` asks.
"""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from functools import partial
from pickle import dumps
from time import monotonic
from types import AsyncGeneratorType, CoroutineType
from typing import TYPE_CHECKING, Any, Final

from bigmachine import calls, deadlines
from bigmachine.errors import CallTimeoutError, PayloadError, RemoteProtocolError, UsageError
from bigmachine.rpc import codec, feeds
from bigmachine.rpc.exceptions import decode_exception, encode_exception
from bigmachine.rpc.methods import Kind, Method
from bigmachine.rpc.streams import Inlet, Outlet, StreamClosedError
from bigmachine.wire import frames

if TYPE_CHECKING:
    from bigmachine.rpc.server import Session
    from bigmachine.rpc.timers import Timer
    from bigmachine.wire.frames import Event

MAX_FEEDS: Final = 1024
"""How many streams one call may have among its arguments."""

_ATOMS: Final = frozenset({int, str, float, bool, type(None)})
_pack = frames.HEADER.pack


class Run:
    """One call in progress."""

    cancelled = False
    _expired = False
    buffers: Any = ()
    task: asyncio.Task[None] | None = None
    outlet: Outlet | None = None
    _deadline: float | None = None
    _timer: Timer | None = None
    _inlets: dict[int, Inlet] | None = None

    def __init__(self, session: Session, number: int, method: Method, flags: int) -> None:
        self._session = session
        self.number = number
        self.method = method
        self._flags = flags
        if flags & frames.FLAG_FEEDS:
            self._inlets = {}
        self.body: codec.Buffer = b""
        self._began = monotonic()

    def __repr__(self) -> str:
        return f"<Run {self.number} {self.method.name}{' cancelled' if self.cancelled else ''}>"

    # What the connection brings, on the loop.

    def limit(self, seconds: float) -> None:
        """Cancel the call when it has taken so long."""
        self._deadline = monotonic() + seconds
        self._timer = self._session.server.timers.at(self._deadline, self._expire)

    def _expire(self) -> None:
        self._expired = True
        self.cancel()

    def go_on(self, task: asyncio.Task[None]) -> None:
        """Note the task of a method that has not ended in its first step."""
        if not task.done():  # its context leads back here: it is not kept for longer than it runs
            self.task = task

    def cancel(self) -> None:
        """Tell the method that nobody waits any more."""
        if self.cancelled:
            return
        self.cancelled = True
        if self.task is not None:
            self.task.cancel()
            self._session.server.loop.call_soon(self._settle)
        if self.outlet is not None:
            self.outlet.close()
        for inlet in list((self._inlets or {}).values()):
            inlet.end(ConnectionAbortedError("the call was cancelled"))

    def _settle(self) -> None:
        """Answer for a task that was cancelled before its first step."""
        if self.task is not None and self.task.cancelled():
            self._end_stream()

    def feed(self, event: Event) -> None:
        """Put what arrived for a streamed argument where the method reads it."""
        if not self._flags & frames.FLAG_FEEDS:
            raise RemoteProtocolError(f"call {self.number} has no streams among its arguments")
        inlet = self._inlet(event.sub)
        body = event.body if event.parts is None else event.parts[0]
        buffers = () if event.parts is None else event.parts[1:]
        if event.kind == frames.ITEM:
            size = len(body) + sum(map(len, buffers))
            inlet.receive(partial(codec.decode, body, buffers), size)
        elif event.kind == frames.END:
            inlet.end()
        else:
            inlet.end(partial(decode_exception, bytes(body)))

    def _inlet(self, sub: int) -> Inlet:
        """Return where a streamed argument arrives: its items may come before it is asked for."""
        inlets = self._inlets
        assert inlets is not None
        inlet = inlets.get(sub)
        if inlet is None:
            if len(inlets) >= MAX_FEEDS:
                raise RemoteProtocolError(f"call {self.number} has too many streams")
            channel, number = self._session.channel, self.number
            inlet = inlets.setdefault(
                sub,
                Inlet(
                    grant=lambda items, size: channel.send(frames.window(number, sub, items, size)),
                    leave=lambda: channel.send(frames.frame(frames.CANCEL, number, sub)),
                    later=self._session.server.loop.call_soon_threadsafe,
                ),
            )
            if self.cancelled:
                inlet.end(ConnectionAbortedError("the call was cancelled"))
        return inlet

    # Running, each in a context of its own.

    async def run_async(self, coroutine: Any = None) -> None:
        """Run an ``async`` method, or its coroutine if that is made."""
        try:
            if coroutine is None:
                args, kwargs = self._begin()
                coroutine = self.method.function(*args, **kwargs)
            result = await coroutine
            if self._flags & frames.FLAG_STREAM or hasattr(type(result), "__next__"):
                server = self._session.server
                context = server.context.copy()
                server.workers.submit(lambda: context.run(self._stream_in_thread, result))
                return
            if type(result) in _ATOMS and not self._expired:
                body = dumps(result, 5)
                if len(body) <= frames.INLINE_BYTES:
                    self._end()
                    frame = _pack(len(body), frames.REPLY, 0, 0, self.number) + body
                    session = self._session
                    session.channel.send_in_burst(frame, session.server.loop)
                    return
            self._reply(result)
        except asyncio.CancelledError as error:
            self._was_cancelled(error)
        except BaseException as error:
            self._raised(error)

    async def run_async_generator(self, generator: Any = None) -> None:
        """Run an ``async`` generator method, or one that is made, and stream its items."""
        try:
            outlet = self._open_outlet()
            if generator is None:
                args, kwargs = self._begin()
                generator = self.method.function(*args, **kwargs)
            async for item in generator:
                await outlet.put_async(item)
            self._end_stream()
        except StreamClosedError:
            if generator is not None:
                await generator.aclose()
            self._end_stream()
        except asyncio.CancelledError as error:
            self._was_cancelled(error)
        except BaseException as error:
            self._raised(error)

    def run_in_thread(self) -> None:
        """Run a plain method or a plain generator, on a worker's thread."""
        if self.cancelled:
            self._end_stream()
            return
        stream = self._flags & frames.FLAG_STREAM
        try:
            if self.method.kind is Kind.GENERATOR and not stream:
                raise _is_a_stream(self.method.name)
            args, kwargs = self._begin()
            result = self.method.function(*args, **kwargs)
            if type(result) in _ATOMS and not stream and not self._expired:
                body = dumps(result, 5)
                if len(body) <= frames.INLINE_BYTES:
                    self._end()
                    frame = _pack(len(body), frames.REPLY, 0, 0, self.number) + body
                    self._session.channel.send(frame)
                    return
            if type(result) in (CoroutineType, AsyncGeneratorType):
                self._go_on_later(result)
            elif stream:
                self._stream_in_thread(result)
            elif hasattr(type(result), "__next__") or feeds.is_binary_file(result):
                raise _is_a_stream(self.method.name)
            else:
                self._reply(result)
        except BaseException as error:
            self._raised(error)

    def _go_on_later(self, result: Any) -> None:
        """Run on the loop what a plain method made: it decorates an ``async`` one."""
        loop = self._session.server.loop
        run = self.run_async if type(result) is CoroutineType else self.run_async_generator
        context = copy_context()

        def start() -> None:
            self.task = asyncio.Task(run(result), loop=loop, context=context)
            if self.cancelled:
                self.task.cancel()
                loop.call_soon(self._settle)

        loop.call_soon_threadsafe(start)

    def _begin(self) -> tuple[Any, Any]:
        """Set the scene for the method, and return its arguments."""
        calls.scope.set(self)
        if self._deadline is not None:
            deadlines.deadline.set(self._deadline)
        value = codec.decode(self.body, self.buffers)
        self.body, self.buffers = b"", ()
        args = value[0]
        kwargs = value[1] if len(value) == 2 else {}
        if self._flags & frames.FLAG_FEEDS:
            return feeds.bind(args, kwargs, self._inlet)
        return args, kwargs

    def _stream_in_thread(self, result: Any) -> None:
        """Send the items of a generator, an iterator or a binary file."""
        try:
            outlet = self._open_outlet()
            iterator = _items_of(result, self.method.name)
            try:
                for item in iterator:
                    outlet.put(item)
            except StreamClosedError:
                close = getattr(iterator, "close", None)
                if close is not None:
                    close()
            self._end_stream()
        except BaseException as error:
            self._raised(error)

    def _open_outlet(self) -> Outlet:
        if not self._flags & frames.FLAG_STREAM:
            raise _is_a_stream(self.method.name)
        self.outlet = Outlet(self._session.channel, self.number, 0)
        if self.cancelled:
            self.outlet.close()
        return self.outlet

    # Answering, from any thread.

    def _reply(self, result: Any) -> None:
        if self._expired:  # it may be part of an answer, of a method that was told to stop
            self._end_stream()
            return
        try:
            payload = codec.encode(codec.bulk(result), "reply")
        except PayloadError as error:
            self._fail(error, by_application=False)
            return
        self._end()
        self._session.channel.send_message(frames.REPLY, (self.number, 0), b"", payload)

    def _raised(self, error: BaseException) -> None:
        server = self._session.server
        if isinstance(error, SystemExit) and server.on_exit is not None:
            server.on_exit(exit_code(error))
            return
        self._fail(error, by_application=not _is_ours(error))

    def _fail(self, error: BaseException, *, by_application: bool = True) -> None:
        self._end(failed=True)
        payload = error_payload(error, by_application=by_application)
        self._session.channel.send_message(frames.ERROR, (self.number, 0), b"", payload)

    def _was_cancelled(self, error: asyncio.CancelledError) -> None:
        if self.cancelled or self._session.server.closing:
            self._end_stream()
        else:  # the method cancelled itself
            self._fail(error)

    def _end_stream(self) -> None:
        if self._expired:
            name = self.method.name
            error = CallTimeoutError(f"{name} was not done within its time", method=name)
            self._fail(error, by_application=False)
            return
        self._end()
        if self.cancelled and self._session.server.closing:
            return  # cut short, which a plain end would hide: the connection's end will tell
        key = (self.number, 0)
        self._session.channel.send((frames.frame(frames.END, *key), key))

    def _end(self, *, failed: bool = False) -> None:
        self.task = None
        session = self._session
        session.ended(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._inlets is not None:
            for inlet in list(self._inlets.values()):
                inlet.close()
        session.server.stats.count(self.method.name, monotonic() - self._began, failed=failed)


def error_payload(error: BaseException, *, by_application: bool) -> codec.Payload:
    """Encode an error as an answer."""
    return codec.Payload(encode_exception(error, by_application=by_application))


def exit_code(error: SystemExit) -> int:
    """Return the exit code of a SystemExit, as the interpreter would; says a text that it has."""
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code
    import sys

    print(error.code, file=sys.stderr)
    return 1


def _items_of(result: Any, method: str) -> Any:
    if feeds.is_binary_file(result):
        return feeds.read_and_close(result)
    if not hasattr(type(result), "__iter__") or isinstance(result, (str, bytes, dict)):
        raise UsageError(
            f"{method} returned {type(result).__name__}, which is no stream; call it with call()"
        )
    return iter(result)


def _is_ours(error: BaseException) -> bool:
    """Whether the library itself raised an error, not the method or what it called."""
    if not isinstance(error, (PayloadError, UsageError)):
        return False
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return True
    module = str(traceback.tb_frame.f_globals.get("__name__", ""))
    return module.startswith("bigmachine.rpc")


def _is_a_stream(method: str) -> UsageError:
    return UsageError(f"{method} brings many items: call it with stream(), not with call()")
