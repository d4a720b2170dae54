"""What machines have written and the driver has not taken yet.

The supervisor reads the pipes of its machines as fast as they come, so that a slow driver never
blocks a machine, and puts the bytes here::

    pipe ──append()──▶ held (the unfinished line) ──▶ LineQueue (64 MiB a machine) ──next_batch()──▶
                                                  └─▶ LineQueue of each Tail       ──next_lines()──▶
                                                  └─▶ the recent output, for the machine's Death

What always holds:

- Nothing here waits for anything; only ``next_batch`` and ``next_lines`` do, for something to take.
- The bytes of a stream come out in the order they went in, and unchanged.
- Lines are kept or dropped whole, see `bigmachine.host.linequeue`; an unfinished one is held back.
- An empty chunk ends a stream, as an empty ``read`` does.

Used by one thread, the supervisor's event loop: no locks. Pure: the loop's event comes from outside
(`Signal`), so that nothing here knows asyncio.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from bigmachine.host.linequeue import LineQueue
from bigmachine.lines import LINE_LIMIT_BYTES, STREAMS, LineAssembler, Stream

SPOOL_LIMIT_BYTES: Final = 64 << 20
"""How much of one machine's output waits for the driver."""
TAIL_LIMIT_BYTES: Final = 4 << 20
"""How much of a machine's output waits for one reader of ``tail()``."""
BATCH_BYTES: Final = 1 << 20
"""About how much one batch carries."""
TURN_BYTES: Final = 256 << 10
"""About how much one machine has of a batch while others have something too."""
RECENT_BYTES: Final = 32 << 10
"""How much output is remembered for a machine's Death, in total and of stderr alone."""
DEATH_LINES: Final = 20
"""How many lines of it a Death shows."""
DEATH_LINE_CHARS: Final = 1_000
"""How much of a line it shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputChunk:
    """Some output of one machine, as it goes to the driver.

    Attributes:
        machine_id: The machine that wrote it.
        stream: ``"stdout"`` or ``"stderr"``.
        data: The bytes, unchanged; empty: this stream of the machine has ended.
    """

    machine_id: str
    stream: Stream
    data: bytes


class Signal(Protocol):
    """What ``asyncio.Event`` offers."""

    def set(self) -> None:
        """Wake the one who waits."""

    def clear(self) -> None:
        """Make the next ``wait`` wait again."""

    async def wait(self) -> object:
        """Return as soon as the signal is set."""


class Spool:
    """The output of all machines of a host until the driver has taken it.

    Args:
        new_signal: Makes the signal that ``next_batch`` waits on, and one for each tail:
            ``asyncio.Event``.
        limit_bytes: How much of each machine's output is kept.
    """

    def __init__(
        self, new_signal: Callable[[], Signal], *, limit_bytes: int = SPOOL_LIMIT_BYTES
    ) -> None:
        self._new_signal = new_signal
        self._signal = new_signal()
        self._limit_bytes = limit_bytes
        self._machines: dict[str, _Machine] = {}
        self._ready: deque[_Machine] = deque()  # machines with something to take, each once
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<Spool {state} machines={len(self._machines)} ready={len(self._ready)}>"

    def append(self, machine_id: str, stream: Stream, data: bytes) -> None:
        """Keep ``data``, the next bytes of a machine's stream. Never blocks.

        What comes after the machine's ``end`` is ignored.
        """
        machine = self._machine(machine_id)
        if machine.ended:
            return
        lines = machine.hold(stream, data)
        if lines:
            machine.write(stream, lines)
            self._wake(machine)

    def end(self, machine_id: str) -> None:
        """Both streams of a machine have ended: what was held back goes too, then the ends."""
        machine = self._machine(machine_id)
        if machine.ended:
            return
        machine.end()
        self._wake(machine)

    def forget(self, machine_id: str) -> None:
        """Drop what is known of a machine, once all its output has been taken. Ends it if need be.

        Nothing may be appended for it afterwards.
        """
        if machine_id in self._machines:
            self.end(machine_id)
            self._machines.pop(machine_id)

    def close(self) -> None:
        """All machines end; after the last batch ``next_batch`` answers None."""
        for machine_id in tuple(self._machines):
            self.end(machine_id)
        self._closed = True
        self._signal.set()

    @property
    def pending_bytes(self) -> int:
        """How much has not been taken yet, unfinished lines not counted."""
        return sum(machine.queue.size_bytes for machine in self._ready)

    def take_batch(self, max_bytes: int = BATCH_BYTES) -> list[OutputChunk]:
        """Take about ``max_bytes`` of what there is, the machines in turn; empty: nothing."""
        batch: list[OutputChunk] = []
        taken_bytes = 0
        while self._ready and taken_bytes < max_bytes:
            machine = self._ready.popleft()
            turn_bytes = max_bytes - taken_bytes
            if self._ready:
                turn_bytes = min(turn_bytes, TURN_BYTES)
            for stream, data in machine.queue.take(turn_bytes):
                batch.append(OutputChunk(machine_id=machine.id, stream=stream, data=data))
                taken_bytes += len(data)
            if machine.queue:
                self._ready.append(machine)
            else:
                machine.is_ready = False
        return batch

    async def next_batch(self, max_bytes: int = BATCH_BYTES) -> list[OutputChunk] | None:
        """Wait for output and take it; None: the spool was closed and everything is taken.

        For one caller at a time. Cancelling it loses nothing.
        """
        while True:
            batch = self.take_batch(max_bytes)
            if batch:
                return batch
            if self._closed:
                return None
            self._signal.clear()
            await self._signal.wait()

    def last_lines(self, machine_id: str, count: int = DEATH_LINES) -> tuple[str, ...]:
        r"""The last lines a machine wrote, oldest first, those without an end too, each clipped.

        Bytes that are not UTF-8 are shown as ``\xNN``. A line that was written over by carriage
        returns, as progress bars do, is shown as it was last seen.
        """
        machine = self._machines.get(machine_id)
        if machine is None:
            return ()
        lines = machine.recent_text().split("\n")
        shown = (_as_last_seen(line) for line in lines)
        return tuple(line for line in shown if line)[-count:] if count > 0 else ()

    def recent_stderr(self, machine_id: str) -> str:
        """The last 32 KiB of a machine's stderr: where a crash's Python stack stands."""
        machine = self._machines.get(machine_id)
        return "" if machine is None else machine.recent_stderr_text()

    def tail(self, machine_id: str, *, limit_bytes: int = TAIL_LIMIT_BYTES) -> Tail:
        """Follow a machine's output from now on, beginning with its last lines.

        Close the tail when done. It ends when the machine does.
        """
        machine = self._machine(machine_id)
        tail = Tail(self._new_signal(), limit_bytes=limit_bytes, on_close=machine.tails.discard)
        recent = machine.recent_finished(DEATH_LINES)
        if recent:
            tail.put("stdout", recent)
        if machine.ended:
            tail.end()
        else:
            machine.tails.add(tail)
        return tail

    def _machine(self, machine_id: str) -> _Machine:
        machine = self._machines.get(machine_id)
        if machine is None:
            machine = self._machines[machine_id] = _Machine(machine_id, self._limit_bytes)
        return machine

    def _wake(self, machine: _Machine) -> None:
        if not machine.is_ready:
            machine.is_ready = True
            self._ready.append(machine)
        self._signal.set()


class Tail:
    """One reader's view of a machine's output, line by line; slow readers lose lines.

    It is made by `Spool.tail`.
    """

    def __init__(
        self, signal: Signal, *, limit_bytes: int, on_close: Callable[[Tail], None]
    ) -> None:
        self._signal = signal
        self._queue = LineQueue(limit_bytes, blame="the reader")
        self._on_close = on_close
        self._assemblers = {stream: LineAssembler() for stream in STREAMS}
        self._ended = False

    def put(self, stream: Stream, lines: bytes) -> None:
        """Whole lines of the machine."""
        self._queue.put(stream, lines)
        self._signal.set()

    def end(self) -> None:
        """Nothing more comes."""
        self._ended = True
        self._signal.set()

    def close(self) -> None:
        """Stop following; ``next_lines`` answers None once what came before is taken."""
        self._on_close(self)
        self.end()

    async def next_lines(self, max_bytes: int = BATCH_BYTES) -> list[str] | None:
        r"""Wait for lines and take them, without their newlines; None: the end.

        Bytes that are not UTF-8 arrive as ``\xNN``.
        """
        while True:
            lines = self._take(max_bytes)
            if lines:
                return lines
            if self._ended and not self._queue:
                return None
            if not self._queue:
                self._signal.clear()
                await self._signal.wait()

    def _take(self, max_bytes: int) -> list[str]:
        lines: list[bytes] = []
        for stream, data in self._queue.take(max_bytes):
            lines += self._assemblers[stream].feed(data)
        if self._ended and not self._queue:
            for assembler in self._assemblers.values():
                lines += assembler.end()
        return [_text(line) for line in lines]


class _Machine:
    """What one machine wrote: the line it is writing, what waits, who follows, what was recent."""

    def __init__(self, machine_id: str, limit_bytes: int) -> None:
        self.id = machine_id
        self.queue = LineQueue(limit_bytes, blame="the driver")
        self.tails: set[Tail] = set()
        self.is_ready = False
        self.ended = False
        self._held = {stream: bytearray() for stream in STREAMS}
        self._recent = bytearray()
        self._recent_stderr = bytearray()

    def hold(self, stream: Stream, data: bytes) -> bytes:
        """Take bytes in and give back those that complete lines; the rest is held."""
        held = self._held[stream]
        end = data.rfind(b"\n") + 1
        if not end:
            held += data
            return self._release(stream) if len(held) >= LINE_LIMIT_BYTES else b""
        lines = data if end == len(data) else data[:end]
        if held:
            lines = self._release(stream) + lines
        if end < len(data):
            held += data[end:]
        return lines

    def write(self, stream: Stream, lines: bytes) -> None:
        self.queue.put(stream, lines)
        for tail in self.tails:
            tail.put(stream, lines)
        _remember(self._recent, lines)
        if stream == "stderr":
            _remember(self._recent_stderr, lines)

    def end(self) -> None:
        self.ended = True
        for stream in STREAMS:
            if self._held[stream]:
                self.write(stream, self._release(stream))
            self.queue.put_end(stream)
        for tail in self.tails:
            tail.end()
        self.tails.clear()

    def recent_text(self) -> str:
        unfinished = b"\n".join(self._held[stream][-RECENT_BYTES:] for stream in STREAMS)
        return _text(self._recent[-RECENT_BYTES:]) + "\n" + _text(unfinished)

    def recent_finished(self, count: int) -> bytes:
        lines = self._recent[-RECENT_BYTES:].split(b"\n")
        return bytes(b"\n".join(lines[-count - 1 :]))

    def recent_stderr_text(self) -> str:
        held = self._held["stderr"][-RECENT_BYTES:]
        return _text(self._recent_stderr[-RECENT_BYTES:] + held)

    def _release(self, stream: Stream) -> bytes:
        data = bytes(self._held[stream])
        self._held[stream].clear()
        return data


def _remember(recent: bytearray, lines: bytes) -> None:
    """Append to ``recent``, cutting it only now and then: a cut moves all that stays."""
    recent += lines[-RECENT_BYTES:]
    if len(recent) > 2 * RECENT_BYTES:
        del recent[:-RECENT_BYTES]


def _text(data: bytes | bytearray) -> str:
    return data.decode("utf-8", "backslashreplace")


def _as_last_seen(line: str) -> str:
    seen = line.rstrip("\r").rpartition("\r")[2].rstrip()
    return seen if len(seen) <= DEATH_LINE_CHARS else seen[:DEATH_LINE_CHARS] + "…"
