"""The command lines by which a host's processes are started.

Both kinds begin in a stub that is given on the command line: it imports bigmachine from where the
parent has it, wherever that is, and leaves ``sys.path`` as it was, so that a user's program which
is replayed there finds its own modules first and no more than it would.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import Final

import bigmachine

AT_ONCE_SIGNAL: Final = signal.SIGUSR2
"""Tells a supervisor to kill everything and end, now. What it could not kill any more if it were
killed itself are processes that machines have started and that have left their sessions."""

_STUB = (
    "import sys; sys.path.insert(0, sys.argv[2]); import bigmachine; del sys.path[0]; "
    "from bigmachine.{module} import main; main(int(sys.argv[1]))"
)
SUPERVISOR_STUB: Final = _STUB.format(module="host.headstart")
"""What an interpreter, told to know nothing of its surroundings (``-I -S``), runs to be a
supervisor; its arguments are the boot socket's descriptor and where bigmachine is."""
KEEPER_STUB: Final = _STUB.format(module="driver.keeping")
"""Likewise for the keeper of leases, which is started by the driver."""
# ``-c`` puts the working directory in front, where a user's ``socket.py`` may lie.
_TEMPLATE_STUB = "import sys; sys.flags.safe_path or sys.path.pop(0); " + _STUB


def supervisor_command(executable: str, boot_fd: int) -> list[str]:
    """Return the command line of a supervisor on this host.

    Args:
        executable: The interpreter.
        boot_fd: The descriptor of its boot socket, which it has to inherit.
    """
    return [executable, "-I", "-S", "-c", SUPERVISOR_STUB, str(boot_fd), package_root()]


def template_command(executable: str, flags: Sequence[str], link_fd: int) -> list[str]:
    """Return the command line of a template.

    Args:
        executable: The interpreter.
        flags: The interpreter's options, the driver's own.
        link_fd: The descriptor of its link, which it has to inherit.
    """
    stub = _TEMPLATE_STUB.format(module="host.template")
    return [executable, *flags, "-c", stub, str(link_fd), package_root()]


def package_root() -> str:
    """Return the directory (or archive) that this process has bigmachine from."""
    return os.path.dirname(os.path.dirname(os.path.abspath(bigmachine.__file__)))
