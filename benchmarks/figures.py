"""The table's rows: what each figure is called, its unit, its floor, and what it is to reach."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from benchmarks.payloads import KINDS, PayloadKind

FloorCase = Literal["ping_pong", "bulk", "interpreter", "bare_rate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One row of the table.

    ``reach`` and ``reach_ratio`` say, for a contestant, what its value or its ratio to the floor is
    to be: at most, where less is better, else at least.
    """

    name: str
    title: str
    unit: str
    less_is_better: bool = True
    has_floor: bool = True
    """Whether its ratio to the floor beside its case means anything."""
    reach: dict[str, float] = field(default_factory=dict)
    reach_ratio: dict[str, float] = field(default_factory=dict)

    def reached(self, contestant: str, value: float, ratio: float | None) -> bool | None:
        """Whether all that this contestant is to reach is reached; None when there is nothing."""
        pairs = [(value, self.reach.get(contestant)), (ratio, self.reach_ratio.get(contestant))]
        wanted = [(got, limit) for got, limit in pairs if limit is not None]
        if not wanted:
            return None
        sign = 1 if self.less_is_better else -1
        return all(got is not None and sign * got <= sign * limit for got, limit in wanted)

    def target(self, contestant: str) -> str:
        """What is to be reached, in words."""
        sign = "≤" if self.less_is_better else "≥"
        wanted = []
        if (ratio := self.reach_ratio.get(contestant)) is not None:
            wanted.append(f"{sign} {ratio:g} ×")
        if (value := self.reach.get(contestant)) is not None:
            wanted.append(f"{sign} {value:,g} {self.unit}")
        return ", ".join(wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One case with its parameters, and the floor that belongs beside it."""

    case: str
    figures: tuple[str, ...]
    params: dict[str, Any] = field(default_factory=dict)
    floor: FloorCase | None = None


def both(unix: float, tls: float) -> dict[str, float]:
    """The same kind of reach over both of our transports."""
    return {"bigmachine": unix, "bigmachine-tls": tls}


def local(value: float) -> dict[str, float]:
    """A reach over Unix sockets alone."""
    return {"bigmachine": value}


def transfer_figures(kind: PayloadKind) -> tuple[Figure, Figure]:
    """The rows for one kind of payload."""
    argument, reply = (
        Figure(
            name=f"{direction}-{kind}",
            title=f"large {direction}, {kind}",
            unit="GB/s",
            less_is_better=False,
            reach=local(2.5) if kind == "numpy" else {},
            reach_ratio=both(0.8, 0.6),
        )
        for direction in ("argument", "reply")
    )
    return argument, reply


START_REACH = {1: 0.3, 64: 1.0, 256: 3.0}


def start_figures(workers: int) -> tuple[Figure, Figure, Figure]:
    """The rows for starting and stopping so many workers."""
    many = f"{workers} worker{'s' if workers > 1 else ''}"
    reach = local(START_REACH[workers]) if workers in START_REACH else {}
    return (
        Figure(name=f"start-{workers}", title=f"first call by {many}", unit="s", reach=reach),
        Figure(
            name=f"memory-{workers}",
            title=f"PSS of each of {many}, idle",
            unit="MB",
            has_floor=False,
            reach=local(6.0) if workers > 1 else {},
        ),
        Figure(
            name=f"shutdown-{workers}",
            title=f"shutdown of {many}",
            unit="s",
            reach=local(0.5) if workers == 64 else {},
        ),
    )


CALL_FIGURES = (
    Figure(
        name="call-async",
        title="small call, blocking, async method",
        unit="µs",
        reach_ratio=both(5, 3.5),
    ),
    Figure(name="call-plain", title="small call, blocking, plain method", unit="µs"),
    Figure(name="call-await", title="small call, awaited", unit="µs", reach_ratio=both(10, 4.5)),
    Figure(
        name="rate-async",
        title="calls, 1,000 in flight, async",
        unit="/s",
        less_is_better=False,
        reach_ratio=local(0.57),  # 80,000 where the bare model reaches 140,000
    ),
    Figure(
        name="rate-plain",
        title="calls, 1,000 in flight, plain",
        unit="/s",
        less_is_better=False,
        reach=local(25_000),
    ),
)

BESIDE_FIGURES = (
    Figure(name="busy-call", title="small call beside computing, p50", unit="ms", reach=local(2)),
    Figure(
        name="busy-argument",
        title="large argument beside computing",
        unit="GB/s",
        less_is_better=False,
        reach=local(0.2),
    ),
    Figure(name="bulk-call", title="small call beside bulk, p99", unit="ms", reach=both(10, 10)),
)


def rows(workers: list[int], kinds: list[PayloadKind]) -> dict[str, Figure]:
    """All rows, in the table's order, by name."""
    figures = [
        Figure(name="import", title="import, over bare Python", unit="ms", reach=local(50)),
        *(figure for n in workers for figure in start_figures(n)),
        *CALL_FIGURES,
        *(figure for kind in kinds for figure in transfer_figures(kind)),
        *BESIDE_FIGURES,
    ]
    return {figure.name: figure for figure in figures}


def jobs(workers: list[int], kinds: list[PayloadKind]) -> list[Job]:
    """What is run to fill them."""
    small = [figure.name for figure in CALL_FIGURES]
    return [
        Job(case="import", figures=("import",)),
        *(
            Job(
                case="start",
                figures=tuple(figure.name for figure in start_figures(n)),
                params={"workers": n},
                floor="interpreter",
            )
            for n in workers
        ),
        *(
            Job(case=name, figures=(name,), floor="ping_pong" if "call" in name else "bare_rate")
            for name in small
        ),
        *(
            Job(
                case="transfer",
                figures=tuple(figure.name for figure in transfer_figures(kind)),
                params={"kind": kind},
                floor="bulk",
            )
            for kind in kinds
        ),
        Job(case="busy", figures=("busy-call", "busy-argument")),
        Job(case="bulk-call", figures=("bulk-call",)),
    ]


__all__ = ["KINDS", "Figure", "FloorCase", "Job", "jobs", "rows"]
