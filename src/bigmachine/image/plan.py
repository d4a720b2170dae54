"""Who gets which layer from whom: the driver plans, hosts do it.

The driver sends a layer to one host, its *head*; that host passes it on while it still receives it,
to one host that does the same, and so on, a chain::

    driver ══▶ a ══▶ b ══▶ c ══▶ d          layer 1
    driver ══▶ d ══▶ c ══▶ a ══▶ b          layer 2: whoever has sent least comes first

So every host takes each layer in once and gives it out once at most, and all of them are done a few
packs after the first. With many hosts a chain becomes long, and each passes a layer on to two.
Hosts come and go at any time; one that has a layer is a source for those that come later.

Events in, fetches out: no loop, no clock. What always holds: nobody waits for himself, not through
others either; the driver is asked only when no living host has a layer or is about to, or when all
that do have failed the host in question; and never for more than a few layers at once, so that
packs move on soon.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

DRIVER: Final = ""
"""The source that is no host."""

_UPLOADS: Final = 3
_CHAIN_HOSTS: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """A host is to get a layer from a source, another host or `DRIVER`.

    It takes the place of whatever fetch of this layer the host was at before.
    """

    host: str
    layer: str
    source: str


@dataclass(slots=True)
class _Host:
    order: int
    sent_bytes: int = 0
    failed_by: set[str] = field(default_factory=set)
    complaints: int = 0


@dataclass(slots=True)
class _Spread:
    """How one layer spreads: who has it, and from whom each of the others gets it."""

    size: int
    holders: set[str] = field(default_factory=set)
    sources: dict[str, str] = field(default_factory=dict)  # of those that are receiving
    waiting: set[str] = field(default_factory=set)  # for a source
    begun: set[str] = field(default_factory=set)  # those of all the others that ever had one
    children: Counter[str] = field(default_factory=Counter)

    @property
    def is_rooted(self) -> bool:
        """Whether anybody has it, or gets it from the driver."""
        return bool(self.holders) or self.children[DRIVER] > 0

    def depth(self, host: str) -> int | None:
        """Return how far a host is from one that has it all; None where no source is in sight."""
        depth = 0
        while host not in self.holders:
            if host in self.waiting:
                return None
            host = self.sources[host]
            depth += 1
            if host == DRIVER:
                break
        return depth

    def detach(self, host: str) -> None:
        """Take its source from a host that had one."""
        source = self.sources.pop(host, None)
        if source is not None:
            self.children[source] -= 1

    def members(self) -> Iterator[str]:
        """Those that have it or receive it."""
        yield from self.holders
        yield from self.sources


class Plan:
    """The plan for one image. Every method returns what is to be begun now.

    Args:
        layers: The layers and their sizes, in bytes.
        uploads: How many layers the driver sends at the same time.
        chain_hosts: Up to so many hosts each passes a layer on to one other, above to two.
    """

    def __init__(
        self,
        layers: Mapping[str, int],
        *,
        uploads: int = _UPLOADS,
        chain_hosts: int = _CHAIN_HOSTS,
    ) -> None:
        # Large ones first: the last packs, which all wait for, are then small.
        by_size = sorted(layers, key=lambda layer: (-layers[layer], layer))
        self._spreads = {layer: _Spread(layers[layer]) for layer in by_size}
        self._hosts: dict[str, _Host] = {}
        self._joined = 0
        self._uploads = uploads
        self._chain_hosts = chain_hosts

    def __repr__(self) -> str:
        lacking = sum(len(each.sources) + len(each.waiting) for each in self._spreads.values())
        return f"<Plan {len(self._spreads)} layers, {len(self._hosts)} hosts lack {lacking}>"

    def lacking(self, host: str) -> frozenset[str]:
        """Return the layers that a host does not have yet."""
        return frozenset(
            layer
            for layer, spread in self._spreads.items()
            if host in spread.sources or host in spread.waiting
        )

    # What happens.

    def join(self, host: str, lacking: Collection[str]) -> list[Fetch]:
        """A host has come, with all layers but some."""
        if host in self._hosts:
            raise ValueError(f"{host} is part of the plan already")
        self._hosts[host] = _Host(self._joined)
        self._joined += 1
        for layer, spread in self._spreads.items():
            (spread.waiting if layer in lacking else spread.holders).add(host)
        return self._settle()

    def leave(self, host: str) -> list[Fetch]:
        """A host has gone. Idempotent."""
        if self._hosts.pop(host, None) is None:
            return []
        for spread in self._spreads.values():
            spread.detach(host)
            spread.holders.discard(host)
            spread.waiting.discard(host)
            spread.begun.discard(host)
            if spread.children.pop(host, 0):
                bereft = [each for each, source in spread.sources.items() if source == host]
                for each in bereft:
                    del spread.sources[each]
                spread.waiting.update(bereft)
        for other in self._hosts.values():
            other.failed_by.discard(host)
        return self._settle()

    def done(self, host: str, layer: str) -> list[Fetch]:
        """A host has all of a layer."""
        if host not in self._hosts:
            return []
        spread = self._spreads[layer]
        spread.detach(host)
        spread.waiting.discard(host)
        spread.holders.add(host)
        return self._settle()

    def failed(self, host: str, layer: str, source: str) -> list[Fetch]:
        """A host did not get a layer from the source it was to get it from, or not for long.

        What was planned anew meanwhile stays.
        """
        spread = self._spreads[layer]
        if spread.sources.get(host) != source:
            return []
        spread.detach(host)
        spread.waiting.add(host)
        if source != DRIVER:
            self._hosts[host].failed_by.add(source)
            self._hosts[source].complaints += 1
        return self._settle()

    # What is to be done.

    def _settle(self) -> list[Fetch]:
        fetches: list[Fetch] = []
        uploads = self._uploads - sum(each.children[DRIVER] for each in self._spreads.values())
        for layer, spread in self._spreads.items():
            if not spread.waiting or not (uploads or spread.is_rooted):
                continue
            # Who has a part of it comes first: it needs only the rest. Then who has sent least, for
            # the first ones of a chain pass it on.
            begun = spread.begun
            for host in sorted(
                spread.waiting, key=lambda each: (each not in begun, self._burden(each))
            ):
                source = self._source(spread, host)
                if source is None:
                    if not uploads:
                        continue
                    source = DRIVER
                    uploads -= 1
                else:
                    self._hosts[source].sent_bytes += spread.size
                spread.waiting.discard(host)
                begun.add(host)
                spread.sources[host] = source
                spread.children[source] += 1
                fetches.append(Fetch(host=host, layer=layer, source=source))
        return fetches

    def _source(self, spread: _Spread, host: str) -> str | None:
        """Return the best host to get a layer from; None: only the driver is left.

        Only what leads to the driver, or to somebody who has it, is a source. A host that waits
        leads to neither, nor do those behind it: so nobody ever waits for himself.
        """
        failed_by = self._hosts[host].failed_by
        limit = 1 if len(self._hosts) <= self._chain_hosts else 2
        best: tuple[tuple[int, int, int, int, int], str] | None = None
        for each in spread.members():
            if each in failed_by:
                continue
            full = max(0, spread.children[each] - limit + 1)
            known = self._hosts[each]
            if best is not None and (known.complaints, full) > best[0][:2]:
                continue
            depth = spread.depth(each)
            if depth is None:
                continue
            rank = (known.complaints, full, depth, *self._burden(each))
            if best is None or rank < best[0]:
                best = (rank, each)
        return None if best is None else best[1]

    def _burden(self, host: str) -> tuple[int, int]:
        known = self._hosts[host]
        return known.sent_bytes, known.order
