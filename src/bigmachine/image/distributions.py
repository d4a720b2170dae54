"""What is installed: the distributions of the running environment, and which files are theirs.

What an installer has written down (``RECORD``) says which files a distribution has: its modules,
its scripts, its data beside them. Some have no record (Debian's packages, or what was copied by
hand): their files are those of ``site-packages`` that nobody else has, one layer together.

A distribution installed as *editable* has its metadata there and its modules elsewhere, behind a
``.pth`` file or an import hook; see `bigmachine.image.editable`.
"""

from __future__ import annotations

import csv
import importlib.metadata
import json
import os
import posixpath
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from bigmachine.image.files import Source
from bigmachine.image.sources import compiled_beside

SITE: Final = f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
"""Where an image has its distributions, relative to its root."""

_METADATA: Final = (".dist-info", ".egg-info")
_NOT_OURS: Final = frozenset({"__pycache__", "sitecustomize.py", "usercustomize.py"})
_PIPS: Final = re.compile(r"[~-].*")  # what pip has left of a removal that failed


@dataclass(slots=True, kw_only=True)
class Distribution:
    """An installed distribution.

    Attributes:
        name: As its metadata has it.
        version: Likewise.
        tags: Its wheel's tags; () when no wheel was installed.
        sources: Its files, by path in the image.
        links: Its symbolic links, likewise.
        missing: Files that it should have and has not.
    """

    name: str
    version: str
    tags: tuple[str, ...] = ()
    sources: dict[str, Source] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


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
        prefixes = dict.fromkeys(
            map(real, (sys.prefix, sys.exec_prefix, sys.base_prefix, site.getuserbase()))
        )
        return cls(sites=tuple(sites), prefixes=tuple(prefixes), stdlib=tuple(stdlib))

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

    def is_stdlib(self, path: str) -> bool:
        """Whether a directory or archive of ``sys.path`` is the standard library's."""
        name = posixpath.basename(path)
        return path in self.stdlib or re.fullmatch(r"python3\d+\.zip", name) is not None


def real(path: str) -> str:
    """Return a path without links, as all are compared here."""
    return os.path.realpath(path)


def installed(layout: Layout) -> Iterator[importlib.metadata.Distribution]:
    """Yield the distributions that the program finds, each name once, the first on the path."""
    seen: set[str] = set()
    for found in importlib.metadata.distributions(path=list(layout.sites)):
        name = found.metadata["Name"] if found.metadata else None
        if not name:
            continue
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key not in seen:
            seen.add(key)
            yield found


def describe(found: importlib.metadata.Distribution, layout: Layout) -> Distribution | None:
    """Say which files a distribution has; None when nothing says so.

    Args:
        found: The distribution.
        layout: Where this environment has its things.
    """
    names = _recorded(found)
    if names is None:
        return None
    described = Distribution(name=found.metadata["Name"], version=found.version, tags=_tags(found))
    base = str(found.locate_file(""))
    directories: dict[str, str] = {}
    for name in names:
        directory, _, file = os.path.normpath(os.path.join(base, name)).rpartition("/")
        if directory not in directories:
            directories[directory] = real(directory)
        _take(described, f"{directories[directory]}/{file}", layout)
    return described


def _recorded(found: importlib.metadata.Distribution) -> list[str] | None:
    """Return the files that an installer has noted down, relative to ``site-packages``."""
    record = found.read_text("RECORD")
    if record is not None:
        return [row[0] for row in csv.reader(record.splitlines()) if row]
    listed = found.read_text("installed-files.txt")
    if listed is None:
        return None
    own = os.path.basename(str(getattr(found, "_path", "")))
    return [posixpath.join(own, line) for line in listed.splitlines() if line]


def _take(described: Distribution, path: str, layout: Layout) -> None:
    if path.endswith((".pyc", ".pyo")):
        return  # what is valid of them comes with its module
    place = layout.place(path)
    if place is None:
        return
    if os.path.islink(path) and not os.path.isabs(os.readlink(path)):
        described.links[place] = os.readlink(path)
    elif os.path.isfile(path):
        described.sources.update(with_compiled(place, path))
    elif not os.path.isdir(path):
        described.missing.append(path)


def with_compiled(place: str, path: str) -> dict[str, Source]:
    """Return a file, and with a module what was compiled of it, by their places."""
    found = {place: Source(path)}
    if path.endswith(".py"):
        directory = posixpath.dirname(place)
        for name, compiled in compiled_beside(path):
            found[posixpath.join(directory, name)] = compiled
    return found


def unowned(layout: Layout, owned: Mapping[str, object]) -> Distribution:
    """Return what lies in ``site-packages`` and belongs to no distribution that says so.

    Args:
        layout: Where this environment has its things.
        owned: What belongs to others, by place in the image.
    """
    rest = Distribution(name="site-packages", version="")
    tops = {place.split("/", 4)[3] for place in owned if place.startswith(SITE)}
    for directory in layout.sites:
        with os.scandir(directory) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            place = f"{SITE}/{entry.name}"
            if entry.name in _NOT_OURS or _PIPS.fullmatch(entry.name) or place in rest.sources:
                continue
            if entry.is_file():
                if place not in owned:
                    rest.sources.update(with_compiled(place, entry.path))
            elif entry.is_dir() and not (entry.name in tops and entry.name.endswith(_METADATA)):
                _take_tree(rest, entry.path, place, owned)
    return rest


def _take_tree(rest: Distribution, root: str, place: str, owned: Mapping[str, object]) -> None:
    """Take what of a directory nobody owns: a package of its own, or a part of a namespace."""
    for directory, below, files in os.walk(root):
        below[:] = sorted(name for name in below if name != "__pycache__")
        inside = posixpath.normpath(posixpath.join(place, os.path.relpath(directory, root)))
        for name in files:
            where = posixpath.join(inside, name)
            if where not in owned and where not in rest.sources and not name.endswith(".pyc"):
                path = os.path.join(directory, name)
                if os.path.isfile(path):
                    rest.sources.update(with_compiled(where, path))


def of_conda(prefix: str, owned: Mapping[str, object]) -> Iterator[Distribution]:
    """Yield conda's packages, as far as no distribution has their files: libraries, above all.

    Args:
        prefix: The environment.
        owned: What belongs to distributions, by place in the image.
    """
    directory = os.path.join(prefix, "conda-meta")
    for name in sorted(os.listdir(directory) if os.path.isdir(directory) else ()):
        if not name.endswith(".json"):
            continue
        with open(os.path.join(directory, name), encoding="utf-8") as file:
            values = json.load(file)
        if values["name"] == "python":
            continue  # the host's own, or the one that is shipped
        package = Distribution(name=f"conda:{values['name']}", version=str(values["version"]))
        for place in values.get("files", ()):
            path = os.path.join(prefix, place)
            if place in owned or place.endswith(".pyc"):
                continue
            if os.path.islink(path) and not os.path.isabs(os.readlink(path)):
                package.links[place] = os.readlink(path)
            elif os.path.isfile(path):
                package.sources.update(with_compiled(place, path))
            else:
                package.missing.append(path)
        yield package


def _tags(found: importlib.metadata.Distribution) -> tuple[str, ...]:
    lines = (found.read_text("WHEEL") or "").splitlines()
    pairs = (line.partition(":") for line in lines)
    return tuple(value.strip() for key, _, value in pairs if key.strip().lower() == "tag")
