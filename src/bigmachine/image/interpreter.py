"""The driver's own interpreter, as a layer: for hosts that have none of its version.

It is the *base* interpreter, below any virtual environment: its program, the standard library
without its tests, and the shared libraries that they need beside the C library's own. It is made
relocatable on the way: the program is told to look for libraries beside itself before anywhere
else, and whatever it loads later is looked for there, too (`image.elf`). It runs on hosts of the
same system, processor and C library, if theirs is no older than the one here; the boot file tries
it before it is used.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator
from functools import cache
from typing import Final

from bigmachine.errors import UsageError
from bigmachine.image import elf
from bigmachine.image.files import FileLayer, Source, make_layer
from bigmachine.image.platforms import Platform

_LEFT_OUT: Final = frozenset(
    {
        "__pycache__",
        "dist-packages",
        "ensurepip",
        "idle_test",
        "idlelib",
        "site-packages",
        "test",
        "tests",
        "tkinter",
        "turtledemo",
    }
)
_LEFT_OUT_FILES: Final = re.compile(
    r"config-\d.*|_tkinter\..*|_test.*|_ctypes_test\..*|xxlimited.*"
)
_OF_LIBC: Final = re.compile(
    r"(ld-linux|ld-musl|libc\.|libm\.|libpthread\.|libdl\.|librt\.|libutil\.|libresolv\."
    r"|libnss_|libanl\.|libBrokenLocale\.|libthread_db\.|linux-vdso).*"
)
_LIBRARIES: Final = "lib"  # where shared libraries are in the layer
_making: Final = threading.Lock()
_PLACES: Final = ("/lib", "/usr/lib", "/usr/local/lib", "/lib64", "/usr/lib64")


def interpreter_for(platform: Platform) -> FileLayer:
    """Return the layer for hosts of some kind; blocks, about a second at the first call.

    Args:
        platform: What kind of host, with the Python that is wanted there.

    Raises:
        UsageError: This interpreter does not run there; the text says why.
        OSError: A file of it cannot be read.
    """
    here = Platform.here()
    if not platform.runs_what_is_made_for(here):
        raise UsageError(
            f"it has no Python {platform.python[0]}.{platform.python[1]}, and the driver's own "
            f"({here}) does not run there ({platform})"
        )
    with _making:  # hosts come up at the same time
        return interpreter_layer()


@cache
def interpreter_layer() -> FileLayer:
    """Return the layer; it has ``bin/pythonX.Y`` in it. Takes about a second at the first call.

    Raises:
        UsageError: This interpreter cannot be used on another computer; the text says why.
        OSError: A file of it cannot be read.
    """
    version = "{}.{}".format(*sys.version_info)
    executable = os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)
    standard = sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix})
    inside = os.path.relpath(standard, sys.base_prefix)
    if sys.platform != "linux" or sys.implementation.name != "cpython" or inside.startswith(".."):
        raise UsageError(
            f"the interpreter {executable} cannot be sent to hosts, which only CPython on Linux "
            f"can: install Python {version} on them"
        )
    found = {f"bin/python{version}": executable}
    for path in _files(standard):
        found[f"{inside}/{path}"] = os.path.join(standard, path)
    return make_layer(
        f"python-{sys.version.split()[0]}", "interpreter", _relocatable(found, executable)
    )


def _relocatable(found: dict[str, str], executable: str) -> dict[str, Source]:
    """Return the files, and with them the libraries they need, so that all find each other."""
    sources: dict[str, Source] = {}
    known = _known_libraries()
    queue = list(found.items())
    while queue:
        path, full = queue.pop()
        if path in sources:
            continue
        data = _binary(full)
        if data is None:
            sources[path] = Source(full)
            continue
        for name in elf.needed(data):
            where = _find(name, full, data, known)
            if where and not _OF_LIBC.fullmatch(name):
                queue.append((f"{_LIBRARIES}/{name}", where))
        changed = elf.without_sections(data)
        if full == executable or elf.search_path(changed):
            # One that a module has of its own would be the only one that it is looked for in.
            beside = os.path.relpath(_LIBRARIES, os.path.dirname(path))
            relocated = elf.with_search_path(changed, f"$ORIGIN/{beside}")
            if relocated is None and full == executable:
                raise UsageError(
                    f"the interpreter {executable} cannot be made to find its libraries on other "
                    "hosts: install the same version of Python there"
                )
            changed = relocated or changed
        sources[path] = Source(full, data=changed)
    return sources


def _files(root: str) -> Iterator[str]:
    for directory, names, files in os.walk(root):
        names[:] = [n for n in names if n not in _LEFT_OUT and not _LEFT_OUT_FILES.fullmatch(n)]
        base = os.path.relpath(directory, root)
        for name in files:
            if name.endswith((".pyc", ".a")) or _LEFT_OUT_FILES.fullmatch(name):
                continue
            if os.path.isfile(os.path.join(directory, name)):  # a link may lead nowhere
                yield name if base == "." else f"{base}/{name}"


def _binary(path: str) -> bytes | None:
    """Return what is in a program or shared library; None: it is another file."""
    with open(path, "rb") as file:
        head = file.read(64)
        return head + file.read() if elf.is_elf(head) else None


def _find(name: str, path: str, data: bytes, known: dict[str, str]) -> str:
    """Return where a library is that a file needs; "" where nobody knows."""
    own = elf.search_path(data).replace("$ORIGIN", os.path.dirname(path)).split(":")
    for place in (*filter(None, own), os.path.join(sys.base_prefix, "lib")):
        if os.path.exists(os.path.join(place, name)):
            return os.path.realpath(os.path.join(place, name))
    return known.get(name, "")


def _known_libraries() -> dict[str, str]:
    """Return where the loader finds libraries, by name."""
    known: dict[str, str] = {}
    own = _machine(sys.executable)
    for place in _PLACES:
        if os.path.isdir(place):
            for name in os.listdir(place):
                if ".so" in name:
                    known[name] = os.path.realpath(os.path.join(place, name))
    for command in ("ldconfig", "/sbin/ldconfig", "/usr/sbin/ldconfig"):
        try:
            said = subprocess.run([command, "-p"], capture_output=True, text=True, check=True)
        except (OSError, subprocess.SubprocessError):
            continue
        for line in reversed(said.stdout.splitlines()):  # the first of a name is the one
            name, arrow, where = line.partition(" => ")
            if arrow and _machine(where) == own:
                known[name.split()[0]] = os.path.realpath(where)
        break
    return known


def _machine(path: str) -> int:
    try:
        with open(path, "rb") as file:
            return elf.machine(file.read(64))
    except OSError:
        return 0
