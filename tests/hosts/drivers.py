"""Programs that are run on test hosts: in environments of their own, with only the system changed.

An environment has bigmachine, as a wheel would install it, and what a test names, no more: its
image is what travels. What is not bigmachine's are hard links to the files of the environment that
the tests run in, so making one costs no time.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import sysconfig
import textwrap
import time
import venv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

import psutil
from packaging.requirements import Requirement

import bigmachine

from ..programs.driven import PRELUDE, Driven
from .host import LabHost
from .lab import Lab

ALWAYS: Final = ("asyncssh", "cloudpickle", "cryptography", "pathspec", "psutil", "zstandard")
"""What bigmachine needs here, as far as it is installed."""


class Environment:
    """A virtual environment that has a few distributions of this one.

    Args:
        directory: Where to make it.
        names: What is in it, with all that this requires, beside bigmachine.
    """

    def __init__(self, directory: Path, names: Iterable[str] = ()) -> None:
        self.directory = directory
        venv.create(directory, symlinks=True, with_pip=False)
        self.python = directory / "bin" / "python"
        folder = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        self.site_packages = directory / "lib" / folder / "site-packages"
        for name in _with_requirements([*ALWAYS, *names]):
            self._link(metadata.distribution(name))
        self._install_bigmachine()

    def install_editable(self, project: Path, name: str, script: str, target: str) -> None:
        """Install a project with its sources in ``src`` as ``pip install --editable`` does.

        Args:
            project: The project's directory.
            name: Its name, which is also its package's.
            script: The name of its console script.
            target: What that calls, ``module:function``.
        """
        info = self.site_packages / f"{name}-1.0.dist-info"
        info.mkdir()
        self.site_packages.joinpath(f"_{name}.pth").write_text(f"{project / 'src'}\n", "utf-8")
        files = {
            "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
            "entry_points.txt": f"[console_scripts]\n{script} = {target}\n",
            "direct_url.json": f'{{"url": "file://{project}", "dir_info": {{"editable": true}}}}',
            "INSTALLER": "pip\n",
            "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        for file, text in files.items():
            info.joinpath(file).write_text(text, "utf-8")
        _write_record(info, [f"_{name}.pth", f"../../../bin/{script}"])
        self.write_script(script, target)

    def write_script(self, script: str, target: str) -> None:
        """Write a console script."""
        module, _, function = target.partition(":")
        path = self.directory / "bin" / script
        path.write_text(
            f"#!{self.python}\nimport sys\nfrom {module} import {function}\n"
            f"if __name__ == '__main__':\n    sys.exit({function}())\n",
            "utf-8",
        )
        path.chmod(0o755)

    def _install_bigmachine(self) -> None:
        """Install a copy: the sources may change while tests run."""
        source = Path(bigmachine.__file__).parent
        package = self.site_packages / "bigmachine"
        ignored = shutil.ignore_patterns("__pycache__", ".*")
        shutil.copytree(source, package, ignore=ignored)
        installed = metadata.distribution("bigmachine")
        info = self.site_packages / f"bigmachine-{installed.version}.dist-info"
        info.mkdir()
        for file in ("METADATA", "entry_points.txt", "WHEEL", "INSTALLER"):
            info.joinpath(file).write_text(installed.read_text(file) or "", "utf-8")
        files = (path for path in sorted(package.rglob("*")) if path.is_file())
        names = [path.relative_to(self.site_packages).as_posix() for path in files]
        _write_record(info, [*names, "../../../bin/bigmachine"])
        self.write_script("bigmachine", "bigmachine.cli:main")

    def _link(self, distribution: metadata.Distribution) -> None:
        """Have the files of a distribution here, too."""
        here = Path(sysconfig.get_path("purelib"))
        for file in distribution.files or ():
            source = Path(str(distribution.locate_file(file)))
            if not source.is_relative_to(here) or not source.is_file():
                continue  # scripts: their first line says where they are
            target = self.site_packages / source.relative_to(here)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source, target)
            except OSError:  # another file system
                target.write_bytes(source.read_bytes())


def _write_record(info: Path, names: Iterable[str]) -> None:
    """Say what an installed distribution consists of, beside its own metadata."""
    own = [f"{info.name}/{path.name}" for path in info.iterdir()] + [f"{info.name}/RECORD"]
    info.joinpath("RECORD").write_text("".join(f"{each},,\n" for each in [*names, *own]), "utf-8")


def _with_requirements(names: Iterable[str]) -> list[str]:
    """These distributions and all that they require, as far as that is installed."""
    found: dict[str, None] = {}
    todo = [Requirement(name) for name in names]
    while todo:
        wanted = todo.pop()
        key = re.sub(r"[-_.]+", "-", wanted.name).lower()
        if key in found:
            continue
        found[key] = None
        with contextlib.suppress(metadata.PackageNotFoundError):
            for text in metadata.requires(key) or ():
                requirement = Requirement(text)
                extras = ["", *wanted.extras]
                marker = requirement.marker
                if marker is None or any(marker.evaluate({"extra": each}) for each in extras):
                    todo.append(requirement)
    return [name for name in found if _is_installed(name)]


def _is_installed(name: str) -> bool:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return bool(metadata.distribution(name))
    return False


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a program."""

    stdout: str
    stderr: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Drivers:
    """Runs programs on a lab's hosts.

    Attributes:
        lab: The hosts' network.
        environment: What the programs run in.
        directory: Where sources are written to, and programs run.
    """

    lab: Lab
    environment: Environment
    directory: Path

    def settings(self, hosts: Sequence[LabHost], **options: object) -> dict[str, str]:
        """The environment's variables that choose these hosts."""
        given = {
            "hosts": ",".join(host.name for host in hosts),
            "config": self.lab.ssh_config,
            "known_hosts": self.lab.known_hosts,
            **options,
        }
        named = {f"BIGMACHINE_SSH_{name.upper()}": str(value) for name, value in given.items()}
        home = self.directory / "home"
        home.mkdir(exist_ok=True)
        return {
            "BIGMACHINE_SYSTEM": "ssh",
            "HOME": str(home),
            "XDG_CACHE_HOME": str(self.directory / "cache"),
            "XDG_RUNTIME_DIR": str(self.runtime()),
            **named,
        }

    def runtime(self) -> Path:
        """Where the driver keeps its sockets."""
        runtime = self.directory / "run"
        runtime.mkdir(mode=0o700, exist_ok=True)
        return runtime

    def write(self, source: str, name: str = "program.py") -> Path:
        """Write a program, after the prelude of driven programs."""
        path = self.directory / "program" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(PRELUDE + textwrap.dedent(source), "utf-8")
        return path

    @contextlib.contextmanager
    def driven(
        self,
        program: str | Path,
        hosts: Sequence[LabHost],
        *args: str,
        env: Mapping[str, str] | None = None,
        **options: object,
    ) -> Iterator[Driven]:
        """Run a program, a path or a source, that the test speaks with."""
        path = program if isinstance(program, Path) else self.write(program)
        command = [str(self.environment.python), str(path), *args]
        changed = {**self.settings(hosts, **options), **(env or {})}
        driver = Driven(command, path.parent, changed)
        try:
            yield driver
        finally:
            driver.end()

    def run(
        self,
        program: str | Path,
        hosts: Sequence[LabHost],
        *args: str,
        env: Mapping[str, str] | None = None,
        timeout: float = 60.0,
        code: int = 0,
        **options: object,
    ) -> Result:
        """Run a program to its end, and check its exit code."""
        began = time.perf_counter()
        with self.driven(program, hosts, *args, env=env, **options) as driver:
            assert driver.wait(timeout) == code, driver.shown()
            seconds = time.perf_counter() - began
            driver.assert_gone(5.0)
        return Result(driver.stdout, driver.stderr, seconds)


def left_on(host: LabHost, *, ports: bool = True) -> list[str]:
    """What bigmachine has left on a host: processes, ports and files, but for its cache."""
    cache = "/home/worker/.cache"
    passing = tuple(f"{cache}/bigmachine/{name}/" for name in ("clusters", "tmp"))
    processes = [" ".join(_cmdline(each))[:200] for each in host.processes()]
    files = [path for path in host.files() if not path.startswith(cache)]
    files += [path for path in host.files() if path.startswith(passing)]
    listening = [f"port {port}" for port in host.listening()] if ports else []
    return [each for each in processes if each] + listening + files


def assert_clean(hosts: Sequence[LabHost], timeout: float, *, ports: bool = True) -> None:
    """Wait until nothing is left on hosts, at most for some seconds."""
    deadline = time.monotonic() + timeout
    while True:
        found = {host.name: left_on(host, ports=ports) for host in hosts if host.is_up}
        left = {name: what for name, what in found.items() if what}
        if not left:
            return
        assert time.monotonic() < deadline, f"left after {timeout} s: {left}"
        time.sleep(0.05)


def _cmdline(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.cmdline() or [process.name()]
    return []


def traffic(lab: Lab) -> tuple[int, int]:
    """How many bytes the driver has received and sent, since the network is there."""
    return traffic_of(lab.network.name)


def traffic_of(interface: str) -> tuple[int, int]:
    """How many bytes have come in and gone out by an interface of this computer."""
    folder = Path("/sys/class/net") / interface / "statistics"
    received, sent = ((folder / f"{kind}_bytes").read_text() for kind in ("rx", "tx"))
    return int(received), int(sent)
