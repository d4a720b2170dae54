"""What this process is: a driver, a template, or a machine.

A process is what it was started as. Nothing in the environment says so, since that is inherited: a
machine's own subprocess may well be a driver. So the template tells this module before it runs the
user's program, and ``bigmachine.start`` asks here.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Callable
from typing import NoReturn

from bigmachine.errors import UsageError


class Role(enum.Enum):
    """What a process is."""

    DRIVER = "driver"
    TEMPLATE = "template"
    MACHINE = "machine"


current: Role = Role.DRIVER
"""What this process is."""

_pid = os.getpid()
_take_over: Callable[[], NoReturn] | None = None


def become_template(take_over: Callable[[], NoReturn]) -> None:
    """This process runs the program up to ``bigmachine.start``, where ``take_over`` has it."""
    global current, _pid, _take_over
    current, _pid, _take_over = Role.TEMPLATE, os.getpid(), take_over


def become_machine() -> None:
    """This process is a machine from now on."""
    global current, _pid, _take_over
    current, _pid, _take_over = Role.MACHINE, os.getpid(), None


def is_inherited() -> bool:
    """Whether this process is a copy (``fork``) of one with this role, made by the program."""
    return os.getpid() != _pid


def take_over() -> NoReturn:
    """Leave the user's program for good and become machines. For ``bigmachine.start``.

    Raises:
        UsageError: This process is no template, or a copy of one that the program made.
    """
    if _take_over is None:
        raise UsageError(f"this process is a {current.value}: only a template is taken over")
    if is_inherited():
        raise UsageError(
            "bigmachine.start was called in a child process of a program that runs on a machine's "
            "behalf; call it in the main process, before children are forked"
        )
    _take_over()
