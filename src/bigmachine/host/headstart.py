"""A supervisor's first moments: it starts the first template before it does anything else.

Between ``bigmachine.start`` and a machine's first answer the supervisor and the template both have
to import what they need, some tenths of a second on a slow computer. They do so side by side if the
template's process is started at once. So this module, which the supervisor's command line names,
imports next to nothing itself, reads what the driver says, starts that process, and only then goes
on to `host.supervisor`.

Templates that are needed later are started by the same function.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from bigmachine.host.entry import template_command

LINK_FD: Final = 3
"""The descriptor of its link in a template's process."""

_BOOT_SECONDS: Final = 10.0  # for the driver to say what it wants
_LENGTH_BYTES: Final = 4
_ABOVE_FDS: Final = 20  # away from the numbers that the new process is to have
_PYTHON_IGNORES: Final = ("SIGPIPE", "SIGXFSZ", "SIGHUP")
_SETSID: Final = sys.platform == "linux"  # elsewhere the process does it itself


class Begun:
    """A template's process that has just been started.

    Attributes:
        pid: Its id.
        link: This process's end of its link.
        output_fd: Where its stdout and stderr are read.
    """

    __slots__ = ("link", "output_fd", "pid")

    def __init__(self, pid: int, link: socket.socket, output_fd: int) -> None:
        self.pid = pid
        self.link = link
        self.output_fd = output_fd


def main(boot_fd: int) -> None:
    """Be a supervisor, from the boot socket to the end. Never returns."""
    os.set_inheritable(boot_fd, False)
    _settle()
    begun = None
    try:
        config = json.loads(_receive(boot_fd))
        if template := config.get("template"):
            begun = begin(template["program"], template["environ"])
    except (EOFError, OSError, ValueError, TypeError, KeyError) as error:
        config = {"error": f"{type(error).__name__}: {error}"}

    from bigmachine.host import supervisor

    supervisor.main(socket.socket(fileno=boot_fd), config, begun)


def begin(program: Mapping[str, Any], environ: Mapping[str, str] | None) -> Begun:
    """Start a template's process, in a session of its own.

    It works where this process does, with its limits and its umask. stdin is ``/dev/null``.

    Args:
        program: The fields of the `messages.Program` that it is going to run.
        environ: Its environment; None is this process's.

    Raises:
        OSError: It cannot be started.
    """
    link, far = socket.socketpair()
    output_fd, output_far_fd = os.pipe()
    os.set_blocking(output_fd, False)
    command = template_command(program["executable"], program["flags"], LINK_FD)
    try:
        with far:
            pid = _spawn(command, environ, far.fileno(), output_far_fd)
    except BaseException:
        link.close()
        os.close(output_fd)
        raise
    finally:
        os.close(output_far_fd)
    return Begun(pid, link, output_fd)


def _spawn(
    command: Sequence[str], environ: Mapping[str, str] | None, link_fd: int, output_fd: int
) -> int:
    import fcntl

    link = fcntl.fcntl(link_fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE_FDS)
    output = fcntl.fcntl(output_fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE_FDS)
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, output, 1),
        (os.POSIX_SPAWN_DUP2, output, 2),
        (os.POSIX_SPAWN_DUP2, link, LINK_FD),
    ]
    try:
        return os.posix_spawn(
            command[0],
            list(command),
            dict(os.environ if environ is None else environ),
            file_actions=actions,
            setsigdef=[getattr(signal, name) for name in _PYTHON_IGNORES if hasattr(signal, name)],
            setsigmask=[],
            setsid=_SETSID,
        )
    finally:
        os.close(link)
        os.close(output)


def _settle() -> None:
    """Become a process apart: a terminal's signals and streams are the driver's alone."""
    if os.getsid(0) != os.getpid():
        os.setsid()
    devnull = os.open(os.devnull, os.O_RDWR)
    os.dup2(devnull, 0)
    os.dup2(devnull, 1)
    os.close(devnull)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _receive(boot_fd: int) -> bytes:
    return _receive_exactly(
        boot_fd, int.from_bytes(_receive_exactly(boot_fd, _LENGTH_BYTES), "big")
    )


def _receive_exactly(boot_fd: int, count: int) -> bytes:
    poller = select.poll()
    poller.register(boot_fd, select.POLLIN)
    data = bytearray()
    while len(data) < count:
        if not poller.poll(_BOOT_SECONDS * 1000):
            raise TimeoutError("the driver does not say what it wants")
        more = os.read(boot_fd, count - len(data))
        if not more:
            raise EOFError("the driver has gone")
        data += more
    return bytes(data)
