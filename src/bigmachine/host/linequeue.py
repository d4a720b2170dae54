"""A bounded queue of output lines that says what it had to drop.

The supervisor keeps one for each machine, for what the driver has not taken yet, and one for each
reader of ``tail()``. Lines are kept or dropped whole, and where lines were dropped one line says
how many. Only a line that came in parts, being over 1 MiB, may lose its end; it is closed by a
newline then.

Pure, and used by one thread.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from bigmachine.lines import STREAMS, Stream

_PIECE_OVERHEAD_BYTES: Final = 256  # what a piece costs beside its data, so that tiny ones count
_PIECE_JOIN_BYTES: Final = 64 << 10  # pieces are joined up to this size


class LineQueue:
    """Lines of both streams in the order they came, bounded, with gaps where lines were dropped.

    Once full it drops until half of it has been taken, so that a flood leaves a few long gaps and
    not one for every line.

    Args:
        limit_bytes: How much it keeps, its own bookkeeping counted in.
        blame: Who was too slow, for the line that tells of a gap.
    """

    def __init__(self, limit_bytes: int, *, blame: str) -> None:
        self._limit_bytes = limit_bytes
        self._blame = blame
        self._items: deque[_Piece | _Gap] = deque()
        self._used_bytes = 0
        self._full = False
        self._gaps: dict[Stream, _Gap] = {}  # the gap that may still grow
        self._torn = dict.fromkeys(STREAMS, False)  # what was kept last has no newline at its end
        self._skipping = dict.fromkeys(STREAMS, False)  # the end of a dropped line is to come

    def __bool__(self) -> bool:
        return bool(self._items)

    @property
    def size_bytes(self) -> int:
        """How much it holds, bookkeeping counted in."""
        return self._used_bytes

    def put(self, stream: Stream, data: bytes) -> None:
        """Keep what fits of these lines; the last one may be without its end."""
        if self._skipping[stream]:
            end = data.find(b"\n") + 1
            if not end:
                return
            self._skipping[stream] = False
            data = data[end:]
        if not data:
            return
        if self._full and self._used_bytes <= self._limit_bytes // 2:
            self._full = False
            self._gaps.clear()
        room = 0 if self._full else self._limit_bytes - self._used_bytes - _PIECE_OVERHEAD_BYTES
        if len(data) <= room:
            self._keep(stream, data)
            return
        self._full = True
        fits = data.rfind(b"\n", 0, max(room, 0)) + 1
        if fits:
            self._keep(stream, data[:fits])
        self._drop(stream, data[fits:])

    def put_end(self, stream: Stream) -> None:
        """The stream has ended: its last piece is an empty one."""
        self._items.append(_Piece(stream, b""))
        self._used_bytes += _PIECE_OVERHEAD_BYTES

    def take(self, max_bytes: int) -> list[tuple[Stream, bytes]]:
        """Take pieces until ``max_bytes`` are reached (at least one piece, if there is one)."""
        taken: list[tuple[Stream, bytes]] = []
        taken_bytes = 0
        while self._items and taken_bytes < max_bytes:
            item = self._items.popleft()
            self._used_bytes -= _PIECE_OVERHEAD_BYTES
            if isinstance(item, _Gap):
                if self._gaps.get(item.stream) is item:
                    del self._gaps[item.stream]
                data = item.notice(self._blame)
            else:
                data = bytes(item.data)
                self._used_bytes -= len(data)
            taken_bytes += len(data)
            taken.append((item.stream, data))
        return taken

    def _keep(self, stream: Stream, data: bytes) -> None:
        self._torn[stream] = not data.endswith(b"\n")
        self._used_bytes += len(data)
        last = self._items[-1] if self._items else None
        if isinstance(last, _Piece) and last.accepts(stream, data):
            last.join(data)
            return
        self._items.append(_Piece(stream, data))
        self._used_bytes += _PIECE_OVERHEAD_BYTES

    def _drop(self, stream: Stream, data: bytes) -> None:
        if not data:
            return
        gap = self._gaps.get(stream)
        if gap is None:
            gap = self._gaps[stream] = _Gap(stream, torn=self._torn[stream])
            self._items.append(gap)
            self._used_bytes += _PIECE_OVERHEAD_BYTES
            self._torn[stream] = False
        gap.lines += data.count(b"\n")
        if not data.endswith(b"\n"):
            gap.lines += 1
            self._skipping[stream] = True


class _Piece:
    """Bytes of one stream. Small ones that follow each other are joined into one."""

    __slots__ = ("data", "stream")

    def __init__(self, stream: Stream, data: bytes) -> None:
        self.stream: Stream = stream
        self.data: bytes | bytearray = data

    def accepts(self, stream: Stream, data: bytes) -> bool:
        size_bytes = len(self.data)
        return stream == self.stream and 0 < size_bytes <= _PIECE_JOIN_BYTES - len(data)

    def join(self, data: bytes) -> None:
        if isinstance(self.data, bytes):
            self.data = bytearray(self.data)
        self.data += data


class _Gap:
    """Lines of one stream that were dropped here."""

    __slots__ = ("lines", "stream", "torn")

    def __init__(self, stream: Stream, *, torn: bool) -> None:
        self.stream: Stream = stream
        self.torn = torn
        self.lines = 0

    def notice(self, blame: str) -> bytes:
        lines = "1 line" if self.lines == 1 else f"{self.lines} lines"
        newline = "\n" if self.torn else ""
        return f"{newline}bigmachine: {lines} dropped, {blame} was too slow\n".encode()
