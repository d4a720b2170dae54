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
from _thread import get_ident
from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any, Final

from bigmachine.errors import BigmachineError, RemoteProtocolError
from bigmachine.futures import allow_blocking, forbid_blocking
from bigmachine.rpc.eager import Starter
from bigmachine.rpc.methods import Kind, Method, Registry
from bigmachine.rpc.run import Run, error_payload
from bigmachine.rpc.secure import Tls
from bigmachine.rpc.stats import Stats
from bigmachine.rpc.timers import Timers
from bigmachine.rpc.transport import Channel
from bigmachine.rpc.workers import Workers
from bigmachine.wire import frames
from bigmachine.wire.frames import Event

logger = logging.getLogger(__name__)

HANDSHAKE_SECONDS: Final = 10.0
MAX_CALLS: Final = 100_000
"""How many calls one connection may have in progress."""
_CANCEL_SECONDS: Final = 0.1  # for tasks that were cancelled to see that


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
        self.start_task = Starter(self.loop).start
        self.on_exit: Callable[[int], None] | None = None
        self.closing = False
        self.context = contextvars.copy_context() if context is None else context
        self._sessions: set[Session] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.methods: dict[bytes, Method] = {}  # those that were called, by their names in CALLs
        self._guard = guard
        if guard:
            forbid_blocking(get_ident())

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

        def end(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if task.cancelled():  # before it began, perhaps
                sock.close()

        task.add_done_callback(end)

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
        session = Session(self)
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
        return [run.method.name for run in self._runs()]

    def _runs(self) -> list[Run]:
        sessions = list(self._sessions)  # threads that answer the last call take out theirs
        return [run for session in sessions for run in list(session.runs.values())]

    async def close(self, timeout: float) -> None:
        """Take no new calls, wait for those in progress, then close every connection.

        Args:
            timeout: How long to wait for them at most, in seconds; they are cancelled then.
        """
        end = self.loop.time() + timeout
        await self._finish_calls(end)
        tasks = {run.task for run in self._runs() if run.task is not None} | self._tasks
        for session in list(self._sessions):
            session.channel.close()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=max(0.1, end - self.loop.time()))
        self.workers.close()
        if self._guard:
            allow_blocking(get_ident())

    async def drain(self, timeout: float) -> None:
        """Take no new calls, wait for those in progress, then cancel them.

        They are not answered then, and connections stay open: it is for their end to say that
        whoever has served here is gone.

        Args:
            timeout: How long to wait for them at most, in seconds.
        """
        await self._finish_calls(self.loop.time() + timeout)
        tasks = {run.task for run in self._runs() if run.task is not None}
        for run in self._runs():
            run.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_CANCEL_SECONDS)

    async def _finish_calls(self, end: float) -> None:
        self.closing = True
        while self.running() and self.loop.time() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    def forget(self, session: Session) -> None:
        """Drop a connection that is gone."""
        self._sessions.discard(session)

    def find(self, name: bytes) -> Method:
        """Return the method that a CALL names.

        Raises:
            NoSuchServiceError: There is no such service.
            NoSuchMethodError: The service has no such public method.
        """
        method = self.methods[name] = self.registry.find(frames.method_name(name))
        return method


class Session:
    """One connection's calls. On the loop."""

    channel: Channel

    def __init__(self, server: Server) -> None:
        self.server = server
        self.runs: dict[int, Run] = {}
        self.closed = False

    def __repr__(self) -> str:
        return f"<Session {'closed' if self.closed else 'open'}, {len(self.runs)} calls>"

    def on_events(self, events: list[Event]) -> None:
        """Start the calls that one read brought, and pass on the rest."""
        for event in events:
            if event[0] == frames.CALL:
                self._start(event)
            else:
                self._on_other(event)

    def on_closed(self, error: BaseException | None) -> None:
        """Cancel the calls of a connection that is gone."""
        self.closed = True
        for run in list(self.runs.values()):
            run.cancel()
        if not self.runs:
            self.server.forget(self)
        if isinstance(error, RemoteProtocolError):
            logger.warning("%s closed a connection: %s", self.server.name, error)

    def ended(self, run: Run) -> None:
        """Note that a call has been answered; from any thread."""
        self.runs.pop(run.number, None)
        if self.closed and not self.runs:
            self.server.forget(self)

    def _start(self, event: Event) -> None:
        _, flags, _, number, body, parts = event
        server = self.server
        if server.closing:
            return  # it will never run, which the connection's end will tell
        left, name, offset = frames.split_call(body)
        if number in self.runs or len(self.runs) >= MAX_CALLS:
            raise RemoteProtocolError(f"call {number} cannot begin: it runs, or too many do")
        try:
            method = server.methods.get(name) or server.find(name)
        except Exception as error:  # a service's own __getattr__ or property may raise anything
            payload = error_payload(error, by_application=not isinstance(error, BigmachineError))
            self.channel.send_message(frames.ERROR, (number, 0), b"", payload)
            return
        run = Run(self, number, method, flags)
        if parts is None:
            run.body = body[offset:]
        else:
            run.body, run.buffers = parts[0], parts[1:]
        self.runs[number] = run
        if left != inf:
            run.limit(left)
        context = server.context.copy()
        if method.kind is Kind.ASYNC:
            run.go_on(server.start_task(run.run_async(), context))
        elif method.kind is Kind.ASYNC_GENERATOR:
            run.go_on(server.start_task(run.run_async_generator(), context))
        else:
            server.workers.submit(partial(context.run, run.run_in_thread))

    def _on_other(self, event: Event) -> None:
        kind, _, sub, number, body, _ = event
        run = self.runs.get(number)
        if kind in (frames.ITEM, frames.END, frames.ERROR) and sub:
            if run is not None:
                run.feed(event)
        elif kind == frames.CANCEL:
            if run is not None:
                run.cancel()
        elif kind == frames.WINDOW:
            items, size = frames.split_window(body)
            if run is not None and run.outlet is not None and sub == 0:
                run.outlet.credit(items, size)
        elif kind not in (frames.GOODBYE, frames.ABORT):
            name = frames.KIND_NAMES.get(kind, str(kind))
            raise RemoteProtocolError(f"a caller sent a {name} frame")
