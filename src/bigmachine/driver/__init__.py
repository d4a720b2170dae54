"""The driver's side: what runs behind a cluster, and the flags for a program's own command line.

A program that parses its own arguments adds the library's to them::

    parser = argparse.ArgumentParser()
    parser.add_argument("-n", type=int, default=1_000_000)
    bm.driver.add_arguments(parser)
    args = parser.parse_args()
    with bm.driver.start(args) as cluster:
        ...

This package's other modules are the runtime. Importing this one imports none of them: programs
name ``bm.driver`` before they know whether they need a cluster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from typing import Any, TextIO

    from bigmachine.cluster import Cluster
    from bigmachine.config import Flags
    from bigmachine.systems.base import System

__all__ = ["add_arguments", "start"]

_PREFIX = "bigmachine_"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags ``--system``, ``--profile`` and ``--system-option`` to a parser.

    Their values are kept apart from the program's own: nothing but ``start`` need look at them.

    Raises:
        argparse.ArgumentError: The parser has a flag of one of these names already.
    """
    group = parser.add_argument_group("bigmachine", "where the machines of this program are")
    group.add_argument(
        "--system",
        dest=f"{_PREFIX}system",
        metavar="NAME",
        help="the system that provides machines ('bigmachine systems' lists them)",
    )
    group.add_argument(
        "--profile",
        dest=f"{_PREFIX}profile",
        metavar="NAME",
        help="a profile in bigmachine.toml",
    )
    group.add_argument(
        "--system-option",
        dest=f"{_PREFIX}options",
        metavar="KEY=VALUE",
        action="append",
        type=_option,
        help="an option of the system; may be given several times",
    )


def start(
    args: argparse.Namespace,
    *,
    system: System | str | None = None,
    name: str | None = None,
    program: Literal["auto", "main", "bare"] = "auto",
    output: Callable[[Any], object] | TextIO | None = None,
) -> Cluster:
    """Start a cluster as ``bigmachine.start`` does, with the flags of a parsed command line.

    Args:
        args: What the parser given to ``add_arguments`` made of the command line.
        system: As for ``bigmachine.start``; when given, it goes before the flags.
        name: As for ``bigmachine.start``.
        program: As for ``bigmachine.start``.
        output: As for ``bigmachine.start``.

    Raises:
        UsageError: ``args`` are not of such a parser, or a setting is wrong.
    """
    flags = flags_of(args)
    from bigmachine import cluster
    from bigmachine.config import using_flags

    with using_flags(flags):
        return cluster.start(system, name=name, program=program, output=output)


def flags_of(args: argparse.Namespace) -> Flags:
    """Return what a parsed command line says about the system.

    Raises:
        UsageError: Its parser was never given to ``add_arguments``.
    """
    from bigmachine.config import Flags
    from bigmachine.errors import UsageError

    if not hasattr(args, f"{_PREFIX}system"):
        raise UsageError(
            "these arguments come from a parser without bigmachine's flags: "
            "call bigmachine.driver.add_arguments(parser) before parser.parse_args()"
        )
    return Flags(
        system=getattr(args, f"{_PREFIX}system"),
        profile=getattr(args, f"{_PREFIX}profile"),
        options=tuple(getattr(args, f"{_PREFIX}options") or ()),
    )


def _option(text: str) -> tuple[str, str]:
    """Split ``key=value``."""
    key, separator, value = text.partition("=")
    if not (key and separator):
        import argparse

        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value
