"""How long hosts elsewhere take: warm, and cold behind slow links, beside rsync of the same files.

``python -m benchmarks.remote``, as root on Debian, in an environment with the extra ``test``: the
hosts are those of ``tests/hosts``, namespaces on this computer with Debian's python3 alone, reached
by SSH.

*Ready* is from `cluster.start` in a program that has imported everything until every host's machine
has answered a call; *whole* also has the program's start and its end in it. *Warm* hosts have had
the same program before. *Cold* ones have nothing: links of 100 Mbit/s each, the driver's too, and
the program imports numpy and pandas. rsync copies the installed files that the image is made of, by
SSH, to one such host: once as it is by default, once with compression.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # when run by its path, that is this folder

from benchmarks.report import host as host_facts  # noqa: E402
from benchmarks.timing import warm_up_memory  # noqa: E402
from tests.hosts import roots, tools  # noqa: E402
from tests.hosts.drivers import Drivers, Environment, traffic  # noqa: E402
from tests.hosts.host import LabHost  # noqa: E402
from tests.hosts.lab import Lab  # noqa: E402

RESULTS: Final = ROOT / "benchmarks" / "results" / "remote.json"
LINK_BITS: Final = 100_000_000
WARM_UP_BYTES: Final = 4 << 30
"""Memory that is touched before cold hosts are measured: what eight of them fill."""
PROGRAM: Final = """
    import sys
    {imports}

    if __name__ == "__main__":
        n = int(sys.argv[1])
        cluster = bm.start()
        began = time.perf_counter()
        with cluster:
            machines = cluster.start(n, services={{"Probe": Probe()}}).running().result(timeout=500)
            for call in machines.call(Probe.pid):
                call.result(timeout=60)
            say("ready", json.dumps(time.perf_counter() - began))
"""
AIMS: Final[Mapping[str, float]] = {
    "warm, 1 host, ready, s": 2.0,
    "warm, 8 hosts, ready, s": 5.0,
    "cold, 1 host, of rsync": 1.5,
    "cold, 8 hosts, of 1 host": 2.0,
    "cold, 8 hosts, copies uploaded": 2.0,
}
"""What is aimed at."""


@dataclass(slots=True)
class Figures:
    """What was measured, by name; several values each."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        """Add a value, and show it."""
        self.values.setdefault(name, []).append(value)
        print(f"{name:45} {value:14,.2f}", flush=True)

    def median(self, name: str) -> float:
        """Return a figure's median."""
        return statistics.median(self.values[name])


@dataclass(frozen=True, slots=True)
class Bench:
    """A network, two environments, and what was measured there."""

    lab: Lab
    small: Drivers
    large: Drivers
    figures: Figures

    def warm(self, n: int, rounds: int) -> None:
        """Measure hosts that have had the program before."""
        hosts = self.lab.start(n)
        program = self.small.write(PROGRAM.format(imports=""))
        for attempt in range(rounds + 1):
            ready, whole, _ = self.run(self.small, program, hosts)
            if attempt:
                self.figures.add(f"warm, {_hosts(n)}, ready, s", ready)
                self.figures.add(f"warm, {_hosts(n)}, whole, s", whole)
        self.lab.end_hosts()

    def cold(self, n: int) -> None:
        """Measure hosts that have nothing, behind slow links."""
        with self.slow_hosts(n) as hosts:
            program = self.large.write(PROGRAM.format(imports="import numpy, pandas"))
            ready, whole, sent = self.run(self.large, program, hosts)
        self.figures.add(f"cold, {_hosts(n)}, ready, s", ready)
        self.figures.add(f"cold, {_hosts(n)}, whole, s", whole)
        self.figures.add(f"cold, {_hosts(n)}, uploaded, MB", sent / 1e6)

    def rsync(self, name: str, *options: str) -> None:
        """Measure rsync of the files that the image is made of."""
        with self.slow_hosts(1, rsync=True) as [host]:
            site_packages = self.large.environment.site_packages
            ssh = f"ssh -F {self.lab.ssh_config}"
            target = f"{self.lab.target(host)}:copy/"
            command = ["rsync", "-a", *options, "-e", ssh, f"{site_packages}/", target]
            before, began = traffic(self.lab)[1], time.perf_counter()
            subprocess.run(command, check=True)
            self.figures.add(f"{name}, s", time.perf_counter() - began)
            self.figures.add(f"{name}, uploaded, MB", (traffic(self.lab)[1] - before) / 1e6)

    def run(
        self, drivers: Drivers, program: Path, hosts: list[LabHost]
    ) -> tuple[float, float, float]:
        """Run a program; return until it was ready, until its end, and how much it has sent."""
        before = traffic(self.lab)[1]
        done = drivers.run(program, hosts, f"{len(hosts)}", timeout=600.0, cpus_per_machine="host")
        ready = next(line for line in done.stdout.splitlines() if line.startswith("ready "))
        return float(ready.split()[1]), done.seconds, traffic(self.lab)[1] - before

    @contextmanager
    def slow_hosts(self, n: int, *, rsync: bool = False) -> Iterator[list[LabHost]]:
        """Start hosts behind slow links, the driver's own among them; end them."""
        packages = (*roots.BARE.packages, "rsync")
        hosts = self.lab.start(n, root=roots.bare(packages=packages) if rsync else None)
        self.lab.network.limit_driver(LINK_BITS)
        for host in hosts:
            host.limit_bandwidth(LINK_BITS)
        warm_up_memory(WARM_UP_BYTES)
        try:
            yield hosts
        finally:
            self.lab.network.limit_driver(None)
            self.lab.end_hosts()

    def ratios(self) -> None:
        """Put the figures into proportion."""
        figures = self.figures
        one, eight = (figures.median(f"cold, {_hosts(n)}, ready, s") for n in (1, 8))
        sent = [figures.median(f"cold, {_hosts(n)}, uploaded, MB") for n in (1, 8)]
        figures.add("cold, 1 host, of rsync", one / figures.median("rsync, s"))
        figures.add(
            "cold, 1 host, of rsync --compress", one / figures.median("rsync --compress, s")
        )
        figures.add("cold, 8 hosts, of 1 host", eight / one)
        figures.add("cold, 8 hosts, copies uploaded", sent[1] / sent[0])


def _hosts(n: int) -> str:
    return f"{n} host" if n == 1 else f"{n} hosts"


def verdict(figures: Figures) -> dict[str, str]:
    """Say which aims are reached."""
    said = {}
    for name, aim in AIMS.items():
        if name in figures.values:
            value = figures.median(name)
            said[name] = f"{value:.2f}, aim {aim:g}: {'reached' if value <= aim else 'missed'}"
    return said


def bytes_of(drivers: Drivers) -> int:
    """How many bytes an environment's packages have."""
    files = drivers.environment.site_packages.rglob("*")
    return sum(path.stat().st_size for path in files if path.is_file())


def write(figures: Figures, facts: Mapping[str, Any], path: Path) -> None:
    """Write what was found."""
    result = {
        "command": f"python -m benchmarks.remote {' '.join(sys.argv[1:])}".strip(),
        **facts,
        "figures": figures.values,
        "verdict": verdict(figures),
    }
    path.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(f"written to {path}")


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description="Time hosts that are reached by SSH.")
    parser.add_argument("--rounds", type=int, default=3, help="how often each start is made")
    parser.add_argument("--only", choices=["warm", "cold"], help="one half of it")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    os.environ.setdefault("BIGMACHINE_TEST_HOSTS", "1")
    if reason := tools.why_not():
        parser.error(reason)

    facts = {
        "host": host_facts(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: metadata.version(name) for name in ("bigmachine", "numpy", "pandas")},
        "link_bits_per_second": LINK_BITS,
    }
    figures = Figures()
    with Lab() as lab, tempfile.TemporaryDirectory() as temporary:
        small, large = (_drivers(lab, temporary, names) for names in ((), ("numpy", "pandas")))
        bench = Bench(lab, small, large, figures)
        facts["packages_bytes"] = bytes_of(bench.large)
        steps: list[Callable[[], None]] = []
        if args.only != "cold":
            steps += [lambda n=n: bench.warm(n, args.rounds) for n in (1, 8)]
        if args.only != "warm":
            steps += [
                lambda: bench.rsync("rsync"),
                lambda: bench.rsync("rsync --compress", "--compress"),
                *[lambda n=n: bench.cold(n) for n in (1, 8)] * args.rounds,
                bench.ratios,
            ]
        for step in steps:
            step()
    for name, text in verdict(figures).items():
        print(f"{name:45} {text}")
    write(figures, facts, args.output)


def _drivers(lab: Lab, temporary: str, names: tuple[str, ...]) -> Drivers:
    directory = Path(temporary) / ("large" if names else "small")
    directory.mkdir()
    return Drivers(lab, Environment(directory / "venv", names), directory)


if __name__ == "__main__":
    main()
