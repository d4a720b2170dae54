"""What can go wrong on the way to a host, why, and what to do about it.

The one place where asyncssh's exceptions and what a host's shell says become ours: a `Problem`, one
paragraph each. Problems cross from the switchboard's process to the driver as JSON; a
`ProvisionError` is made of them there (`provision_error`).
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from bigmachine.errors import ProvisionError
from bigmachine.systems.bootfile import OLDEST_PYTHON

if TYPE_CHECKING:
    from bigmachine.systems.ssh.connect import Attempt

OLDEST: Final = ".".join(map(str, OLDEST_PYTHON))
"""The oldest Python that runs the boot file."""

_MAX_ANSWER: Final = 600  # characters of what a host has said


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why a host cannot be used.

    Attributes:
        host: The host, as the user names it.
        kind: A word for programs: ``"refused"``, ``"host-key-changed"``, ``"no-python"`` …
        what: What happened, without the host's name.
        answer: What the other side said, in its own words; "" if nothing.
        remedy: What to do about it.
        temporary: Whether trying again may help.
    """

    host: str
    kind: str
    what: str
    answer: str = ""
    remedy: str = ""
    temporary: bool = False

    def __str__(self) -> str:
        answer = f"; it answered: {self.answer}" if self.answer else ""
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{self.host}: {self.what}{answer}{remedy}"

    def to_mapping(self) -> dict[str, Any]:
        """Return it as what fits into JSON."""
        return asdict(self)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Problem:
        """Rebuild it from `to_mapping`."""
        return cls(**values)


class HostError(Exception):
    """A host cannot be used; ``problem`` says why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def provision_error(
    problems: Sequence[Problem], *, requested: int, started: int, exhausted: str = ""
) -> ProvisionError:
    """Return the one error for all hosts that could not be used; its cause is a group of theirs.

    Args:
        problems: Why, one for each.
        requested: How many machines were asked for.
        started: For how many of them there are hosts.
        exhausted: Why there are too few even so, or "".
    """
    each = [
        ProvisionError(
            f"{problem.host}: {problem.what}",
            system="ssh",
            requested=requested,
            started=started,
            answer=problem.answer,
            remedy=problem.remedy,
            temporary=problem.temporary,
        )
        for problem in problems
    ]
    if len(each) == 1 and not exhausted:
        return each[0]
    lines = [exhausted or f"{len(each)} hosts cannot be used", *map(str, problems)]
    error = ProvisionError(
        "\n  - ".join(lines) + "\n ",
        system="ssh",
        requested=requested,
        started=started,
        remedy="" if problems else "name more hosts in hosts=, or ask for fewer machines",
        temporary=bool(problems) and all(problem.temporary for problem in problems),
    )
    if each:
        error.__cause__ = ExceptionGroup("hosts that cannot be used", each)
    return error


# What goes wrong before there is a connection.


def of_connecting(attempt: Attempt, error: BaseException) -> Problem:
    """Return why connecting failed.

    Args:
        attempt: What was tried, and what was seen meanwhile.
        error: What was raised.
    """
    import asyncssh

    if isinstance(error, HostError):
        return error.problem
    if isinstance(error, asyncssh.HostKeyNotVerifiable):
        return _host_key(attempt, error)
    if isinstance(error, asyncssh.PermissionDenied):
        return _denied(attempt, error)
    if isinstance(error, asyncssh.ChannelOpenError):
        return _beyond_jump(attempt, error)
    if isinstance(error, asyncssh.KeyExchangeFailed):
        return _key_exchange(attempt, error)
    if isinstance(error, (asyncssh.DisconnectError, asyncssh.Error)):
        return _disconnected(attempt, error)
    if isinstance(error, TimeoutError):
        return _timeout(attempt)
    if isinstance(error, OSError):
        return _network(attempt, error)
    if isinstance(error, ValueError):  # keys, known hosts and configuration files
        return _settings(attempt, error)
    what = f"connecting failed with {type(error).__name__}: {error}"
    return attempt.problem("failed", what, remedy=f"see ssh -v {attempt.name.text}")


def _network(attempt: Attempt, error: OSError) -> Problem:
    where = attempt.where
    if isinstance(error, socket.gaierror):
        return attempt.problem(
            "unknown-host",
            f"there is no host of the name {attempt.place!r}",
            answer=error.strerror or str(error),
            remedy="check the spelling, /etc/hosts and the DNS, or give it a HostName in "
            "~/.ssh/config",
            temporary=error.errno == socket.EAI_AGAIN,
        )
    code = error.errno
    if code is None:  # asyncio tried several addresses, and puts what happened into a text
        code = next((each for each in _NETWORK if f"[Errno {each}]" in str(error)), None)
    if code == errno.ECONNREFUSED:
        return attempt.problem(
            "refused",
            f"nothing listens at {where}: the connection was refused",
            remedy="start an SSH server there (systemctl start ssh), or give the right port as "
            "HOST:PORT",
            temporary=True,
        )
    if code in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return attempt.problem(
            "unreachable",
            f"there is no way to {where}",
            answer=error.strerror or str(error),
            remedy="check that the host is up and that this computer's network leads there; "
            "a host behind another needs jump=",
            temporary=True,
        )
    if code == errno.ETIMEDOUT:
        return _timeout(attempt)
    if code in (errno.ECONNRESET, errno.EPIPE):
        return _disconnected(attempt, error)
    return attempt.problem(
        "failed",
        f"{where} cannot be reached: {error}",
        remedy=f"see ssh -v {attempt.name.text}",
        temporary=True,
    )


_NETWORK: Final = (
    errno.ECONNREFUSED,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.ETIMEDOUT,
    errno.ECONNRESET,
)


def _timeout(attempt: Attempt) -> Problem:
    seconds = attempt.settings.connect_seconds
    if attempt.connected:
        return attempt.problem(
            "slow",
            f"{attempt.where} accepted the connection and did not let us in within {seconds:g} s",
            remedy="see whether the host is overloaded, and whether an SSH server answers at that "
            "port: ssh -v " + attempt.name.text,
            temporary=True,
        )
    return attempt.problem(
        "timeout",
        f"{attempt.where} did not answer within {seconds:g} s",
        remedy="check that the host is up, that the address is right and that no firewall drops "
        "connections to that port",
        temporary=True,
    )


def _disconnected(attempt: Attempt, error: BaseException) -> Problem:
    answer = getattr(error, "reason", "") or str(error)
    if not attempt.connected:
        return attempt.problem(
            "dropped",
            f"{attempt.where} broke the connection",
            answer=answer,
            remedy="see whether an SSH server listens at that port",
            temporary=True,
        )
    if attempt.in_key_exchange and attempt.is_known:  # the server may be the first to see it
        return _key_exchange(attempt, error)
    return attempt.problem(
        "dropped",
        f"{attempt.where} closed the connection before we were let in",
        answer=_short(answer),
        remedy="see the log of its SSH server; it may have too many connections at once "
        "(MaxStartups), refuse this address (hosts.deny, fail2ban), or be no SSH server",
        temporary=True,
    )


# Host keys.


def _host_key(attempt: Attempt, error: BaseException) -> Problem:
    where, scan = attempt.where, attempt.scan_command
    files = (
        ", ".join(map(str, attempt.known_hosts_files)) or "~/.ssh/known_hosts, which is not there"
    )
    key = attempt.host_key
    shown = f"{key.get_algorithm()} {key.get_fingerprint()}" if key is not None else ""
    reason = getattr(error, "reason", "") or str(error)
    if "revoked" in reason:
        return attempt.problem(
            "host-key-revoked",
            f"the key of {where} ({shown}) is marked as revoked in {files}",
            remedy="do not connect; ask who runs the host",
        )
    if attempt.is_known:
        return attempt.problem(
            "host-key-changed",
            f"the key of {where} is not the one in {files}: it shows {shown}. Somebody may be "
            f"listening in, or the host was installed anew",
            remedy=f"compare with the fingerprint that the host itself shows (ssh-keygen -lf "
            f"/etc/ssh/ssh_host_ed25519_key.pub); if it was installed anew: ssh-keygen -R "
            f"{attempt.known_name!r} && {scan}",
        )
    if key is None:
        return attempt.problem(
            "host-key-unknown",
            f"the key of {where} cannot be verified with {files}",
            answer=reason,
            remedy=f"connect once with ssh {attempt.name.text}",
        )
    return attempt.problem(
        "host-key-unknown",
        f"the key of {where} ({shown}) is not in {files}, so it may be anybody's",
        remedy=f"connect once with ssh {attempt.name.text} and compare the fingerprint, or add it "
        f"unseen where the network is trusted: {scan}",
    )


def _key_exchange(attempt: Attempt, error: BaseException) -> Problem:
    if attempt.is_known:
        return attempt.problem(
            "host-key-changed",
            f"{attempt.where} broke off the key exchange: as it seems, it has none of the kinds "
            "of keys that are known of it",
            answer=_short(str(error)),
            remedy=f"if it was installed anew: ssh-keygen -R {attempt.known_name!r} && "
            f"{attempt.scan_command}",
        )
    return attempt.problem(
        "no-common-algorithm",
        f"{attempt.where} and this side have no algorithm in common",
        answer=_short(str(error)),
        remedy="bring the SSH server up to date",
    )


# Keys of the user.


def _denied(attempt: Attempt, error: BaseException) -> Problem:
    keys = attempt.look_at_keys()
    login = f"{attempt.user}@{attempt.where}"
    what = f"{login} lets none of our keys in"
    answer = _short(getattr(error, "reason", "") or str(error))
    authorize = f"ssh-copy-id {attempt.copy_target}"
    if not attempt.wants_keys:
        return attempt.problem(
            "no-key-login",
            f"the SSH server lets nobody in by key as {attempt.user}",
            answer=answer,
            remedy="allow PubkeyAuthentication in its sshd_config for this user (and "
            "PermitRootLogin prohibit-password where it is root); passwords are never asked for",
        )
    if not keys.offered and keys.encrypted:
        return attempt.problem(
            "key-encrypted",
            f"{what}: {_listed(keys.encrypted)} is encrypted, and {keys.agent}",
            answer=answer,
            remedy=f"add it to an agent: eval $(ssh-agent); ssh-add {keys.encrypted[0]} "
            "(passphrases are never asked for)",
        )
    if not keys.offered:
        return attempt.problem(
            "no-key",
            f"there is no key to log in with as {attempt.user}: none in ~/.ssh, and {keys.agent}",
            answer=answer,
            remedy="make one (ssh-keygen), start an agent that has one (ssh-add), or name a file "
            f"with key=; then {authorize}",
        )
    encrypted = f"; {_listed(keys.encrypted)} is encrypted and was not tried" * bool(keys.encrypted)
    return attempt.problem(
        "wrong-key",
        f"{login} lets none of our keys in: tried {_listed(keys.offered)}{encrypted}, and "
        f"{keys.agent}",
        answer=answer,
        remedy=f"authorize one there ({authorize}), name another with key=, or another user with "
        "user=",
    )


def _settings(attempt: Attempt, error: ValueError) -> Problem:
    return attempt.problem(
        "settings",
        f"the settings for it cannot be used: {error}",
        remedy="see key=, known_hosts= and config= (~/.ssh/config, ~/.ssh/known_hosts)",
    )


# Jump hosts.


def _beyond_jump(attempt: Attempt, error: Any) -> Problem:
    jump = attempt.via or "the jump host"
    if "prohibited" in error.reason or error.code == 1:  # OPEN_ADMINISTRATIVELY_PROHIBITED
        return attempt.problem(
            "forwarding-forbidden",
            f"{jump} forbids connections through it to {attempt.where}",
            answer=error.reason,
            remedy=f"set AllowTcpForwarding yes in the sshd_config of {jump} (and PermitOpen, "
            "where it is set), or name another jump host",
        )
    return attempt.problem(
        "beyond-jump",
        f"{jump} cannot reach {attempt.where}",
        answer=error.reason,
        remedy="the name is looked up at the jump host: check it there, and that the host is up",
        temporary=True,
    )


def of_jump(name: str, jump: str, problem: Problem) -> Problem:
    """Return the problem of a host whose jump host has one."""
    return Problem(
        host=name,
        kind="jump-failed",
        what=f"its jump host {jump} cannot be used: {problem.what}",
        answer=problem.answer,
        remedy=problem.remedy,
        temporary=problem.temporary,
    )


# What goes wrong on the host itself.


def of_shell(name: str, python: str, status: int | None, signal: str, said: str) -> Problem:
    """Return why the host's shell did not run the boot file.

    Args:
        name: The host.
        python: The interpreter that was asked for.
        status: The exit status, where there was one.
        signal: What killed it, or "".
        said: What came from it.
    """
    answer = _short(said)
    if status == 127 or "not found" in said.lower() or "unknown command" in said.lower():
        return Problem(
            host=name,
            kind="no-python",
            what=f"there is no {python}",
            answer=answer,
            remedy=f"install it there (apt-get install python3), or say where one is that is "
            f"{OLDEST} or newer: python=/path/to/python3",
        )
    if status == 126:
        return Problem(
            host=name,
            kind="no-python",
            what=f"{python} cannot be run",
            answer=answer,
            remedy="see its permissions, and whether the file system is mounted noexec; or say "
            "where another Python is: python=/path/to/python3",
        )
    if status in (0, 1):
        return Problem(
            host=name,
            kind="no-shell",
            what=f"the account gives no shell that runs {python}: it ended with status {status} "
            "before the boot file had begun",
            answer=answer,
            remedy="give the account a login shell (chsh), and no forced command in "
            "~/.ssh/authorized_keys or sshd_config",
        )
    ended = f"was killed by {signal}" if signal else f"ended with status {status}"
    return Problem(
        host=name,
        kind="boot",
        what=f"{python} {ended} before it was up",
        answer=answer,
        remedy=f"run this there and see: {python} -c 'print(1)'",
    )


def of_boot(name: str, python: str, said: Mapping[str, Any]) -> Problem:
    """Return why the boot file does not listen, as it says itself.

    Args:
        name: The host.
        python: The interpreter that was asked for.
        said: Its ``error``, and of which ``kind`` that is.
    """
    kind, answer = str(said.get("kind", "")), _short(str(said["error"]))
    what, remedy = _OF_BOOT.get(kind, ("the boot file cannot do its work", "see what it answered"))
    return Problem(
        host=name,
        kind="old-python" if kind == "python" else kind or "boot",
        what=what.format(python=python),
        answer=answer,
        remedy=remedy,
    )


_OF_BOOT: Final = {
    "python": (
        "its {python} does not do",
        "install a newer one beside it and say where that is: python=/path/to/python3",
    ),
    "disk": ("there is no room on its disk", "make room there, or name another with directory="),
    "permission": (
        "its cache cannot be written",
        "make ~/.cache there writable for this user, or name another directory with directory=",
    ),
    "time": ("it took too long", "see whether the host is overloaded"),
}


def of_slow_boot(name: str, seconds: float, said: str) -> Problem:
    """Return that the boot file does not come to listen."""
    return Problem(
        host=name,
        kind="slow",
        what=f"it let us in, but did not run the boot file within {seconds:g} s",
        answer=_short(said),
        remedy="see whether the host is overloaded, and whether its shell's start-up files "
        "(~/.bashrc) wait for something",
        temporary=True,
    )


def of_no_session(name: str, answer: str) -> Problem:
    """Return that the SSH server runs no command."""
    return Problem(
        host=name,
        kind="no-session",
        what="its SSH server lets us in and refuses to run a command",
        answer=_short(answer),
        remedy="see MaxSessions and ForceCommand in its sshd_config, and the options of the key in "
        "~/.ssh/authorized_keys",
    )


def of_lost(name: str, answer: str, said: str) -> Problem:
    """Return that the connection was lost before the boot file was up."""
    return Problem(
        host=name,
        kind="lost",
        what="the connection was lost before the boot file was up",
        answer=_short(f"{answer} {said}"),
        remedy="see whether the host and the network to it are up",
        temporary=True,
    )


def of_tunnel(name: str, answer: str) -> Problem:
    """Return that a host's SSH server forbids the tunnel that is needed."""
    return Problem(
        host=name,
        kind="forwarding-forbidden",
        what="it is not reached directly, and its SSH server forbids tunnels",
        answer=_short(answer),
        remedy="set AllowTcpForwarding yes in its sshd_config, or open the ports to this computer "
        "(tunnel='never' says that there is no need for tunnels)",
    )


def of_direct(name: str, place: str, reason: str) -> Problem:
    """Return that a host is not reached directly, where nothing else is allowed."""
    return Problem(
        host=name,
        kind="not-direct",
        what=f"{place} is not reached directly ({reason}), and tunnel='never' forbids tunnels",
        remedy="open the ports to this computer, or let tunnel= be 'auto'",
        temporary=True,
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


def _short(text: str) -> str:
    """Return what somebody said as one line, the end of it where it is long."""
    line = " ".join(text.split())
    return line if len(line) <= _MAX_ANSWER else "… " + line[-_MAX_ANSWER:]
