"""Building an image of the environment that this process runs in.

::

    sys.path ─▶ distributions (image.distributions, index) ─▶ layers at the root
            ├─▶ directories of the user's own, editable installs (sources, editable) ─▶ src/0, src/1
    data= ──┴─▶ data/0, data/1                                                          …

What always holds: nothing is executed that was not before; what cannot travel is reported in the
manifest, and nothing of the process's environment variables is in an image.
"""

from __future__ import annotations

import os
import posixpath
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from bigmachine.errors import UsageError
from bigmachine.image import distributions, sources
from bigmachine.image.distributions import SITE, Distribution, Layout, real
from bigmachine.image.editable import read_paths
from bigmachine.image.files import FileLayer, Source, make_layer
from bigmachine.image.index import Index
from bigmachine.image.listing import Kind, Layer
from bigmachine.image.manifest import LayerRef, Manifest
from bigmachine.image.platforms import Platform

if TYPE_CHECKING:
    from bigmachine.host.messages import Program

_SHEBANG_BYTES: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A program's environment, ready to be sent.

    Attributes:
        manifest: What it is.
        layers: Its layers, by digest.
    """

    manifest: Manifest
    layers: Mapping[str, Layer] = field(repr=False)

    @property
    def digest(self) -> str:
        """Its name by content."""
        return self.manifest.digest


def build(
    program: Program | None = None,
    *,
    data: Sequence[str | os.PathLike[str]] = (),
    sys_path: Sequence[str] | None = None,
    index: Index | None = None,
) -> Image:
    """Build an image of this process's environment. Blocks; what has not changed is not read.

    Args:
        program: The program that is to run in it, whose directory belongs to it; None: whatever
            ``sys.path`` has.
        data: Files and directories that machines need beside the program's own.
        sys_path: In place of ``sys.path``.
        index: In place of the user's own.

    Raises:
        UsageError: A file of ``data`` is not there.
        OSError: A file cannot be read.
    """
    paths = list(sys.path if sys_path is None else sys_path)
    builder = _Builder(paths, index)
    builder.add_data(data)
    builder.add_path(paths)
    if program is not None:
        builder.add_program(program)
    builder.add_installed()
    builder.add_sources()
    return builder.finish()


@dataclass(slots=True)
class _Root:
    """A directory of the user's own, and where it is in the image.

    Attributes:
        path: The directory.
        mount: Where its files are.
        entry: What of the image is to be on ``sys.path`` for it.
        only: The one file of it that is wanted; "" is all.
    """

    path: str
    mount: str
    entry: str
    only: str = ""


class _Builder:
    def __init__(self, sys_path: Iterable[str], index: Index | None) -> None:
        self.layout = Layout.here(sys_path)
        self._index = index or Index(self.layout.sites)
        self._refs: list[LayerRef] = []
        self._layers: dict[str, Layer] = {}
        self._roots: list[_Root] = []
        self._data: list[str] = []
        self._sys_path: list[str] = []
        self._places: list[tuple[str, str]] = [(each, SITE) for each in self.layout.sites]
        self._places += [(real(sys.prefix), "")]
        self._scripts: list[str] = []
        self._left_out: list[tuple[str, str]] = []

    # What is to be in it

    def add_data(self, data: Sequence[str | os.PathLike[str]]) -> None:
        for each in data:
            path = real(os.fspath(each))
            if not os.path.exists(path):
                raise UsageError(f"data={os.fspath(each)!r}: there is no such file or directory")
            self._data.append(path)

    def add_path(self, sys_path: Iterable[str]) -> None:
        """Take the program's ``sys.path``."""
        for text in sys_path:
            path = real(text or os.getcwd())
            if path in self.layout.sites:
                self._add_entry(SITE)
            elif self.layout.is_stdlib(path):
                continue
            elif os.path.isdir(path):
                self._add_entry(self.add_root(path, ""))
            elif os.path.isfile(path):  # an archive of modules
                self._add_entry(self._add_file(path))
        self._add_entry(SITE)

    def add_program(self, program: Program) -> None:
        """See to it that the program's own file is in it."""
        if program.how != "script":
            return
        path = real(os.path.join(program.directory or os.getcwd(), program.target))
        directory = path if os.path.isdir(path) else os.path.dirname(path)
        if not self._is_in(path):
            self.add_root(directory, "")

    def add_root(self, directory: str, name: str) -> str:
        """Make a directory part of it; return what is on ``sys.path`` for it.

        Args:
            directory: The directory; or, with a name, a module's path without its ``.py``.
            name: What it is to be importable as; "": what is in it is.
        """
        directory = real(directory)
        for root in self._roots:
            if (root.path, name) == (directory, posixpath.relpath(root.mount, root.entry)):
                return root.entry
            if not name and root.path == directory and root.mount == root.entry:
                return root.entry
        entry = f"src/{len(self._roots)}"
        if name and not os.path.isdir(directory) and os.path.isfile(directory + ".py"):
            file = directory + ".py"
            only = os.path.basename(file)
            self._roots.append(_Root(os.path.dirname(file), entry, entry, only))
            self._places.append((file, f"{entry}/{only}"))
            return entry
        mount = posixpath.join(entry, name.replace(".", "/")) if name else entry
        self._roots.append(_Root(directory, mount, entry))
        self._places.append((directory, mount))
        return entry

    def _add_file(self, path: str) -> str:
        entry = f"src/{len(self._roots)}"
        name = os.path.basename(path)
        self._roots.append(_Root(os.path.dirname(path), entry, entry, name))
        self._places.append((path, f"{entry}/{name}"))
        return f"{entry}/{name}"

    def _add_entry(self, entry: str) -> None:
        if entry not in self._sys_path:
            self._sys_path.append(entry)

    def _is_in(self, path: str) -> bool:
        return any(path == ours or path.startswith(ours + "/") for ours, _ in self._places)

    # Layers

    def add_installed(self) -> None:
        """Add the distributions, and what else lies where they do."""
        paths = read_paths(self.layout, self.add_root)
        self._left_out += paths.left_out
        for entry in paths.sys_path:
            self._add_entry(entry)
        owned: dict[str, object] = {}
        for found in distributions.installed(self.layout):
            key = f"{found.metadata['Name']} {getattr(found, '_path', '')}"
            known = self._index.find(key)
            if known is not None and not self._is_rewritten(known[1], paths.rewritten):
                self._add(*known)
                owned.update((entry.path, None) for entry in known[1].entries)
                continue
            described = distributions.describe(found, self.layout)
            if described is not None:
                owned.update(described.sources)
                owned.update(described.links)
                self._add_distribution(described, key, paths.rewritten)
        for package in distributions.of_conda(sys.prefix, owned):
            owned.update(package.sources)
            self._add_distribution(package, package.name, paths.rewritten)
        rest = distributions.unowned(self.layout, owned)
        self._add_distribution(rest, "", paths.rewritten)

    def _is_rewritten(self, layer: FileLayer, rewritten: Mapping[str, bytes | None]) -> bool:
        return bool(rewritten) and any(entry.path in rewritten for entry in layer.entries)

    def _add_distribution(
        self, described: Distribution, key: str, rewritten: Mapping[str, bytes | None]
    ) -> None:
        mine = described.sources
        is_own = True
        for place in [place for place in mine if place in rewritten]:
            data = rewritten[place]
            is_own = False
            del mine[place]
            if data is not None:
                mine[place] = Source("", data)
        if not mine and not described.links:
            return
        version = f"-{described.version}" if described.version else ""
        layer = make_layer(
            f"{described.name}{version}", "distribution", mine, links=described.links
        )
        ref = self._ref(layer, "", (described.name, described.version), described.tags)
        self._add(ref, layer)
        if is_own and key:
            self._index.keep(key, ref, layer, mine)

    def add_sources(self) -> None:
        """Add the user's own directories, and the data that is in none of them."""
        for root in self._roots:
            found = self._collect(root)
            self._left_out += found.left_out
            name = f"src:{os.path.basename(root.path) or '/'}"
            self._add_files(name, "source", root.mount, found)
        outside = [path for path in self._data if not self._in_root(path)]
        for number, path in enumerate(outside):
            if os.path.isdir(path):
                found = sources.collect(path, keep=["."])
                mount = f"data/{number}"
                self._places.append((path, mount))
            else:
                name = os.path.basename(path)
                found, mount = sources.Found({name: Source(path)}), f"data/{number}"
                self._places.append((path, f"{mount}/{name}"))
            self._left_out += found.left_out
            self._add_files(f"data:{os.path.basename(path)}", "data", mount, found)

    def _collect(self, root: _Root) -> sources.Found:
        if root.only:
            return sources.Found({root.only: Source(os.path.join(root.path, root.only))})
        excluded = [
            each
            for each in (*self.layout.sites, *self.layout.stdlib, *map(real, (sys.prefix,)))
            if each != root.path
        ]
        below = root.path.rstrip("/") + "/"
        wanted = [path.removeprefix(below) for path in self._data if path.startswith(below)]
        return sources.collect(root.path, excluded=excluded, keep=wanted)

    def _in_root(self, path: str) -> bool:
        return any(not r.only and path.startswith(r.path.rstrip("/") + "/") for r in self._roots)

    def _add_files(self, name: str, kind: Kind, mount: str, found: sources.Found) -> None:
        layer = make_layer(name, kind, found.sources, links=found.links)
        self._add(self._ref(layer, mount), layer)

    def _ref(
        self,
        layer: FileLayer,
        mount: str,
        distribution: tuple[str, str] = ("", ""),
        tags: tuple[str, ...] = (),
    ) -> LayerRef:
        return LayerRef(
            digest=layer.digest,
            name=layer.name,
            kind=layer.kind,
            mount=mount,
            size_bytes=layer.size_bytes,
            distribution=distribution,
            tags=tags,
        )

    def _add(self, ref: LayerRef, layer: FileLayer) -> None:
        self._refs.append(ref)
        self._layers[ref.digest] = layer
        if not ref.mount:
            scripts = [e.path for e in layer.entries if e.path.startswith("bin/")]
            self._scripts += [path for path in scripts if _is_python_script(layer, path)]

    def finish(self) -> Image:
        """Return the image."""
        self._index.save()
        manifest = Manifest(
            python=(sys.version_info[0], sys.version_info[1], sys.version_info[2]),
            platform=_platform(),
            layers=tuple(self._refs),
            sys_path=tuple(self._sys_path),
            places=tuple(dict.fromkeys(self._places)),
            scripts=tuple(self._scripts),
            left_out=tuple(self._left_out),
        )
        return Image(manifest=manifest, layers=self._layers)


def _is_python_script(layer: FileLayer, path: str) -> bool:
    source = layer.source(path)
    if source is None:
        return False
    with open(source.path, "rb") as file:
        first = file.read(_SHEBANG_BYTES).partition(b"\n")[0]
    return first.startswith(b"#!") and b"python" in first


def _platform() -> dict[str, Any]:
    here = Platform.here()
    version = ".".join(map(str, here.libc_version))
    return {"system": here.system, "machine": here.machine, "libc": [here.libc, version]}
