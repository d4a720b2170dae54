"""Two clusters side by side in one process, each with a system of its own.

The first uses the system that flags, environment or ``bigmachine.toml`` choose; the second is
always local and speaks TLS. They know nothing of each other: each has its own certificate
authority, supervisor and machines, and each can be shut down while the other goes on::

    python examples/multisys.py --machines 2
"""

import argparse
import itertools
import math
import os
from concurrent.futures import as_completed

import bigmachine as bm


class Primes:
    """Counts primes."""

    def count(self, start: int, stop: int) -> int:
        """Return how many primes there are in ``range(start, stop)``."""
        numbers = range(max(start, 2), stop)
        found = sum(all(n % d for d in range(2, math.isqrt(n) + 1)) for n in numbers)
        print(f"pid {os.getpid()}: {found} primes from {start:,} to {stop:,}")
        return found


def count_on(machines: bm.Machines, start: int, stop: int) -> list[bm.Future[int]]:
    """Give each machine an equal share of ``range(start, stop)``."""
    bounds = [start + (stop - start) * i // len(machines) for i in range(len(machines) + 1)]
    shares = itertools.pairwise(bounds)
    return [m.call(Primes.count, *share) for m, share in zip(machines, shares, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Run two clusters side by side.")
    parser.add_argument("-n", type=int, default=200_000, help="count the primes below this")
    parser.add_argument("--machines", type=int, default=2, help="machines in each cluster")
    bm.driver.add_arguments(parser)
    args = parser.parse_args()

    half = args.n // 2
    services = {"Primes": Primes()}
    with (
        bm.driver.start(args, name="configured") as first,
        bm.start(bm.systems.Local(transport="tls"), name="tls") as second,
    ):
        low = count_on(first.start(args.machines, services=services), 0, half)
        high = count_on(second.start(args.machines, services=services), half, args.n)
        total = sum(future.result() for future in as_completed([*low, *high]))
        for cluster in (first, second):
            addresses = " ".join(machine.addr for machine in cluster.machines)
            print(f"cluster {cluster.name!r}: {addresses}")  # one text: machines print, too
        first.shutdown().result()
        few = second.machines[0].call(Primes.count, 0, 100).result()
        print(f"after {first.name!r} ended, {second.name!r} still counts: {few} below 100")
    print(f"{total:,} primes below {args.n:,}")


if __name__ == "__main__":
    main()
