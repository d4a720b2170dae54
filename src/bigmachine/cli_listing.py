"""``bigmachine systems``: the systems there are, and what their options are for."""

from __future__ import annotations

import argparse
import os
import sys
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from bigmachine.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bigmachine.systems.base import Option, System

_WIDTH: Final = 100


def add_parser(commands: Any) -> None:
    """Add the subcommand to those of the command ``bigmachine``."""
    parser = commands.add_parser("systems", help="list the systems there are, and their options")
    parser.set_defaults(run=_run)


def _run(_: argparse.Namespace) -> int:
    """Print the systems and their options; say which cannot be loaded."""
    from bigmachine.cli_systems import say
    from bigmachine.systems.registry import find_system, system_names

    status = 0
    for number, name in enumerate(system_names()):
        try:
            cls = find_system(name, source="bigmachine systems")
        except UsageError as exc:
            print(f"{name}\n  {exc}", file=sys.stderr)
            status = 1
            continue
        for line in (*([""] if number else []), *_lines(name, cls)):
            say(line)
    return status


def _lines(name: str, cls: type[System]) -> Iterator[str]:
    import inspect

    from bigmachine.docstrings import purposes

    summary = (cls.__doc__ or "").strip().partition("\n")[0]
    yield f"{name}  {summary}".rstrip()
    known = {**purposes(inspect.getdoc(cls)), **purposes(cls.__init__.__doc__)}
    for option in cls.options().values():
        yield from _wrapped(_describe(option), 2)
        yield from _wrapped(known.get(option.name, ""), 6)


def _wrapped(text: str, indent: int) -> list[str]:
    import textwrap

    rest = " " * max(indent, 6)
    return textwrap.wrap(text, _WIDTH, initial_indent=" " * indent, subsequent_indent=rest)


def _describe(option: Option) -> str:
    from bigmachine.systems.options import describe

    default = "required" if option.required else f"default {describe_default(option.default)}"
    return f"{option.name}: {describe(option.type)} ({default})"


def describe_default(value: Any) -> str:
    """Return a default as a flag would say it."""
    if isinstance(value, Enum):
        return describe_default(value.value)
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str | list | tuple | set | frozenset | dict) and not value:
        return "empty"
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    if isinstance(value, dict):
        return ",".join(f"{key}={item}" for key, item in value.items())
    return repr(str(value) if isinstance(value, os.PathLike) else value)
