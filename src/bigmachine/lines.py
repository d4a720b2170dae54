"""Lines out of bytes: what a machine wrote, put together again for those who read it.

Bytes come in pieces of any size; lines go out, unchanged and without their newline, the same ones
however the bytes were cut. Lines up to 1 MiB stay whole, longer ones are split every 1 MiB. Whole
chunks are split at once, so that a flood costs little for each line.

Pure: no clock, no stream.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

Stream: TypeAlias = Literal["stdout", "stderr"]
STREAMS: Final[tuple[Stream, Stream]] = ("stdout", "stderr")

LINE_LIMIT_BYTES: Final = 1 << 20
"""How long a line may be (its newline not counted) before it is split."""


class OutputLine(str):
    r"""A line that a machine wrote, without its newline: text, and where it came from.

    Bytes that are not UTF-8 stand in the text as ``\xNN``; `raw` has them unchanged.

    Attributes:
        machine: The machine's label, ``m3``.
        stream: ``"stdout"`` or ``"stderr"``.
        raw: The line's bytes.
    """

    __slots__ = ("machine", "raw", "stream")

    machine: str
    stream: Stream
    raw: bytes

    def __new__(cls, raw: bytes, machine: str, stream: Stream) -> OutputLine:
        """Decode ``raw``."""
        line = super().__new__(cls, raw.decode("utf-8", "backslashreplace"))
        line.machine = machine
        line.stream = stream
        line.raw = raw
        return line

    def __getnewargs__(self) -> tuple[bytes, str, Stream]:  # type: ignore[override]  # str's is (str,)
        """What a copy or a pickle is made of."""
        return self.raw, self.machine, self.stream


class LineAssembler:
    """Puts one stream's lines together.

    Args:
        limit_bytes: How long a line may be before it is split.
    """

    __slots__ = ("_held", "_limit_bytes")

    def __init__(self, *, limit_bytes: int = LINE_LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._held = bytearray()  # the unfinished line, never longer than the limit

    def __repr__(self) -> str:
        return f"<LineAssembler held_bytes={len(self._held)}>"

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes and give the lines that they complete."""
        lines = data.split(b"\n")
        unfinished = lines.pop()
        if not lines:
            self._held += unfinished
            return self._cut_held()
        if self._held:
            lines[0] = bytes(self._held) + lines[0]
            self._held.clear()
        # A line that is too long needs a chunk that is, or stands first, with what was held.
        if len(data) > self._limit_bytes or len(lines[0]) > self._limit_bytes:
            lines = [piece for line in lines for piece in self._pieces(line)]
        self._held += unfinished
        return lines + self._cut_held() if len(unfinished) > self._limit_bytes else lines

    def end(self) -> list[bytes]:
        """The stream has ended: give the line that has no newline, if there is one."""
        if not self._held:
            return []
        line = bytes(self._held)
        self._held.clear()
        return [line]

    def _cut_held(self) -> list[bytes]:
        """Give what is too long of the unfinished line; a newline that comes next belongs to it."""
        limit = self._limit_bytes
        whole = max(len(self._held) - 1, 0) // limit * limit
        pieces = [bytes(self._held[at : at + limit]) for at in range(0, whole, limit)]
        del self._held[:whole]
        return pieces

    def _pieces(self, line: bytes) -> list[bytes]:
        limit = self._limit_bytes
        if len(line) <= limit:
            return [line]
        return [line[at : at + limit] for at in range(0, len(line), limit)]
