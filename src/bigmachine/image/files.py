"""Layers made of files on this computer's disk.

Contents are read when a listing is made and again when packs are sent. What changes in between is
noticed, since a pack is held to its hash when it is read. Files that may well change, the user's
own, can be held in memory instead, and travel as they were. A compiled module (``.pyc``) holds the
modification time of its source; it travels with the time that all files have on hosts, if it was
valid here, and not at all if it was not.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import stat
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

from bigmachine.image.listing import (
    FIXED_MTIME,
    Cutter,
    Entry,
    Kind,
    Listed,
    Listing,
    Span,
    sort_entries,
)

_PIECE_BYTES: Final = 1 << 20
_PYC: Final = struct.Struct("<4sIII")  # magic number, flags, the source's mtime and size (PEP 552)


@dataclass(frozen=True, slots=True)
class Source:
    """Where the contents of one file of a layer come from.

    Attributes:
        path: The file on this computer; "" when ``data`` says it all.
        data: The contents, where they differ from the file's.
        head: What the file's first bytes are replaced by.
    """

    path: str
    data: bytes | None = None
    head: bytes = b""


class FileLayer(Listed):
    """A layer whose files are on this computer.

    Args:
        listing: The canonical text of its listing.
        sources: Where the contents come from, by path in the layer; or what says so when asked.
    """

    def __init__(
        self, listing: bytes, sources: Mapping[str, Source] | Callable[[], Mapping[str, Source]]
    ) -> None:
        super().__init__(listing)
        self._given = sources
        self._spans: list[list[Span]] | None = None

    @cached_property
    def _sources(self) -> Mapping[str, Source]:
        return self._given() if callable(self._given) else self._given

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Its files."""
        return self.decoded.entries

    def source(self, path: str) -> Source | None:
        """Return where a file comes from; None: it is no file of this layer."""
        return self._sources.get(path)

    def read_pack(self, number: int) -> bytes:
        """Return a pack.

        Raises:
            OSError: A file can no longer be read, or has changed since the image was built.
        """
        if self._spans is None:
            self._spans = list(self.decoded.spans())
        paths = []
        pieces = []
        for span in self._spans[number]:
            path = self.decoded.entries[span.entry].path
            paths.append(self._sources[path].path or path)
            pieces.append(_read(self._sources[path], span))
        data = b"".join(pieces)
        if hashlib.sha256(data).hexdigest() != self.decoded.packs[number].sha256:
            raise OSError(
                f"{max(paths, key=_changed)} has changed since the image was built; "
                "start the program again"
            )
        return data


def make_layer(
    name: str,
    kind: Kind,
    sources: Mapping[str, Source],
    *,
    links: Mapping[str, str] | None = None,
    directories: Iterable[str] = (),
    problems: list[tuple[str, str]] | None = None,
    hold: bool = False,
) -> FileLayer:
    """Make a layer; reads every file.

    Args:
        name: What it is.
        kind: What it is.
        sources: Its files, by path in the layer.
        links: Its symbolic links, by path, and where they lead.
        directories: Its empty directories.
        problems: Takes files that cannot be read, and why, which then are not in the layer.
        hold: Keep what is read, so that nothing is read again.

    Raises:
        OSError: A file cannot be read, and ``problems`` is None.
    """
    cutter = Cutter(kind)
    entries = [Entry(path, 0o777, None, target) for path, target in (links or {}).items()]
    entries += [Entry(path, 0o755, None) for path in directories]
    read = dict(sources)
    for path in sorted(sources):
        size = 0
        try:
            mode = _mode(sources[path])
            if hold:
                read[path] = _held(sources[path])
            for data in _contents(read[path]):
                cutter.feed(data)
                size += len(data)
        except OSError as error:
            if problems is None or size:
                raise
            problems.append((sources[path].path, f"it cannot be read: {error.strerror}"))
            continue
        cutter.end_file()
        entries.append(Entry(path, mode, size))
    listing = Listing(name=name, kind=kind, entries=sort_entries(entries), packs=cutter.close())
    return FileLayer(listing.encode(), read)


def compiled_source(path: str, source: str) -> Source | None:
    """Return a compiled module as hosts are to have it; None if it is not valid.

    Args:
        path: The ``.pyc`` file.
        source: The module's source file.
    """
    try:
        with open(path, "rb") as file:
            magic, flags, mtime, size = _PYC.unpack(file.read(_PYC.size))
        if magic != importlib.util.MAGIC_NUMBER:
            return None
        if flags:  # held to its source by a hash, or not at all: nothing to do with times
            return Source(path)
        found = os.stat(source)
    except (OSError, struct.error):
        return None
    if (mtime, size) != (int(found.st_mtime) & 0xFFFFFFFF, found.st_size & 0xFFFFFFFF):
        return None
    return Source(path, head=_PYC.pack(magic, flags, FIXED_MTIME, size))


def _contents(source: Source) -> Iterator[bytes]:
    if source.data is not None:
        yield source.data
        return
    with open(source.path, "rb") as file:
        head = source.head
        while data := file.read(_PIECE_BYTES):
            yield head + data[len(head) :]
            head = b""


def _held(source: Source) -> Source:
    return replace(source, data=b"".join(_contents(source)), head=b"")


def _read(source: Source, span: Span) -> bytes:
    if source.data is not None:
        return source.data[span.offset : span.offset + span.size]
    with open(source.path, "rb") as file:
        file.seek(span.offset)
        data = file.read(span.size)
    head = source.head[span.offset : span.offset + span.size]
    return head + data[len(head) :]


def _changed(path: str) -> int:
    """Return when a file was changed; of several files of which one was, that one comes last."""
    try:
        return os.stat(path).st_ctime_ns
    except OSError:
        return 0


def _mode(source: Source) -> int:
    if not source.path:
        return 0o644
    return 0o755 if os.stat(source.path).st_mode & stat.S_IXUSR else 0o644
