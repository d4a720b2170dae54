"""The sending half of a connection: messages in, bytes out, in a fair order.

Small frames go first, joined into one write. Of the messages in parts one chunk goes out at a
time, in turn, so that a bulk transfer never holds up a small call. What always holds: frames of
one ``(call, sub)`` leave in the order in which they came.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from bigmachine.wire import frames

_JOIN_BYTES: Final = 256 * 1024
"""At most this much of small frames is joined into one write."""
_PIECES: Final = 256
"""At most so many pieces in one chunk: the system takes 1,024 in one write."""
_AT_ONCE: Final = 1024
"""So many messages in parts are on their way at once; the other side takes more than these."""

Key = tuple[int, int]


class _Outgoing:
    """A message in parts that has not left in full, and the frames that wait behind it."""

    __slots__ = ("behind", "chunks", "key", "on_sent", "started")

    def __init__(
        self,
        key: Key,
        head: bytes,
        views: list[memoryview],
        on_sent: Callable[[], object] | None,
    ) -> None:
        self.key = key
        self.on_sent = on_sent
        self.chunks = _chunks(key, head, views)
        self.behind: deque[bytes | _Outgoing] = deque()
        self.started = False


class Sender:
    """The queue of what is to be sent on one connection. Not thread-safe: its owner locks."""

    def __init__(self) -> None:
        self._small: deque[bytes] = deque()
        self._turns: deque[_Outgoing] = deque()
        self._busy: dict[Key, _Outgoing] = {}

    def __repr__(self) -> str:
        return f"<Sender {len(self._small)} frames, {len(self._turns)} messages in parts>"

    def __bool__(self) -> bool:
        return bool(self._small) or bool(self._turns)

    @property
    def waiting(self) -> bool:
        """Whether anything waits to be sent."""
        return bool(self._small or self._turns)

    def push(self, frame: bytes, key: Key | None = None) -> None:
        """Queue one frame; with a key it stays behind what was queued with the same key."""
        if key is not None and self._busy and key in self._busy:
            self._busy[key].behind.append(frame)
        else:
            self._small.append(frame)

    def push_message(
        self,
        kind: int,
        key: Key,
        head: bytes,
        parts: Sequence[tuple[memoryview, int]],
        flags: int = 0,
        on_sent: Callable[[], object] | None = None,
    ) -> None:
        """Queue a message in parts: views of bytes, each with the kind of memory it lands in.

        The parts are not copied: they must not change before they are sent. ``on_sent`` is called
        when all that is queued from then on leaves after the message.
        """
        views = [view for view, _ in parts]
        table = b"".join(frames.PART.pack(view.nbytes, kind) for view, kind in parts)
        body = frames.COUNT.pack(len(views)) + table + head
        first = frames.frame(kind, key[0], key[1], body, flags | frames.FLAG_PARTS)
        outgoing = _Outgoing(key, first, views, on_sent)
        if key in self._busy:
            self._busy[key].behind.append(outgoing)
        else:
            self._busy[key] = outgoing
            self._turns.append(outgoing)

    def take(self) -> list[bytes | memoryview]:
        """Return the next bytes to write, whole frames; an empty list when there are none."""
        small = self._small
        batch: list[bytes | memoryview] = []
        if small:
            if len(small) == 1:
                batch.append(small.popleft())
            else:
                batch.append(self._join())
        if self._turns and not small:
            batch.extend(self._next_chunk())
        return batch

    def abort(self, key: Key) -> bool:
        """Drop the rest of the message in parts with a key, and whatever waits behind it.

        Returns:
            Whether the message had begun to leave: then the peer is told by an ABORT frame.
        """
        outgoing = self._busy.pop(key, None)
        if outgoing is None:
            return False
        self._turns.remove(outgoing)
        if outgoing.started:
            self._small.append(frames.frame(frames.ABORT, *key))
        return outgoing.started

    def clear(self) -> None:
        """Forget everything: the connection is gone."""
        self._small.clear()
        self._turns.clear()
        self._busy.clear()

    def _join(self) -> bytes:
        small = self._small
        size, taken = 0, []
        while small and size < _JOIN_BYTES:
            frame = small.popleft()
            size += len(frame)
            taken.append(frame)
        return b"".join(taken)

    def _next_chunk(self) -> list[bytes | memoryview]:
        turns = self._turns
        while turns:
            outgoing = turns.popleft()
            outgoing.started = True
            chunk = next(outgoing.chunks, None)
            if chunk is not None:
                if len(turns) < _AT_ONCE:
                    turns.append(outgoing)
                else:
                    turns.insert(_AT_ONCE - 1, outgoing)
                return chunk
            self._end_turn(outgoing)
            if self._small:
                return [self._join()]
        return []

    def _end_turn(self, outgoing: _Outgoing) -> None:
        """Release what waited behind a message that has left, up to the next one in parts."""
        del self._busy[outgoing.key]
        if outgoing.on_sent is not None:
            outgoing.on_sent()
        behind = outgoing.behind
        while behind:
            waiting = behind.popleft()
            if isinstance(waiting, bytes):
                self._small.append(waiting)
                continue
            waiting.behind = behind
            self._busy[waiting.key] = waiting
            self._turns.append(waiting)
            break


def _chunks(key: Key, head: bytes, views: list[memoryview]) -> Iterator[list[bytes | memoryview]]:
    call, sub = key
    pending: list[bytes | memoryview] = [head]
    size = 0
    for view in views:
        for start in range(0, view.nbytes, frames.CHUNK_BYTES):
            chunk = view[start : start + frames.CHUNK_BYTES]
            pending.append(frames.HEADER.pack(chunk.nbytes, frames.DATA, 0, sub, call))
            pending.append(chunk)
            size += chunk.nbytes
            if size >= frames.INLINE_BYTES or len(pending) >= _PIECES:
                yield pending
                pending, size = [], 0
    if pending:
        yield pending
