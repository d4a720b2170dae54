"""Where the time went: sums up the collapsed stacks that ``run.py --profile`` wrote.

``python -m benchmarks.stacks FILE [TOP]`` prints, for each process and thread, the functions that
were running most (themselves, and with what they called).
"""

from __future__ import annotations

import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

Stacks = dict[str, Counter[tuple[str, ...]]]

LINE_NUMBER = re.compile(r":\d+\)$")


def read(lines: Iterable[str]) -> Stacks:
    """Samples of each stack, by process and thread."""
    stacks: Stacks = defaultdict(Counter)
    for line in lines:
        frames, _, count = line.strip().rpartition(" ")
        roots = [f for f in frames.split(";") if f.startswith(("process ", "thread ("))]
        calls = [LINE_NUMBER.sub(")", f) for f in frames.split(";") if f not in roots]
        if calls:
            stacks[" ".join(roots)][tuple(calls)] += int(count)
    return stacks


def show(stacks: Stacks, top: int) -> None:
    """Print the busiest functions of the busiest threads."""
    everything = sum(counter.total() for counter in stacks.values())
    for where, counter in sorted(stacks.items(), key=lambda item: -item[1].total()):
        total = counter.total()
        if total < everything / 50:
            continue
        itself: Counter[str] = Counter()
        within: Counter[str] = Counter()
        for calls, n in counter.items():
            itself[calls[-1]] += n
            for call in set(calls):
                within[call] += n
        print(f"\n{where}: {total} samples, {total / everything:.0%} of all")
        print("   itself   within")
        for call, n in itself.most_common(top):
            print(f"  {n / total:6.1%}  {within[call] / total:6.1%}  {call}")


def main(arguments: Sequence[str]) -> None:
    """Read a file and print."""
    with Path(arguments[0]).open(encoding="utf-8") as file:
        show(read(file), int(arguments[1]) if len(arguments) > 1 else 12)


if __name__ == "__main__":
    main(sys.argv[1:])
