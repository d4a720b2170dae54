"""The runtime: what a host needs before it can have a program's image.

That is bigmachine itself and the few distributions that its supervisor imports, each a layer, made
of what the driver has installed: a wheel or an editable installation, it is the same. The boot file
receives them (`bigmachine.boot`), so they are few and small, and have nothing in them but what is
imported. Compiled modules stay here, since what is in them differs from day to day: the host
compiles once, and keeps what comes of it beside the sources.

Where a host is of another kind than the driver's computer, the compiled ones among them are had
for it by `uv` (`image.resolve`).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import tempfile
import threading
from collections.abc import Iterator
from functools import cache
from typing import Final

import bigmachine
from bigmachine.errors import UsageError
from bigmachine.image import elf
from bigmachine.image.files import FileLayer, Source, make_layer
from bigmachine.image.platforms import Platform

DISTRIBUTIONS: Final = ("psutil", "cloudpickle", "zstandard")
"""What the supervisor imports, beside the standard library and bigmachine itself."""

_resolving: Final = threading.Lock()
_OPTIONAL: Final = frozenset({"zstandard"})
_LEFT_OUT: Final = frozenset({"__pycache__", "tests", "test"})
_SUFFIXES_LEFT_OUT: Final = (".pyc", ".pyi", ".pyo", ".c", ".h", ".pyx")
_PREFIXES_LEFT_OUT: Final = ("_cffi.",)  # of zstandard, which has another backend


def runtime_layers() -> list[FileLayer]:
    """Return the layers of the runtime for hosts of this computer's kind; bigmachine's own first.

    Takes some hundredths of a second at the first call, and the same layers afterwards.

    Raises:
        UsageError: A distribution that is needed is not installed here.
    """
    return [_own_layer(), *map(_installed_layer, _distributions())]


def layers_for(platform: Platform) -> list[FileLayer]:
    """Return the layers of the runtime for hosts of some kind; blocks, for another kind a while.

    Args:
        platform: What kind of host, with the Python that will run there.

    Raises:
        ProvisionError: A distribution is not to be had for it.
        UsageError: A distribution that is needed is not installed here.
    """
    if platform.runs_what_is_made_for(Platform.here()):
        return runtime_layers()
    with _resolving:  # hosts of a kind come up at the same time
        return list(_foreign_layers(platform))


@cache
def _foreign_layers(platform: Platform) -> tuple[FileLayer, ...]:
    from bigmachine.image.resolve import resolve

    compiled = [name for name in _distributions() if _is_compiled(name)]
    wanted = [(name, importlib.metadata.version(name)) for name in compiled]
    layers = [_own_layer()]
    with tempfile.TemporaryDirectory(prefix="bigmachine-") as directory:
        found = resolve(wanted, platform, directory)
        for name in _distributions():
            if name in found:
                layers.append(_layer(name, os.path.join(found[name], name)))
            else:
                layers.append(_installed_layer(name))
    return tuple(layers)


@cache
def _own_layer() -> FileLayer:
    root = os.path.dirname(os.path.abspath(bigmachine.__file__))
    return make_layer(
        f"bigmachine-{bigmachine.__version__}", "runtime", _sources(root, "bigmachine")
    )


@cache
def _installed_layer(name: str) -> FileLayer:
    return _layer(name, _package(name))


def _layer(name: str, root: str) -> FileLayer:
    version = importlib.metadata.version(name)
    return make_layer(f"{name}-{version}", "runtime", _sources(root, name))


def _distributions() -> list[str]:
    return [
        name
        for name in DISTRIBUTIONS
        if name not in _OPTIONAL or importlib.util.find_spec(name) is not None
    ]


def _package(name: str) -> str:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(
            f"hosts need the distribution {name}, which is not installed beside bigmachine: "
            f"install it (pip install {name})"
        )
    return spec.submodule_search_locations[0]


def _is_compiled(name: str) -> bool:
    return any(path.endswith(".so") for path in _files(_package(name)))


def _sources(root: str, name: str) -> dict[str, Source]:
    """Return a package's files by their path in a layer, with what is in them at this moment."""
    sources = {}
    for path in _files(root):
        full = os.path.join(root, path)
        with open(full, "rb") as file:
            # With debugging information some libraries have ten times their size.
            sources[f"{name}/{path}"] = Source(full, data=elf.without_sections(file.read()))
    return sources


def _files(root: str) -> Iterator[str]:
    for directory, names, files in os.walk(root):
        names[:] = [name for name in names if name not in _LEFT_OUT]
        base = os.path.relpath(directory, root)
        for name in files:
            if not (name.endswith(_SUFFIXES_LEFT_OUT) or name.startswith(_PREFIXES_LEFT_OUT)):
                yield name if base == "." else f"{base}/{name}"
