"""The machine's process: it serves services until it is told to stop.

It begins in the midst of a copy of the user's program (`host.template`), puts its surroundings in
order, runs an event loop of its own, rebuilds the services and runs their ``init``, says that it is
ready, and serves the sockets that the supervisor hands over its link::

    settle ▶ rebuild services ▶ init ▶ Ready ▶ serve … ▶ Stop ▶ refuse calls ▶ close ▶ exit handlers

What always holds: nothing returns into the user's program; the process ends by ``os._exit``; when
the supervisor is gone, so is the machine. ``init`` and ``close`` that are plain functions run in a
thread, so that the loop keeps listening to the supervisor while they work.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

from bigmachine.host import parcel, processes, role, surroundings
from bigmachine.host.link import Link
from bigmachine.host.messages import Answer, Ask, Connection, InitFailed, Ready, Stop
from bigmachine.host.residents import Residents, one_line
from bigmachine.rpc import codec
from bigmachine.rpc.exceptions import encode_exception
from bigmachine.rpc.server import Server

if TYPE_CHECKING:
    import ssl

    from bigmachine.host.messages import MachineStart, TemplateStart

INIT_FAILED_CODE: Final = 1
"""The exit code of a machine whose services could not be brought up."""

_CALLS_SHARE: Final = 0.3  # of a graceful end's time for calls in progress
_CLOSE_SHARE: Final = 0.3  # then for the services' ``close``
_EXIT_SECONDS: Final = 2.0  # for exit handlers, when a method has raised SystemExit


@dataclass(frozen=True, slots=True)
class Context:
    """What a template prepares once for all its machines.

    Attributes:
        tls: With TLS: the context in which they answer.
        collects: Whether the program had the garbage collector enabled.
    """

    tls: ssl.SSLContext | None
    collects: bool


def prepare(start: TemplateStart) -> Context:
    """Do in the template what all its machines need: imports and TLS credentials."""
    collects = gc.isenabled()
    gc.disable()  # in the template for good: its copies would copy all that a collection touches
    import concurrent.futures.thread  # noqa: F401  else each machine would import it
    import random  # noqa: F401

    import bigmachine.cluster
    import bigmachine.driver.behind
    import bigmachine.machine  # noqa: F401

    tls = None
    if start.credentials is not None:
        from bigmachine.security.credentials import Credentials
        from bigmachine.security.tls import server_context

        tls = server_context(Credentials(**start.credentials))
    if start.program.is_bare:
        import cloudpickle  # noqa: F401
    return Context(tls=tls, collects=collects)


def run(
    start: MachineStart, fds: tuple[int, ...], context: Context, *, intermediate: int = 0
) -> NoReturn:
    """Be this machine, from here on.

    Args:
        start: Which.
        fds: What is to be stdout and stderr, the link, and the services' parcel.
        context: What the template has prepared.
        intermediate: The process that has forked this one and is about to end; 0: none.
    """
    code = 1
    try:
        stdout, stderr, link_fd, services_fd = fds
        surroundings.settle(
            streams=(stdout, stderr),
            mark=start.mark,
            cwd=start.cwd,
            sys_path=start.sys_path,
            forked=intermediate != 0,
        )
        if context.collects:
            gc.enable()
        if intermediate:
            processes.wait_for_reparenting(intermediate, start.supervisor_pid)
        role.become_machine()
        link = Link(socket.socket(fileno=link_fd))
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        machine = Machine(start, link, context)
        code = loop.run_until_complete(machine.serve(services_fd))
        surroundings.leave(code, timeout=machine.exit_timeout())
    except SystemExit as error:  # of a task of the user's: the loop lets it through
        code = surroundings.exit_code_of(error.code)
        surroundings.leave(code, timeout=_EXIT_SECONDS)
    except BaseException:
        with contextlib.suppress(Exception):
            traceback.print_exc()
            surroundings.flush_streams()
    finally:
        os._exit(code)


class Machine:
    """A machine that serves.

    Args:
        start: Who it is.
        link: Its link to the supervisor.
        context: What the template has prepared.
    """

    def __init__(self, start: MachineStart, link: Link, context: Context) -> None:
        self._identity = start.identity
        self._link = link
        self._tls = context.tls
        self._residents: Residents | None = None
        self._waiting: list[socket.socket] | None = []  # connections, until calls are served
        self._asked: set[asyncio.Task[None]] = set()
        self._deadline: float | None = None

    def __repr__(self) -> str:
        return f"<Machine {self._identity.id} {self._residents!r}>"

    async def serve(self, services_fd: int) -> int:
        """Bring the services up and serve them until the end; return the exit code."""
        self._loop = asyncio.get_running_loop()
        self._end: asyncio.Future[Stop | int] = self._loop.create_future()
        self._server = Server(name=f"machine {self._identity.label}")
        self._server.on_exit = self._on_exit
        self._link.attach(self._loop, self._on_message, self._on_supervisor_gone)
        bringing_up = self._loop.create_task(self._bring_up(services_fd), name="init")
        either: list[asyncio.Future[Any]] = [bringing_up, self._end]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not bringing_up.done():
            bringing_up.cancel()
        elif not bringing_up.result() and not self._end.done():
            return INIT_FAILED_CODE
        end = await self._end
        if isinstance(end, int):
            return end
        await self._close(end.grace)
        return 0

    def exit_timeout(self) -> float:
        """Return how long exit handlers may take, in seconds."""
        if self._deadline is None:
            return _EXIT_SECONDS
        return max(0.1, self._deadline - self._loop.time())

    # Beginning

    async def _bring_up(self, services_fd: int) -> bool:
        """Rebuild the services and run their ``init``; whether that went well."""
        from bigmachine.cluster import enter_machine

        try:
            cluster = enter_machine(self._identity, self._loop)
            self._residents = Residents(self._server, cluster)
            payloads: Mapping[str, codec.Payload] = parcel.read_parcel(services_fd)
            await self._residents.bring_up(payloads)
        except BaseException as error:
            if not self._end.done():  # else it was cancelled for the machine's end
                self._link.send(InitFailed(error=encode_exception(error), text=one_line(error)))
            return False
        self._link.send(Ready())
        waiting, self._waiting = self._waiting or [], None
        for sock in waiting:
            self._server.adopt(sock, tls=self._tls)
        return True

    # What the supervisor says

    def _on_message(self, message: object, fds: tuple[int, ...]) -> None:
        match message:
            case Connection():
                for fd in fds:
                    self._adopt(socket.socket(fileno=fd))
            case Stop():
                self._deadline = self._loop.time() + message.grace
                self._finish(message)
            case Ask():
                task = self._loop.create_task(self._answer(message, fds))
                self._asked.add(task)
                task.add_done_callback(self._asked.discard)

    def _adopt(self, sock: socket.socket) -> None:
        if self._waiting is not None:
            self._waiting.append(sock)
        else:
            self._server.adopt(sock, tls=self._tls)

    def _on_supervisor_gone(self) -> None:
        # The descendants in this group too; nobody else will end them now.
        with contextlib.suppress(ValueError, OSError):
            os.killpg(0, 9)
        os._exit(1)

    async def _answer(self, ask: Ask, fds: tuple[int, ...]) -> None:
        try:
            assert self._residents is not None
            value = await self._residents.answer(ask.what, ask.args, fds)
        except Exception as error:
            failed = Answer(number=ask.number, error=encode_exception(error), text=one_line(error))
            self._link.send(failed)
        else:
            self._link.send(Answer(number=ask.number, value=value))

    # Ending

    def _on_exit(self, code: int) -> None:
        """End by a SystemExit that a method raised; from any thread."""
        self._loop.call_soon_threadsafe(self._finish, code & 0xFF)

    def _finish(self, how: Stop | int) -> None:
        if not self._end.done():
            self._end.set_result(how)

    async def _close(self, grace: float) -> None:
        """End gracefully, within ``grace`` seconds."""
        await self._server.drain(grace * _CALLS_SHARE)
        if self._residents is not None:
            await self._residents.close(grace * _CLOSE_SHARE)
