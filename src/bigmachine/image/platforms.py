"""Platforms: what a compiled distribution was made for, and whether it runs elsewhere.

Pure. A compiled wheel runs where the operating system, the processor's kind, the C library's kind
and Python's minor version are the same, and the C library is no older than the one it was built
against: that is what `PEP 600 <https://peps.python.org/pep-0600/>`_ promises of glibc, whose
version a wheel's tag states (``manylinux_2_28_x86_64``).
"""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

_SAME: Final = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}
_MANYLINUX: Final = re.compile(r"manylinux_(\d+)_(\d+)_(\w+)")
_LEGACY: Final = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """Where a program runs.

    Attributes:
        system: ``Linux`` or ``Darwin``, as `platform.system` says.
        machine: The processor's kind: ``x86_64``, ``aarch64`` and so on, one name for each.
        libc: The C library's kind: ``glibc``, ``musl``, or "" where there is no choice.
        libc_version: Its version; () where it does not matter or is not known.
        python: Python's minor version, as (3, 12).
    """

    system: str
    machine: str
    libc: str = ""
    libc_version: tuple[int, ...] = ()
    python: tuple[int, int]

    def __str__(self) -> str:
        version = ".".join(map(str, self.libc_version))
        libc = f", {self.libc} {version}".rstrip() if self.libc else ""
        return f"Python {self.python[0]}.{self.python[1]} on {self.system} {self.machine}{libc}"

    @classmethod
    def here(cls) -> Platform:
        """Return the platform of this process."""
        libc, version = platform.libc_ver()
        if sys.platform == "linux" and not libc:
            libc = "musl"  # which `platform` does not know
        return cls.of(
            system=platform.system(),
            machine=platform.machine(),
            libc=(libc, version),
            python=sys.version_info[:2],
        )

    @classmethod
    def of(
        cls, *, system: str, machine: str, libc: Iterable[str] = ("", ""), python: Iterable[int]
    ) -> Platform:
        """Return a platform from what a host says of itself.

        Args:
            system: As `platform.system` says.
            machine: As `platform.machine` says.
            libc: As `platform.libc_ver` says.
            python: Its version, two numbers or more.
        """
        kind, version = tuple(libc) or ("", "")
        major, minor, *_ = python
        machine = machine.lower()
        return cls(
            system=system,
            machine=_SAME.get(machine, machine),
            libc=kind if system == "Linux" else "",
            libc_version=_numbers(version) if system == "Linux" else (),
            python=(major, minor),
        )

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], python: Iterable[int]) -> Platform:
        """Return a platform from the ``platform`` of a boot file's or a manifest's facts."""
        libc = values.get("libc") or ("", "")
        return cls.of(system=values["system"], machine=values["machine"], libc=libc, python=python)

    def runs_what_is_made_for(self, other: Platform) -> bool:
        """Whether whatever was compiled on another platform runs on this one."""
        alike = (self.system, self.machine, self.libc, self.python) == (
            other.system,
            other.machine,
            other.libc,
            other.python,
        )
        return alike and (not other.libc_version or self.libc_version >= other.libc_version)

    def runs(self, tag: str) -> bool:
        """Whether a wheel with a tag, as ``cp311-cp311-manylinux_2_17_x86_64``, runs here.

        Compressed tags (``manylinux_2_17_x86_64.manylinux2014_x86_64``) are alternatives.
        """
        python, _, rest = tag.partition("-")
        abi, _, kinds = rest.partition("-")
        return self._runs_python(python, abi) and any(
            self._is_platform(kind) for kind in kinds.split(".")
        )

    @property
    def uv_name(self) -> str:
        """What ``uv pip install --python-platform`` calls it, "" where that has no name for it."""
        if self.system == "Darwin":
            return f"{self.machine}-apple-darwin"
        if self.system != "Linux":
            return ""
        if self.libc == "musl":
            return f"{self.machine}-unknown-linux-musl"
        if len(self.libc_version) >= 2:
            return f"{self.machine}-manylinux_{self.libc_version[0]}_{self.libc_version[1]}"
        return f"{self.machine}-unknown-linux-gnu"

    def _runs_python(self, python: str, abi: str) -> bool:
        major, minor = self.python
        own = {f"cp{major}{minor}", f"py{major}{minor}", f"py{major}"}
        if own & set(python.split(".")):
            return abi in ("none", "abi3") or f"cp{major}{minor}" in abi
        stable = re.fullmatch(r"cp3(\d+)", python)  # the stable ABI: built for this or an older one
        return abi == "abi3" and stable is not None and int(stable[1]) <= minor

    def _is_platform(self, kind: str) -> bool:
        if kind == "any":
            return True
        if self.system == "Darwin":
            machines = (self.machine, "universal2", "arm64" if self.machine == "aarch64" else "")
            return kind.startswith("macosx_") and any(kind.endswith(f"_{m}") for m in machines if m)
        if not kind.endswith(f"_{self.machine}"):
            return False
        if kind.startswith("musllinux_"):
            return self.libc == "musl"
        if kind.startswith("linux_"):
            return False  # built on some computer, for that one
        needed = _glibc_of(kind, self.machine)
        return self.libc == "glibc" and needed is not None and self.libc_version >= needed


def _glibc_of(kind: str, machine: str) -> tuple[int, int] | None:
    if match := _MANYLINUX.fullmatch(kind):
        return int(match[1]), int(match[2])
    return _LEGACY.get(kind.removesuffix(f"_{machine}"))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))[:2]
