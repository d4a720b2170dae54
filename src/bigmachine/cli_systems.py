"""What the subcommands for operators share: how a system is named, and how things are said."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from bigmachine import config
from bigmachine.driver import add_arguments, flags_of
from bigmachine.errors import UsageError


def add_system(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name a system and its options."""
    parser.add_argument(
        "words",
        nargs="*",
        metavar="SYSTEM KEY=VALUE",
        help="the system (by default the one that programs would run on here) and its options",
    )
    add_arguments(parser)


def is_named(arguments: argparse.Namespace) -> bool:
    """Return whether the command line says which system it is about."""
    return bool(arguments.words) or flags_of(arguments) != config.Flags()


def settings_of(arguments: argparse.Namespace) -> config.Settings:
    """Return which system was named, with which options.

    Raises:
        UsageError: A profile does not exist, or the file of profiles is wrong, or a word.
    """
    name, words = None, list(arguments.words)
    if words and "=" not in words[0]:
        name = words.pop(0)
    pairs = []
    for word in words:
        key, separator, value = word.partition("=")
        if not (key and separator):
            raise UsageError(f"{word!r} is not KEY=VALUE")
        pairs.append((key, value))
    flags = flags_of(arguments)
    together = config.Flags(
        system=name or flags.system,
        profile=flags.profile,
        options=(*flags.options, *pairs),
        words=frozenset(arguments.words),
    )
    return config.resolve(flags=together)


def encoded(value: Any) -> dict[str, Any]:
    """Return a dataclass as JSON takes it."""
    from dataclasses import asdict

    return {name: each for name, each in asdict(value).items() if each != ""}


def say(text: str) -> None:
    """Print a line at once; what the terminal cannot show is escaped."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
