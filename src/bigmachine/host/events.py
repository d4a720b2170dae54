"""What happens to a host's machines, kept for the driver until it asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bigmachine.host.messages import MachineEvent


class EventLog:
    """All events of a host, a few for each machine, in their order.

    Whoever follows it gets all of them from the first one on, so a driver that has lost its
    connection misses none.
    """

    def __init__(self) -> None:
        self._events: list[MachineEvent] = []
        self._closed = False
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        return f"<EventLog {len(self._events)} events{', closed' if self._closed else ''}>"

    def add(self, event: MachineEvent) -> None:
        """Append an event."""
        self._events.append(event)
        self._wake()

    def close(self) -> None:
        """There will be no more: those who follow come to an end."""
        self._closed = True
        self._wake()

    async def follow(self) -> AsyncIterator[MachineEvent]:
        """Yield every event, those of the past first, until it is closed."""
        at = 0
        while True:
            while at < len(self._events):
                at += 1
                yield self._events[at - 1]
            if self._closed:
                return
            await self._changed.wait()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
