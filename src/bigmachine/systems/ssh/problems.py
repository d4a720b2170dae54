"""Why a host cannot be used, and what to do about it: a `Problem`, one paragraph each.

What is found out at connecting makes them in `way_problems`, what a host shows once it has let us
in in `host_problems`. They cross from the switchboard's process to the driver as JSON, and a
`ProvisionError` is made of them there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from bigmachine.errors import ProvisionError

_MAX_ANSWER: Final = 600  # characters of what a host has said


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why a host cannot be used.

    Attributes:
        host: The host, as the user names it.
        kind: A word for programs: ``"refused"``, ``"host-key-changed"``, ``"no-python"`` …
        what: What happened, without the host's name.
        answer: What the other side said, in its own words; "" if nothing.
        remedy: What to do about it.
        temporary: Whether trying again may help.
    """

    host: str
    kind: str
    what: str
    answer: str = ""
    remedy: str = ""
    temporary: bool = False

    def __str__(self) -> str:
        answer = f"; it answered: {self.answer}" if self.answer else ""
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{self.host}: {self.what}{answer}{remedy}"

    def to_mapping(self) -> dict[str, Any]:
        """Return it as what fits into JSON."""
        return asdict(self)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Problem:
        """Rebuild it from `to_mapping`."""
        return cls(**values)


class HostError(Exception):
    """A host cannot be used; ``problem`` says why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def provision_error(
    problems: Sequence[Problem], *, requested: int, started: int, exhausted: str = ""
) -> ProvisionError:
    """Return the one error for all hosts that could not be used; its cause is a group of theirs.

    Args:
        problems: Why, one for each.
        requested: How many machines were asked for.
        started: For how many of them there are hosts.
        exhausted: Why there are too few even so, or "".
    """
    each = [
        ProvisionError(
            f"{problem.host}: {problem.what}",
            system="ssh",
            requested=requested,
            started=started,
            answer=problem.answer,
            remedy=problem.remedy,
            temporary=problem.temporary,
        )
        for problem in problems
    ]
    if len(each) == 1 and not exhausted:
        return each[0]
    lines = [exhausted or f"{len(each)} hosts cannot be used", *map(str, problems)]
    error = ProvisionError(
        "\n  - ".join(lines) + "\n ",
        system="ssh",
        requested=requested,
        started=started,
        remedy="" if problems else "name more hosts in hosts=, or ask for fewer machines",
        temporary=bool(problems) and all(problem.temporary for problem in problems),
    )
    if each:
        error.__cause__ = ExceptionGroup("hosts that cannot be used", each)
    return error


def shorten(text: str) -> str:
    """Return what somebody said as one line, the end of it where it is long."""
    line = " ".join(text.split())
    return line if len(line) <= _MAX_ANSWER else "… " + line[-_MAX_ANSWER:]
