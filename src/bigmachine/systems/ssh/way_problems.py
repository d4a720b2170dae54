"""What can go wrong on the way to a host: from its name to being let in.

The one place where asyncssh's exceptions become ours.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from bigmachine.systems.ssh.problems import HostError, Problem, shorten

if TYPE_CHECKING:
    from bigmachine.systems.ssh.attempt import Attempt

_NETWORK: Final = (
    errno.ECONNREFUSED,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.ETIMEDOUT,
    errno.ECONNRESET,
)


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
        answer=shorten(answer),
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
            answer=shorten(str(error)),
            remedy=f"if it was installed anew: ssh-keygen -R {attempt.known_name!r} && "
            f"{attempt.scan_command}",
        )
    return attempt.problem(
        "no-common-algorithm",
        f"{attempt.where} and this side have no algorithm in common",
        answer=shorten(str(error)),
        remedy="bring the SSH server up to date",
    )


# Keys of the user.


def _denied(attempt: Attempt, error: BaseException) -> Problem:
    keys = attempt.look_at_keys()
    login = f"{attempt.user}@{attempt.where}"
    what = f"{login} lets none of our keys in"
    answer = shorten(getattr(error, "reason", "") or str(error))
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


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
