"""A test host: a Debian with its own address, name, processes and SSH server, on this computer.

Its first process (``init.sh``) is in namespaces of its own, which end with it: killing it ends
every process of the host, and its mounts and its interface go, too. It differs from a computer
elsewhere in that its kernel and its processors are ours.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
import struct
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar, Final

import psutil

from . import warden
from .network import Ailment, Network, rate_limit, run

UP_SECONDS: Final = 20.0
"""How long a host may take until its SSH server answers."""

PLACES: Final = ("/tmp", "/home", "/root", "/var", "/run", "/opt", "/srv", "/etc", "/dev/shm")
"""Where a program may leave something."""

BEGUN_WITH: Final = ("/run/sshd", "/run/lock", "/run/mount")

CLOCK_FILE: Final = "etc/wrong-clock"

SSHD_CONFIG: Final = """\
HostKey /etc/ssh/ssh_host_ed25519_key
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UsePAM no
UseDNS no
PrintMotd no
PidFile none
MaxStartups 100
MaxSessions 100
Subsystem sftp internal-sftp
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HostOptions:
    """What is particular about a host.

    Attributes:
        disk: How much the host can write in all, as a tmpfs size.
        python: The folder of a Python of this computer that is the host's only python3; None for
            Debian's; an empty text for none at all.
        clock: How many seconds the host's clock is ahead.
        delay: Whether `LabHost.delay` is wanted: the host's packets then pass through a process.
        sshd: Lines before the others in the SSH server's configuration.
    """

    disk: str = "4g"
    python: str | None = None
    clock: float | None = None
    delay: bool = False
    sshd: str = ""


class LabHost:
    """One host. Made by `lab.Lab`, several at a time.

    Args:
        network: What it is connected to.
        name: Its hostname.
        root: The Debian root that it lays its own files over.
        files: A directory with files that are laid over the root; beside it is room for what the
            host needs on this computer.
        options: What is particular about it.
    """

    SCRIPT: ClassVar = "init.sh"

    def __init__(
        self, network: Network, name: str, *, root: Path, files: Path, options: HostOptions
    ) -> None:
        self.network = network
        self.name = name
        self.options = options
        self.interface, self.address = network.next_host()
        self.pid = 0
        self._area = files.with_name("area")
        self._area.mkdir()
        self._log = files.with_name("log")
        self._relay: subprocess.Popen[str] | None = None
        self._root, self._files = root, files
        self._unshare = self._start(root, files)

    def __repr__(self) -> str:
        state = "up" if self.is_up else "down"
        return f"LabHost({self.name!r}, {self.address}, {state})"

    # -- what is there ---------------------------------------------------------------------------

    @property
    def is_up(self) -> bool:
        """Whether it has processes."""
        return self._unshare.poll() is None

    @property
    def root(self) -> Path:
        """The host's root directory, as this computer sees it."""
        return Path(f"/proc/{self.pid}/root")

    def run(
        self, *command: str, user: str = "root", text: str | None = None, timeout: float = 30.0
    ) -> str:
        """Run a command on the host, not by the network, and return what it wrote."""
        done = self.try_run(*command, user=user, text=text, timeout=timeout)
        if done.returncode:
            raise RuntimeError(f"{self.name}: {' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def try_run(
        self, *command: str, user: str = "root", text: str | None = None, timeout: float = 30.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the host, and return what came of it."""
        home = "/root" if user == "root" else f"/home/{user}"
        environment = {
            "PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": home,
            "LANG": "C.UTF-8",
        }
        become = [] if user == "root" else ["setpriv", f"--reuid={user}", "--init-groups"]
        pid = self.first_process()
        enter = ["nsenter", f"--target={pid}", "--all", f"--wd=/proc/{pid}/root"]
        return subprocess.run(
            [*enter, *become, *command],
            input=text,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def processes(self) -> list[psutil.Process]:
        """Its processes, except the SSH server and what belongs to that."""
        own = _namespace(self.first_process())
        found = [each for each in psutil.process_iter() if _namespace(each.pid) == own]
        return [each for each in found if not _is_ssh(each)]

    def listening(self) -> set[int]:
        """The TCP ports on which something listens, but for the SSH server's."""
        tables = (Path(f"/proc/{self.first_process()}/net/{name}") for name in ("tcp", "tcp6"))
        text = "".join(table.read_text("ascii") for table in tables)
        rows = [line.split() for line in text.splitlines() if ": " in line]
        ports = {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A"}
        return ports - {22}

    def files(self) -> list[str]:
        """The files that were made or changed, and the directories made, since it began; sorted."""
        # By the time of the last change of status, which nobody can set back.
        found = self.run("find", *PLACES, "-cnewer", "/etc/born").splitlines()
        return sorted(path for path in found if not self._had_directory(path))

    def first_process(self) -> int:
        """The number, on this computer, of the process that is the first on the host."""
        return self.pid

    # -- what befalls it -------------------------------------------------------------------------

    def kill(self) -> None:
        """End it as a loss of power does: nothing says farewell to its peers."""
        if self.is_up:
            with contextlib.suppress(RuntimeError):
                run("ip", "link", "set", self.interface, "down")
            self._end()

    def crash(self) -> None:
        """End all its processes; its kernel closes their connections."""
        self._end()

    def end_ssh_connections(self) -> int:
        """Kill what serves the connections to its SSH server; return how many processes."""
        own = _namespace(self.first_process())
        found = [
            each
            for each in psutil.process_iter()
            if each.pid != self.first_process() and _namespace(each.pid) == own
        ]
        sessions = [each for each in found if each.name().startswith("sshd")]
        for session in sessions:
            with contextlib.suppress(psutil.NoSuchProcess):
                session.kill()
        return len(sessions)

    def link_down(self) -> None:
        """Pull the cable."""
        run("ip", "link", "set", self.interface, "down")

    def link_up(self) -> None:
        """Put the cable back."""
        run("ip", "link", "set", self.interface, "up")

    def part_from_driver(self) -> Ailment:
        """Lose all packets between it and the driver; `Network.heal` ends it."""
        return self._ail(Ailment(one=self.address, other=self.network.driver))

    def part_from(self, other: LabHost) -> Ailment:
        """Lose all packets between it and another host; `Network.heal` ends it."""
        return self._ail(Ailment(one=self.address, other=other.address))

    def lose(self, share: float) -> Ailment:
        """Lose this share (0 to 1) of all its packets, each way; `Network.heal` ends it."""
        return self._ail(Ailment(one=self.address, loss=share))

    def limit_bandwidth(self, bits_per_second: int) -> None:
        """Limit what it sends, and what it receives, to a rate each."""
        limit = rate_limit(bits_per_second)
        run("tc", "qdisc", "replace", "dev", self.interface, "root", *limit)
        tc = ["tc", "qdisc", "replace", "dev", "eth0", "root"]
        run("nsenter", f"--net=/proc/{self.pid}/ns/net", *tc, *limit)

    def delay(self, seconds: float, *, jitter: float = 0.0) -> None:
        """Delay each of its packets by so many seconds, each way.

        Raises:
            ValueError: The host was not made with ``delay=True``.
        """
        if self._relay is None or self._relay.stdin is None:
            raise ValueError("only a host made with delay=True can be delayed")
        self._relay.stdin.write(f"{seconds} {jitter}\n")
        self._relay.stdin.flush()
        assert self._relay.stdout is not None
        self._relay.stdout.readline()  # from now on

    def set_clock(self, ahead: float) -> None:
        """Put its clock so many seconds ahead, or back if it is negative.

        Raises:
            ValueError: The host was not made with a ``clock``.
        """
        if self.options.clock is None:
            raise ValueError("only a host made with clock=0.0 has a clock that can be changed")
        with self.root.joinpath(CLOCK_FILE).open("r+b") as file:
            file.write(struct.pack("d", ahead))

    def fill_disk(self, *, but: int = 0) -> None:
        """Write until no more than ``but`` bytes are free."""
        state = os.statvfs(self.root)
        spare = state.f_bavail * state.f_frsize - but
        with self.root.joinpath("filling").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, spare))

    def free_disk(self) -> None:
        """Undo `fill_disk`."""
        self.root.joinpath("filling").unlink()

    # -- its life --------------------------------------------------------------------------------

    def find_first_process(self) -> None:
        """Wait until its first process is there."""
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children")

        def look() -> bool:
            self.pid = int((children.read_text("ascii").split() or ["0"])[0])
            # Only the child's exec has made all of the namespaces.
            return (
                bool(self.pid) and Path(f"/proc/{self.pid}/comm").read_text() == f"{self.SCRIPT}\n"
            )

        self._wait_until(look)
        warden.note_process(self.network.directory, self.pid)

    def begin(self) -> None:
        """Tell it that its interface is there."""
        assert self._unshare.stdin is not None
        self._unshare.stdin.write(b"go\n")
        self._unshare.stdin.close()

    def wait_up(self) -> None:
        """Wait until its SSH server listens."""
        self._wait_until(lambda: "Server listening" in self.log())

    def log(self) -> str:
        """What its SSH server, and the script that led to it, have said."""
        return self._log.read_text("utf-8", "replace")

    def set_relay(self, relay: subprocess.Popen[str]) -> None:
        """Take over the process that its packets pass through."""
        self._relay = relay

    def _start(self, root: Path, files: Path) -> subprocess.Popen[bytes]:
        environment = {
            "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
            "AREA": str(self._area),
            "ROOT": str(root),
            "NAME": self.name,
            "ADDRESS": f"{self.address}/{self.network.prefix_bits}",
            "GATEWAY": self.network.driver,
            "DISK": self.options.disk,
            "FILES": str(files),
            **self._environment(),
        }
        script = str(Path(__file__).with_name(self.SCRIPT))
        namespaces = ["--pid", "--mount", "--uts", "--ipc", "--net"]
        with self._log.open("wb") as log:
            process = subprocess.Popen(
                ["unshare", "--fork", "--kill-child", *namespaces, script],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        warden.note_process(self.network.directory, process.pid)
        return process

    def _environment(self) -> Mapping[str, str]:
        return {"PYTHON": self.options.python or ""}

    def _had_directory(self, path: str) -> bool:
        below = (self._root, self._files)
        return path in BEGUN_WITH or any((each / path[1:]).is_dir() for each in below)

    def _end(self) -> None:
        for process in (self._unshare, self._relay):
            if process is not None:
                process.kill()
                process.wait()
                for pipe in (process.stdin, process.stdout):
                    if pipe is not None:
                        pipe.close()
                warden.forget_process(self.network.directory, process.pid)
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                descriptor = os.pidfd_open(self.pid)
                select.select([descriptor], [], [], UP_SECONDS)
                os.close(descriptor)
            warden.forget_process(self.network.directory, self.pid)

    def _ail(self, ailment: Ailment) -> Ailment:
        self.network.ail(ailment)
        return ailment

    def _wait_until(self, condition: Callable[[], bool], timeout: float = UP_SECONDS) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            if self._unshare.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} did not come up:\n{self.log()}")
            time.sleep(0.002)


def _namespace(pid: int) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return None


def _is_ssh(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.name().startswith("sshd") or process.name() in ("init.sh", "(sd-pam)")
    return True
