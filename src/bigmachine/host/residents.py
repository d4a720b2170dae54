"""The services that live on a machine: rebuilt, initialised, served, asked about, and closed.

A machine's process has them, and so has a machine inside a test's process (`testing.inprocess`).
What always holds: a service is served only after its ``init`` has run, and closed only then; their
code runs in the context of the task that called here, so that it finds its own machine. ``init``
and ``close`` that are plain functions run in a thread: the loop goes on listening meanwhile.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from bigmachine.host import parcel
from bigmachine.rpc import codec

if TYPE_CHECKING:
    from bigmachine.cluster import Cluster
    from bigmachine.rpc.server import Server


class Residents:
    """The services of one machine. Used on its loop.

    Args:
        server: Who serves them.
        cluster: What their ``init`` gets.
    """

    def __init__(self, server: Server, cluster: Cluster) -> None:
        self._server = server
        self._cluster = cluster
        self._services: dict[str, Any] = {}  # those whose ``init`` has run
        self._taken: set[str] = set()  # names of services whose ``init`` runs

    def __repr__(self) -> str:
        return f"<Residents {', '.join(self._services) or 'none'}>"

    async def bring_up(self, payloads: Mapping[str, codec.Payload]) -> None:
        """Rebuild services, run their ``init``, one after the other, and serve them.

        Raises:
            Exception: What rebuilding one or its ``init`` raised: then none is served.
        """
        # In this thread, the process's main one, as an ``import`` of the program would run.
        services = {name: _rebuild(payload) for name, payload in payloads.items()}
        for name, service in services.items():
            await self._init(service)
            self._services[name] = service
        for name, service in services.items():
            self._server.register(name, service)

    async def answer(
        self,
        what: Literal["register", "vars", "runtime"],
        args: tuple[Any, ...],
        fds: tuple[int, ...],
    ) -> Any:
        """Answer what the machine alone can (`messages.Ask`).

        Raises:
            Exception: What ``init`` of a service to be registered raised.
        """
        match what:
            case "register":
                return await self._register(str(args[0]), fds[0])
            case "runtime":
                from bigmachine.info import runtime_mem_info

                return runtime_mem_info()
            case "vars":
                return {}

    async def close(self, timeout: float) -> None:
        """Run the ``close`` of all services, side by side, at most ``timeout`` seconds."""
        closing = [
            asyncio.create_task(self._close(name, service))
            for name, service in self._services.items()
            if callable(getattr(service, "close", None))
        ]
        if closing:
            await asyncio.wait(closing, timeout=timeout)

    async def _register(self, name: str, service_fd: int) -> bool:
        """Add a service to those that run; False when its name is taken."""
        service = parcel.read_parcel(service_fd)
        if name in self._taken or name in self._services:
            print(f"bigmachine: there is a service {name!r} already", file=sys.stderr)
            return False
        self._taken.add(name)
        try:
            await self._init(service)
        finally:
            self._taken.discard(name)
        self._services[name] = service
        return self._server.register(name, service)

    async def _init(self, service: Any) -> None:
        init = getattr(service, "init", None)
        if callable(init):
            await _call(init, self._cluster)

    async def _close(self, name: str, service: Any) -> None:
        try:
            await _call(service.close)
        except Exception:
            print(f"bigmachine: close of service {name!r} raised:", file=sys.stderr)
            traceback.print_exc()


def one_line(error: BaseException) -> str:
    """Return an exception's type and text in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _rebuild(payload: codec.Payload) -> Any:
    return codec.decode(payload.body, payload.flat())


async def _call(function: Callable[..., Any], *args: Any) -> None:
    """Call a user's function, a plain one in a thread."""
    if inspect.iscoroutinefunction(function):
        await function(*args)
        return
    result = await _in_thread(partial(copy_context().run, function, *args))
    if inspect.isawaitable(result):
        await result


async def _in_thread(function: Callable[[], Any]) -> Any:
    """Run a function in a thread of its own, a daemon: it may never end."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(result)
        else:
            # A future refuses StopIteration, so it carries every exception wrapped.
            done.set_result(_Raised(error))

    def work() -> None:
        try:
            outcome: tuple[Any, BaseException | None] = (function(), None)
        except BaseException as error:
            outcome = (None, error)
        try:
            loop.call_soon_threadsafe(settle, *outcome)
        except RuntimeError:  # the loop has ended: the machine did not wait for this
            return

    threading.Thread(target=work, name="bigmachine-init", daemon=True).start()
    result = await done
    if isinstance(result, _Raised):
        raise result.error
    return result


@dataclass(frozen=True, slots=True)
class _Raised:
    error: BaseException
