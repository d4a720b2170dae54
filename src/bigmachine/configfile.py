"""Reads ``bigmachine.toml``: the profiles a project keeps, and where in the file each thing stands.

::

    default_profile = "laptop"

    [profiles.laptop]
    system = "local"

    [profiles.laptop.local]         # options of the system `local`, in this profile
    transport = "tls"

    [image]                         # what travels to hosts that are other computers
    data = ["measurements.csv"]
    exclude = ["results/"]
    cache_gib = 20

The file is looked for in the working directory, then upwards. What stands in it is checked for
shape here; what a system's options mean is that system's matter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bigmachine.errors import UsageError
from bigmachine.spelling import alternatives, closest

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "FILE_NAME",
    "ConfigFile",
    "ImageTable",
    "Profile",
    "find_config_file",
    "read_config_file",
]

FILE_NAME = "bigmachine.toml"

_TABLE = re.compile(r"\s*\[([^\[\]]+)\]\s*(?:#.*)?$")
_ENTRY = re.compile(r"\s*([^=#]+?)\s*=")


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One named profile: the system it chooses, if any, and options for each system it names."""

    name: str
    system: str | None
    options: Mapping[str, Mapping[str, Any]] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTable:
    """What travels to hosts that are other computers, and how much of it they keep.

    Attributes:
        base: The file's directory, from which paths and patterns are seen.
        data: Files and directories that machines need beside the program's own.
        exclude: What of the program's own directories they do not: patterns as in a ``.gitignore``.
        cache_bytes: How large the cache of a host may become; None: as large as it is by default.
    """

    base: str
    data: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    cache_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFile:
    """A ``bigmachine.toml`` that was read."""

    path: Path
    default_profile: str | None
    profiles: Mapping[str, Profile]
    image: ImageTable
    text: str = field(repr=False)

    def place(self, *keys: str) -> str:
        """Return where in the file a key stands, ``/path/bigmachine.toml:7``, for messages."""
        return _place(self.path, self.text, keys)


def find_config_file(directory: Path) -> Path | None:
    """Return the ``bigmachine.toml`` of a directory or the nearest one above it."""
    for candidate in (directory, *directory.parents):
        path = candidate / FILE_NAME
        if path.is_file():
            return path
    return None


def read_config_file(path: Path) -> ConfigFile:
    """Read a configuration file.

    Raises:
        UsageError: It cannot be read, is no TOML, or holds what no configuration holds.
    """
    import tomllib

    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text)
    except OSError as exc:
        raise UsageError(f"{path} cannot be read: {exc.strerror}") from exc
    except ValueError as exc:  # tomllib.TOMLDecodeError and UnicodeDecodeError
        raise UsageError(f"{path} is not TOML: {exc}") from exc
    check = _Check(path, text)
    check.top_level(content)
    check.names((), content, {"default_profile", "profiles", "image"})
    profiles = check.table(("profiles",), content.get("profiles", {}))
    return ConfigFile(
        path=path,
        default_profile=check.text(("default_profile",), content.get("default_profile")),
        profiles={name: _profile(check, name, entry) for name, entry in profiles.items()},
        image=_image(check, path.parent, content.get("image", {})),
        text=text,
    )


def _profile(check: _Check, name: str, entry: object) -> Profile:
    keys = ("profiles", name)
    table = check.table(keys, entry)
    tables = {key: value for key, value in table.items() if isinstance(value, dict)}
    place = f"options of a system stand below [profiles.{name}.{table.get('system', 'SYSTEM')}]"
    check.names(keys, table.keys() - tables.keys(), {"system"}, otherwise=place)
    system = check.text((*keys, "system"), table.get("system"))
    return Profile(name=name, system=system, options=tables)


def _image(check: _Check, base: Path, entry: object) -> ImageTable:
    table = check.table(("image",), entry)
    check.names(("image",), table, {"data", "exclude", "cache_gib"})
    data = check.texts(("image", "data"), table.get("data", []))
    gib = check.size(("image", "cache_gib"), table.get("cache_gib"))
    return ImageTable(
        base=str(base),
        data=tuple(str(base / Path(each).expanduser()) for each in data),
        exclude=check.texts(("image", "exclude"), table.get("exclude", [])),
        cache_bytes=None if gib is None else int(gib * (1 << 30)),
    )


class _Check:
    """Checks the shape of a file's content, and names the line of what is wrong with it."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._text = text

    def top_level(self, content: Mapping[str, object]) -> None:
        """Refuse at the file's top what belongs into a profile: a system, or its options."""
        if "system" in content:
            below = 'the system stands below [profiles.NAME], and here default_profile = "NAME"'
            raise self._error(("system",), f"a system is chosen by a profile: {below}")
        tables = (key for key, value in content.items() if isinstance(value, dict))
        for name in sorted(set(tables) - {"profiles", "image"}):
            from bigmachine.systems.registry import system_names

            if name in system_names():
                right = f'[profiles.NAME.{name}], with default_profile = "NAME" at the file\'s top'
                raise self._error((name,), f"options of a system stand in a profile: {right}")

    def names(
        self, keys: tuple[str, ...], found: Any, allowed: set[str], *, otherwise: str = ""
    ) -> None:
        """Refuse a key that means nothing: it is a misspelt one, or stands in the wrong place."""
        for name in sorted(set(found) - allowed):
            known = alternatives("there are", name, sorted(allowed))
            more = f"; {otherwise}" if otherwise and not closest(name, allowed) else ""
            raise self._error((*keys, name), f"there is no such setting; {known}{more}")

    def table(self, keys: tuple[str, ...], value: object) -> dict[str, Any]:
        """Return a value that has to be a table."""
        if not isinstance(value, dict):
            raise self._error(keys, f"a table is wanted here, not {value!r}")
        return value

    def text(self, keys: tuple[str, ...], value: object) -> str | None:
        """Return a value that has to be a string, if there is one."""
        if value is not None and not (isinstance(value, str) and value):
            raise self._error(keys, f"a name in quotes is wanted here, not {value!r}")
        return value

    def texts(self, keys: tuple[str, ...], value: object) -> tuple[str, ...]:
        """Return a value that has to be a list of strings."""
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise self._error(keys, f"a list of texts is wanted here, not {value!r}")
        return tuple(value)

    def size(self, keys: tuple[str, ...], value: object) -> float | None:
        """Return a value that has to be a number above 0, if there is one."""
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
            raise self._error(keys, f"a number above 0 is wanted here, not {value!r}")
        return value

    def _error(self, keys: tuple[str, ...], problem: str) -> UsageError:
        return UsageError(f"{_place(self._path, self._text, keys)}: {'.'.join(keys)}: {problem}")


def _place(path: Path, text: str, keys: tuple[str, ...]) -> str:
    """Return ``path:line`` of a key; of the nearest table around it where it is written inline.

    ``tomllib`` tells no lines, so this looks for the line itself. It may be off by a look-alike in
    a multi-line string: good enough for a message.
    """
    lines = _lines(text)
    for length in range(len(keys), 0, -1):
        if keys[:length] in lines:
            return f"{path}:{lines[keys[:length]]}"
    return str(path)


@lru_cache(maxsize=4)
def _lines(text: str) -> dict[tuple[str, ...], int]:
    """Return the line of each table's and entry's first mention, counted from 1."""
    lines: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _TABLE.match(line):
            table = _split(header[1])
            lines.setdefault(table, number)
        elif entry := _ENTRY.match(line):
            lines.setdefault((*table, *_split(entry[1])), number)
    return lines


def _split(dotted: str) -> tuple[str, ...]:
    """Split a TOML key, ``profiles."my own".local``, by TOML's own rules."""
    import tomllib

    keys: list[str] = []
    try:
        node: Any = tomllib.loads(f"{dotted} = 0")
    except tomllib.TOMLDecodeError:
        return (dotted,)
    while isinstance(node, dict) and node:
        key, node = next(iter(node.items()))
        keys.append(key)
    return tuple(keys)
