"""Orders put in a host's terms: every path of the driver becomes that of the same file there.

Pure: what is where on the host is given. A path that is in no part of the image stays out of it:
the working directory then is that of the program, and a program that is not there is an error.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from bigmachine.errors import UsageError
from bigmachine.values import changed

if TYPE_CHECKING:
    from bigmachine.driver.orders import Orders
    from bigmachine.host.messages import Program

Where = Callable[[str], "str | None"]
"""Takes an absolute path of the driver; returns that of the same file on the host, or None."""


def translate(
    orders: Orders, where: Where, *, root: str, python: str, sys_path: tuple[str, ...]
) -> Orders:
    """Return the orders as a host understands them.

    Args:
        orders: As the driver's own computer would.
        where: Finds the driver's files on the host.
        root: The image's directory there.
        python: The image's interpreter there.
        sys_path: The image's ``sys.path`` there.

    Raises:
        UsageError: The program is no part of the image.
    """
    program = orders.program
    directory = where(program.directory) if program.directory else None
    moved = changed(
        program,
        executable=python,
        main_file=_or_empty(where, program.main_file),
        sys_path=sys_path if program.is_bare else (),
    )
    if program.how == "script":
        moved, directory = _script(moved, where, directory)
    moved = changed(moved, directory=directory or root)
    return replace(
        orders,
        program=moved,
        environ=None,
        later_environ=None,
        sys_path=sys_path,
        cwd=_or_empty(where, orders.cwd) or directory or root,
        root=root,
    )


def _script(program: Program, where: Where, directory: str | None) -> tuple[Program, str | None]:
    """Find the script; its path stays relative, as the user gave it, where that still holds."""
    path = posixpath.normpath(posixpath.join(program.directory, program.target))
    there = where(path)
    if there is None:
        raise UsageError(
            f"the program {path} is no part of the image that was given, so its machines cannot "
            "run it: build the image from this program, or use program='bare'"
        )
    if directory is not None:
        relative = posixpath.normpath(posixpath.join(directory, program.target))
        if relative == there and not posixpath.isabs(program.target):
            return program, directory
    argv = tuple(there if word == program.target else word for word in program.argv[:1])
    moved = changed(program, target=there, argv=(*argv, *program.argv[1:]))
    return moved, directory or posixpath.dirname(there)


def _or_empty(where: Where, path: str) -> str:
    return (where(path) if path else None) or ""
