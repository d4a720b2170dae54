"""A connection in its rarest moments, made to happen."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from bigmachine.rpc.transport import Channel
from bigmachine.wire import frames


class Recorder:
    """What a channel tells, and nothing done about it."""

    def __init__(self) -> None:
        self.ended: list[BaseException | None] = []

    def on_events(self, events: list[frames.Event]) -> None:
        """Frames have come."""

    def on_closed(self, error: BaseException | None) -> None:
        """The connection has ended."""
        self.ended.append(error)


class Watched(socket.socket):
    """A socket that notes what is sent after its end."""

    late: list[Any]

    def send(self, data: Any, flags: int = 0, /) -> int:
        if self.fileno() < 0:
            self.late.append(data)
        return super().send(data, flags)


def test_nothing_is_sent_by_who_comes_just_after_the_connection_was_closed() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        sock = Watched(fileno=ours.detach())
        sock.late = []
        recorder = Recorder()
        channel = Channel(sock, asyncio.get_running_loop(), recorder)
        channel.open()
        lock = channel._lock

        class ClosedFirst:
            """The lock, which another thread gets only after the channel was closed."""

            def acquire(self, blocking: bool = True) -> bool:
                channel._lock = lock
                channel.close()
                channel._inbox.append(frames.frame(frames.GOODBYE))
                return lock.acquire(blocking)

            def release(self) -> None:
                lock.release()

        channel._inbox.append(frames.frame(frames.GOODBYE))
        channel._lock = ClosedFirst()  # type: ignore[assignment]
        channel._waiting_to_write = False
        channel.flush()
        await asyncio.sleep(0)
        assert sock.late == []
        assert recorder.ended == [None]
        theirs.close()

    asyncio.run(main())
