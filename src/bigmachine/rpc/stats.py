"""How often each method was called, how often it failed and how long it took."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class MethodStats:
    """One method's figures.

    Attributes:
        calls: How many calls have ended.
        failed: How many of them with an error.
        seconds: How long they took altogether, in seconds, from their arrival on.
    """

    calls: int = 0
    failed: int = 0
    seconds: float = 0.0


class Stats:
    """The figures of one server. Slightly behind under load: counted without a lock."""

    def __init__(self) -> None:
        self.methods: dict[str, MethodStats] = {}

    def count(self, method: str, seconds: float, *, failed: bool = False) -> None:
        """Count a call that has ended."""
        entry = self.methods.get(method)
        if entry is None:
            entry = self.methods[method] = MethodStats()
        entry.calls += 1
        entry.seconds += seconds
        if failed:
            entry.failed += 1

    def snapshot(self) -> dict[str, dict[str, float]]:
        """Return the figures as plain values."""
        return {
            name: {"calls": stat.calls, "failed": stat.failed, "seconds": stat.seconds}
            for name, stat in list(self.methods.items())
        }
