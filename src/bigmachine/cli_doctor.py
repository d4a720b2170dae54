"""``bigmachine doctor``: look whether a system can do what it is for, and say what to mend.

::

    bigmachine doctor [SYSTEM [KEY=VALUE ...]] [--profile P] [--json]

One line for each thing that was looked at; below it the remedy, where there is one. The exit status
is 1 when something fails. Nothing is launched.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any, Final

from bigmachine.cli_systems import add_system, encoded, say, settings_of
from bigmachine.errors import BigmachineError, ProvisionError, UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from bigmachine.config import Settings
    from bigmachine.systems.checks import Check

LIMIT_SECONDS: Final = 120.0
"""How long a system may look, all in all."""

_SIGNS: Final = {"ok": "✓", "warn": "!", "fail": "✗"}
_PLAIN_SIGNS: Final = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}


def add_parser(commands: Any) -> None:
    """Add the subcommand to those of the command ``bigmachine``."""
    parser = commands.add_parser("doctor", help="look whether a system works, and say what to mend")
    add_system(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    import asyncio
    import json

    from bigmachine.systems.checks import Verdict
    from bigmachine.systems.registry import find_system

    try:
        settings = settings_of(arguments)
        find_system(settings.system, source=settings.source)
    except UsageError as error:
        print(f"bigmachine doctor: {error}", file=sys.stderr)
        return 2
    show = None if arguments.json else _Lines()
    found = asyncio.run(_look(settings, show))
    fails = any(check.verdict is Verdict.FAIL for check in found)
    if arguments.json:
        content = {"system": settings.system, "ok": not fails, "checks": list(map(encoded, found))}
        print(json.dumps(content, indent=2))
    return 1 if fails else 0


async def _look(settings: Settings, show: _Lines | None) -> list[Check]:
    import contextlib

    found = []
    async with contextlib.aclosing(_checks(settings)) as checks:
        async for check in checks:
            found.append(check)
            if show is not None:
                show(check)
    return found


async def _checks(settings: Settings) -> AsyncGenerator[Check, None]:
    """Yield the checks of this computer, then the system's own; what a system raises is one too."""
    import asyncio

    from bigmachine.driver import checkup
    from bigmachine.systems.checks import Check

    for check in checkup.checks():
        yield check
    try:
        system = settings.make_system()
        yield Check.ok("system", f"{settings.system}, chosen by {settings.source}")
        async with asyncio.timeout(LIMIT_SECONDS):
            async for check in system.doctor():
                yield check
        await system.shutdown()
    except TimeoutError:
        yield Check.fail(
            "system",
            f"its doctor has not come to an end within {LIMIT_SECONDS:g} s",
            "see which check comes last, and what it waits for",
        )
    except ProvisionError as error:
        yield Check.fail("system", error.problem, error.remedy)
    except BigmachineError as error:
        yield Check.fail("system", str(error), "")
    except Exception as error:  # a system's own code
        yield Check.fail(
            "system",
            f"its doctor failed: {type(error).__name__}: {error}",
            f"tell those who wrote the system {settings.system!r}",
        )


class _Lines:
    """Prints each check as it comes."""

    def __init__(self) -> None:
        encoding = getattr(sys.stdout, "encoding", None) or "ascii"
        try:
            "".join(_SIGNS.values()).encode(encoding)
        except (UnicodeEncodeError, LookupError):
            self._signs = _PLAIN_SIGNS
        else:
            self._signs = _SIGNS

    def __call__(self, check: Check) -> None:
        sign = self._signs[check.verdict]
        what = f"{check.subject} {check.name}" if check.subject else check.name
        say(f"{sign} {what}: {check.seen}")
        if check.remedy:
            say(f"{' ' * len(sign)} {check.remedy}")
