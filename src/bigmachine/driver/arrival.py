"""How much of an image has reached its hosts, for whoever waits at a terminal.

The hosts tell only when they have a whole layer. In between the driver's own sending stands for
all: a chain of hosts passes a layer on as it comes in (`image.plan`), so all of them are about as
far as the driver is.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Final

from bigmachine.driver.progress import REDRAW_SECONDS, Progress, StatusLine, terminal

_MB: Final = 1_000_000


class Arrival:
    """One image's way to its hosts; used on the runtime's loop where nothing else is said.

    Args:
        sizes: The layers and their sizes, in bytes.
        lacking: Returns the layers that a host still lacks; none for one that is gone.
        status: Where it is shown; None: the driver's terminal.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        lacking: Callable[[str], Collection[str]],
        status: StatusLine | None = None,
    ) -> None:
        self._sizes = sizes
        self._lacking = lacking
        self._status = terminal if status is None else status
        self._wanted: dict[str, int] = {}
        self._sent: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<Arrival at {len(self._wanted)} hosts>"

    def expect(self, host: str, layers: Collection[str]) -> bool:
        """A host is to get some layers. Returns whether `show` is to begin now."""
        if not layers or not self._status.is_seen():
            return False
        is_first = not self._wanted
        self._wanted[host] = sum(self._sizes[layer] for layer in layers)
        return is_first

    def sent(self, layer: str, size_bytes: int) -> None:
        """The driver has sent more of a layer, so much uncompressed. From any thread."""
        self._sent[layer] += size_bytes

    def measure(self) -> tuple[int, int, int]:
        """Return to how many hosts, and of the bytes that one lacked, how many it has and all."""
        left = sum(
            max(0, self._sizes[layer] - self._sent[layer])
            for host in self._wanted
            for layer in self._lacking(host)
        )
        total, hosts = sum(self._wanted.values()), max(1, len(self._wanted))
        return hosts, max(0, total - left) // hosts, total // hosts

    async def show(self) -> None:
        """Show it until no host lacks anything any more."""
        try:
            with Progress("image", None, unit=" MB", status=self._status) as work:
                while any(map(self._lacking, self._wanted)):
                    hosts, done, total = self.measure()
                    work.label = f"image to {hosts} host" + ("s" if hosts > 1 else "")
                    work.done, work.total = done // _MB, -(-total // _MB)
                    await asyncio.sleep(REDRAW_SECONDS)
        finally:
            self._wanted.clear()
            self._sent.clear()
