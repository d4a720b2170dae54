"""The two halves of a connection, joined in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bigmachine.wire import frames
from bigmachine.wire.frames import Event
from bigmachine.wire.receiver import Receiver
from bigmachine.wire.sender import Sender


def feed(receiver: Receiver, data: bytes, sizes: Iterator[int] | None = None) -> list[Event]:
    """Give bytes to a receiver in pieces of at most these sizes, and return the events."""
    events: list[Event] = []
    rest = memoryview(data)
    while rest:
        buffer = receiver.buffer()
        assert len(buffer) > 0
        most = len(rest) if sizes is None else next(sizes, len(rest))
        count = min(len(buffer), len(rest), most)
        buffer[:count] = rest[:count]
        del buffer
        events += receiver.received(count)
        rest = rest[count:]
    return events


class Pipe:
    """One direction of a connection: what the sender takes, the receiver gets."""

    def __init__(self, sender: Sender | None = None) -> None:
        self.sender = sender or Sender()
        self.receiver = Receiver()
        self.events: list[Event] = []

    def step(self) -> list[Event]:
        """Move what the sender writes next; return what it completes."""
        data = b"".join(self.sender.take())
        events = feed(self.receiver, data)
        self.events += events
        return events

    def run(self) -> list[Event]:
        """Move everything; return all events."""
        while self.sender:
            self.step()
        return self.events


def small(kind: int, call: int, body: bytes = b"", sub: int = 0) -> bytes:
    """Return one frame."""
    return frames.frame(kind, call, sub, body)


def message(
    kind: int, key: tuple[int, int], parts: Iterable[tuple[bytes, int]], head: bytes = b""
) -> bytes:
    """Return the bytes of a message in parts, alone on its connection."""
    sender = Sender()
    views = [(memoryview(data), kind_of_memory) for data, kind_of_memory in parts]
    sender.push_message(kind, key, head, views)
    return drain(sender)


def drain(sender: Sender) -> bytes:
    """Return everything that a sender has to send."""
    data = b""
    while batch := sender.take():
        data += b"".join(batch)
    return data


def plain(events: Iterable[Event]) -> list[tuple[object, ...]]:
    """Return events as values that can be compared."""
    return [
        (*event[:5], None if event.parts is None else [bytes(part) for part in event.parts])
        for event in events
    ]
