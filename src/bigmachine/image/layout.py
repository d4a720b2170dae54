"""Where an environment has its things, and which of them a program finds.

An environment may have several directories of the kind of ``site-packages``: its own, the user's,
the system's. In an image they are one, so what an earlier one hides from ``import`` must not get
there from a later one.
"""

from __future__ import annotations

import os
import posixpath
import re
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.machinery import EXTENSION_SUFFIXES
from typing import Final

SITE: Final = f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
"""Where an image has its distributions, relative to its root."""

_MODULES: Final = (".py", *EXTENSION_SUFFIXES)
_SITE: Final = re.compile(r"(.+)/lib(?:64)?/python3(?:\.\d+)?/(?:site|dist)-packages")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where this environment has its things.

    Attributes:
        sites: The directories that are ``site-packages`` of some kind, in the order of
            ``sys.path``.
        prefixes: The environment's own root, and those that it builds upon.
        stdlib: The directories of the standard library.
    """

    sites: tuple[str, ...]
    prefixes: tuple[str, ...]
    stdlib: tuple[str, ...]
    _hiding: dict[str, bool] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def here(cls, sys_path: Iterable[str]) -> Layout:
        """Return this process's.

        Args:
            sys_path: The program's ``sys.path``.
        """
        import site

        paths = sysconfig.get_paths()
        base = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}
        stdlib = {
            real(sysconfig.get_path(name, vars=variables))
            for name in ("stdlib", "platstdlib")
            for variables in ({}, {**base, "installed_base": sys.base_prefix})
        }
        stdlib |= {posixpath.join(each, "lib-dynload") for each in set(stdlib)}
        known = {real(paths["purelib"]), real(paths["platlib"]), real(site.getusersitepackages())}
        known |= set(map(real, site.getsitepackages()))
        names = ("site-packages", "dist-packages")
        sites = [
            each
            for each in dict.fromkeys(map(real, sys_path))
            if (each in known or posixpath.basename(each) in names) and os.path.isdir(each)
        ]
        own = map(real, (sys.prefix, sys.exec_prefix, sys.base_prefix, site.getuserbase()))
        theirs = (match[1] for match in map(_SITE.fullmatch, sites) if match)
        prefixes = dict.fromkeys((*own, *theirs))
        return cls(sites=tuple(sites), prefixes=tuple(prefixes), stdlib=tuple(stdlib))

    @property
    def scripts(self) -> tuple[str, ...]:
        """The directories where installers put commands."""
        return tuple(f"{prefix}/bin" for prefix in self.prefixes)

    def place(self, path: str) -> str | None:
        """Return where an installed file is in an image; None: nowhere.

        Args:
            path: The file, absolute and normalised.
        """
        for directory in self.sites:
            if path.startswith(directory + "/"):
                return f"{SITE}/{path[len(directory) + 1 :]}"
        for prefix in self.prefixes:
            if path.startswith(prefix + "/"):
                return path[len(prefix) + 1 :]
        return None

    def is_hidden(self, path: str) -> bool:
        """Whether an earlier directory of ``sys.path`` has a module or a package in its stead.

        Args:
            path: The file, absolute and normalised.
        """
        for number, directory in enumerate(self.sites):
            if path.startswith(directory + "/"):
                return number > 0 and self._is_hidden(path[len(directory) + 1 :], number)
        return False

    def _is_hidden(self, name: str, number: int) -> bool:
        """Say so of a path relative to the directory with a number."""
        key = f"{number} {name}"
        known = self._hiding.get(key)
        if known is None:
            above = posixpath.dirname(name)
            known = self._hiding[key] = bool(above and self._is_hidden(above, number)) or any(
                _has_in_its_stead(directory, name) for directory in self.sites[:number]
            )
        return known

    def state(self, path: str) -> str:
        """Return a text that changes when more or less of a directory may be hidden."""
        number = next((n for n, each in enumerate(self.sites) if path.startswith(each + "/")), 0)
        return " ".join(str(os.stat(each).st_mtime_ns) for each in self.sites[:number])

    def is_stdlib(self, path: str) -> bool:
        """Whether a directory or archive of ``sys.path`` is the standard library's."""
        name = posixpath.basename(path)
        return path in self.stdlib or re.fullmatch(r"python3\d+\.zip", name) is not None


def real(path: str) -> str:
    """Return a path without links, as all are compared here."""
    return os.path.realpath(path)


def _has_in_its_stead(directory: str, name: str) -> bool:
    """Whether a directory of ``sys.path`` has what Python finds rather than a later one's."""
    here = os.path.join(directory, name)
    if name.endswith(_MODULES):
        stem = here[: -len(posixpath.basename(name))] + posixpath.basename(name).partition(".")[0]
        return _is_module(stem)
    return os.path.isfile(here) or _is_module(here)


def _is_module(stem: str) -> bool:
    """Whether a package or a module is there: a namespace's directory is neither."""
    return any(os.path.exists(stem + suffix) for suffix in ("/__init__.py", *_MODULES))
