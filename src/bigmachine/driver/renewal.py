"""When a lease is renewed: a pure policy for one host.

The driver lives as long as the keeper does, so all that can go wrong is the way to the host. A
renewal that fails is tried again soon, then less often, but always several times within a lease.
"""

from __future__ import annotations

from typing import Final

FIRST_RETRY_SECONDS: Final = 0.2
RETRIES_PER_LEASE: Final = 8
"""How often, at least, a host that does not answer is tried before its lease is over."""


class Renewal:
    """When one host is to be told that the driver lives.

    Args:
        period: Between two renewals that work, in seconds.
        timeout: How long the lease is, in seconds.
    """

    def __init__(self, *, period: float, timeout: float) -> None:
        self.timeout = timeout
        self._period = min(period, timeout / 2)
        self._failures = 0

    def __repr__(self) -> str:
        return f"<Renewal every {self._period:g} s, {self._failures} failures>"

    @property
    def attempt_seconds(self) -> float:
        """How long one attempt may take."""
        return max(1.0, self.timeout / RETRIES_PER_LEASE)

    def renewed(self) -> float:
        """Note that the host has answered; return when to go on, in seconds from now."""
        self._failures = 0
        return self._period

    def failed(self) -> float:
        """Note that it has not; return when to try again, in seconds from now."""
        self._failures += 1
        longest = min(self._period, self.timeout / RETRIES_PER_LEASE)
        return min(longest, FIRST_RETRY_SECONDS * 2.0 ** (self._failures - 1))
