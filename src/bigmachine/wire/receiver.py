"""The receiving half of a connection: bytes in, events out.

The caller asks `Receiver.buffer` where the next bytes should go, puts them there (a socket's
``recv_into``), and tells `Receiver.received` how many they were. Small frames pass through a
scratch buffer; the bytes of a large part go straight to where they will stay. What always
holds: memory taken is bounded by the limits, and after an error nothing more is accepted.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from bigmachine.errors import RemoteProtocolError
from bigmachine.wire import frames, landing
from bigmachine.wire.frames import Event

SCRATCH_BYTES: Final = 256 * 1024
_PEEK_BYTES: Final = 4096
"""How much is read at a time between the chunks of a large part: what is read here is copied."""

_unpack = frames.HEADER.unpack_from
_new_event = frames.new_event
_HEADER_BYTES = frames.HEADER_BYTES


class _Incoming:
    """A message in parts that has not arrived in full."""

    __slots__ = ("body", "flags", "index", "kind", "owners", "position", "sizes", "types", "view")

    def __init__(self, kind: int, flags: int, body: bytes, table: list[tuple[int, int]]) -> None:
        self.kind = kind
        self.flags = flags
        self.body = body
        self.sizes = [size for size, _ in table]
        self.types = [kind for _, kind in table]
        self.owners: list[Any] = []
        self.index = -1
        self.position = 0
        self.view: memoryview | None = None
        self.next_part()

    def next_part(self) -> bool:
        """Go on to the next part that is not empty; False when there is none."""
        while True:
            if self.view is not None:
                self.view.release()
                self.view = None
                kind = self.types[self.index]
                self.owners[self.index] = landing.finish(kind, self.owners[self.index])
            self.index += 1
            self.position = 0
            if self.index == len(self.sizes):
                return False
            size = self.sizes[self.index]
            try:
                owner, self.view = landing.allocate(self.types[self.index], size)
            except MemoryError as error:
                raise RemoteProtocolError(f"no room for a part of {size:,} bytes") from error
            self.owners.append(owner)
            if self.sizes[self.index]:
                return True

    @property
    def complete(self) -> bool:
        return self.index == len(self.sizes)

    def room(self) -> int:
        """Return how many bytes of the current part are missing."""
        return self.sizes[self.index] - self.position


class Receiver:
    """Turns the bytes of one direction of a connection into events."""

    def __init__(self, *, max_message_bytes: int = frames.MAX_MESSAGE_BYTES) -> None:
        self._max_message_bytes = max_message_bytes
        self._scratch = bytearray(SCRATCH_BYTES)
        self._view = memoryview(self._scratch)
        self._start = 0
        self._end = 0
        self._open: dict[tuple[int, int], _Incoming] = {}
        self._open_bytes = 0
        self._direct: _Incoming | None = None
        self._direct_key = (0, 0)
        self._direct_left = 0
        self._direct_fill = 0

    def __repr__(self) -> str:
        return f"<Receiver {self._end - self._start} bytes waiting, {len(self._open)} in parts>"

    @property
    def is_filling(self) -> bool:
        """Whether a message in parts has not arrived in full."""
        return bool(self._open)

    def buffer(self) -> memoryview:
        """Return where the next bytes go; never empty."""
        incoming = self._direct
        if incoming is not None and self._start == self._end:
            view = incoming.view
            assert view is not None
            self._direct_fill = min(self._direct_left, incoming.room())
            return view[incoming.position : incoming.position + self._direct_fill]
        self._direct_fill = 0
        if self._start:
            self._compact()
        if self._open:
            return self._view[self._end : min(self._end + _PEEK_BYTES, SCRATCH_BYTES)]
        return self._view[self._end :]

    def received(self, count: int) -> list[Event]:
        """Take note of ``count`` bytes put into `buffer`, and return what they complete.

        Raises:
            RemoteProtocolError: The peer broke the protocol; the connection must be closed.
        """
        events: list[Event] = []
        if self._direct_fill:
            self._direct_fill = 0
            self._advance(count, events)
            return events
        self._end += count
        self._parse(events)
        return events

    def _compact(self) -> None:
        left = self._end - self._start
        if left:
            self._scratch[:left] = self._scratch[self._start : self._end]
        self._start = 0
        self._end = left

    def _parse(self, events: list[Event]) -> None:
        start, end = self._start, self._end
        position, size = 0, end - start
        data = bytes(self._view[start:end])  # whose slices take a third of the time of a view's
        while True:
            if self._direct is not None:
                position += self._copy_data(start + position, end, events)
                if self._direct is not None:
                    break
            if size - position < _HEADER_BYTES:
                break
            length, kind, flags, sub, call = _unpack(data, position)
            if kind == frames.DATA:
                self._begin_data(length, call, sub)
                position += _HEADER_BYTES
                continue
            if length > frames.MAX_FRAME_BYTES:
                raise RemoteProtocolError(
                    f"a frame of {length:,} bytes, {frames.MAX_FRAME_BYTES:,} are allowed"
                )
            stop = position + _HEADER_BYTES + length
            if stop > size:
                break
            body = data[position + _HEADER_BYTES : stop]
            position = stop
            if flags & frames.FLAG_PARTS:
                self._begin_message(kind, flags, sub, call, body, events)
            elif kind == frames.ABORT:
                self._abort(call, sub, events)
            else:
                events.append(_new_event((kind, flags, sub, call, body, None)))
        if position == size:
            self._start = self._end = 0
        else:
            self._start = start + position

    def _begin_message(
        self, kind: int, flags: int, sub: int, call: int, body: bytes, events: list[Event]
    ) -> None:
        if kind not in frames.MESSAGES:
            raise RemoteProtocolError(f"a frame of kind {kind} cannot have parts")
        if (call, sub) in self._open:
            raise RemoteProtocolError(f"a second message in parts on call {call} before the first")
        if len(self._open) >= frames.MAX_OPEN_MESSAGES:
            raise RemoteProtocolError("too many messages in parts at once")
        table, rest = _split_table(body)
        size = sum(size for size, _ in table)
        if self._open_bytes + size > self._max_message_bytes:
            raise RemoteProtocolError(
                f"a message of {size:,} bytes, {self._max_message_bytes:,} are allowed"
            )
        incoming = _Incoming(kind, flags, rest, table)
        self._open[call, sub] = incoming
        self._open_bytes += size
        if incoming.complete:
            self._finish(call, sub, events)

    def _begin_data(self, length: int, call: int, sub: int) -> None:
        if length > frames.MAX_CHUNK_BYTES:
            raise RemoteProtocolError(
                f"a chunk of {length:,} bytes, {frames.MAX_CHUNK_BYTES:,} are allowed"
            )
        incoming = self._open.get((call, sub))
        if incoming is None:
            raise RemoteProtocolError(f"data for call {call}, which awaits none")
        if not length or length > incoming.room():
            raise RemoteProtocolError(f"a chunk of {length:,} bytes does not fit its part")
        self._direct = incoming
        self._direct_key = (call, sub)
        self._direct_left = length

    def _copy_data(self, position: int, end: int, events: list[Event]) -> int:
        """Move what has been read of a large part to where it stays; return how much it was."""
        incoming = self._direct
        assert incoming is not None
        assert incoming.view is not None
        count = min(end - position, self._direct_left)
        if count:
            at = incoming.position
            incoming.view[at : at + count] = self._view[position : position + count]
            self._advance(count, events)
        return count

    def _advance(self, count: int, events: list[Event]) -> None:
        incoming = self._direct
        assert incoming is not None
        incoming.position += count
        self._direct_left -= count
        if self._direct_left == 0:
            self._direct = None
        if incoming.room() == 0 and not incoming.next_part():
            self._finish(*self._direct_key, events)

    def _finish(self, call: int, sub: int, events: list[Event]) -> None:
        incoming = self._open.pop((call, sub))
        self._open_bytes -= sum(incoming.sizes)
        events.append(
            Event(incoming.kind, incoming.flags, sub, call, incoming.body, incoming.owners)
        )

    def _abort(self, call: int, sub: int, events: list[Event]) -> None:
        incoming = self._open.pop((call, sub), None)
        if incoming is not None:
            self._open_bytes -= sum(incoming.sizes)
            events.append(Event(frames.ABORT, incoming.flags, sub, call, b"", None))


def _split_table(body: bytes) -> tuple[list[tuple[int, int]], bytes]:
    try:
        (count,) = frames.COUNT.unpack_from(body)
        end = frames.COUNT.size + count * frames.PART.size
        table = list(frames.PART.iter_unpack(body[frames.COUNT.size : end]))
    except struct.error as error:
        raise RemoteProtocolError("a message whose table of parts is cut off") from error
    if len(table) != count or not 1 <= count <= frames.MAX_PARTS:
        raise RemoteProtocolError(f"a message with {count} parts")
    if any(kind not in landing.KINDS for _, kind in table):
        raise RemoteProtocolError("a part of an unknown kind")
    return table, body[end:]
