"""``bigmachine gc``: find what drivers have left that were killed, and end it.

::

    bigmachine gc [SYSTEM [KEY=VALUE ...]] [--profile P] [--dry-run] [--json]

Without a system it looks on this computer, and where the records of clusters say whose driver is
gone (`driver.records`); with one, there. Nothing of a driver that lives is touched, nor of anybody
else's. The exit status is 1 when something could not be ended, or looked for.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from bigmachine.cli_systems import add_system, encoded, is_named, say, settings_of
from bigmachine.errors import BigmachineError, UsageError
from bigmachine.spelling import about

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bigmachine.driver.records import Record
    from bigmachine.systems.base import System
    from bigmachine.systems.checks import Leftover


def add_parser(commands: Any) -> None:
    """Add the subcommand to those of the command ``bigmachine``."""
    parser = commands.add_parser("gc", help="end what drivers have left that were killed")
    add_system(parser)
    parser.add_argument("-n", "--dry-run", action="store_true", help="only say what there is")
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    parser.set_defaults(run=_run)


class _Place:
    """Where to look: a system, and the records that are of no use once it was looked there."""

    def __init__(self, system: System | None, paths: list[str]) -> None:
        self.system = system
        self.paths = paths


def _run(arguments: argparse.Namespace) -> int:
    import asyncio

    from bigmachine.driver.records import Standing, records, remove

    gone = [(path, record) for path, record, standing in records() if standing is Standing.GONE]
    found: list[Leftover] = []
    problems: list[str] = []
    if is_named(arguments):
        try:
            places = iter([_named_place(settings_of(arguments).make_system(), gone)])
        except UsageError as error:
            print(f"bigmachine gc: {error}", file=sys.stderr)
            return 2
    else:
        places = _recorded_places(gone, problems)
    for place in places:
        before = len(problems)
        if place.system is not None:
            asyncio.run(_sweep(place.system, found, problems, dry_run=arguments.dry_run))
        if not arguments.dry_run and len(problems) == before:
            for path in place.paths:
                remove(path)
    _show(found, problems, arguments)
    return 1 if problems else 0


def _named_place(system: System, gone: list[tuple[str, Record]]) -> _Place:
    paths = [
        path
        for path, record in gone
        if record.system == system.name and record.options == system.recorded()
    ]
    return _Place(system, paths)


def _recorded_places(gone: list[tuple[str, Record]], problems: list[str]) -> Iterator[_Place]:
    """Yield where the records tell to look, and this computer in any case."""
    from bigmachine.systems.base import System
    from bigmachine.systems.local import Local
    from bigmachine.systems.registry import find_system

    yield _Place(Local(), [path for path, record in gone if record.is_here])
    places: list[tuple[Record, _Place]] = []
    for path, record in gone:
        if record.is_here:
            continue
        same = (place for other, place in places if _is_of_same(record, other))
        place = next(same, None)
        if place is None:
            place = _Place(None, [])
            try:
                cls = find_system(record.system, source=f"the record of cluster {record.name}")
                if cls.gc is not System.gc:  # else all that it starts ends by itself
                    place.system = cls(**record.options)
            except (BigmachineError, TypeError) as error:
                problems.append(str(error))
                continue
            places.append((record, place))
        place.paths.append(path)
    for _, place in places:
        yield place


def _is_of_same(record: Record, other: Record) -> bool:
    return (record.system, record.options) == (other.system, other.options)


async def _sweep(
    system: System, found: list[Leftover], problems: list[str], *, dry_run: bool
) -> None:
    try:
        async for leftover in system.gc(dry_run=dry_run):
            found.append(leftover)
            if leftover.problem:
                problems.append(f"{leftover.kind} {leftover.name}: {leftover.problem}")
        await system.shutdown()
    except BigmachineError as error:
        problems.append(about(system.name, str(error)))
    except Exception as error:  # a system's own code
        problems.append(f"{system.name}: {type(error).__name__}: {error}")


def _show(found: list[Leftover], problems: list[str], arguments: argparse.Namespace) -> None:
    if arguments.json:
        import json

        content = {"found": list(map(encoded, found)), "problems": problems}
        print(json.dumps(content, indent=2))
        return
    for leftover in found:
        verb = "ended" if leftover.ended else "found"
        words = (f"{verb} {leftover.kind} {leftover.name}", leftover.cluster, leftover.detail)
        say("  ".join(filter(None, words)))
    for problem in problems:
        print(f"bigmachine gc: {problem}", file=sys.stderr)
    if not found and not problems:
        print("nothing is left")
