"""Measure bigmachine, its peers and the raw sockets under them, in one run, side by side.

``python benchmarks/run.py`` (or ``-m benchmarks.run``). Every case of every contestant runs in a
process of its own, between two measurements of the raw transport, and everything is done in several
rounds: so a machine that is slower for a while is slower for both, and the ratios hold. See
``README.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # when run by its path, that is this folder

from benchmarks.contestant import UNSUPPORTED  # noqa: E402
from benchmarks.contestants import OURS, PEERS, load, version  # noqa: E402
from benchmarks.figures import KINDS, Job, jobs, rows  # noqa: E402
from benchmarks.report import Report  # noqa: E402
from benchmarks.timing import Outcome  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
CASE_TIMEOUT = 240.0
"""Seconds after which a case is given up."""
ANY_TRANSPORT = ("interpreter", "bare_rate")
"""Floors that are the same for every contestant."""


class CaseFailed(Exception):
    """A case ended with an error; the text is what it said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """Runs cases and their floors, and hands what they found to the report."""

    report: Report
    params: dict[str, Any]
    profile: Path | None = None

    def run(self, job: Job, contestants: list[str], wanted: set[str]) -> None:
        """Run one job of every contestant once, each between two floors."""
        before: dict[str, float] = {}
        for contestant in contestants:
            transport = "any" if job.floor in ANY_TRANSPORT else load(contestant).floor
            if job.floor and transport not in before:
                before = {transport: self.floor(job, transport)}
            try:
                figures = self.case(contestant, job.case, {**self.params, **job.params})
            except CaseFailed as error:
                what = f"{contestant} {job.case} {job.params}"
                print(f"{what}: {error}", file=sys.stderr)
                self.report.failures.append(f"{what}: {str(error).strip().splitlines()[-1]}")
                continue
            floor = None
            if job.floor and figures:
                after = self.floor(job, transport)
                floor = (before[transport] + after) / 2
                before = {transport: after}
            for name in wanted & set(figures):
                self.report.add(contestant, name, figures[name], floor)

    def floor(self, job: Job, transport: str) -> float:
        """Measure the raw transport that belongs to a job."""
        params = {
            "transport": transport,
            "duration": self.params["duration"] / 2,
            "size_bytes": self.params["size_bytes"],
            "times": max(3, self.params["times"] // 2),
            **job.params,
        }
        assert job.floor is not None
        value = self.case("floor", job.floor, params)["floor"]["value"]
        name = {
            "ping_pong": f"{transport}, µs",
            "bulk": f"{transport}, {params.get('kind')}, GB/s",
            "interpreter": "interpreter, s",
            "bare_rate": "bare model, 1,000 calls in flight, /s",
        }[job.floor]
        self.report.floors[name].append(value)
        return value

    def case(self, name: str, case: str, params: dict[str, Any]) -> dict[str, Outcome]:
        """Run one case in a process of its own; no figures when it is not supported."""
        with tempfile.TemporaryDirectory() as directory:
            result = Path(directory, "result.json")
            arguments = [name, case, json.dumps(params), str(result)]
            command = [sys.executable, "-m", "benchmarks.contestant", *arguments]
            if self.profile is not None and name != "floor":
                command = self.profiled(command, f"{name}-{case}")
            code, errors = run_alone(command)
            if code == UNSUPPORTED:
                return {}
            if code != 0 or not result.exists():
                raise CaseFailed(f"exit code {code}\n{errors[-2000:]}")
            figures: dict[str, Outcome] = json.loads(result.read_text("utf-8"))
            return figures

    def profiled(self, command: list[str], name: str) -> list[str]:
        """The same command under py-spy, the contestant's other processes included."""
        assert self.profile is not None
        self.profile.mkdir(parents=True, exist_ok=True)
        output = str(self.profile / f"{name}.txt")
        options = ["--subprocesses", "--threads", "--rate", "500", "--format", "raw", "-o", output]
        beside = Path(sys.executable).with_name("py-spy")
        program = str(beside) if beside.exists() else "py-spy"
        return [program, "record", *options, "--", *command]


def run_alone(command: list[str]) -> tuple[int, str]:
    """Run a command in a session of its own, ended with all it started when it takes too long."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )
        try:
            code = process.wait(CASE_TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
        errors.seek(0)
        return code, errors.read()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--name", default="latest", help="results/NAME.json is written")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--duration", type=float, default=1.0, help="seconds for small calls")
    parser.add_argument("--size", type=int, default=100, help="MB in a large payload")
    parser.add_argument("--times", type=int, default=7, help="large transfers in a series")
    parser.add_argument("--workers", default="1,64,256", help="how many are started")
    parser.add_argument("--kinds", default="bytes,bytearray,numpy", help="kinds of payload")
    parser.add_argument("--peers", default="all", help="none, all, or names: " + ",".join(PEERS))
    parser.add_argument("--ours", default="all", help="none, all, or names: " + ",".join(OURS))
    parser.add_argument("--only", action="append", help="only figures that begin with this")
    parser.add_argument("--quick", action="store_true", help="one short round: does it work?")
    parser.add_argument("--profile", type=Path, help="write py-spy's stacks into this folder")
    return parser


def chosen(value: str, names: tuple[str, ...]) -> list[str]:
    """The names that ``none``, ``all`` or a list of them stands for."""
    if value in ("none", "all"):
        return list(names) if value == "all" else []
    picked = value.split(",")
    if unknown := set(picked) - set(names):
        raise SystemExit(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    return picked


def main() -> int:
    """Measure, print, write."""
    args = parser().parse_args()
    if args.quick:
        args.rounds, args.duration, args.times, args.workers = 1, 0.3, 3, "1,8"
    workers = [int(n) for n in args.workers.split(",")]
    kinds = [kind for kind in KINDS if kind in args.kinds.split(",")]
    contestants = chosen(args.ours, OURS) + chosen(args.peers, PEERS)
    versions = {name: version(name) for name in contestants}
    for name in [name for name in contestants if versions[name] is None]:
        print(f"{name} is not installed: left out", file=sys.stderr)
        contestants.remove(name)

    figures = rows(workers, kinds)
    wanted = {f for f in figures if not args.only or f.startswith(tuple(args.only))}
    params = {"duration": args.duration, "size_bytes": args.size * 10**6, "times": args.times}
    settings = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: versions[name] for name in contestants},
        "rounds": args.rounds,
        **params,
    }
    report = Report(figures, settings)
    runner = Runner(report=report, params=params, profile=args.profile)
    todo = [job for job in jobs(workers, kinds) if wanted & set(job.figures)]
    for round_ in range(args.rounds):
        for job in todo:
            print(f"round {round_ + 1}: {job.case} {job.params or ''}", file=sys.stderr)
            runner.run(job, contestants, wanted)
    report.show()
    report.write(RESULTS / f"{args.name}.json")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
