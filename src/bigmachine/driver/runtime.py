"""The event loop behind a cluster, and its thread.

In the driver it has a thread of its own, so that the program's own threads and loops never hold
it up; on a machine it is the machine's loop. What always holds: every task has this as its owner,
which cancels and awaits it; after `stop` no thread is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Final, TypeVar, cast

from bigmachine.errors import UsageError
from bigmachine.futures import Future, allow_blocking, forbid_blocking
from bigmachine.rpc.timers import Timers

T = TypeVar("T")

logger = logging.getLogger(__name__)

_JOIN_SECONDS: Final = 5.0


class Runtime:
    """A loop that runs, and the tasks on it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, thread: threading.Thread | None) -> None:
        self.loop = loop
        self.timers = Timers(loop)
        self._thread = thread
        self._tasks: set[asyncio.Task[Any]] = set()
        self._spawned: set[Future[Any]] = set()
        self._disowned: UsageError | None = None
        self._stopping = False

    def __repr__(self) -> str:
        return f"<Runtime {'stopping' if self._stopping else 'running'}, {len(self._tasks)} tasks>"

    @classmethod
    def in_thread(cls, name: str) -> Runtime:
        """Start a loop in a thread of its own."""
        loop = asyncio.new_event_loop()

        def run() -> None:
            ident = threading.get_ident()
            forbid_blocking(ident)
            asyncio.set_event_loop(loop)
            try:
                loop.run_forever()
            finally:
                allow_blocking(ident)
                asyncio.set_event_loop(None)
                loop.close()
                runtime._fail_left()

        thread = threading.Thread(target=run, name=f"bigmachine-{name}", daemon=True)
        runtime = cls(loop, thread)
        thread.start()
        return runtime

    def spawn(self, coroutine: Coroutine[Any, Any, T], name: str) -> Future[T]:
        """Run a coroutine on the loop, from any thread; cancelling the future cancels it.

        Raises:
            UsageError: The loop has stopped: the cluster was shut down. Or this process was forked
                from the loop's own.
        """
        if self._disowned is not None:
            coroutine.close()
            raise UsageError(str(self._disowned))
        future: Future[T] = Future()
        task: asyncio.Task[T] | None = None
        self._spawned.add(future)
        future.add_done_callback(lambda _: self._spawned.discard(future))

        def begin() -> None:
            nonlocal task
            if future.done():
                coroutine.close()
                return
            task = self.start_task(coroutine, name)
            task.add_done_callback(finish)

        def finish(done: asyncio.Task[T]) -> None:
            if done.cancelled():
                future.cancel()
            elif (error := done.exception()) is not None:
                future.resolve(None, error)
            else:
                future.resolve(done.result())

        def cancel() -> None:
            with contextlib.suppress(RuntimeError):
                self.loop.call_soon_threadsafe(lambda: task is not None and task.cancel())

        future._on_cancel = cancel
        try:
            self.loop.call_soon_threadsafe(begin)
        except RuntimeError as error:
            coroutine.close()
            self._spawned.discard(future)
            raise UsageError("the cluster was shut down; start another one") from error
        return future

    def _fail_left(self) -> None:
        """End what was asked for when the loop was about to close."""
        for future in list(self._spawned):
            future.resolve(None, UsageError("the cluster was shut down meanwhile"))

    def disown(self, error: UsageError) -> None:
        """Refuse everything, in a process that was forked from the loop's own."""
        self._disowned = error
        for future in list(self._spawned):
            future.disown(error)
        self._spawned.clear()

    def start_task(
        self, coroutine: Coroutine[Any, Any, T], name: str, *, context: Context | None = None
    ) -> asyncio.Task[T]:
        """Start a task that `stop` cancels. On the loop's thread."""
        task = self.loop.create_task(coroutine, name=name, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def in_background(self, function: Callable[[], T], name: str) -> T:
        """Run a function that blocks in a thread of its own, and return what it returns.

        Cancelling does not end the thread; nobody waits for it then, not even the interpreter.
        """
        ended: asyncio.Future[T] = self.loop.create_future()

        def tell(result: T | None, error: BaseException | None) -> None:
            if ended.done():
                return
            if error is not None:
                ended.set_exception(error)
            else:
                ended.set_result(cast("T", result))

        def run() -> None:
            try:
                outcome: tuple[T | None, BaseException | None] = (function(), None)
            except Exception as error:  # the caller's, who gets it
                outcome = (None, error)
            with contextlib.suppress(RuntimeError):  # the loop has been closed
                self.loop.call_soon_threadsafe(tell, *outcome)

        threading.Thread(target=run, name=f"bigmachine-{name}", daemon=True).start()
        return await ended

    def stop(self) -> None:
        """Cancel what still runs, end the loop and join its thread. From another thread."""
        if self._thread is None:
            return
        self.begin_stop()
        if self._thread is not threading.current_thread():
            self._thread.join(_JOIN_SECONDS)
            if self._thread.is_alive():
                logger.warning("the runtime's thread did not end within %s s", _JOIN_SECONDS)

    def begin_stop(self) -> None:
        """Begin what `stop` does, and do not wait for it. From any thread."""
        if self._thread is None or self._stopping:
            return
        self._stopping = True
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._wind_down)

    @property
    def is_alive(self) -> bool:
        """Whether the loop's own thread, if it has one, still runs."""
        return self._thread is not None and self._thread.is_alive()

    def _wind_down(self) -> None:
        async def finish() -> None:
            others = asyncio.all_tasks(self.loop) - {asyncio.current_task()}
            for task in others:
                task.cancel()
            if others:
                await asyncio.wait(others, timeout=1.0)
            await self.loop.shutdown_asyncgens()
            self.loop.stop()

        self._last = self.loop.create_task(finish(), name="wind down")
