"""What a system tells whoever operates it: what is wrong with it, and what it has left behind.

``bigmachine doctor`` prints the checks that `System.doctor` yields, ``bigmachine gc`` what
`System.gc` has found. A system writes both as asynchronous generators, one item for each thing that
it has looked at, as soon as it is known::

    async def doctor(self) -> AsyncIterator[Check]:
        if self._key is None:
            yield Check.fail("key", "there is none", "set BIGMACHINE_RACK_KEY")
        else:
            yield Check.ok("key", f"from {self._key}")
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Check", "Leftover", "Verdict"]


class Verdict(StrEnum):
    """What became of a check."""

    OK = "ok"
    WARN = "warn"
    """It works, and could be better."""
    FAIL = "fail"
    """Machines will not start, or not all, or not stay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What: ``"credentials"``, ``"clock"``. Without spaces, the same on each run.
        verdict: What became of it.
        seen: What was seen, in words.
        remedy: What to do about it; "" where there is no need.
        subject: Which one, where there are several: a host, a region.
    """

    name: str
    verdict: Verdict
    seen: str
    remedy: str = ""
    subject: str = ""

    @classmethod
    def ok(cls, name: str, seen: str, *, subject: str = "") -> Check:
        """Return a check of something that is as it has to be."""
        return cls(name=name, verdict=Verdict.OK, seen=seen, subject=subject)

    @classmethod
    def warn(cls, name: str, seen: str, remedy: str, *, subject: str = "") -> Check:
        """Return a check of something that works, and could be better."""
        return cls(name=name, verdict=Verdict.WARN, seen=seen, remedy=remedy, subject=subject)

    @classmethod
    def fail(cls, name: str, seen: str, remedy: str, *, subject: str = "") -> Check:
        """Return a check of something that has to be mended."""
        return cls(name=name, verdict=Verdict.FAIL, seen=seen, remedy=remedy, subject=subject)


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """Something that a driver has left which is gone.

    Attributes:
        kind: What: ``"instance"``, ``"directory"``.
        name: Which one, as its provider calls it.
        cluster: The cluster that it was for, where that is known.
        detail: What else a person wants to know: since when, what it costs.
        ended: Whether it is gone now; False in a dry run, and where it could not be ended.
        problem: Why it could not be ended; "" otherwise.
    """

    kind: str
    name: str
    cluster: str = ""
    detail: str = ""
    ended: bool = False
    problem: str = ""
