"""Several hosts at once, with the keys and the files that lead a driver to them."""

from __future__ import annotations

import functools
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from . import roots, tools, warden
from .host import CLOCK_FILE, SSHD_CONFIG, HostOptions, LabHost
from .network import Network

WORKER: Final = 1000
"""The number of the user worker on every host."""

SHADOW: Final = ("usr/bin/python3", "usr/bin/python3.11", "usr/bin/python3.13")
"""Debian's interpreters, hidden on hosts that have another, or none."""


class Key:
    """An SSH key, in files and in words."""

    def __init__(self) -> None:
        key = ed25519.Ed25519PrivateKey.generate()
        self.private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
        self.public = key.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )

    def write(self, path: Path) -> Path:
        """Write both parts, as ``ssh-keygen`` does."""
        path.write_bytes(self.private)
        path.chmod(0o600)
        path.with_name(path.name + ".pub").write_bytes(self.public + b"\n")
        return path


class Lab:
    """A network and the hosts on it; a context manager that takes it all down in the end.

    Attributes:
        network: The network, with the driver's address.
        key: The private key's file that every host accepts, for root and for worker.
        known_hosts: A file with the keys of all hosts, by address.
        ssh_config: An SSH configuration with the hosts under their names.
    """

    def __init__(self) -> None:
        tools.install()
        self.network = Network()
        self.hosts: list[LabHost] = []
        directory = self.network.directory
        self._directory = directory / "hosts"
        self._key = Key()
        self.key = self._key.write(directory / "key")
        self.known_hosts = directory / "known_hosts"
        self.ssh_config = directory / "ssh_config"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def start(
        self,
        options: int | Sequence[HostOptions] = 1,
        *,
        root: roots.Root | None = None,
        user: str = "worker",
    ) -> list[LabHost]:
        """Start hosts and wait until they answer.

        Args:
            options: How many, or what is particular about each.
            root: What their root file systems are.
            user: Whom ``ssh_config`` names as the user.
        """
        made = roots.get(root or roots.bare())
        wanted = [HostOptions()] * options if isinstance(options, int) else options
        started = [self._start(made, each, user) for each in wanted]
        for host in started:
            host.find_first_process()
        plain = [host for host in started if not host.options.delay]
        self.network.connect((host.interface, host.pid) for host in plain)
        for host in started:
            if host.options.delay:
                host.set_relay(self._start_relay(host))
            host.begin()
        for host in started:
            host.wait_up()
        return started

    def target(self, host: LabHost, user: str = "worker") -> str:
        """How SSH names a host and its user."""
        return f"{user}@{host.address}"

    def ssh(
        self, host: LabHost, *command: str, user: str = "worker", timeout: float = 10.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command by SSH, as a driver would."""
        options = ["-oBatchMode=yes", f"-oConnectTimeout={int(timeout)}", "-oLogLevel=ERROR"]
        return subprocess.run(
            ["ssh", "-F", str(self.ssh_config), *options, self.target(host, user), *command],
            capture_output=True,
            text=True,
            check=False,
        )

    def end_hosts(self) -> None:
        """End all hosts; the network stays, healed, for others."""
        for host in self.hosts:
            host.kill()
        self.hosts.clear()
        shutil.rmtree(self._directory, ignore_errors=True)
        self.network.heal()
        self.known_hosts.write_bytes(b"")
        self.ssh_config.write_bytes(b"")

    def close(self) -> None:
        """End everything."""
        self.end_hosts()
        self.network.close()

    def _start(self, root: Path, options: HostOptions, user: str) -> LabHost:
        name = f"h{len(self.hosts) + 1}"
        key = Key()
        files = self._write_files(name, key, options)
        host = LabHost(self.network, name, root=root, files=files, options=options)
        self.hosts.append(host)
        with self.known_hosts.open("ab") as known:
            known.write(host.address.encode() + b" " + key.public + b"\n")
        with self.ssh_config.open("a") as config:
            config.write(
                f"Host {name} {host.address}\n  HostName {host.address}\n  User {user}\n"
                f"  IdentityFile {self.key}\n  IdentitiesOnly yes\n"
                f"  UserKnownHostsFile {self.known_hosts}\n"
            )
        return host

    def make_files(self, name: str) -> Path:
        """Make the directory for what is a host's own; beside it is room for more."""
        files = self._directory / name / "files"
        files.mkdir(parents=True)
        return files

    def _write_files(self, name: str, key: Key, options: HostOptions) -> Path:
        """Write what is the host's own, in a directory that is laid over its root."""
        files = self.make_files(name)
        for directory in ("etc/ssh", "usr/bin", "usr/local/bin", "usr/local/lib", "usr/lib"):
            files.joinpath(directory).mkdir(parents=True)
        key.write(files / "etc/ssh/ssh_host_ed25519_key")
        files.joinpath("etc/ssh/sshd_config").write_text(options.sshd + SSHD_CONFIG)
        files.joinpath("etc/hostname").write_text(f"{name}\n")
        files.joinpath("etc/hosts").write_text(f"127.0.0.1 localhost {name}\n")
        files.joinpath("etc/born").touch()
        for home, owner in (("root", 0), ("home/worker", WORKER)):
            keys = files / home / ".ssh"
            keys.mkdir(parents=True, mode=0o700)
            keys.joinpath("authorized_keys").write_bytes(self._key.public + b"\n")
            for path in (files / home, keys, keys / "authorized_keys"):
                os.chown(path, owner, owner)
                path.chmod(0o700 if path.is_dir() else 0o600)
        if options.python is not None:
            _put_python(files, options.python)
        if options.clock is not None:
            _put_clock(files, options.clock)
        return files

    def _start_relay(self, host: LabHost) -> subprocess.Popen[str]:
        command = [sys.executable, "-I", "-S", str(Path(__file__).with_name("relay.py"))]
        process = subprocess.Popen(
            [*command, host.interface, self.network.name, str(host.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        warden.note_process(self.network.directory, process.pid)
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"the relay of {host.name} did not start")
        return process


def _put_python(files: Path, python: str) -> None:
    """Hide Debian's Python, and put another in its place unless the text is empty."""
    for path in SHADOW:
        os.mknod(files / path, 0o000 | 0o020000, 0)  # how an overlay says that a file is not there
    if python:
        # Where the loader looks when the folder that the interpreter was made for is not there.
        for library in Path(python, "lib").glob("libpython*.so*"):
            files.joinpath("usr/lib", library.name).symlink_to(f"/opt/python/lib/{library.name}")
        files.joinpath("usr/local/bin/python3").symlink_to("/opt/python/bin/python3")


def _put_clock(files: Path, ahead: float) -> None:
    """Have every process of the host read a clock of its own."""
    library = files / "usr/local/lib/wrong-clock.so"
    shutil.copy(_clock_library(), library)
    files.joinpath("etc/ld.so.preload").write_text(f"/{library.relative_to(files)}\n")
    files.joinpath(CLOCK_FILE).write_bytes(struct.pack("d", ahead))


@functools.cache
def _clock_library() -> Path:
    """Compile the library that shifts the clock, once for all runs."""
    source = Path(__file__).with_name("clock.c")
    kept = roots.directory()
    kept.mkdir(parents=True, exist_ok=True)
    library = kept / f"wrong-clock-{source.stat().st_mtime_ns}.so"
    if not library.exists():
        making = library.with_suffix(f".{os.getpid()}")
        command = ["gcc", "-O1", "-Wall", "-shared", "-fPIC", "-o", str(making), str(source)]
        subprocess.run([*command, "-ldl", "-lm"], check=True)
        os.rename(making, library)
    return library
