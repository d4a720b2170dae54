"""``bigmachine ps``: the clusters of this user, and what they run on.

::

    bigmachine ps [--json]

It lists what the drivers' records say (`driver.records`): open clusters, and those whose driver
ended without ending them. ``bigmachine gc`` is for the latter; those whose hosts were on this
computer, and have ended, are forgotten at once.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from bigmachine.cli_systems import say

if TYPE_CHECKING:
    from bigmachine.driver.records import Record, Standing


def add_parser(commands: Any) -> None:
    """Add the subcommand to those of the command ``bigmachine``."""
    parser = commands.add_parser("ps", help="list the clusters of this user, and their hosts")
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    import json
    import time

    from bigmachine.driver.records import records, remove_ended

    remove_ended()
    found = [(record, standing) for _, record, standing in records()]
    if arguments.json:
        content = [_encoded(record, standing) for record, standing in found]
        print(json.dumps(content, indent=2))
        return 0
    for record, standing in found:
        for line in _lines(record, standing, time.time()):
            say(line)
    if not found:
        print("no clusters")
    return 0


def _encoded(record: Record, standing: Standing) -> dict[str, Any]:
    return {
        "name": record.name,
        "standing": standing.value,
        "system": record.system,
        "pid": record.origin.pid,
        "program": record.program,
        "started": record.started,
        "hosts": [{"id": each, "address": address} for each, address in record.hosts.items()],
    }


def _lines(record: Record, standing: Standing, now: float) -> list[str]:
    from bigmachine.driver.records import Standing

    driver = {
        Standing.OPEN: f"driver {record.origin.pid}",
        Standing.GONE: f"driver {record.origin.pid} gone",
        Standing.ELSEWHERE: "driver on another computer",
    }[standing]
    count = len(record.hosts)
    hosts = f"{count} host" if count == 1 else f"{count} hosts"
    since = describe_seconds(now - record.started)
    head = f"{record.name}  {record.system}  {hosts}  {driver}  since {since}  {record.program}"
    return [
        head,
        *(f"  {each}  {address or ''}".rstrip() for each, address in record.hosts.items()),
    ]


def describe_seconds(seconds: float) -> str:
    """Return a time as a person reads it."""
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    if minutes < 1:
        return f"{max(0.0, seconds):.0f} s"
    if hours < 1:
        return f"{minutes:.0f} min"
    return f"{hours:.1f} h" if days < 2 else f"{days:.0f} days"
