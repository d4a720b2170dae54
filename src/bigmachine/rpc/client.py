"""The calling side: one connection to one peer, for callers on any thread or loop.

A call is encoded in its caller's thread and sent from there. The connection is opened by the
first call, and opened again by the next one after it was lost (`rpc.opening`); the calls that
were pending then fail with a `TransportError` that says whether they may have run. What always
holds: a call is sent at most once, and every call ends: with the answer, with the connection, with
its deadline, or with `Client.fail`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from _thread import allocate_lock
from asyncio import _get_running_loop
from collections.abc import Callable, Mapping
from math import inf
from pickle import dumps
from time import monotonic
from typing import Any, Final

from bigmachine import deadlines
from bigmachine.errors import (
    CallTimeoutError,
    PayloadError,
    RemoteProtocolError,
    TransportError,
)
from bigmachine.futures import Future, Wakes
from bigmachine.rpc import codec
from bigmachine.rpc.feeds import extract
from bigmachine.rpc.interrupts import uninterrupted
from bigmachine.rpc.losses import Calls, Losses, Verdict
from bigmachine.rpc.opening import Connector, Opening, Security
from bigmachine.rpc.pending import Call, Decode, DecodeError, StreamCall
from bigmachine.rpc.streams import Inlet, Stream
from bigmachine.rpc.timers import Timers
from bigmachine.rpc.transport import Channel
from bigmachine.wire import frames
from bigmachine.wire.frames import Event

logger = logging.getLogger(__name__)

_ATOMS: Final = frozenset({int, str, float, bool, type(None)})
"""Types of arguments that hold nothing: no buffers, no streams, no machines."""
_deadline = deadlines.deadline
_pack = frames.HEADER.pack


class Client:
    """One connection to one peer.

    Args:
        loop: The loop that reads the connection.
        connector: Opens a connected socket, the preamble already sent.
        timers: The loop's deadlines.
        tls: Returns the context for the connection (None where it needs no TLS) and whom the
            peer's certificate must name; called when the socket is connected.
        label: How errors call the peer.
        verdict: Asked when the connection has broken under calls: returns the error that says
            what became of the peer, or None where the network alone is to blame.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        connector: Connector,
        *,
        timers: Timers,
        tls: Security | None = None,
        label: str = "",
        verdict: Verdict | None = None,
    ) -> None:
        self._loop = loop
        self._timers = timers
        self.label = label
        self._opening = Opening(loop, connector, tls, self)
        self._ids = itertools.count(1)
        self._pending: Calls = {}
        self._losses = Losses(loop, label, verdict)
        self._channel: Channel | None = None
        self._failing = allocate_lock()
        self._failed: BaseException | None = None
        self._heads: dict[str, bytes] = {}
        self._owner: asyncio.AbstractEventLoop | None = None  # all that is pending is this loop's

    def __repr__(self) -> str:
        if self._failed is not None:
            state = "failed"
        else:
            state = "idle" if self._channel is None else "connected"
        return f"<Client of {self.label} {state}, {len(self._pending)} calls pending>"

    @property
    def pending(self) -> tuple[str, ...]:
        """The methods of the calls that have not ended."""
        return tuple(
            pending.method
            for calls in (self._pending, *self._losses.undecided)
            for pending in list(calls.values())
        )

    # Calls, from any thread.

    def call(
        self, method: str, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Future[Any]:
        """Call a method once; never blocks.

        Args:
            method: ``Service.method``.
            args: Its arguments; iterators and binary files among them are streamed.
            kwargs: Its keyword arguments, likewise.
        """
        number = next(self._ids) & 0xFFFFFFFF
        call = Call(self, number, method)
        channel = self._channel
        if channel is None or kwargs or _deadline.get() is not None:
            self._start(number, call, args, kwargs, 0)
            return call
        for arg in args:
            if type(arg) not in _ATOMS:
                self._start(number, call, args, kwargs, 0)
                return call
        # The short way of most calls: small plain arguments over a connection that is open.
        body = dumps((args,), 5)
        head = self._heads.get(method) or self._head(method)
        size = len(head) + len(body)
        if size > frames.INLINE_BYTES:
            self._start(number, call, args, kwargs, 0)
            return call
        frame = _pack(size, frames.CALL, 0, 0, number) + head + body
        loop = _get_running_loop()
        if loop is None:
            uninterrupted(self._send_short, channel, number, call, frame)
        elif self._register(number, call, loop):
            channel.send_in_burst(frame, loop)
            if channel.closed:
                self._check_sent(channel, number)
        return call

    def _send_short(self, channel: Channel, number: int, call: Call, frame: bytes) -> None:
        if self._register(number, call, None):
            channel.send(frame)
            if channel.closed:
                self._check_sent(channel, number)

    def stream(
        self, method: str, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Stream[Any]:
        """Call a generator method; never blocks. What goes wrong is raised by the stream."""
        number = next(self._ids) & 0xFFFFFFFF
        inlet = Inlet(
            grant=lambda items, size: uninterrupted(
                self._send, frames.window(number, 0, items, size)
            ),
            leave=lambda: self.cancel(number),
            later=self._loop.call_soon_threadsafe,
        )
        self._start(number, StreamCall(method, inlet), args, kwargs, frames.FLAG_STREAM)
        return Stream(inlet, f"{method} of {self.label}")

    def fail(self, error: BaseException) -> None:
        """End every pending call with an error, and every later one; from any thread."""
        with self._failing:
            if self._failed is None:
                self._failed = self._losses.failed = error
        self._opening.refuse()
        self._end_all(lambda _: error)
        try:
            self._loop.call_soon_threadsafe(self._opening.close)
        except RuntimeError:  # the loop is closed, and so are its connections
            return

    def disown(self, error: BaseException) -> None:
        """End every call with an error, here, in a process that was forked from the client's own.

        The connection is that one's, so nothing is sent; locks may be held by threads that this
        process does not have.
        """
        self._failing = allocate_lock()
        self._failed = self._losses.failed = error
        self._channel = None
        self._opening.disown()
        for calls in (self._pending, *self._losses.undecided):
            for call in calls.values():
                call.disown(error)
            calls.clear()

    def close(self) -> None:
        """Close the connection; pending and later calls fail."""
        self.fail(TransportError(f"the connection to {self.label} was closed", outcome="maybe_ran"))

    def cancel(self, number: int) -> None:
        """End a call whose caller no longer wants the answer, and tell the peer."""
        uninterrupted(self._cancel, number)

    def _cancel(self, number: int) -> None:
        call = self._pending.pop(number, None)
        if call is None:
            self._losses.cancel(number)
            return
        call.end()
        channel = self._channel
        if channel is not None:
            channel.abort((number, 0))
            channel.send(frames.frame(frames.CANCEL, number))

    def call_back(self, action: Callable[[], object]) -> None:
        """Call what a program wants called when a call has ended: on the client's loop."""
        if _get_running_loop() is self._loop:
            action()
            return
        try:
            self._loop.call_soon_threadsafe(action)
        except RuntimeError:  # it is closed: then here
            action()

    # Reading where the answer is awaited (`rpc.watch`).

    def read_until(self, future: Future[Any], timeout: float | None) -> None:
        """Read on this thread until a future is done, if the connection is free for that."""
        self._owner = None  # it may be a loop's call, and that loop have ended
        channel = self._channel
        if channel is None or channel.reader is None:
            return
        if channel.has_unsent:  # a burst of the loop that this thread would block
            uninterrupted(channel.flush)
        ring = channel.reader.ring
        if future.when_done(ring):
            channel.read_until(future, timeout, self._is_idle)
            if not future.ended():  # it may be asked for again, very often
                future.forget(ring)

    def read_in(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Read in a loop that awaits, if all that is pending is its own; None: at home."""
        if loop is None:
            uninterrupted(self._read_in, None)
            return
        channel = self._channel
        reader = None if channel is None else channel.reader
        is_there = reader is not None and reader.away is loop and not reader.parked
        if not is_there or loop is not self._owner:
            self._read_in(loop)

    def _read_in(self, loop: asyncio.AbstractEventLoop | None) -> None:
        own = loop is not None and loop is self._owner
        if not own:  # somebody waits beside the loop whose calls they are: no loop's from now on
            self._owner = None
        channel = self._channel
        if channel is None or channel.reader is None:
            return
        reader = channel.reader
        if loop is None:
            channel.flush()
        if not own:
            if reader.parked or reader.away is not None:
                reader.read_in(None)
        elif reader.parked or reader.away is not loop:
            reader.read_in(loop)
            if loop is not self._owner:  # another's call has begun meanwhile, or another waits
                reader.read_in(None)

    def _is_idle(self) -> bool:
        return not self._pending

    # The longer way of a call.

    def _start(
        self,
        number: int,
        call: Call | StreamCall,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any] | None,
        flags: int,
    ) -> None:
        end = _deadline.get()
        left = inf if end is None else end - monotonic()
        if left <= 0:
            call.end(self._timeout(call.method))
            return
        try:
            args, kwargs, feeds = extract(args, kwargs)
            payload = codec.encode((args, kwargs) if kwargs else (args,), "argument")
        except PayloadError as error:
            call.end(_at(error, self.label, call.method))
            return
        if feeds:
            call.feeds = feeds
            flags |= frames.FLAG_FEEDS
        uninterrupted(
            self._begin,
            number,
            call,
            frames.call_head(call.method.encode(), left),
            payload,
            flags,
            end,
        )

    def _begin(
        self,
        number: int,
        call: Call | StreamCall,
        head: bytes,
        payload: codec.Payload,
        flags: int,
        end: float | None,
    ) -> None:
        plain = not flags
        if not self._register(number, call, _get_running_loop() if plain else None):
            return
        if not plain:  # whoever waits for the items does not read
            self.read_in(None)
        if end is not None:
            call.timer = self._timers.at(end, lambda: self._expire(number))
        channel = self._channel
        if channel is None:

            def send(channel: Channel) -> None:
                self._send_call(channel, number, head, payload, flags)
                if self._pending.get(number) is not call:  # perhaps cancelled just before
                    channel.send(frames.frame(frames.CANCEL, number))

            self._opening.submit(send)
        else:
            self._send_call(channel, number, head, payload, flags)

    def _register(
        self, number: int, call: Call | StreamCall, loop: asyncio.AbstractEventLoop | None
    ) -> bool:
        """Note a call that begins, in a running loop or not; False when it has ended already.

        Other threads do the same at any moment. Each notes its call before it looks at what is
        there, and a loop looks again after it has begun to read (`_read_in`): so of two that meet
        at least one sees the other, and nothing stays in a loop that does not await it.
        """
        pending = self._pending
        pending[number] = call
        if self._owner is not loop:
            self._owner = loop if len(pending) == 1 else None
            if len(pending) > 1:
                self._owner = None
        channel = self._channel
        if channel is not None and channel.reader is not None:
            reader = channel.reader
            if reader.parked:
                unread = len(pending) > 1  # one call alone is read by whoever waits for it
            else:
                unread = reader.away is not None and reader.away is not loop
            if unread:
                reader.read_in(None)
        failed = self._failed
        if failed is not None and pending.pop(number, None) is not None:
            call.end(failed)
            return False
        return True

    def _head(self, method: str) -> bytes:
        head = self._heads[method] = frames.call_head(method.encode(), inf)
        return head

    def _send_call(
        self, channel: Channel, number: int, head: bytes, payload: codec.Payload, flags: int
    ) -> None:
        call = self._pending.get(number)
        if call is None:  # cancelled before it was sent
            return

        def start_feeds() -> None:
            for feed in call.feeds or ():
                feed.start(channel, number)

        if payload.inline:
            body = head + payload.body
            frame = _pack(len(body), frames.CALL, flags, 0, number) + body
            loop = _get_running_loop()
            if loop is None:
                channel.send(frame)
            else:
                channel.send_in_burst(frame, loop)
            start_feeds()
        else:
            channel.send_message(frames.CALL, (number, 0), head, payload, flags, start_feeds)
        self._check_sent(channel, number)

    def _send(self, frame: bytes) -> None:
        channel = self._channel
        if channel is not None:
            channel.send(frame)

    def _expire(self, number: int) -> None:
        channel = self._channel
        if channel is not None and number in self._pending:
            channel.read()  # it may have been answered in time, and nobody have read that yet
        call = self._pending.get(number)
        if call is not None:
            error = self._timeout(call.method)
            if isinstance(call, Call):
                call.resolve(exception=error)
            else:
                call.end(error)
            self.cancel(number)

    def _timeout(self, method: str) -> CallTimeoutError:
        return CallTimeoutError(
            f"{method} on {self.label} did not answer within its time (bigmachine.timeout)",
            machine=self.label,
            method=method,
        )

    def _end_all(self, error_of: Callable[[Call | StreamCall], BaseException]) -> None:
        wakes = Wakes()
        for calls in (self._pending, *self._losses.undecided):
            while calls:
                try:
                    _, pending = calls.popitem()
                except KeyError:
                    break
                pending.end(error_of(pending), wakes=wakes)
        wakes.send()

    # The connection, on the loop.

    def on_open(self, channel: Channel) -> None:
        """Use a connection from now on."""
        self._channel = channel

    def on_no_connection(self, reason: str, cause: BaseException | None) -> None:
        """End what is pending: none of it was sent."""
        self._losses.add(self._take_pending(), reason, cause, sent=False)

    def on_closed(self, error: BaseException | None) -> None:
        """Fail what is pending: the connection is gone."""
        self._opening.lost()  # first: whoever sees no connection here is to open the next one
        self._channel = None
        how = f"broke: {error}" if error else "was closed"
        reason = f"the connection to {self.label} {how}"
        self._losses.add(self._take_pending(), reason, error, sent=True)

    def soon(self, action: Callable[[], object]) -> None:
        """Do something on the loop, from any thread; where that is closed, all calls end."""
        try:
            self._loop.call_soon_threadsafe(action)
        except RuntimeError:
            self._end_all(
                lambda pending: self._losses.error(pending, "the cluster is shut down", sent=False)
            )

    def _take_pending(self) -> Calls:
        """Take the pending calls out: the one dictionary stays, for threads that hold it."""
        taken: Calls = {}
        while self._pending:
            number, call = self._pending.popitem()
            taken[number] = call
        return taken

    def _check_sent(self, channel: Channel, number: int) -> None:
        """Fail a call that was given to a connection just after it had closed."""
        if channel.closed and number in self._pending:  # where `fail` finds it until then
            self.soon(lambda: self._lose(number))

    def _lose(self, number: int) -> None:
        call = self._pending.pop(number, None)
        if call is not None:
            reason = f"the connection to {self.label} was closed"
            self._losses.add({number: call}, reason, None, sent=True)

    # Answers, on the loop.

    def on_events(self, events: list[Event]) -> None:
        """Resolve what the peer has answered, and wake each waiting loop once."""
        wakes = Wakes()
        pending = self._pending
        try:
            for event in events:
                kind, _, _, number, body, parts = event
                if kind == frames.REPLY:
                    call = pending.pop(number, None)
                    if call is not None:
                        call.answer(body if parts is None else Decode(parts[0], parts[1:]), wakes)
                else:
                    self._on_other(event, wakes)
        finally:  # what was answered before the peer broke the protocol stays answered
            wakes.send()

    def _on_other(self, event: Event, wakes: Wakes) -> None:
        kind, _, sub, number, body, parts = event
        pending = self._pending
        data = body if parts is None else parts[0]
        if kind == frames.ITEM:
            call = pending.get(number)
            if isinstance(call, StreamCall):
                buffers = () if parts is None else parts[1:]
                size = len(data) + sum(map(len, buffers))
                call.inlet.receive(Decode(data, buffers), size, wakes)
        elif kind == frames.ERROR:
            call = pending.pop(number, None)
            if call is not None:
                call.answer(DecodeError(bytes(data), self.label, call.method), wakes)
        elif kind == frames.END or kind == frames.ABORT:
            call = pending.pop(number, None)
            if isinstance(call, Call):
                reason = f"{self.label} gave no answer"
                call.end(self._losses.error(call, reason, sent=True), wakes)
            elif call is not None:
                call.end(wakes=wakes)
        elif kind == frames.WINDOW or kind == frames.CANCEL:
            self._on_feed(kind, sub, number, body)
        elif kind == frames.GOODBYE:
            logger.debug("%s says goodbye", self.label)
        else:
            name = frames.KIND_NAMES.get(kind, str(kind))
            raise RemoteProtocolError(f"{self.label} sent a {name} frame to its caller")

    def _on_feed(self, kind: int, sub: int, call: int, body: bytes) -> None:
        entry = self._pending.get(call)
        if entry is None or entry.feeds is None or not 1 <= sub <= len(entry.feeds):
            return
        if kind == frames.WINDOW:
            entry.feeds[sub - 1].credit(*frames.split_window(body))
        else:
            entry.feeds[sub - 1].stop()


def _at(error: PayloadError, machine: str, method: str) -> PayloadError:
    placed = PayloadError(str(error), machine=machine, method=method, path=error.path)
    placed.__cause__ = error.__cause__
    return placed
