"""``bigmachine cache``: what a host keeps of images, and how to be rid of it.

::

    bigmachine cache [ls [--directory D]]
    bigmachine cache prune [--limit SIZE | --clear] [--directory D]

It looks at the cache of the computer it runs on. What is in use stays, whatever is asked for.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from bigmachine.image.prune import Item
    from bigmachine.image.store import Store

_UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def add_parser(commands: Any) -> None:
    """Add the subcommand to those of the command ``bigmachine``."""
    parser = commands.add_parser("cache", help="list what this host keeps of images, or remove it")
    parser.set_defaults(run=_run, act=_list, directory=None)
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    listing = actions.add_parser(
        "ls", help="list layers and images, the last used ones last (without an action, too)"
    )
    listing.set_defaults(act=_list)
    prune = actions.add_parser("prune", help="remove what was used least recently")
    amount = prune.add_mutually_exclusive_group()
    amount.add_argument(
        "--limit", type=size_bytes, metavar="SIZE", help="keep at most this much (default 10G)"
    )
    amount.add_argument("--clear", action="store_true", help="keep only what is in use")
    prune.set_defaults(act=_prune)
    for each in (listing, prune):
        each.add_argument(
            "--directory", metavar="D", help="the cache's directory (default ~/.cache/bigmachine)"
        )
        each.set_defaults(run=_run)


def size_bytes(text: str) -> int:
    """Return a size in bytes, as ``500M`` or ``10G`` say it (powers of 1,024).

    Raises:
        argparse.ArgumentTypeError: It is no size.
    """
    word = text.strip().lower().removesuffix("ib").removesuffix("b")
    number, unit = (word[:-1], word[-1]) if word[-1:] in _UNITS and word else (word, "")
    try:
        size = int(float(number) * _UNITS[unit])
    except (ValueError, OverflowError):
        size = -1
    if size < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write it as 500M or 10G")
    return size


def describe_size(size: float) -> str:
    """Return a size as a person reads it."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _run(arguments: argparse.Namespace) -> int:
    from bigmachine.image.store import Store, default_root

    try:
        status: int = arguments.act(Store(arguments.directory or default_root()), arguments)
    except OSError as error:
        print(f"bigmachine cache: {error.strerror or error}", file=sys.stderr)
        return 1
    return status


def _list(store: Store, _: argparse.Namespace) -> int:
    from bigmachine.image.prune import items

    found = items(store)
    for item in found:
        print(_line(item))
    total = describe_size(sum(item.size_bytes for item in found))
    print(f"{total} in {store.root}, of {describe_size(store.limit_bytes)}")
    return 0


def _prune(store: Store, arguments: argparse.Namespace) -> int:
    from bigmachine.image.prune import items, prune

    limit = store.limit_bytes if arguments.limit is None else arguments.limit
    gone = prune(store, 0 if arguments.clear else limit)
    for item in gone:
        print(_line(item))
    freed = describe_size(sum(item.size_bytes for item in gone))
    left = items(store)
    rest = describe_size(sum(item.size_bytes for item in left))
    used = sum(item.in_use for item in left)
    print(f"removed {len(gone)}, {freed}; {rest} are left, {used} of {len(left)} in use")
    return 0


def _line(item: Item) -> str:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(item.used))
    note = "  in use" if item.in_use else ""
    return f"{item.kind:8}{describe_size(item.size_bytes):>11}  {when}  {item.name}{note}"
