"""Another host, as one sees it that gets layers from there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Final

from bigmachine.errors import TransportError

if TYPE_CHECKING:
    from bigmachine.image import transit
    from bigmachine.rpc.client import Client

CONNECT_SECONDS: Final = 5.0
"""How long another host may take to answer at all; there are others, and the driver."""
SILENCE_SECONDS: Final = 10.0
"""How long another host may be silent on all streams from it; it speaks every two seconds."""


class Peer:
    """One connection for all that comes from another host.

    Args:
        client: Of its supervisor.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self._heard = time.monotonic()

    async def reach(self) -> None:
        """Make sure that it answers.

        Raises:
            TransportError: It does not.
        """
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self.client.call("Images.here")
        except TimeoutError:
            raise TransportError(
                f"{self.client.label} does not answer", outcome="not_sent"
            ) from None
        self._heard = time.monotonic()

    async def follow(self, method: str, *args: object) -> AsyncGenerator[transit.Piece, None]:
        """Take the items of a stream, as long as anything at all comes from there.

        Raises:
            TransportError: It has been silent for too long, or the connection broke.
        """
        loop = asyncio.get_running_loop()
        silent = False
        timer: asyncio.TimerHandle | None = None
        with self.client.stream(method, args) as stream:

            def look() -> None:
                nonlocal timer, silent
                silent = time.monotonic() - self._heard > SILENCE_SECONDS
                if silent:
                    stream.close()
                else:
                    timer = loop.call_later(SILENCE_SECONDS / 4, look)

            look()
            try:
                async for piece in stream:
                    self._heard = time.monotonic()
                    yield piece
            finally:
                if timer is not None:
                    timer.cancel()
        if silent:
            raise TransportError(f"{self.client.label} is silent", outcome="maybe_ran")
