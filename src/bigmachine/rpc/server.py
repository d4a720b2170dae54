"""The answering side: services, their calls, and the connections these come by.

A call arrives on the loop. An ``async`` method becomes a task there; a plain one goes to a thread;
a generator's items leave as a stream. What always holds: every call is answered exactly once; a
method that crashes its call does not crash the machine; when a connection goes, its calls are
cancelled, and nobody else's.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import socket
import ssl
from asyncio import _get_running_loop
from collections.abc import Callable
from functools import partial
from math import isinf
from time import monotonic
from typing import Any, Final

from bigmachine import calls, deadlines
from bigmachine.errors import (
    BigmachineError,
    NoSuchServiceError,
    PayloadError,
    RemoteProtocolError,
    UsageError,
)
from bigmachine.futures import allow_blocking, forbid_blocking
from bigmachine.rpc import codec, feeds
from bigmachine.rpc.exceptions import encode_exception
from bigmachine.rpc.methods import Kind, Method, Registry
from bigmachine.rpc.secure import Tls
from bigmachine.rpc.stats import Stats
from bigmachine.rpc.streams import Inlet, Outlet, StreamClosedError
from bigmachine.rpc.timers import Timer, Timers
from bigmachine.rpc.transport import Channel
from bigmachine.rpc.workers import Workers
from bigmachine.wire import frames
from bigmachine.wire.frames import Event

logger = logging.getLogger(__name__)

HANDSHAKE_SECONDS: Final = 10.0
MAX_CALLS: Final = 100_000
"""How many calls one connection may have in progress."""


class Server:
    """Serves services on an event loop. Constructed and used on the loop's thread.

    Args:
        name: How errors and logs call this server.
        context: The context in which every call runs (a copy each).
        guard: Whether to see to it that nobody waits for a future on the loop's thread; False
            where whoever runs the loop does.
    """

    def __init__(
        self,
        *,
        name: str = "",
        context: contextvars.Context | None = None,
        guard: bool = True,
    ) -> None:
        self.name = name
        self.loop = asyncio.get_running_loop()
        self.registry = Registry()
        self.stats = Stats()
        self.workers = Workers(self.loop)
        self.timers = Timers(self.loop)
        self.on_exit: Callable[[int], None] | None = None
        self.closing = False
        self.context = contextvars.copy_context() if context is None else context
        self._sessions: set[_Session] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._guard = guard
        if guard:
            forbid_blocking(_thread_of(self.loop))

    def __repr__(self) -> str:
        return f"<Server {self.name} {self.registry!r}, {len(self._sessions)} connections>"

    def register(self, name: str, service: Any) -> bool:
        """Add a service; a second one under the same name is refused with a log line.

        Returns:
            Whether it was added.
        """
        if self.registry.add(name, service):
            return True
        logger.warning("%s has a service %r already; the new one is refused", self.name, name)
        return False

    def adopt(self, sock: socket.socket, *, tls: ssl.SSLContext | None = None) -> None:
        """Serve a connected socket whose preamble has been read."""
        sock.setblocking(False)
        if tls is None:
            self._begin(sock, None)
            return
        task = self.loop.create_task(self._secure(sock, tls), name="tls handshake")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _secure(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        tls = Tls(context, server_side=True)
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                await tls.handshake(sock, self.loop)
        except (OSError, TimeoutError) as error:
            logger.info("%s refused a connection: %s", self.name, error or "no TLS in time")
            sock.close()
            return
        self._begin(sock, tls)

    def _begin(self, sock: socket.socket, tls: Tls | None) -> None:
        session = _Session(self)
        channel = Channel(sock, self.loop, session, tls=tls)
        session.channel = channel
        self._sessions.add(session)
        channel.open()

    @property
    def connections(self) -> int:
        """How many connections there are."""
        return len(self._sessions)

    def running(self) -> list[str]:
        """Return the methods of the calls in progress."""
        return [run.method for session in self._sessions for run in session.runs.values()]

    async def close(self, timeout: float) -> None:
        """Refuse new calls, wait for those in progress, then close every connection.

        Args:
            timeout: How long to wait for them at most, in seconds; they are cancelled then.
        """
        self.closing = True
        end = self.loop.time() + timeout
        while self.running() and self.loop.time() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        for session in list(self._sessions):
            session.channel.close()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=max(0.1, end - self.loop.time()))
        self.workers.close()
        if self._guard:
            allow_blocking(_thread_of(self.loop))

    def forget(self, session: _Session) -> None:
        """Drop a connection that is gone."""
        self._sessions.discard(session)

    def start_task(self, run: _Run, coroutine: Any) -> None:
        """Run a call's coroutine as a task in a context of its own."""
        task = asyncio.Task(coroutine, loop=self.loop, context=self.context.copy())
        run.task = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _thread_of(loop: asyncio.AbstractEventLoop) -> int:
    from _thread import get_ident

    del loop
    return get_ident()


class _Run:
    """One call in progress; the scope that `bigmachine.cancelled` asks."""

    __slots__ = (
        "body",
        "buffers",
        "call",
        "cancelled",
        "deadline",
        "inlets",
        "method",
        "outlet",
        "session",
        "started",
        "stream",
        "task",
        "timer",
    )

    def __init__(self, session: _Session, call: int, method: str, *, stream: bool) -> None:
        self.session = session
        self.call = call
        self.method = method
        self.stream = stream
        self.cancelled = False
        self.deadline: float | None = None
        self.body: codec.Buffer = b""
        self.buffers: Any = ()
        self.task: asyncio.Task[Any] | None = None
        self.timer: Timer | None = None
        self.outlet: Outlet | None = None
        self.inlets: dict[int, Inlet] | None = None
        self.started = monotonic()

    def cancel(self) -> None:
        """Tell the method that nobody waits any more. On the loop."""
        if self.cancelled:
            return
        self.cancelled = True
        if self.task is not None:
            self.task.cancel()
        if self.outlet is not None:
            self.outlet.close()
        for inlet in (self.inlets or {}).values():
            inlet.end(ConnectionAbortedError("the call was cancelled"))

    def arguments(self) -> tuple[tuple[Any, ...], Any]:
        """Decode the arguments, streams among them."""
        value = codec.decode(self.body, self.buffers)
        self.body, self.buffers = b"", ()
        args = value[0]
        kwargs = value[1] if len(value) == 2 else {}
        return feeds.bind(args, kwargs, self._inlet)

    def _inlet(self, sub: int) -> Inlet:
        channel, call = self.session.channel, self.call
        inlet = Inlet(
            grant=lambda items, size: channel.send(frames.window(call, sub, items, size)),
            leave=lambda: channel.send(frames.frame(frames.CANCEL, call, sub)),
        )
        if self.inlets is None:
            self.inlets = {}
        waiting = self.session.early.pop((call, sub), None)
        for event in waiting or ():
            _feed(inlet, event)
        self.inlets[sub] = inlet
        return inlet


class _Session:
    """One connection's calls."""

    channel: Channel

    def __init__(self, server: Server) -> None:
        self.server = server
        self.runs: dict[int, _Run] = {}
        self.early: dict[tuple[int, int], list[Event]] = {}

    # What the connection brings, on the loop.

    def on_events(self, events: list[Event]) -> None:
        """Start the calls that one read brought, and pass on the rest."""
        for event in events:
            if event.kind == frames.CALL:
                self._start(event)
            else:
                self._on_other(event)

    def on_closed(self, error: BaseException | None) -> None:
        """Cancel the calls of a connection that is gone."""
        for run in list(self.runs.values()):
            run.cancel()
        self.server.forget(self)
        if isinstance(error, RemoteProtocolError):
            logger.warning("%s closed a connection: %s", self.server.name, error)

    def _start(self, event: Event) -> None:
        _, flags, _, call, body, parts = event
        server = self.server
        name, left, offset = frames.split_call(body)
        if call in self.runs or len(self.runs) >= MAX_CALLS:
            raise RemoteProtocolError(f"call {call} cannot begin: it runs, or too many do")
        run = _Run(self, call, name, stream=bool(flags & frames.FLAG_STREAM))
        if parts is None:
            run.body = memoryview(body)[offset:]
        else:
            run.body, run.buffers = parts[0], parts[1:]
        self.runs[call] = run
        try:
            if server.closing:
                raise NoSuchServiceError(f"{server.name} is shutting down and takes no calls")
            method = server.registry.find(name)
        except BigmachineError as error:
            self._fail(run, error, by_application=False)
            return
        if not isinf(left):
            run.deadline = monotonic() + left
            run.timer = server.timers.at(run.deadline, run.cancel)
        if method.kind is Kind.ASYNC:
            server.start_task(run, self._run_async(run, method))
        elif method.kind is Kind.ASYNC_GENERATOR:
            server.start_task(run, self._run_async_generator(run, method))
        else:
            context = server.context.copy()
            server.workers.submit(partial(context.run, self._run_in_thread, run, method))

    def _on_other(self, event: Event) -> None:
        kind, call, sub = event.kind, event.call, event.sub
        run = self.runs.get(call)
        if kind == frames.CANCEL:
            if run is not None:
                run.cancel()
        elif kind == frames.WINDOW:
            if run is not None and run.outlet is not None and sub == 0:
                run.outlet.credit(*frames.split_window(event.body))
        elif kind in (frames.ITEM, frames.END, frames.ERROR) and sub:
            if run is None:
                return
            inlet = (run.inlets or {}).get(sub)
            if inlet is not None:
                _feed(inlet, event)
            else:  # the method has not begun to decode its arguments
                self.early.setdefault((call, sub), []).append(event)
        elif kind not in (frames.GOODBYE, frames.ABORT):
            name = frames.KIND_NAMES.get(kind, str(kind))
            raise RemoteProtocolError(f"a caller sent a {name} frame")

    # Running, each in a context of its own.

    async def _run_async(self, run: _Run, method: Method) -> None:
        calls.scope.set(run)
        if run.deadline is not None:
            deadlines.deadline.set(run.deadline)
        try:
            args, kwargs = run.arguments()
            result = await method.function(*args, **kwargs)
            if run.stream or hasattr(type(result), "__next__"):
                self.server.workers.submit(
                    partial(self.server.context.copy().run, self._stream_result, run, result)
                )
            else:
                self._reply(run, result)
        except asyncio.CancelledError as error:
            self._cancelled(run, error)
        except BaseException as error:
            self._raised(run, error)

    async def _run_async_generator(self, run: _Run, method: Method) -> None:
        calls.scope.set(run)
        if run.deadline is not None:
            deadlines.deadline.set(run.deadline)
        generator: Any = None
        try:
            outlet = self._outlet(run, method)
            args, kwargs = run.arguments()
            generator = method.function(*args, **kwargs)
            async for item in generator:
                await outlet.put_async(item)
            self._end_stream(run)
        except StreamClosedError:
            await generator.aclose()
            self._end_stream(run)
        except asyncio.CancelledError as error:
            self._cancelled(run, error)
        except BaseException as error:
            self._raised(run, error)

    def _run_in_thread(self, run: _Run, method: Method) -> None:
        calls.scope.set(run)
        if run.deadline is not None:
            deadlines.deadline.set(run.deadline)
        if run.cancelled:
            self._end(run)
            self._send_frame(run, frames.END)
            return
        try:
            if method.kind is Kind.GENERATOR and not run.stream:
                raise _is_a_stream(method.name)
            args, kwargs = run.arguments()
            result = method.function(*args, **kwargs)
            if run.stream:
                self._stream_result(run, result)
            elif hasattr(type(result), "__next__") or feeds.is_binary_file(result):
                raise _is_a_stream(method.name)
            else:
                self._reply(run, result)
        except BaseException as error:
            self._raised(run, error)

    def _stream_result(self, run: _Run, result: Any) -> None:
        """Send the items of a generator, an iterator or a binary file. In a thread."""
        try:
            outlet = self._outlet(run, None)
            if feeds.is_binary_file(result):
                result = feeds.read_chunks(result)
            elif not hasattr(type(result), "__iter__") or isinstance(result, (str, bytes, dict)):
                raise UsageError(
                    f"{run.method} returned {type(result).__name__}, which is no stream; "
                    f"call it with call()"
                )
            iterator = iter(result)
            try:
                for item in iterator:
                    outlet.put(item)
            except StreamClosedError:
                close = getattr(iterator, "close", None)
                if close is not None:
                    close()
            self._end_stream(run)
        except BaseException as error:
            self._raised(run, error)

    def _outlet(self, run: _Run, method: Method | None) -> Outlet:
        if not run.stream:
            raise _is_a_stream(run.method if method is None else method.name)
        run.outlet = Outlet(self.channel, run.call, 0)
        if run.cancelled:
            run.outlet.close()
        return run.outlet

    # Answering, from any thread.

    def _reply(self, run: _Run, result: Any) -> None:
        try:
            payload = codec.encode(codec.bulk(result), "reply")
        except PayloadError as error:
            self._fail(run, error, by_application=False)
            return
        self._end(run)
        if payload.inline:
            body = payload.body
            frame = frames.HEADER.pack(len(body), frames.REPLY, 0, 0, run.call) + body
            loop = _get_running_loop()
            if loop is None:
                self.channel.send(frame)
            else:
                self.channel.send_in_burst(frame, loop)
        else:
            self.channel.send_message(frames.REPLY, (run.call, 0), b"", payload)

    def _raised(self, run: _Run, error: BaseException) -> None:
        if isinstance(error, SystemExit) and self.server.on_exit is not None:
            code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
            if isinstance(error.code, str):
                import sys

                print(error.code, file=sys.stderr)
            self.server.on_exit(code)
            return
        library = isinstance(error, (PayloadError, UsageError)) and error.__traceback__ is not None
        self._fail(run, error, by_application=not (library and _is_ours(error)))

    def _fail(self, run: _Run, error: BaseException, *, by_application: bool = True) -> None:
        self._end(run, failed=True)
        payload = codec.Payload(encode_exception(error, by_application=by_application))
        self.channel.send_message(frames.ERROR, (run.call, 0), b"", payload)

    def _cancelled(self, run: _Run, error: asyncio.CancelledError) -> None:
        if run.cancelled or self.server.closing:
            self._end_stream(run)
        else:  # the method cancelled itself
            self._fail(run, error)

    def _end_stream(self, run: _Run) -> None:
        self._end(run)
        self._send_frame(run, frames.END)

    def _send_frame(self, run: _Run, kind: int) -> None:
        key = (run.call, 0)
        self.channel.send((frames.frame(kind, *key), key))

    def _end(self, run: _Run, *, failed: bool = False) -> None:
        self.runs.pop(run.call, None)
        if run.timer is not None:
            run.timer.cancel()
        if run.inlets is not None:
            for inlet in run.inlets.values():
                inlet.close()
        if self.early:
            for key in [key for key in self.early if key[0] == run.call]:
                del self.early[key]
        self.server.stats.count(run.method, monotonic() - run.started, failed=failed)


def _feed(inlet: Inlet, event: Event) -> None:
    """Put what arrived for a streamed argument where the method reads it."""
    body = event.body if event.parts is None else event.parts[0]
    buffers = () if event.parts is None else event.parts[1:]
    if event.kind == frames.ITEM:
        size = len(body) + sum(map(len, buffers))
        inlet.put(partial(codec.decode, body, buffers), size)
    elif event.kind == frames.END:
        inlet.end()
    else:
        from bigmachine.rpc.exceptions import decode_exception

        inlet.end(partial(decode_exception, bytes(body)))


def _is_ours(error: BaseException) -> bool:
    """Whether the library itself raised an error, not the method or what it called."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return True
    module = str(traceback.tb_frame.f_globals.get("__name__", ""))
    return module.startswith("bigmachine.rpc")


def _is_a_stream(method: str) -> UsageError:
    return UsageError(f"{method} brings many items: call it with stream(), not with call()")
