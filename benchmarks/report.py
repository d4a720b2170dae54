"""What came out: medians over the rounds, ratios to the floor, a table and a JSON file."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.contestants import OURS
from benchmarks.figures import Figure
from benchmarks.timing import Outcome


@dataclass(slots=True, kw_only=True)
class Series:
    """One figure of one contestant: a value for each round, and the floors beside them."""

    outcomes: list[Outcome] = field(default_factory=list)
    floors: list[float] = field(default_factory=list)

    @property
    def values(self) -> list[float]:
        """The figure in each round."""
        return [outcome["value"] for outcome in self.outcomes]

    @property
    def median(self) -> float:
        """The figure that the table shows."""
        return statistics.median(self.values)

    @property
    def ratio(self) -> float | None:
        """The median of each round's ratio to its own floor: noise common to both falls out."""
        if not self.floors:
            return None
        return statistics.median(v / f for v, f in zip(self.values, self.floors, strict=True))

    def as_json(self) -> dict[str, Any]:
        """Everything, for the file."""
        return {
            "median": self.median,
            "min": min(self.values),
            "max": max(self.values),
            "floor": statistics.median(self.floors) if self.floors else None,
            "ratio": self.ratio,
            "rounds": self.outcomes,
            "floor_rounds": self.floors,
        }


Results = dict[str, dict[str, Series]]
"""Series by the figure's name and the contestant's."""


class Report:
    """Collects outcomes, prints the table and writes the file."""

    def __init__(self, rows: dict[str, Figure], settings: dict[str, Any]) -> None:
        self.rows = rows
        self.settings = settings
        self.results: Results = defaultdict(lambda: defaultdict(Series))
        self.floors: dict[str, list[float]] = defaultdict(list)
        self.failures: list[str] = []

    def add(self, contestant: str, name: str, outcome: Outcome, floor: float | None) -> None:
        """Take one figure of one run, with the load of the machine at that time."""
        series = self.results[name][contestant]
        series.outcomes.append({**outcome, "load_average": os.getloadavg()[0]})
        if floor is not None and self.rows[name].has_floor:
            series.floors.append(floor)

    def show(self) -> None:
        """Print everything."""
        if self.floors:
            print("\nThe floor")
            for name, values in sorted(self.floors.items()):
                print(f"  {name:<38} {span(values)}")
        self.show_reach()
        self.show_side_by_side()
        for failure in self.failures:
            print(f"failed: {failure}")

    def show_reach(self) -> None:
        """Print our figures against what they are to reach."""
        lines = []
        for name, figure in self.rows.items():
            for contestant in OURS:
                if (series := self.results[name].get(contestant)) is None:
                    continue
                reached = figure.reached(contestant, series.median, series.ratio)
                mark = {True: "yes", False: "NO", None: ""}[reached]
                label = figure.title + (" (TLS)" if contestant != OURS[0] else "")
                ratio = "" if series.ratio is None else f"{series.ratio:.2f} ×"
                values = f"{span(series.values)} {figure.unit}"
                lines.append((label, values, ratio, figure.target(contestant), mark))
        if lines:
            print("\nbigmachine (median, least to most)")
            columns = ("figure", "value", "of floor", "to reach", "reached")
            print_columns([columns, *lines])

    def show_side_by_side(self) -> None:
        """Print everybody's medians, and how they compare with ours over Unix sockets."""
        names = list(dict.fromkeys(name for row in self.results.values() for name in row))
        if set(names) <= set(OURS):
            return
        print("\nSide by side (in brackets: how many times ours over Unix sockets)")
        table = [("figure", "unit", *names)]
        for name, figure in self.rows.items():
            cells = [self.cell(name, contestant) for contestant in names]
            if any(cell != "–" for cell in cells):
                table.append((figure.title, figure.unit, *cells))
        print_columns(table)

    def cell(self, name: str, contestant: str) -> str:
        """One contestant's median, compared with ours."""
        series, ours = self.results[name].get(contestant), self.results[name].get(OURS[0])
        if series is None:
            return "–"
        if ours is None or series is ours:
            return number(series.median)
        return f"{number(series.median)} ({series.median / ours.median:.2g})"

    def write(self, path: Path) -> None:
        """Write the file."""
        figures = {
            name: {
                "title": figure.title,
                "unit": figure.unit,
                "less_is_better": figure.less_is_better,
                "contestants": {
                    contestant: {
                        **series.as_json(),
                        "target": figure.target(contestant),
                        "reached": figure.reached(contestant, series.median, series.ratio),
                    }
                    for contestant, series in self.results[name].items()
                },
            }
            for name, figure in self.rows.items()
            if self.results[name]
        }
        content = {
            "host": host(),
            **self.settings,
            "floor": {name: list(values) for name, values in sorted(self.floors.items())},
            "figures": figures,
            "failures": self.failures,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def host() -> dict[str, Any]:
    """What the figures were measured on."""
    model = platform.processor()
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {
        "cpus": os.cpu_count(),
        "cpu_model": model,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
    }


def number(value: float) -> str:
    """Three significant digits, without exponents."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def span(values: list[float]) -> str:
    """The median, and the range when there is one."""
    middle = number(statistics.median(values))
    if len(values) == 1:
        return middle
    return f"{middle} ({number(min(values))} to {number(max(values))})"


def print_columns(table: list[tuple[str, ...]]) -> None:
    """Print a table: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    for row in table:
        first, *others = (
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  " + "  ".join([first, *others]).rstrip())
