"""An SSH server of one's own, on a free port of the loopback interface, with its own keys."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

SBIN = "/usr/sbin:/usr/local/sbin:/sbin"
START_SECONDS = 10.0
_homes: set[str] = set()  # of all servers there have been


def boots() -> list[psutil.Process]:
    """Return the boot files that run, fed by these servers."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any("bigmachine_boot" in word for word in process.info["cmdline"] or ()):
            with contextlib.suppress(psutil.Error):
                if process.environ().get("HOME") in _homes:
                    found.append(process)
    return found


def find_sshd() -> str | None:
    """Return the server's program, or None where OpenSSH's server is not installed."""
    return shutil.which("sshd", path=os.pathsep.join((os.environ.get("PATH", ""), SBIN)))


def install_sshd() -> bool:
    """Install OpenSSH's server where this is a run of CI that may; return whether it is there."""
    if os.environ.get("CI") != "true" or os.getuid() != 0 or not shutil.which("apt-get"):
        return False
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "openssh-server"]
    for command in (["apt-get", "update", "-qq"], install):
        subprocess.run(command, env=environ, check=False, stdout=subprocess.DEVNULL)
    return find_sshd() is not None


@dataclass
class Keys:
    """A user's key and a host's, and the files that say so."""

    directory: Path
    user_key: Path = field(init=False)
    host_key: Path = field(init=False)
    known_hosts: Path = field(init=False)

    def __post_init__(self) -> None:
        self.user_key = make_key(self.directory / "id")
        self.host_key = make_key(self.directory / "host_key")
        self.known_hosts = self.directory / "known_hosts"

    def know(self, port: int) -> None:
        """Have the host's key be known at a port."""
        public = Path(f"{self.host_key}.pub").read_text("utf-8")
        with self.known_hosts.open("a", encoding="utf-8") as file:
            file.write(f"[127.0.0.1]:{port} {public}")


@dataclass
class Server:
    """A server that runs.

    Attributes:
        port: Its port, on 127.0.0.1.
        keys: Its keys, and the user's.
        directory: Where its files are; ``home`` in it is the home of whoever logs in.
    """

    port: int
    keys: Keys
    directory: Path
    process: psutil.Popen

    @property
    def home(self) -> Path:
        return self.directory / "home"

    @property
    def name(self) -> str:
        """The host, as one writes it."""
        return f"{getpass.getuser()}@127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text("utf-8", "replace")

    def sessions(self) -> list[psutil.Process]:
        """The processes that serve connections."""
        found = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in found if "sshd" in child.name()]

    def kill_sessions(self) -> None:
        """Break all connections."""
        for session in self.sessions():
            with contextlib.suppress(psutil.NoSuchProcess):
                session.kill()

    def stop(self) -> None:
        """End the server and all connections, as a host does that goes down."""
        self.process.suspend()  # nobody connects meanwhile
        self.kill_sessions()
        self.process.kill()
        self.process.wait(START_SECONDS)


def make_key(path: Path, *, passphrase: str = "") -> Path:
    """Make a key pair."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", path.name, "-f", path]
    subprocess.run(command, check=True)
    return path


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def serving(directory: Path, *settings: str, keys: Keys | None = None) -> Iterator[Server]:
    """Run a server.

    Args:
        directory: For its files.
        settings: Lines of its configuration, stronger than the usual ones.
        keys: Another server's keys to use.
    """
    program = find_sshd()
    assert program is not None
    directory.mkdir(exist_ok=True)
    (directory / "home").mkdir()
    _homes.add(str(directory / "home"))
    keys = keys or Keys(directory)
    port = free_port()
    config = directory / "sshd_config"
    given = {line.split()[0] for line in settings}
    usual = [
        f"Port {port}",
        "ListenAddress 127.0.0.1",
        f"HostKey {keys.host_key}",
        f"AuthorizedKeysFile {keys.user_key}.pub",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "PermitRootLogin prohibit-password",
        "StrictModes no",
        "UsePAM no",
        "PidFile none",
        "PrintMotd no",
        "MaxStartups 100",
        f"SetEnv HOME={directory / 'home'}",
    ]
    lines = [*settings, *(line for line in usual if line.split()[0] not in given)]
    config.write_text("\n".join(lines) + "\n", "utf-8")
    keys.know(port)
    if os.getuid() == 0:  # what OpenSSH's privilege separation wants
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
    with (directory / "log").open("wb") as log:
        process = psutil.Popen(
            [program, "-D", "-e", "-f", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    server = Server(port=port, keys=keys, directory=directory, process=process)
    try:
        _wait_for(server)
        yield server
    finally:
        if process.poll() is None:
            server.stop()


def _wait_for(server: Server) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        assert server.process.poll() is None, server.log
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", server.port)):
            return
        time.sleep(0.01)
    raise AssertionError(f"the SSH server does not listen: {server.log}")
