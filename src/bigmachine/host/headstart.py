"""A supervisor's first moments: it starts the first template before it does anything else.

Between ``bigmachine.start`` and a machine's first answer the supervisor and the template both have
to import what they need, some tenths of a second on a slow computer. They do so side by side if the
template's process is started at once. So this module, which the supervisor's command line names,
imports next to nothing itself, reads what the driver says, starts that process, and only then goes
on to `host.supervisor`.

Templates that are needed later are started by the same function.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from bigmachine.host import frames, marks
from bigmachine.host.entry import template_command

LINK_FD: Final = 3
"""The descriptor of its link in a template's process."""

_ABOVE_FDS: Final = 20  # away from the numbers that the new process is to have
_PYTHON_IGNORES: Final = ("SIGPIPE", "SIGXFSZ", "SIGHUP")
_SETSID: Final = sys.platform == "linux"  # elsewhere the process does it itself


class Begun:
    """A template's process that has just been started.

    Attributes:
        pid: Its id.
        mark: What marks its descendants.
        link: This process's end of its link.
        output_fd: Where its stdout and stderr are read.
    """

    __slots__ = ("link", "mark", "output_fd", "pid")

    def __init__(self, pid: int, mark: int, link: socket.socket, output_fd: int) -> None:
        self.pid = pid
        self.mark = mark
        self.link = link
        self.output_fd = output_fd


def main(boot_fd: int) -> None:
    """Be a supervisor, from the boot socket to the end. Never returns."""
    gc.disable()  # until everything is imported: nothing of that is garbage
    os.set_inheritable(boot_fd, False)
    _settle()
    first_mark = marks.new_mark_space()
    begun = None
    try:
        config = json.loads(frames.receive(boot_fd))
        if config.get("listen_fd") is not None:
            os.set_inheritable(config["listen_fd"], False)
        if template := config.get("template"):
            start = {
                "program": template["program"],
                "environ": template["later_environ"],
                "start_method": template["start_method"],
                "supervisor_pid": os.getpid(),
                "mark": first_mark,
                "open_files": None,  # those of this process, which it has not changed yet
                "credentials": config["credentials"],
            }
            begun = begin(start, template["environ"])
    except (EOFError, OSError, ValueError, TypeError, KeyError) as error:
        config = {"error": f"{type(error).__name__}: {error}"}

    from bigmachine.host import supervisor

    supervisor.main(socket.socket(fileno=boot_fd), config, begun, first_mark + 1)


def begin(start: Mapping[str, Any], environ: Mapping[str, str] | None) -> Begun:
    """Start a template's process, in a session of its own, and tell it what it is to be.

    It works where this process does, with its limits and its umask. stdin is ``/dev/null``.

    Args:
        start: The fields of its `messages.TemplateStart`.
        environ: What its environment begins as; None is this process's.

    Raises:
        OSError: It cannot be started.
    """
    link, far = socket.socketpair()
    output_fd, output_far_fd = os.pipe()
    os.set_blocking(output_fd, False)
    program = start["program"]
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
    with contextlib.suppress(OSError):  # if it has died already, that will be seen
        link.sendall(frames.frame(json.dumps(start).encode()))
    return Begun(pid, start["mark"], link, output_fd)


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
