"""What everything that waits returns.

`Future` is a `concurrent.futures.Future`, so that ``wait``, ``as_completed`` and
``asyncio.wrap_future`` work on it, with an ``__await__`` of its own for any event loop. It is
made for many small calls: no lock, no condition and no list until somebody needs one (a
standard one costs 3.5 µs, this one 0.3), and an answer is decoded by whoever asks for it, not
by the thread that reads the socket.

What always holds: it ends once; whoever waits for it is woken after it has ended; callbacks run
on the thread that ended it.
"""

from __future__ import annotations

import concurrent.futures as cf
import logging
import os
import threading
import time
from _thread import allocate_lock, get_ident
from collections.abc import Callable, Generator, Iterable
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED, PENDING
from typing import TYPE_CHECKING, Any, TypeVar, cast

from bigmachine.errors import UsageError

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

logger = logging.getLogger(__name__)

# Guards every future's state: held for a few instructions only. A handler of a signal or a
# finalizer may run between these, on the thread that holds it, and make calls: so it is a reentrant
# one, and what it guards is changed by plain assignments, where nothing can come between.
_lock = threading.RLock()
os.register_at_fork(after_in_child=_lock._at_fork_reinit)  # type: ignore[attr-defined]
_loop_threads: set[int] = set()


def forbid_blocking(thread: int) -> None:
    """Say that a thread runs an event loop that must never wait for a future."""
    _loop_threads.add(thread)


def allow_blocking(thread: int) -> None:
    """Take back `forbid_blocking`."""
    _loop_threads.discard(thread)


def check_may_block() -> None:
    """Raise where waiting would deadlock.

    Raises:
        UsageError: This is the thread of the machine's event loop or of the runtime.
    """
    if get_ident() in _loop_threads:
        raise UsageError(
            "waiting here would block bigmachine's own event loop, which has to bring the answer: "
            "in an async method say `await future`; in a done-callback start a thread"
        )


class _Callback:
    """What a program wants called at the end of a future."""

    __slots__ = ("fn",)

    def __init__(self, fn: Callable[[cf.Future[Any]], object]) -> None:
        self.fn = fn


class Wakes:
    """The loops to be woken after a batch of answers: each once, however many it brings."""

    _waiters: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] | None = None

    def add(self, loop: asyncio.AbstractEventLoop, waiter: asyncio.Future[None]) -> None:
        """Note that a waiter of a loop is to be woken."""
        if self._waiters is None:
            self._waiters = {}
        waiters = self._waiters.get(loop)
        if waiters is None:
            self._waiters[loop] = [waiter]
        else:
            waiters.append(waiter)

    def send(self) -> None:
        """Wake them."""
        if self._waiters is None:
            return
        here = _asyncio()._get_running_loop()
        for loop, waiters in self._waiters.items():
            if loop is here:
                _wake(waiters)
                continue
            try:
                loop.call_soon_threadsafe(_wake, waiters)
            except RuntimeError:  # the loop was closed: nobody waits there any more
                continue
        self._waiters = None


_loaded: Any = None


def _asyncio() -> Any:
    """Return asyncio, which whoever awaits has imported already."""
    global _loaded
    if _loaded is None:
        import asyncio

        _loaded = asyncio
    return _loaded


def _wake(waiters: list[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)


class Future(cf.Future[T]):
    """The result of something that takes time.

    Plain code calls `result`; async code awaits the future itself. Cancelling it, or the task
    that awaits it, cancels the remote call; a `result` whose timeout runs out does not.
    """

    _state: str = PENDING
    _result: Any = None
    _exception: BaseException | None = None
    _undecoded: Any = None
    _hooks: list[Any] | None = None
    _watched: threading.Condition | None = None
    _watchers: list[Any] | None = None
    _on_cancel: Callable[[], object] | None = None

    def __init__(self, on_cancel: Callable[[], object] | None = None) -> None:
        # The base class's __init__ is left out on purpose: it makes a condition and two lists.
        if on_cancel is not None:
            self._on_cancel = on_cancel

    def __repr__(self) -> str:
        return f"<bigmachine.Future {self._state.lower().replace('_and_notified', '')}>"

    # What those who wait use.

    def result(self, timeout: float | None = None) -> T:
        """Wait for the result and return it.

        Args:
            timeout: How long to wait at most, in seconds; None for as long as it takes. The call
                goes on when it runs out.

        Raises:
            TimeoutError: The timeout ran out.
            concurrent.futures.CancelledError: The future was cancelled.
            UsageError: Waiting on this thread would deadlock.
            Exception: What the call raised.
        """
        if self._state is PENDING:
            self._block(timeout)
        if self._undecoded is not None:
            self._decode()
        if self._exception is not None:
            try:
                raise self._exception
            finally:
                self = None  # type: ignore[assignment]  # breaks the cycle with the traceback
        if self._state is CANCELLED_AND_NOTIFIED:
            raise cf.CancelledError
        return cast("T", self._result)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the end, and return what was raised, or None.

        Raises:
            TimeoutError: The timeout, in seconds, ran out.
            concurrent.futures.CancelledError: The future was cancelled.
            UsageError: Waiting on this thread would deadlock.
        """
        if self._state is PENDING:
            self._block(timeout)
        if self._undecoded is not None:
            self._decode()
        if self._state is CANCELLED_AND_NOTIFIED:
            raise cf.CancelledError
        return self._exception

    def __await__(self) -> Generator[Any, None, T]:
        if self._state is PENDING:
            aio = _asyncio()
            loop = aio.get_running_loop()
            waiter: asyncio.Future[None] = aio.Future(loop=loop)  # as create_future does
            self._waited_for_in(loop)
            hook = (loop, waiter)
            if self._hook(hook):
                try:
                    yield from waiter
                except aio.CancelledError:
                    if self._state is PENDING:
                        self._abandoned(hook)
                    raise
        if self._state is CANCELLED_AND_NOTIFIED:
            raise _asyncio().CancelledError
        if self._undecoded is not None:
            self._decode()
        if self._exception is None:
            return cast("T", self._result)
        try:
            raise self._exception
        finally:
            self = None  # type: ignore[assignment]  # breaks the cycle with the traceback

    def done(self) -> bool:
        """Return whether it has ended, in whatever way."""
        if self._state is not PENDING:
            return True
        self._waited_for_in(None)
        return self._state is not PENDING

    def running(self) -> bool:
        """Return False: whether the method runs already is known on the machine alone."""
        return False

    def cancelled(self) -> bool:
        """Return whether it was cancelled."""
        return self._state is CANCELLED_AND_NOTIFIED

    def cancel(self) -> bool:
        """Give up the result and cancel what would bring it; False if it has ended already."""
        if not self._finish(CANCELLED_AND_NOTIFIED):
            return self._state is CANCELLED_AND_NOTIFIED
        self._give_up()
        return True

    def add_done_callback(self, fn: Callable[[cf.Future[T]], object]) -> None:
        """Call ``fn`` with this future when it has ended, on the runtime's thread; at once if it
        has ended already.

        Raises:
            UsageError: It is `asyncio.wait` that asks for it.
        """  # noqa: D205
        if getattr(fn, "__qualname__", "") == _ASYNCIO_WAIT:
            # It would be called in the wrong thread, and its loop sleep on.
            raise UsageError(
                "asyncio.wait takes asyncio's own futures and tasks: give it "
                "asyncio.wrap_future(future), or use asyncio.gather, which takes this one"
            )
        self._waited_for_in(None)
        if not self._hook(_Callback(fn)):
            self._call(fn)

    # What those who bring the result use.

    def set_result(self, result: T) -> None:
        """End with a result."""
        if not self._finish(FINISHED, result):
            raise cf.InvalidStateError(f"{self!r} has ended already")

    def set_exception(self, exception: BaseException | None) -> None:
        """End with an exception."""
        if not self._finish(FINISHED, None, exception):
            raise cf.InvalidStateError(f"{self!r} has ended already")

    def resolve(
        self,
        result: Any = None,
        exception: BaseException | None = None,
        *,
        undecoded: Any = None,
        wakes: Wakes | None = None,
    ) -> bool:
        """End, unless it has ended; return whether this did it.

        Args:
            result: The result.
            exception: Or what was raised.
            undecoded: Or what makes the result, or raises, when somebody asks for it.
            wakes: Where to note who is to be woken, instead of waking each at once.
        """
        return self._finish(FINISHED, result, exception, undecoded, wakes)

    def ended(self) -> bool:
        """Return whether it has ended; unlike `done` no sign that somebody takes an interest."""
        return self._state is not PENDING

    def when_done(self, hook: Callable[[Future[T]], object]) -> bool:
        """Call ``hook`` at the end, on whatever thread brings it; False if it has come."""
        return self._hook(hook)

    def forget(self, hook: Callable[[Future[T]], object]) -> None:
        """Take back `when_done`: whoever asked for it waits no longer."""
        self._unhook(hook)

    def set_running_or_notify_cancel(self) -> bool:
        """Return whether it is still wanted."""
        return self._state is PENDING

    def disown(self, exception: BaseException) -> None:
        """End with an exception in a forked child: nobody who is told of it has come along."""
        self._hooks = self._watched = None
        self._finish(FINISHED, None, exception)

    # The machinery.

    def _finish(
        self,
        state: str,
        result: Any = None,
        exception: BaseException | None = None,
        undecoded: Any = None,
        wakes: Wakes | None = None,
    ) -> bool:
        with _lock:
            if self._state is not PENDING:
                return False
            watched = self._watched
            if watched is None:
                self._undecoded = undecoded
                self._result = result
                self._exception = exception
                self._state = state
        if watched is not None:
            with watched:
                with _lock:
                    if self._state is not PENDING:
                        return False
                    self._undecoded = undecoded
                    self._result = result
                    self._exception = exception
                    self._state = state
                for watcher in self._watchers or ():
                    self._tell(watcher)
                watched.notify_all()
        hooks = self._hooks
        if hooks is not None:
            self._hooks = None
            if wakes is not None and len(hooks) == 1 and type(hooks[0]) is tuple:
                wakes.add(*hooks[0])
            else:
                self._run(hooks, wakes)
        return True

    def _tell(self, watcher: Any) -> None:
        if self._state is CANCELLED_AND_NOTIFIED:
            watcher.add_cancelled(self)
        elif self._exception is not None or getattr(self._undecoded, "is_error", False):
            watcher.add_exception(self)
        else:
            watcher.add_result(self)

    def _run(self, hooks: Iterable[Any], wakes: Wakes | None) -> None:
        for hook in hooks:
            if type(hook) is tuple:
                loop, waiter = hook
                if wakes is None:
                    one = Wakes()
                    one.add(loop, waiter)
                    one.send()
                else:
                    wakes.add(loop, waiter)
            elif type(hook) is _Callback:
                self._call_back(hook.fn)
            else:
                hook(self)

    def _call_back(self, fn: Callable[[cf.Future[T]], object]) -> None:
        """Call what a program wants called."""
        self._call(fn)

    def _call(self, fn: Callable[[cf.Future[T]], object]) -> None:
        try:
            fn(self)
        except KeyboardInterrupt:
            raise
        except BaseException:  # a user's callback must not end the runtime, nor a connection
            logger.exception("a done-callback of %r raised", self)

    def _hook(self, hook: Any) -> bool:
        """Have a callback, or a waiter of a loop, told of the end; False if it has come."""
        new = [hook]
        with _lock:
            if self._state is not PENDING:
                return False
            if self._hooks is None:
                self._hooks = new
            else:
                self._hooks += new
            return True

    def _unhook(self, hook: Any) -> None:
        """Take back `_hook`; nothing where the end has come."""
        with _lock:
            if self._state is PENDING and self._hooks is not None and hook in self._hooks:
                self._hooks.remove(hook)

    def _block(self, timeout: float | None) -> None:
        check_may_block()
        began = time.monotonic()
        self._seek_help(timeout)
        if self._state is not PENDING:
            return
        left = -1.0  # for ever
        if timeout is not None:
            left = min(max(timeout - (time.monotonic() - began), 0.0), _LONGEST)
        gate = allocate_lock()
        gate.acquire()

        def open_gate(_: object) -> None:
            gate.release()

        if not self._hook(open_gate):
            return
        if gate.acquire(timeout=left):
            return
        self._unhook(open_gate)
        if self._state is PENDING:
            raise TimeoutError(f"no result within {timeout:g} s; the call goes on")

    def _decode(self) -> None:
        undecoded = self._undecoded
        if undecoded is None:
            return
        result: Any = None
        exception: BaseException | None = None
        try:
            result = self._make(undecoded)
        except Exception as error:
            exception = error.with_traceback(None)
        with _lock:
            if self._undecoded is not None:
                self._result, self._exception = result, exception
                self._undecoded = None

    # What those who bring the result may do about being waited for.

    def _abandoned(self, hook: Any) -> None:
        """A task that awaited this was cancelled: by default nobody else wants the result."""
        del hook
        self.cancel()

    def _give_up(self) -> None:
        """The future was cancelled: stop what would have brought the result."""
        if self._on_cancel is not None:
            self._on_cancel()

    def _make(self, undecoded: Any) -> Any:
        """Make the result of what came; raise if that is an error."""
        return undecoded()

    def _seek_help(self, timeout: float | None) -> None:
        """This thread waits, for ``timeout`` seconds at most: let it bring the result itself."""

    def _waited_for_in(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """A running loop waits; None: somebody elsewhere takes an interest."""

    # `concurrent.futures.wait` and `as_completed` reach for these two: made when they do.

    if not TYPE_CHECKING:  # to a checker they are the attributes that the base class declares

        @property
        def _condition(self) -> threading.Condition:
            self._waited_for_in(None)
            new = threading.Condition()
            with _lock:
                if self._watched is None:
                    self._watched = new
                return self._watched

        @property
        def _waiters(self) -> list[Any]:
            if self._watchers is None:
                self._watchers = []
            return self._watchers


_LONGEST = threading.TIMEOUT_MAX
_ASYNCIO_WAIT = "_wait.<locals>._on_completion"
"""The callback of `asyncio.wait`, which it adds to whatever it is given."""
