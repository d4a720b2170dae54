"""Estimate pi by throwing darts, on as many machines as asked for.

Each machine throws points at the unit square and counts those that land inside the quarter circle.
On a terminal a progress bar shows how far the work has come. The same file runs unchanged on any
system::

    python examples/bigpi.py -n 10_000_000 --machines 4
    BIGMACHINE_SYSTEM=ec2 python examples/bigpi.py -n 10_000_000_000 --machines 100
"""

import argparse
import math
import random

import bigmachine as bm

CHUNK = 250_000
"""Points thrown in one call: about a tenth of a second of work."""


class CirclePI:
    """Throws points and counts the hits."""

    def __init__(self) -> None:
        self.thrown = 0

    def sample(self, n: int) -> int:
        """Throw ``n`` points; return how many landed inside the circle."""
        throw = random.random
        hits = sum(throw() ** 2 + throw() ** 2 <= 1 for _ in range(n))
        self.thrown += n
        return hits

    def close(self) -> None:
        print(f"threw {self.thrown:,} points")  # arrives at the driver, prefixed with the machine


def chunks(n: int, machines: int) -> list[int]:
    """Split ``n`` points into calls, so that every machine has some."""
    size = min(CHUNK, math.ceil(n / machines))
    return [min(size, n - start) for start in range(0, n, size)]


def describe(hits: int, n: int) -> str:
    """Pi with the decimals that its 95 % confidence interval warrants.

    A hit is a Bernoulli trial with p = pi/4, so the standard error of 4 * hits / n is
    4 * sqrt(p * (1 - p) / n). It is at its largest for p = 1/2, which is used where too few
    points leave p at 0 or 1.
    """
    p = hits / n
    error = 4 * math.sqrt((p * (1 - p) or 0.25) / n)
    decimals = max(0, math.floor(-math.log10(2 * error)))
    return f"pi = {4 * p:.{decimals}f} (estimate {4 * p:.{decimals + 2}f} ± {error:.2g}, n = {n:,})"


def main() -> None:
    parser = argparse.ArgumentParser(description="Estimate pi on many machines.")
    parser.add_argument("-n", type=int, default=10_000_000, help="points to throw in all")
    parser.add_argument("--machines", type=int, default=2, help="machines to throw them on")
    bm.driver.add_arguments(parser)
    args = parser.parse_args()
    if args.n < 1:
        parser.error("-n: throw at least one point")

    with bm.driver.start(args) as cluster:
        machines = cluster.start(args.machines, services={"PI": CirclePI()})
        # A dart has no memory: what a lost machine was doing can be done again elsewhere.
        hits = sum(
            machines.map(CirclePI.sample, chunks(args.n, args.machines), retries=2, ordered=False)
        )
    print(describe(hits, args.n))


if __name__ == "__main__":
    main()
