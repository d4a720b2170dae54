"""Machines' output at the driver: bytes in on the runtime's loop, lines out on a thread of its own.

::

    Host.output() ─▶ feed() ─▶ backlog (8 MiB) ─▶ thread: LineAssembler for each stream ─▶ Sink

Writing may block (a pipe nobody reads, a user's function that waits), so it happens on a thread,
never on the runtime's loop. The backlog is bounded by the one who feeds: after each batch it awaits
``room()`` and takes no more until there is some. Meanwhile the supervisor spools, and drops lines
in the end; see `bigmachine.host.spool`.

Order is kept, across streams and machines too. A user's function or file that raises is logged once
and not used again: what a program does with output must not end its cluster.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from bigmachine.driver.sinks import Sink, Target, make_sink
from bigmachine.lines import STREAMS, LineAssembler, Stream

if TYPE_CHECKING:
    import asyncio

BACKLOG_LIMIT_BYTES: Final = 8 << 20
"""How much may wait to be written before ``room`` waits too."""
_TURN_BYTES: Final = 256 << 10  # about how much is written at once

_logger = logging.getLogger(__name__)


class Output:
    """Writes what machines print to where the program wants it.

    Args:
        target: A callable, a text file, or None for ``sys.stdout`` and ``sys.stderr``.
        name: The cluster's name, for the thread's.
        limit_bytes: How much may wait to be written.

    Raises:
        UsageError: ``target`` is none of the three.
    """

    def __init__(
        self, target: Target = None, *, name: str = "", limit_bytes: int = BACKLOG_LIMIT_BYTES
    ) -> None:
        self._sink: Sink | None = make_sink(target)
        self._limit = limit_bytes
        self._assemblers: dict[tuple[str, Stream], LineAssembler] = {}  # the thread's alone
        self._changed = threading.Condition()  # guards all that follows
        self._backlog: deque[_Chunk] = deque()
        self._fed = 0  # positions in the flow of bytes: what came,
        self._written = 0  # and what is done
        self._waiters: list[tuple[int, Callable[[], None]]] = []
        self._closing = False
        self._thread = threading.Thread(
            target=self._run, name=f"bigmachine-output-{name}", daemon=True
        )
        self._thread.start()

    def __repr__(self) -> str:
        state = "closed" if self._closing else "open"
        return f"<Output {state} waiting_bytes={self._fed - self._written}>"

    def feed(self, machine: str, stream: Stream, data: bytes) -> None:
        """Take bytes of a machine's stream; empty ones end the stream. Never blocks.

        Args:
            machine: The label its lines are prefixed with, unique in the cluster.
            stream: Which stream.
            data: The next bytes of it.
        """
        with self._changed:
            if self._closing:
                return
            self._backlog.append(_Chunk(machine, stream, data))
            self._fed += max(len(data), 1)
            self._changed.notify_all()

    def finish(self, machine: str) -> None:
        """A machine has gone without ending its streams: write its unfinished lines."""
        for stream in STREAMS:
            self.feed(machine, stream, b"")

    async def room(self) -> None:
        """Wait until more may be fed; has no limit, for a slow writer only holds up its input."""
        if self._fed - self._written > self._limit:
            await self._written_in_loop(self._fed - self._limit // 2)

    async def drained(self, timeout: float) -> bool:
        """As `drain`, for a loop."""
        import asyncio

        try:
            async with asyncio.timeout(timeout):
                await self._written_in_loop(self._fed)
        except TimeoutError:
            return False
        return True

    def drain(self, timeout: float) -> bool:
        """Wait, at most ``timeout`` seconds, until all that was fed so far has been written.

        Blocks: not for the runtime's loop. Lines without an end stay until their stream ends.

        Returns:
            Whether it has.
        """
        done = threading.Event()
        self._when_written(self._fed, done.set)
        return done.wait(timeout)

    def close(self, timeout: float) -> bool:
        """Write what is left, unfinished lines too, and end. Idempotent.

        Blocks at most ``timeout`` seconds; what a stuck writer has not taken then is lost when
        the program ends.

        Returns:
            Whether everything was written.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if threading.current_thread() is self._thread:  # the user's function closes its cluster
            return False
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while chunks := self._next_chunks():
            for machine, stream, data in chunks:
                self._deliver(machine, stream, data)
            self._flush()
            self._advance(sum(max(len(chunk.data), 1) for chunk in chunks))
        for machine, stream in tuple(self._assemblers):
            self._deliver(machine, stream, b"")
        self._flush()

    def _next_chunks(self) -> list[_Chunk]:
        """Wait for something to write; empty: closed, and all is written."""
        chunks: list[_Chunk] = []
        size_bytes = 0
        with self._changed:
            self._changed.wait_for(lambda: self._backlog or self._closing)
            while self._backlog and size_bytes < _TURN_BYTES:
                chunks.append(self._backlog.popleft())
                size_bytes += len(chunks[-1].data)
        return chunks

    def _deliver(self, machine: str, stream: Stream, data: bytes) -> None:
        key = machine, stream
        if data:
            assembler = self._assemblers.get(key)
            if assembler is None:
                assembler = self._assemblers[key] = LineAssembler()
            lines = assembler.feed(data)
        else:
            ended = self._assemblers.pop(key, None)
            lines = ended.end() if ended else []
        if lines and self._sink is not None:
            sink = self._sink
            self._guarded(lambda: sink.add(machine, stream, lines))

    def _flush(self) -> None:
        if self._sink is not None:
            self._guarded(self._sink.flush)

    def _guarded(self, write: Callable[[], None]) -> None:
        """Run what calls the user's code, and have done with it when it raises."""
        try:
            write()
        except (Exception, SystemExit):
            sink, self._sink = self._sink, None
            _logger.exception("machines' output is not shown any more: %r raised", sink)

    def _advance(self, count: int) -> None:
        with self._changed:
            self._written += count
            due = [wake for position, wake in self._waiters if position <= self._written]
            self._waiters = [waiter for waiter in self._waiters if waiter[0] > self._written]
        for wake in due:
            wake()

    def _when_written(self, position: int, wake: Callable[[], None]) -> None:
        """Call ``wake`` once everything up to ``position`` is written, on whatever thread."""
        with self._changed:
            if self._written < position:
                self._waiters.append((position, wake))
                return
        wake()

    async def _written_in_loop(self, position: int) -> None:
        import asyncio

        loop = asyncio.get_running_loop()
        written = loop.create_future()

        def wake() -> None:
            try:
                loop.call_soon_threadsafe(_set_done, written)
            except RuntimeError:  # the loop has been closed: nobody waits any more
                return

        self._when_written(position, wake)
        await written


class _Chunk(NamedTuple):
    machine: str
    stream: Stream
    data: bytes


def _set_done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
