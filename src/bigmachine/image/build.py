"""Building an image of the environment that this process runs in.

::

    sys.path ─▶ distributions (image.distributions, index) ─▶ layers at the root
            ├─▶ directories of the user's own, editable installs (sources, editable) ─▶ src/0, src/1
    data= ──┴─▶ data/0, data/1                                                          …

The user's own files are held in memory, within a limit, since they change while a launch is under
way: notebooks that save themselves, logs, results. They travel as they were when the image was
built, to all hosts alike.

What always holds: nothing is executed that was not before; what cannot travel is reported in the
manifest, and nothing of the process's environment variables is in an image.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from bigmachine.errors import UsageError
from bigmachine.image import archive, distributions
from bigmachine.image.distributions import Distribution
from bigmachine.image.editable import read_paths
from bigmachine.image.files import FileLayer, Source, make_layer
from bigmachine.image.gitignore import Exclusion
from bigmachine.image.index import Index, Known, key_of, signature
from bigmachine.image.layout import SITE, Layout, real
from bigmachine.image.listing import Layer
from bigmachine.image.manifest import LayerRef, Manifest, place_of
from bigmachine.image.platforms import Platform
from bigmachine.image.roots import Part, Roots
from bigmachine.image.sources import Found

if TYPE_CHECKING:
    from bigmachine.host.messages import Program

HELD_BYTES: Final = 64 << 20
"""How much of the user's own files is held; directories that are larger have to stay as they are
until all hosts have them."""
_SCRIPTS: Final = "bin"
"""Where an image has its commands, relative to its root."""
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

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it into a file, from which `load` makes it again.

        Args:
            path: The file; one that is there is replaced, once the new one is whole.

        Raises:
            OSError: It cannot be written; or a file of the image has changed since it was built.
        """
        archive.save(self.manifest, self.layers, os.fspath(path))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Image:
        """Read an image from a file; the file has to stay there as long as the image is used.

        Raises:
            OSError: It cannot be read.
            ValueError: It is no image, or a damaged one.
        """
        manifest, layers = archive.load(os.fspath(path))
        return cls(manifest=manifest, layers=layers)


def build(
    program: Program | None = None,
    *,
    data: Sequence[str | os.PathLike[str]] = (),
    exclude: Exclusion | Sequence[str] = (),
    sys_path: Sequence[str] | None = None,
    index: Index | None = None,
) -> Image:
    """Build an image of this process's environment. Blocks; what has not changed is not read.

    Args:
        program: The program that is to run in it, whose directory belongs to it; None: whatever
            ``sys.path`` has.
        data: Files and directories that machines need beside the program's own.
        exclude: What of the program's own directories they do not: patterns as in a ``.gitignore``
            of the working directory. What ``data`` names, and modules that are imported, travel
            all the same.
        sys_path: In place of ``sys.path``.
        index: In place of the user's own.

    Raises:
        UsageError: A file of ``data`` is not there, or a pattern is none.
        OSError: A file cannot be read.
    """
    paths = list(sys.path if sys_path is None else sys_path)
    if not isinstance(exclude, Exclusion):
        exclude = Exclusion(patterns=exclude, base=os.getcwd())
    builder = _Builder(paths, index, exclude)
    builder.add_data(data)
    builder.add_path(paths)
    if program is not None:
        builder.add_program(program)
    builder.add_installed()
    builder.add_sources()
    return builder.finish()


class _Builder:
    def __init__(self, sys_path: Iterable[str], index: Index | None, exclusion: Exclusion) -> None:
        self.layout = Layout.here(sys_path)
        self._index = index or Index(self.layout.sites)
        self._refs: list[LayerRef] = []
        self._layers: dict[str, Layer] = {}
        self._roots = Roots(
            (*self.layout.sites, *self.layout.stdlib, *map(real, (sys.prefix, sys.base_prefix))),
            exclusion,
        )
        self._sys_path: list[str] = []
        self._places: list[tuple[str, str]] = [(each, SITE) for each in self.layout.sites]
        self._places += [(each, _SCRIPTS) for each in self.layout.scripts]
        self._aliases: list[tuple[str, str]] = []
        self._program = ""
        self._scripts: list[str] = []
        self._left_out: list[tuple[str, str]] = []
        self._room_bytes = HELD_BYTES

    # What is to be in it

    def add_data(self, data: Sequence[str | os.PathLike[str]]) -> None:
        for each in data:
            path = self._resolve(os.path.abspath(each))
            if not os.path.exists(path):
                raise UsageError(f"data={os.fspath(each)!r}: there is no such file or directory")
            self._roots.add_data(path)

    def add_path(self, sys_path: Iterable[str]) -> None:
        """Take the program's ``sys.path``."""
        for text in sys_path:
            path = self._resolve(os.path.abspath(text))
            if path in self.layout.sites:
                self._add_entry(SITE)
            elif path in self.layout.scripts:  # where Python finds a command that it runs
                self._add_entry(_SCRIPTS)
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
        path = self._program = self._resolve(given)
        directory = path if os.path.isdir(path) else os.path.dirname(path)
        if directory not in self.layout.scripts and not self._roots.has(path):
            self._roots.add(directory)
        self._roots.want(path)

    def _resolve(self, path: str) -> str:
        """Return a path without links; the one with links is to be found in the image too."""
        found = real(path)
        if found != path:
            self._aliases.append((path, found))
        return found

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
        owned = {place for place, data in paths.rewritten.items() if data is None}
        shown, hidden = distributions.installed(self.layout)
        for each in shown:
            key = f"{each.name} {each.path} {self.layout.state(each.path)}"
            known = self._find(key, paths.rewritten)
            if known is None:
                described = distributions.describe(each, self.layout)
                if described is None:
                    continue  # nothing says which files are its: they are nobody's
                known = self._make(described, key, paths.rewritten)
            owned.update(known.places)
            self._add(known)
        rest = [*distributions.of_conda(sys.prefix, self.layout, owned)]
        owned.update(*(package.sources for package in rest))
        rest.append(distributions.unowned(self.layout, owned, hidden))
        for described in rest:
            key = key_of(described.sources, described.links)
            known = self._find(key, paths.rewritten)
            known = known or self._make(described, key, paths.rewritten)
            owned.update(known.places)
            self._add(known)
        if self._program and self.layout.place(self._program) not in owned:
            self._add_command()

    def _add_command(self) -> None:
        """Have a command travel that lies where installers put theirs, and is nobody's."""
        if os.path.dirname(self._program) in self.layout.scripts:
            self._roots.add_file(self._program)

    def _find(self, key: str, rewritten: Mapping[str, object]) -> Known | None:
        known = self._index.find(key)
        return None if known and not rewritten.keys().isdisjoint(known.places) else known

    def _make(
        self, described: Distribution, key: str, rewritten: Mapping[str, bytes | None]
    ) -> Known:
        """Make the layer of a distribution, and keep what came of it."""
        mine = dict(described.sources)
        for place in described.sources.keys() & rewritten.keys():
            data = rewritten[place]
            del mine[place]
            if data is not None:
                mine[place] = Source("", data)
        version = f"-{described.version}" if described.version else ""
        part = Part(
            name=f"{described.name}{version}",
            kind="distribution",
            mount="",
            found=Found(mine, described.links, described.problems),
        )
        about = (described.name, described.version), described.tags
        return self._make_part(part, self._index, key, *about)

    def _make_part(
        self,
        part: Part,
        index: Index,
        key: str,
        distribution: tuple[str, str] = ("", ""),
        tags: tuple[str, ...] = (),
        hold: bool = False,
    ) -> Known:
        files, problems = part.found.sources, list(part.found.left_out)
        state = signature(source.path for source in files.values())
        layer = make_layer(
            part.name, part.kind, files, links=part.found.links, problems=problems, hold=hold
        )
        ref = LayerRef(
            digest=layer.digest,
            name=part.name,
            kind=part.kind,
            mount=part.mount,
            size_bytes=layer.size_bytes,
            distribution=distribution,
            tags=tags,
        )
        known = Known(ref, layer, (*files, *part.found.links), tuple(problems))
        if key and not hold and all(source.data is None for source in files.values()):
            index.keep(key, known, files, state)
        return known

    def add_sources(self) -> None:
        """Add the user's own directories, and the data that is in none of them."""
        self._roots.want_loaded()
        index = self._index.beside(("sources", *self.layout.sites, *self._roots.paths))
        for part in self._roots.parts():
            key = f"{part.mount} {part.name} {key_of(part.found.sources, part.found.links)}"
            hold = self._has_room(part.found)
            known = None if hold else index.find(key)
            if known is None:
                known = self._make_part(part, index, key, hold=hold)
                self._room_bytes -= known.layer.size_bytes if hold else 0
                self._add(known)
            else:
                self._add(replace(known, problems=tuple(part.found.left_out)))
        self._places += self._roots.places
        index.save()

    def _has_room(self, found: Found) -> bool:
        """Whether there is room to hold so many files in memory."""
        left = self._room_bytes
        for source in found.sources.values():
            with contextlib.suppress(OSError):
                left -= os.stat(source.path).st_size
        return left >= 0

    def _add(self, known: Known) -> None:
        self._left_out += known.problems
        if not known.places:
            return
        self._refs.append(known.ref)
        self._layers[known.ref.digest] = known.layer
        if not known.ref.mount:
            scripts = [path for path in known.places if path.startswith(f"{_SCRIPTS}/")]
            self._scripts += [path for path in scripts if _is_python_script(known.layer, path)]

    def finish(self) -> Image:
        """Return the image."""
        self._index.save()
        for given, path in self._aliases:
            place = place_of(self._places, path)
            if place is not None:
                self._places.append((given, place))
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
