"""One attempt to connect to a host, as a user's own ``ssh`` would, and what is seen of it.

The SSH configuration, keys, the agent and the files of known hosts are the user's own. Host keys
are always checked; neither passwords nor passphrases are ever asked for.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bigmachine.systems.ssh.problems import HostError, Problem
from bigmachine.systems.ssh.way_problems import of_connecting

if TYPE_CHECKING:
    import asyncssh

    from bigmachine.systems.ssh.hosts import HostName
    from bigmachine.systems.ssh.settings import ConnectSettings

_SSH_PORT: Final = 22
_DEFAULT_KEYS: Final = ("id_ed25519", "id_ecdsa", "id_rsa", "id_ed25519_sk", "id_ecdsa_sk")
_KNOWN_HOSTS: Final = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")
_GLOBAL_KNOWN_HOSTS: Final = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")
# The kernel's and OpenSSL's fastest; a user's own Ciphers are stronger than this.
_FAST_CIPHERS: Final = "^aes128-gcm@openssh.com,aes256-gcm@openssh.com"


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """The keys that there were to log in with.

    Attributes:
        offered: Those that could be offered.
        encrypted: Files that only a passphrase opens.
        agent: What was with the agent, as a clause.
    """

    offered: tuple[str, ...]
    encrypted: tuple[str, ...]
    agent: str


class Attempt:
    """One attempt to connect, and what was seen of it.

    Args:
        name: The host.
        settings: How.
        via: The jump host's name, or "".
    """

    def __init__(self, name: HostName, settings: ConnectSettings, via: str = "") -> None:
        self.name = name
        self.settings = settings
        self.via = via
        self.place = name.name
        self.port = name.port or settings.port or _SSH_PORT
        self.user = name.user or settings.user or ""
        self.known_hosts_files: list[Path] = []
        self.host_key: asyncssh.SSHKey | None = None
        self.is_known = False
        self.connected = False
        self.connection: asyncssh.SSHClientConnection | None = None
        self.wants_keys = False
        self._alias = ""
        self._key_files: Sequence[Path] = ()
        self._offered: list[str] = []
        self._agent = ""

    @property
    def where(self) -> str:
        """The place that is connected to, in words."""
        place = f"[{self.place}]" if ":" in self.place else self.place
        via = f" (through {self.via})" if self.via else ""
        return f"{place}:{self.port}{via}"

    @property
    def in_key_exchange(self) -> bool:
        """Whether it was an SSH server that answered, and who it is was not settled yet."""
        connection = self.connection
        if connection is None or not connection.get_extra_info("server_version"):
            return False
        return connection.get_server_host_key() is None

    @property
    def known_name(self) -> str:
        """What the host is called in a file of known hosts."""
        name = self._alias or self.place
        return name if self.port == _SSH_PORT else f"[{name}]:{self.port}"

    @property
    def scan_command(self) -> str:
        """The command that makes the host known, whoever it is."""
        file = self.settings.known_hosts[0] if self.settings.known_hosts else _KNOWN_HOSTS[0]
        port = "" if self.port == _SSH_PORT else f"-p {self.port} "
        return f"ssh-keyscan {port}{self.place} >> {file}"

    @property
    def copy_target(self) -> str:
        """The arguments of ``ssh-copy-id``."""
        port = "" if self.port == _SSH_PORT else f"-p {self.port} "
        return f"{port}{self.user}@{self.place}" if self.user else f"{port}{self.place}"

    def problem(
        self, kind: str, what: str, *, answer: str = "", remedy: str = "", temporary: bool = False
    ) -> Problem:
        """Return a problem of this host."""
        return Problem(
            host=self.name.text,
            kind=kind,
            what=what,
            answer=answer,
            remedy=remedy,
            temporary=temporary,
        )

    async def open(self, tunnel: asyncssh.SSHClientConnection | None) -> Any:
        """Connect.

        Args:
            tunnel: The connection to the last jump host.

        Raises:
            HostError: It failed.
        """
        import asyncssh

        try:
            arguments = self._arguments()
            return await asyncssh.connect(
                self.name.name,
                tunnel=tunnel,  # peeked at before, with the configuration's
                client_factory=lambda: _Observer(self),
                **arguments,
            )
        except Exception as error:
            if isinstance(error, asyncssh.PermissionDenied):
                await self._ask_agent()
            raise HostError(of_connecting(self, error)) from error

    def _arguments(self) -> dict[str, Any]:
        """Return what asyncssh is to be given beside the configuration, which it reads itself."""
        chosen = self._choose()
        options = peek(self.name, self.settings)
        self.place = options.host or self.name.name
        self.port = options.port or _SSH_PORT
        self.user = options.username
        self._alias = options.host_key_alias or ""
        self.known_hosts_files = _known_hosts_files(options, self.settings)
        self._key_files = _key_files(options, self.settings)
        self._check_files("key", self.settings.key, "a file with a private key")
        self._check_files("known_hosts", self.settings.known_hosts, "a file as ~/.ssh/known_hosts")
        if options.config.get("Ciphers") is None:
            chosen["encryption_algs"] = _FAST_CIPHERS
        return {
            **chosen,
            "known_hosts": self._look_up,
            "ignore_encrypted": True,
            "password_auth": False,
            "kbdint_auth": False,
            "connect_timeout": self.settings.connect_seconds,
            "login_timeout": self.settings.connect_seconds,
            # Lost early enough for another one within the time.
            "keepalive_interval": max(0.5, self.settings.alive_seconds / 10),
            "keepalive_count_max": 4,
            "request_pty": False,
        }

    def _check_files(self, option: str, files: Sequence[str], kind: str) -> None:
        """See that files are there that were named outright; asyncssh would pass over some."""
        for file in files:
            if not Path(file).expanduser().is_file():
                what = f"there is no file {file}, which {option}= names"
                remedy = f"name {kind} with {option}=, or leave it out for the usual ones"
                raise HostError(self.problem("no-file", what, remedy=remedy))

    def _choose(self) -> dict[str, Any]:
        chosen = _explicit(self.name, self.settings)
        if self.settings.key:
            chosen["client_keys"] = [str(Path(key).expanduser()) for key in self.settings.key]
        return chosen

    def _look_up(self, host: str, address: str, port: int | None) -> Any:
        """Return who the host is known to be; asyncssh asks when it is connected."""
        import asyncssh

        self.connected = True
        found: Any = ((), (), (), (), (), (), ())
        if self.known_hosts_files:
            known = asyncssh.read_known_hosts([str(path) for path in self.known_hosts_files])
            found = known.match(host, address, port)
        self.is_known = bool(found[0] or found[1])
        return found

    async def _ask_agent(self) -> None:
        """Learn which keys there were, for the error."""
        import asyncssh

        path = os.environ.get("SSH_AUTH_SOCK", "")
        if not path:
            self._agent = "no agent runs (SSH_AUTH_SOCK is not set)"
            return
        try:
            async with asyncssh.connect_agent(path) as agent:
                keys = await agent.get_keys()
        except (OSError, ValueError, asyncssh.Error) as error:
            self._agent = f"the agent at {path} does not answer ({error})"
            return
        self._agent = f"the agent holds {len(keys) or 'no'} keys"
        self._offered = [f"{key.get_comment() or 'a key'} of the agent" for key in keys]

    def look_at_keys(self) -> Keys:
        """Return the keys that there were to log in with."""
        import asyncssh

        offered, encrypted = list(self._offered), []
        for path in self._key_files:
            try:
                asyncssh.read_private_key(str(path))
            except asyncssh.KeyImportError as error:
                if "passphrase" in str(error).lower():
                    encrypted.append(str(path))
            except (OSError, ValueError):
                continue
            else:
                offered.append(str(path))
        return Keys(offered=tuple(offered), encrypted=tuple(encrypted), agent=self._agent)


def peek(name: HostName, settings: ConnectSettings) -> asyncssh.SSHClientConnectionOptions:
    """Return what the user's SSH configuration says about a host; keys are not read."""
    import asyncssh

    said = {"config": (), **_explicit(name, settings)}  # by default none is read
    return asyncssh.SSHClientConnectionOptions(host=name.name, client_keys=None, **said)


def _explicit(name: HostName, settings: ConnectSettings) -> dict[str, Any]:
    """Return what was said beside the configuration, which it is stronger than."""
    said: dict[str, Any] = {}
    if user := name.user or settings.user:
        said["username"] = user
    if port := name.port or settings.port:
        said["port"] = port
    if settings.config is not None:
        said["config"] = [str(Path(settings.config).expanduser())]
    return said


def _known_hosts_files(options: Any, settings: ConnectSettings) -> list[Path]:
    if settings.known_hosts:
        files: Sequence[str] = settings.known_hosts
    else:
        own = options.config.get("UserKnownHostsFile", None)
        everybody = options.config.get("GlobalKnownHostsFile", None)
        files = [
            *(_KNOWN_HOSTS if own is None else own),
            *(_GLOBAL_KNOWN_HOSTS if everybody is None else everybody),
        ]
    paths = [Path(file).expanduser() for file in files]
    return [path for path in paths if path.is_file() or settings.known_hosts]


def _key_files(options: Any, settings: ConnectSettings) -> list[Path]:
    files = settings.key or options.config.get("IdentityFile", ())
    if not files:
        files = [os.path.join("~/.ssh", name) for name in _DEFAULT_KEYS]
    return [Path(file).expanduser() for file in files]


def _observer() -> type:
    import asyncssh

    class Observer(asyncssh.SSHClient):
        """Remembers what the error will have to say."""

        def __init__(self, attempt: Attempt) -> None:
            self._attempt = attempt

        def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
            self._attempt.connection = conn

        def validate_host_public_key(
            self, host: str, addr: str, port: int, key: asyncssh.SSHKey
        ) -> bool:
            del host, addr, port
            self._attempt.host_key = key
            return False

        def public_key_auth_requested(self) -> None:
            self._attempt.wants_keys = True

    return Observer


class _Observer:
    """Makes the client object, whose class can only be made once asyncssh is imported."""

    _made: type | None = None

    def __new__(cls, attempt: Attempt) -> Any:
        if cls._made is None:
            cls._made = _observer()
        return cls._made(attempt)
