"""What can go wrong on a host that has let us in: what its shell and the boot file say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from bigmachine.systems.bootfile import OLDEST_PYTHON
from bigmachine.systems.ssh.problems import Problem, shorten

OLDEST: Final = ".".join(map(str, OLDEST_PYTHON))
"""The oldest Python that runs the boot file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A kind of problem, of whatever host.

    Attributes:
        kind: A word for programs.
        what: What happened; words in braces are filled in.
        remedy: What to do about it, likewise.
        temporary: Whether trying again may help.
    """

    kind: str
    what: str
    remedy: str
    temporary: bool = False

    def of(self, host: str, answer: str = "", **words: object) -> Problem:
        """Return it as the problem of a host.

        Args:
            host: The host, as the user names it.
            answer: What the other side said, in its own words.
            words: What stands in braces.
        """
        return Problem(
            host=host,
            kind=self.kind,
            what=self.what.format(**words),
            answer=shorten(answer),
            remedy=self.remedy.format(**words),
            temporary=self.temporary,
        )


# What the connection shows.

NO_SESSION: Final = Case(
    kind="no-session",
    what="its SSH server lets us in and refuses to run a command",
    remedy="see MaxSessions and ForceCommand in its sshd_config, and the options of the key in "
    "~/.ssh/authorized_keys",
)
LOST: Final = Case(
    kind="lost",
    what="the connection was lost before the boot file was up",
    remedy="see whether the host and the network to it are up",
    temporary=True,
)
SLOW: Final = Case(
    kind="slow",
    what="it let us in, but did not run the boot file within {seconds:g} s",
    remedy="see whether the host is overloaded, and whether its shell's start-up files "
    "(~/.bashrc) wait for something",
    temporary=True,
)
NO_TUNNEL: Final = Case(
    kind="forwarding-forbidden",
    what="it is not reached directly, and its SSH server forbids tunnels",
    remedy="set AllowTcpForwarding yes in its sshd_config, or open the ports to this computer "
    "(tunnel='never' says that there is no need for tunnels)",
)
NOT_DIRECT: Final = Case(
    kind="not-direct",
    what="{place} is not reached directly ({reason}), and tunnel='never' forbids tunnels",
    remedy="open the ports to this computer, or let tunnel= be 'auto'",
    temporary=True,
)

# What its shell shows.

_NO_PYTHON: Final = Case(
    kind="no-python",
    what="there is no {python}",
    remedy="install it there (apt-get install python3), or say where one is that is "
    "{oldest} or newer: python=/path/to/python3",
)
_NOT_RUN: Final = Case(
    kind="no-python",
    what="{python} cannot be run",
    remedy="see its permissions, and whether the file system is mounted noexec; or say "
    "where another Python is: python=/path/to/python3",
)
_NO_SHELL: Final = Case(
    kind="no-shell",
    what="the account gives no shell that runs {python}: it ended with status {status} "
    "before the boot file had begun",
    remedy="give the account a login shell (chsh), and no forced command in "
    "~/.ssh/authorized_keys or sshd_config",
)
_ENDED: Final = Case(
    kind="boot",
    what="{python} {ended} before it was up",
    remedy="run this there and see: {python} -c 'print(1)'",
)

# What the boot file says itself, by its own word for it.

_OF_BOOT: Final = {
    "python": Case(
        kind="old-python",
        what="its {python} does not do",
        remedy="install a newer one beside it and say where that is: python=/path/to/python3",
    ),
    "disk": Case(
        kind="disk",
        what="there is no room on its disk",
        remedy="make room there, or name another with directory=",
    ),
    "permission": Case(
        kind="permission",
        what="its cache cannot be written",
        remedy="make ~/.cache there writable for this user, or name another directory with "
        "directory=",
    ),
    "time": Case(
        kind="time",
        what="it took too long",
        remedy="see whether the host is overloaded",
    ),
}


def of_shell(name: str, python: str, status: int | None, signal: str, said: str) -> Problem:
    """Return why the host's shell did not run the boot file.

    Args:
        name: The host.
        python: The interpreter that was asked for.
        status: The exit status, where there was one.
        signal: What killed it, or "".
        said: What came from it.
    """
    if status == 127 or "not found" in said.lower() or "unknown command" in said.lower():
        case = _NO_PYTHON
    elif status == 126:
        case = _NOT_RUN
    elif status in (0, 1):
        case = _NO_SHELL
    else:
        case = _ENDED
    ended = f"was killed by {signal}" if signal else f"ended with status {status}"
    return case.of(name, said, python=python, status=status, ended=ended, oldest=OLDEST)


def of_boot(name: str, python: str, said: Mapping[str, Any]) -> Problem:
    """Return why the boot file does not listen, as it says itself.

    Args:
        name: The host.
        python: The interpreter that was asked for.
        said: Its ``error``, and of which ``kind`` that is.
    """
    kind = str(said.get("kind", ""))
    other = Case(
        kind=kind or "boot",
        what="the boot file cannot do its work",
        remedy="see what it answered",
    )
    return _OF_BOOT.get(kind, other).of(name, str(said["error"]), python=python)
