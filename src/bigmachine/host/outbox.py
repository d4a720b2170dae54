"""Output on its way to the driver, kept until it must have arrived.

A connection that is lost takes along what is on its way: at most what a stream allows its sender to
be ahead of its reader. So as much is kept, and a driver that has connected anew says how many
batches it has::

    Spool ──next_batch()──▶ Outbox ──follow(taken)──▶ the driver
                              └─ the last few MiB, again for whoever has not got them
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from typing import Final

from bigmachine.host.spool import BATCH_BYTES, OutputChunk, Spool
from bigmachine.wire import frames

KEPT_BYTES: Final = frames.WINDOW_BYTES + 2 * BATCH_BYTES
KEPT_BATCHES: Final = frames.WINDOW_ITEMS + 1

_Batch = list[OutputChunk]


class Outbox:
    """Numbers batches of output. For one driver, over one connection after another.

    Args:
        spool: Where the output comes from.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._kept: deque[_Batch] = deque()
        self._bytes = 0
        self._count = 0  # of all that there have been
        self._ended = False
        self._taking: asyncio.Task[_Batch | None] | None = None

    def __repr__(self) -> str:
        return f"<Outbox {self._count} batches, {len(self._kept)} kept>"

    async def follow(self, taken: int = 0) -> AsyncGenerator[_Batch, None]:
        """Yield batches as they come, until the spool is closed.

        Whoever followed before may go on: it has no reader, so it gets ahead no further.

        Args:
            taken: How many of the first ones the caller has.
        """
        while True:
            while taken < self._count:
                first = self._count - len(self._kept)
                taken = max(taken, first)
                yield self._kept[taken - first]
                taken += 1
            if self._ended:
                return
            if self._taking is None:
                self._taking = asyncio.ensure_future(self._spool.next_batch())
                self._taking.add_done_callback(self._on_taken)
            await asyncio.wait((self._taking,))

    def _on_taken(self, taking: asyncio.Task[_Batch | None]) -> None:
        self._taking = None
        batch = None if taking.cancelled() else taking.result()
        if batch is None:
            self._ended = True
            return
        self._count += 1
        self._kept.append(batch)
        self._bytes += _size(batch)
        while len(self._kept) > KEPT_BATCHES or self._bytes > KEPT_BYTES:
            self._bytes -= _size(self._kept.popleft())


def _size(batch: _Batch) -> int:
    return sum(len(chunk.data) for chunk in batch)
