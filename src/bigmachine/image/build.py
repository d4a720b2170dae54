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
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from bigmachine.errors import UsageError
from bigmachine.image import distributions
from bigmachine.image.distributions import SITE, Distribution, Layout, real
from bigmachine.image.editable import read_paths
from bigmachine.image.files import FileLayer, Source, make_layer
from bigmachine.image.index import Index
from bigmachine.image.listing import Layer
from bigmachine.image.manifest import LayerRef, Manifest
from bigmachine.image.platforms import Platform
from bigmachine.image.roots import Roots

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


class _Builder:
    def __init__(self, sys_path: Iterable[str], index: Index | None) -> None:
        self.layout = Layout.here(sys_path)
        self._index = index or Index(self.layout.sites)
        self._refs: list[LayerRef] = []
        self._layers: dict[str, Layer] = {}
        self._roots = Roots(
            (*self.layout.sites, *self.layout.stdlib, *map(real, (sys.prefix, sys.base_prefix)))
        )
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
            self._roots.add_data(path)

    def add_path(self, sys_path: Iterable[str]) -> None:
        """Take the program's ``sys.path``."""
        for text in sys_path:
            path = real(text or os.getcwd())
            if path in self.layout.sites:
                self._add_entry(SITE)
            elif self.layout.is_stdlib(path):
                continue
            elif os.path.isdir(path):
                self._add_entry(self._roots.add(path))
            elif os.path.isfile(path):  # an archive of modules
                self._add_entry(self._roots.add_file(path))
        self._add_entry(SITE)

    def add_program(self, program: Program) -> None:
        """See to it that the program's own file is in it."""
        if program.how != "script":
            return
        given = os.path.normpath(os.path.join(program.directory or os.getcwd(), program.target))
        path = real(given)
        if not self._roots.has(path):
            self._roots.add(path if os.path.isdir(path) else os.path.dirname(path))
        self._roots.want(path)

    def _add_entry(self, entry: str) -> None:
        if entry not in self._sys_path:
            self._sys_path.append(entry)

    # Layers

    def add_installed(self) -> None:
        """Add the distributions, and what else lies where they do."""
        paths = read_paths(self.layout, self._roots.add)
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
        self._roots.want_loaded()
        for part in self._roots.parts():
            self._left_out += part.found.left_out
            found = part.found
            layer = make_layer(part.name, part.kind, found.sources, links=found.links)
            self._add(self._ref(layer, part.mount), layer)
        self._places += self._roots.places

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
