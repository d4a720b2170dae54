"""Calls that have not ended, as their client keeps them.

A `Call` is the very future that the caller holds: one object for each call. A `StreamCall` feeds
the inlet that the caller reads. Both end once: with the answer, with an error, or plainly.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures._base import FINISHED
from functools import partial
from pickle import loads
from typing import TYPE_CHECKING, Any, Protocol

from bigmachine.futures import Future, Wakes
from bigmachine.rpc import codec
from bigmachine.rpc.exceptions import decode_exception

if TYPE_CHECKING:
    import asyncio
    import concurrent.futures as cf

    from bigmachine.rpc.feeds import Feed
    from bigmachine.rpc.streams import Inlet
    from bigmachine.rpc.timers import Timer

Answer = Callable[[], Any]
"""Returns what the method returned, or raises what it raised; called when somebody asks."""


class Source(Protocol):
    """The client, as its calls see it."""

    def cancel(self, number: int) -> None:
        """Tell the peer that nobody waits any more."""

    def read_until(self, future: Future[Any], timeout: float | None) -> None:
        """Help on this thread until a future is done, or ``timeout`` seconds are over."""

    def call_back(self, action: Callable[[], object]) -> None:
        """Call what a program wants called when a call has ended."""

    def read_in(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Help in a running loop; None: somebody waits who cannot help."""


class Call(Future[Any]):
    """A call that is answered once, and its caller's future."""

    feeds: list[Feed] | None = None
    timer: Timer | None = None

    def __init__(self, source: Source, number: int, method: str) -> None:
        self._source = source
        self._number = number
        self.method = method

    def answer(self, undecoded: bytes | Answer, wakes: Wakes) -> None:
        """End with an answer: a pickle, or what makes the value."""
        if self.timer is not None or self.feeds is not None:
            self._release()
        self._finish(FINISHED, None, None, undecoded, wakes)

    def end(self, error: BaseException | None = None, wakes: Wakes | None = None) -> None:
        """End with an error, or because nobody wants the answer."""
        self._release()
        if error is not None:
            self.resolve(exception=error, wakes=wakes)

    def _release(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
        for feed in self.feeds or ():
            feed.stop()

    def _give_up(self) -> None:
        self._source.cancel(self._number)

    def _make(self, undecoded: Any) -> Any:
        if type(undecoded) is not bytes:
            return undecoded()
        try:
            return loads(undecoded)
        except Exception:
            return codec.decode(undecoded)  # whose error says what it is about

    def _seek_help(self, timeout: float | None) -> None:
        self._source.read_until(self, timeout)

    def _call_back(self, fn: Callable[[cf.Future[Any]], object]) -> None:
        # On the client's loop, whoever reads: in a thread that reads it could wait for itself.
        self._source.call_back(partial(self._call, fn))

    def _waited_for_in(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self._source.read_in(loop)


class StreamCall:
    """A call that is answered by many items."""

    def __init__(self, method: str, inlet: Inlet) -> None:
        self.method = method
        self.inlet = inlet
        self.feeds: list[Feed] | None = None
        self.timer: Timer | None = None

    def answer(self, undecoded: bytes | Answer, wakes: Wakes) -> None:
        """End with an error, which is all that a stream may be answered with beside items."""
        self._release()
        self.inlet.end(_raised_by(undecoded), wakes)

    def end(self, error: BaseException | None = None, wakes: Wakes | None = None) -> None:
        """End after the items that have come."""
        self._release()
        self.inlet.end(error, wakes)

    def disown(self, error: BaseException) -> None:
        """End with an error in a process that was forked from the caller's."""
        self.inlet.disown(error)

    def _release(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
        for feed in self.feeds or ():
            feed.stop()


class Decode:
    """Makes the value of an answer that came in parts."""

    __slots__ = ("_body", "_buffers")

    def __init__(self, body: codec.Buffer, buffers: Any = ()) -> None:
        self._body = body
        self._buffers = buffers

    def __call__(self) -> Any:
        """Return the value."""
        return codec.decode(self._body, self._buffers)


class DecodeError:
    """Raises what a method raised."""

    is_error = True
    __slots__ = ("_body", "_machine", "_method")

    def __init__(self, body: bytes, machine: str, method: str) -> None:
        self._body = body
        self._machine = machine
        self._method = method

    def __call__(self) -> Any:
        """Raise it."""
        raise decode_exception(self._body, machine=self._machine, method=self._method)


def _raised_by(undecoded: bytes | Answer) -> Callable[[], BaseException]:
    def error() -> BaseException:
        try:
            if callable(undecoded):
                undecoded()
        except Exception as raised:
            return raised
        return EOFError("the stream has ended")

    return error
