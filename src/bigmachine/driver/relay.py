"""Who gives the runtime to hosts that boot: the driver to the first ones, and these to the others.

A program's image is passed on from host to host by their supervisors (`image.plan`). Before a host
has one it takes from whomever its boot file is told to: a host whose supervisor runs connects to
it, and sends what the driver has named by its hash (`host.bootlink`).

On the runtime's loop.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Final, TypeAlias

DRIVER_COPIES: Final = 2
"""How often the driver sends a layer as long as others may come to have it."""
GIVES_AT_ONCE: Final = 4
"""To how many hosts one gives at a time: those are up soon, and give to others."""
WAIT_SECONDS: Final = 10.0
"""How long a host waits for another one that is about to have what it lacks."""

Feed: TypeAlias = Callable[[str, Mapping[str, list[int]]], Awaitable[None]]
"""Has a host send packs to the one at an address; raises what went wrong."""


class Member:
    """One host: it takes, and gives once it is up.

    Args:
        relay: The cluster's.
        name: The host.
        feed: Has it send something.

    Attributes:
        giving: To how many it gives, or is about to.
    """

    def __init__(self, relay: Relay, name: str, feed: Feed) -> None:
        self.name = name
        self.feed = feed
        self.giving = 0
        self._relay = relay
        self._is_served = False
        self._has: frozenset[str] = frozenset()
        self._refused: set[Member] = set()

    def __repr__(self) -> str:
        return f"<Member {self.name}, {len(self._has)} layers>"

    @property
    def is_coming(self) -> bool:
        """Whether it is about to have something to give."""
        return self._is_served and not self._has

    async def source(self, layers: Collection[str]) -> Member | None:
        """Return who is to send these layers to this host; None is the driver. May wait.

        Whoever asks has the host that is returned `feed` this one, and then `rest`.
        """
        self._is_served = False
        found = await self._relay.find(frozenset(layers), self._refused)
        self._is_served = True
        return found

    def rest(self) -> None:
        """It has given what it was to give, or will not."""
        self.giving -= 1
        self._relay.tell()

    def refuse(self, other: Member) -> None:
        """Take nothing from a host any more that could not give."""
        self._refused.add(other)

    def is_up(self, layers: Collection[str]) -> None:
        """Its supervisor runs, and it can give these layers."""
        self._has = frozenset(layers)
        self._relay.tell()

    def has(self, layers: frozenset[str]) -> bool:
        """Whether it can give these layers."""
        return layers <= self._has


class Relay:
    """The hosts of one cluster. The driver's sending is counted in ``sent``, by layer."""

    def __init__(self) -> None:
        self.sent: Counter[str] = Counter()
        self._members: dict[str, Member] = {}
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Relay {list(self._members.values())}>"

    def join(self, name: str, feed: Feed) -> Member:
        """A host is about to come up."""
        member = self._members[name] = Member(self, name, feed)
        return member

    def leave(self, name: str) -> None:
        """A host is gone, or did not come up. Idempotent."""
        if self._members.pop(name, None) is not None:
            self.tell()

    def tell(self) -> None:
        """Wake those who wait for a source."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def find(self, layers: frozenset[str], refused: Collection[Member]) -> Member | None:
        """Return the host that gives layers and has least to do; None: the driver is to."""
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while True:
                    able = [each for each in self._members.values() if each.has(layers)]
                    able = [each for each in able if each not in refused]
                    giver = min(able, key=lambda each: each.giving, default=None)
                    if giver is not None and giver.giving < GIVES_AT_ONCE:
                        giver.giving += 1
                        return giver
                    if giver is None and not self._is_worth_waiting(layers):
                        break
                    await self._changed.wait()
        except TimeoutError:
            pass
        self.sent.update(layers)
        return None

    def _is_worth_waiting(self, layers: frozenset[str]) -> bool:
        enough = all(self.sent[layer] >= DRIVER_COPIES for layer in layers)
        return enough and any(each.is_coming for each in self._members.values())
