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
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from typing import Final

from bigmachine.image.files import Source
from bigmachine.image.layout import SITE, Layout, real
from bigmachine.image.sources import compiled_beside

_METADATA: Final = (".dist-info", ".egg-info")
_NAME: Final = re.compile(r"^name:(.+)$", re.IGNORECASE | re.MULTILINE)
_NOT_OURS: Final = frozenset({"sitecustomize.py", "usercustomize.py"})
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
        problems: What of it cannot travel, and why.
    """

    name: str
    version: str
    tags: tuple[str, ...] = ()
    sources: dict[str, Source] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Installed:
    """What is installed under some name.

    Attributes:
        name: The name.
        path: The directory of its metadata.
        found: What reads the rest.
    """

    name: str
    path: str
    found: importlib.metadata.Distribution


def installed(layout: Layout) -> tuple[list[Installed], set[str]]:
    """Find the distributions that the program finds: each name once, the first on the path.

    Returns:
        Them, and the metadata of those that they hide.
    """
    shown: dict[str, Installed] = {}
    hidden: set[str] = set()
    for found in importlib.metadata.distributions(path=list(layout.sites)):
        text = found.read_text("METADATA") or found.read_text("PKG-INFO") or found.read_text("")
        match = _NAME.search((text or "").partition("\n\n")[0])
        if match is None:
            continue
        path = str(getattr(found, "_path", ""))
        name = match[1].strip()
        key = re.sub(r"[-_.]+", "-", name).lower()
        if shown.setdefault(key, Installed(name, path, found)).path != path:
            hidden.add(path)
    return list(shown.values()), hidden


def describe(each: Installed, layout: Layout) -> Distribution | None:
    """Say which files a distribution has; None when nothing says so.

    Args:
        each: The distribution.
        layout: Where this environment has its things.
    """
    found = each.found
    names = _recorded(found)
    if names is None:
        return None
    described = Distribution(name=each.name, version=found.version, tags=_tags(found))
    base = str(found.locate_file(""))
    directories: dict[str, str] = {}
    missing: list[str] = []
    for name in names:
        directory, _, file = os.path.normpath(os.path.join(base, name)).rpartition("/")
        if directory not in directories:
            directories[directory] = real(directory)
        _take(described, f"{directories[directory]}/{file}", layout, missing)
    if missing:
        some = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        described.problems.append((each.path, f"files of it are not there: {some}"))
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


def _take(described: Distribution, path: str, layout: Layout, missing: list[str]) -> None:
    if "/__pycache__/" in path or layout.is_hidden(path):
        return  # what is valid of compiled modules comes with theirs
    place = layout.place(path)
    if place is None:
        described.problems.append(
            (path, f"it is outside of the environment, but {described.name}'s")
        )
    elif os.path.islink(path) and (target := _link(path, place, layout)):
        described.links[place] = target
    elif os.path.isfile(path):
        _add_file(described, place, path)
    elif not os.path.isdir(path):
        missing.append(path)


def _link(path: str, place: str, layout: Layout) -> str:
    """Return a link's target if it leads to the same file in an image, else ""."""
    target = os.readlink(path)
    meant = layout.place(os.path.normpath(os.path.join(os.path.dirname(path), target)))
    there = posixpath.normpath(posixpath.join(posixpath.dirname(place), target))
    return target if not os.path.isabs(target) and meant == there else ""


def _add_file(described: Distribution, place: str, path: str) -> None:
    if os.access(path, os.R_OK):
        described.sources.update(with_compiled(place, path))
    else:
        described.problems.append((path, "it cannot be read: permission denied"))


def with_compiled(place: str, path: str) -> dict[str, Source]:
    """Return a file, and with a module what was compiled of it, by their places."""
    found = {place: Source(path)}
    if path.endswith(".py"):
        directory = posixpath.dirname(place)
        for name, compiled in compiled_beside(path):
            found[posixpath.join(directory, name)] = compiled
    return found


def unowned(layout: Layout, owned: Container[str], hidden: Container[str]) -> Distribution:
    """Return what lies in ``site-packages`` and belongs to no distribution that says so.

    Args:
        layout: Where this environment has its things.
        owned: What belongs to others, by place in the image.
        hidden: Metadata of distributions that others hide.
    """
    rest = Distribution(name="site-packages", version="")
    for directory in layout.sites:
        pending = [(directory, SITE)]
        while pending:
            parent, inside = pending.pop()
            with os.scandir(parent) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
            for entry in found:
                if inside == SITE and _is_no_part(entry, rest, owned, hidden):
                    continue
                place = f"{inside}/{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    if entry.name != "__pycache__":
                        pending.append((entry.path, place))
                elif place not in owned and place not in rest.sources:
                    _take_unowned(rest, entry.path, place, layout)
    return rest


def _is_no_part(
    entry: os.DirEntry[str], rest: Distribution, owned: Container[str], hidden: Container[str]
) -> bool:
    if entry.name in _NOT_OURS:
        rest.problems.append((entry.path, "it belongs to this computer's Python"))
        return True
    if entry.name.endswith(_METADATA) and any(
        f"{SITE}/{entry.name}/{name}" in owned for name in ("METADATA", "PKG-INFO")
    ):
        return True  # what its installer has not noted down says where it came from, and the like
    return _PIPS.fullmatch(entry.name) is not None or entry.path in hidden


def _take_unowned(rest: Distribution, path: str, place: str, layout: Layout) -> None:
    if layout.is_hidden(path) or (path.endswith(".pyc") and os.path.exists(path[:-1])):
        return
    if os.path.islink(path) and (target := _link(path, place, layout)):
        rest.links[place] = target
    elif os.path.isfile(path):
        _add_file(rest, place, path)
    elif os.path.islink(path):
        rest.problems.append((path, f"a link to {real(path)}"))


def of_conda(prefix: str, layout: Layout, owned: Container[str]) -> Iterator[Distribution]:
    """Yield conda's packages, as far as no distribution has their files: libraries, above all.

    Args:
        prefix: The environment.
        layout: Where this environment has its things.
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
            if place in owned or "/__pycache__/" in place:
                continue
            if os.path.islink(path) and (target := _link(path, place, layout)):
                package.links[place] = target
            elif os.path.isfile(path):
                _add_file(package, place, path)
        yield package


def _tags(found: importlib.metadata.Distribution) -> tuple[str, ...]:
    lines = (found.read_text("WHEEL") or "").splitlines()
    pairs = (line.partition(":") for line in lines)
    return tuple(value.strip() for key, _, value in pairs if key.strip().lower() == "tag")
