"""The lease of a host that is not the driver's own: it lives as long as keepalives come.

Pure: the time is an argument, so that the same code runs under a simulated clock. What always
holds: a lease that has lapsed is never revived, since whoever kills by it may have begun to; and no
keepalive buys more than the longest period, so a host that its driver forgot ends after that.
"""

from __future__ import annotations

import math

#: The longest time that one keepalive is good for, in seconds.
LONGEST_PERIOD = 3600.0

#: Above this a machine is unhealthy: the next allocation may be its last.
UNHEALTHY_PERCENT = 95.0


class Watchdog:
    """A lease: the time by which the next keepalive must come."""

    def __init__(self, *, now: float, period: float, longest: float = LONGEST_PERIOD) -> None:
        """Begin a lease.

        Args:
            now: The time of the call, in seconds (monotonic), as in all methods.
            period: How long the first keepalive may take to come, in seconds.
            longest: The most that one keepalive is good for, in seconds.

        Raises:
            ValueError: A period is not positive.
        """
        self._longest = _positive(longest)
        self._deadline = now + min(_positive(period), self._longest)

    def __repr__(self) -> str:
        return f"<Watchdog until {self._deadline:.3f}>"

    @property
    def deadline(self) -> float:
        """When the lease lapses, in seconds (monotonic)."""
        return self._deadline

    def feed(self, now: float, period: float) -> float:
        """Accept a keepalive and return how long it is good for, in seconds.

        It replaces what was left of earlier ones, so a driver may also shorten its lease.

        Args:
            now: The time of the call, in seconds (monotonic).
            period: How long the driver asks for, in seconds.

        Returns:
            ``period`` or the longest that is allowed; 0 when the lease has lapsed already.

        Raises:
            ValueError: ``period`` is not positive; the deadline is unchanged.
        """
        accepted = min(_positive(period), self._longest)
        if self.expired(now):
            return 0.0
        self._deadline = now + accepted
        return accepted

    def expired(self, now: float) -> bool:
        """Whether the lease has lapsed."""
        return now >= self._deadline

    def remaining(self, now: float) -> float:
        """Return how long the lease still lasts, in seconds; 0 when it has lapsed."""
        return max(0.0, self._deadline - now)


def is_healthy(used_percent: float) -> bool:
    """Whether a machine has memory left to work with; see `bigmachine.info.MemInfo.used_percent`.

    The limit is the original's. An unhealthy machine is reported, and not killed for it.
    """
    return used_percent <= UNHEALTHY_PERCENT


def _positive(period: float) -> float:
    if not period > 0 or math.isinf(period):  # also refuses NaN, which compares with nothing
        raise ValueError(f"a period is positive and finite, not {period!r}")
    return period
