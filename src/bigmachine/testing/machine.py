"""A machine inside this process: an event loop in a thread of its own that serves services.

It does what `host.machine` does in a process, and shares with it how services come and go
(`host.residents`); `testing.host` treats it as a supervisor treats a process::

    begun ─▶ thread, loop ─▶ init ─▶ READY ─▶ serves … ─▶ DIED: its connections are shut at once,
                                                          its tasks cancelled, its thread ends

What always holds: it dies once, of the first cause; after that no byte of it reaches anybody, also
while some method of it, in a thread that nobody can kill, still runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any, Final, Literal

from bigmachine import calls
from bigmachine.cluster import machine_view
from bigmachine.death import Death, DeathKind
from bigmachine.driver.runtime import Runtime
from bigmachine.errors import MachineStoppedError
from bigmachine.host import parcel
from bigmachine.host.messages import Answer, EventKind, MachineEvent, MachineIdentity
from bigmachine.host.residents import Residents, one_line
from bigmachine.rpc.exceptions import encode_exception
from bigmachine.rpc.server import Server

logger = logging.getLogger(__name__)

_KILL_SHARE: Final = 0.7  # of the time for a graceful end, after which it is killed
_CALLS_SHARE: Final = 0.3  # of it for calls in progress
_CLOSE_SHARE: Final = 0.3  # then for the services' ``close``


class InProcessMachine:
    """One machine. Made and, but for `kill` and `adopt`, used on its host's loop.

    Args:
        identity: Who it is.
        loop: Its host's loop.
        emit: Takes what is to be told to the driver; called on that loop.
    """

    def __init__(
        self,
        identity: MachineIdentity,
        loop: asyncio.AbstractEventLoop,
        emit: Callable[[MachineEvent], None],
    ) -> None:
        self.identity = identity
        self.pid: int | None = os.getpid()
        self.death: Death | None = None
        self.dead = asyncio.Event()
        self.is_ready = False
        self.ended_itself = False
        self._loop = loop
        self._emit = emit
        self._runtime = Runtime.in_thread(f"inprocess-{identity.label}")
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []  # guarded by the lock, as the next is
        self._waiting: list[socket.socket] | None = []  # connections, until calls are served
        self._init_error: bytes | None = None
        self._asked: set[asyncio.Future[Answer]] = set()
        self._server: Server | None = None  # the machine's loop's alone, as what follows
        self._residents: Residents | None = None
        self._current: calls.Current | None = None
        self._context = Context()
        self._bringing_up: asyncio.Task[None] | None = None
        self._closing = False

    def __repr__(self) -> str:
        state = "dead" if self.death else "ready" if self.is_ready else "starting"
        return f"<InProcessMachine {self.identity.id} {state}>"

    @property
    def is_ending(self) -> bool:
        """Whether it is dead, also while nobody has been told."""
        return self.death is not None

    # Beginning

    def begin(self, services_fd: int) -> None:
        """Bring the services of a parcel up."""
        self._emit(MachineEvent(machine_id=self.identity.id, kind=EventKind.STARTED, pid=0))
        self._on_machine(self._start, services_fd)

    def _start(self, services_fd: int) -> None:
        self._bringing_up = self._runtime.start_task(
            self._bring_up(services_fd), "init", context=self._context
        )

    async def _bring_up(self, services_fd: int) -> None:
        identity = self.identity
        try:
            self._current = machine_view(identity, self._runtime.loop)
            calls.home.set(self._current)
            self._server = Server(
                name=f"machine {identity.label}", context=copy_context(), guard=False
            )
            self._server.on_exit = self._on_exit
            self._residents = Residents(self._server, self._current.cluster)
            await self._residents.bring_up(parcel.read_parcel(services_fd))
        except BaseException as error:
            if self._closing or self.death is not None:  # it was cancelled for the machine's end
                raise
            self._init_error = encode_exception(error)
            self._die(DeathKind.INIT, detail=one_line(error))
        else:
            self._serve()

    def _serve(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting or [], None
        for sock in waiting:
            self._take(sock)
        self._on_host(self._became_ready)

    def _became_ready(self) -> None:
        if self.death is None:
            self.is_ready = True
            identity = self.identity
            self._emit(
                MachineEvent(
                    machine_id=identity.id,
                    kind=EventKind.READY,
                    address=identity.address,
                    maxprocs=identity.maxprocs,
                    hostname=identity.hostname,
                )
            )

    def adopt(self, sock: socket.socket) -> None:
        """Serve a connection, as soon as calls are served. From any thread."""
        with self._lock:
            if self.death is not None:
                sock.close()
                return
            self._sockets = [each for each in self._sockets if each.fileno() >= 0]
            self._sockets.append(sock)
            if self._waiting is not None:
                self._waiting.append(sock)
                return
        self._on_machine(self._take, sock)

    def _take(self, sock: socket.socket) -> None:
        if self._server is not None and self.death is None:
            self._server.adopt(sock)
        else:
            sock.close()

    async def ask(
        self, what: Literal["register", "vars", "runtime"], *args: Any, fds: tuple[int, ...] = ()
    ) -> Answer:
        """Ask it something that it alone can answer.

        Raises:
            MachineStoppedError: It is dead, or dies meanwhile.
        """
        if self.death is not None:
            for fd in fds:
                os.close(fd)
            raise self.stopped_error()
        answer: asyncio.Future[Answer] = self._loop.create_future()
        self._asked.add(answer)
        self._on_machine(self._start_answer, answer, what, args, fds)
        try:
            return await answer
        finally:
            self._asked.discard(answer)

    def _start_answer(
        self,
        answer: asyncio.Future[Answer],
        what: Literal["register", "vars", "runtime"],
        args: tuple[Any, ...],
        fds: tuple[int, ...],
    ) -> None:
        async def work() -> None:
            try:
                assert self._residents is not None
                found = Answer(number=0, value=await self._residents.answer(what, args, fds))
            except Exception as error:
                found = Answer(number=0, error=encode_exception(error), text=one_line(error))
            self._on_host(_settle, answer, found)

        self._runtime.start_task(work(), what, context=self._context.copy())

    def stopped_error(self) -> MachineStoppedError:
        """Return the error that says what it died of."""
        assert self.death is not None
        return MachineStoppedError(machine=self.identity.address, death=self.death)

    # Ending

    def stop(self, grace: float) -> None:
        """Have it end gracefully, and after most of ``grace`` seconds by force."""
        if self.death is None:
            self.ended_itself = True
            self._on_machine(self._begin_close, grace * _KILL_SHARE)
            self._loop.call_later(grace * _KILL_SHARE, self.kill, DeathKind.SHUTDOWN)

    def kill(self, reason: DeathKind, detail: str = "", signal: str | None = None) -> None:
        """End it by force. From any thread."""
        self._die(reason, detail=detail, signal=signal)

    def _begin_close(self, grace: float) -> None:
        if not self._closing:
            self._closing = True
            self._runtime.start_task(self._close(grace), "close", context=self._context.copy())

    async def _close(self, grace: float) -> None:
        if self._bringing_up is not None:
            self._bringing_up.cancel()
        if self._server is not None:
            await self._server.drain(grace * _CALLS_SHARE)
        if self._residents is not None:
            await self._residents.close(grace * _CLOSE_SHARE)
        self._die(DeathKind.SHUTDOWN)

    def _on_exit(self, code: int) -> None:
        """End by a SystemExit that a method raised; from any of its threads."""
        self.ended_itself = True
        self._die(DeathKind.EXIT, exit_code=code)

    def _die(self, kind: DeathKind, **about: Any) -> None:
        """Be dead: from any thread, the first cause counts."""
        with self._lock:
            if self.death is not None:
                return
            self.death = Death(kind=kind, machine=self.identity.address, **about)
            sockets, self._sockets = self._sockets, []
            waiting, self._waiting = self._waiting or [], None
        for sock in sockets:
            with contextlib.suppress(OSError):  # closed already
                sock.shutdown(socket.SHUT_RDWR)
        for sock in waiting:
            sock.close()
        self._on_host(self._conclude)
        self._on_machine(self._wind_up)

    def _conclude(self) -> None:
        self._emit(
            MachineEvent(
                machine_id=self.identity.id,
                kind=EventKind.DIED,
                death=self.death,
                init_error=self._init_error,
            )
        )
        self.dead.set()
        for answer in list(self._asked):
            if not answer.done():
                answer.set_exception(self.stopped_error())

    def _wind_up(self) -> None:
        """Cancel what runs and end the thread."""

        async def finish() -> None:
            if self._server is not None:
                await self._server.close(0.0)
            if self._current is not None:
                self._current.cluster._behind.disconnect()
            self._runtime.begin_stop()

        self._runtime.start_task(finish(), "wind up")

    async def wait_thread(self, timeout: float) -> None:
        """Wait for the end of its thread, at most ``timeout`` seconds: a method may hold it."""
        end = self._loop.time() + timeout
        while self._runtime.is_alive and self._loop.time() < end:  # noqa: ASYNC110  no event tells
            await asyncio.sleep(0.002)
        if self._runtime.is_alive:
            logger.warning("the loop of %s is held up by a method; its thread stays", self)

    def _on_host(self, function: Callable[..., object], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody wants to know
            self._loop.call_soon_threadsafe(function, *args)

    def _on_machine(self, function: Callable[..., object], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):
            self._runtime.loop.call_soon_threadsafe(function, *args)


def _settle(answer: asyncio.Future[Answer], found: Answer) -> None:
    if not answer.done():
        answer.set_result(found)
