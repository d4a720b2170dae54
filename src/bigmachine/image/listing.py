"""Layers: sets of files that travel by content, and the listing that names one.

A layer is the files below one root: a distribution, or a directory of the user's source. Its
*listing* says what is in it, in canonical JSON::

    {"v": 1, "name": "numpy-2.1.0", "kind": "distribution",
     "entries": [[path, mode, size, target], ...],      sorted by path; size null: a directory,
                                                        target not null: a symbolic link
     "packs": [[sha256, bytes], ...]}

and the SHA-256 of that text is the layer's *digest*, its name everywhere. The contents of its
files, one after the other in the order of the entries, are cut into *packs*: a pack is what
travels, what is verified, and what is used again where another layer has it already.

What always holds: a listing says nothing of times, owners or of where the files were, so that the
same distribution has the same digest wherever it was installed. On a host every file has the
modification time `FIXED_MTIME`.

Pure: bytes in, bytes out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal, Protocol, TypeAlias, cast, get_args

FIXED_MTIME: Final = 946_684_800
"""The modification time of all files in layers, in seconds: the first of January 2000."""
PACK_BYTES: Final = 1 << 20
"""How large a pack may be, uncompressed."""

Kind: TypeAlias = Literal["distribution", "source", "data", "runtime", "interpreter"]

_VERSION: Final = 1
_LONE_FILES: Final = frozenset({"source", "data"})  # kinds whose files begin new packs


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a layer.

    Attributes:
        path: Relative to the layer's root, with slashes.
        mode: Permission bits: 0o644 or 0o755.
        size: In bytes; None for a directory or a symbolic link.
        target: Of a symbolic link: where it leads, relative to its own directory.
    """

    path: str
    mode: int
    size: int | None
    target: str | None = None


@dataclass(frozen=True, slots=True)
class Pack:
    """A piece of a layer's contents.

    Attributes:
        sha256: Of the piece, in hexadecimal.
        size: In bytes, uncompressed.
    """

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a file that lies in a pack: the entry's number, and where in the file."""

    entry: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What is in a layer.

    Attributes:
        name: For a person, and for finding older versions of it: ``numpy-2.1.0``, ``src:pi``.
        kind: What the layer is.
        entries: Its files, sorted by path.
        packs: The pieces of their contents, in order.
    """

    name: str
    kind: Kind
    entries: tuple[Entry, ...]
    packs: tuple[Pack, ...]

    @property
    def size_bytes(self) -> int:
        """How much its files are together."""
        return sum(pack.size for pack in self.packs)

    def encode(self) -> bytes:
        """Return the canonical text, whose SHA-256 is the digest."""
        values = {
            "v": _VERSION,
            "name": self.name,
            "kind": self.kind,
            "entries": [[e.path, e.mode, e.size, e.target] for e in self.entries],
            "packs": [[p.sha256, p.size] for p in self.packs],
        }
        text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return text.encode("utf-8", "surrogateescape")

    @classmethod
    def decode(cls, text: bytes) -> Listing:
        """Rebuild a listing from its text.

        Raises:
            ValueError: It is none, or one that must not be unpacked: a path leads out of the root,
                is there twice, or lies below a file or link; or the packs do not add up.
        """
        try:
            values = json.loads(text.decode("utf-8", "surrogateescape"))
            if values["v"] != _VERSION:
                raise ValueError(f"version {values['v']} of listings is not known")
            listing = cls(
                name=_text(values["name"]),
                kind=_kind(values["kind"]),
                entries=tuple(_entry(each) for each in values["entries"]),
                packs=tuple(_pack(each) for each in values["packs"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"this is no listing of a layer: {error!r}") from error
        _check(listing)
        return listing

    def spans(self) -> Iterator[list[Span]]:
        """Yield for each pack which parts of which files it holds, in order."""
        files = ((n, e.size) for n, e in enumerate(self.entries) if e.size)
        number, left, offset = -1, 0, 0
        for pack in self.packs:
            spans, room = [], pack.size
            while room:
                if not left:
                    number, size = next(files)
                    left, offset = size, 0
                part = min(left, room)
                spans.append(Span(number, offset, part))
                left, offset, room = left - part, offset + part, room - part
            yield spans


class Layer(Protocol):
    """A layer that can be sent: what is in it, and the pieces."""

    @property
    def name(self) -> str:
        """What it is, for a person."""
        ...

    @property
    def kind(self) -> Kind:
        """What it is."""
        ...

    @property
    def digest(self) -> str:
        """Its name by content."""
        ...

    @property
    def listing(self) -> bytes:
        """The canonical text of its listing."""
        ...

    @property
    def size_bytes(self) -> int:
        """How much its files are together."""
        ...

    def read_pack(self, number: int) -> bytes:
        """Return one of its packs, uncompressed; blocks.

        Raises:
            OSError: It can no longer be read, or is no longer what it was.
        """
        ...


class Listed:
    """A layer as far as its listing tells: what layers that can be sent have in common.

    Args:
        listing: The canonical text of its listing; looked at when that is first needed.
    """

    def __init__(self, listing: bytes) -> None:
        self.listing = listing

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {self.digest[:12]}>"

    @property
    def digest(self) -> str:
        """Its name by content."""
        return self._digest

    @property
    def name(self) -> str:
        """What it is, for a person."""
        return self.decoded.name

    @property
    def kind(self) -> Kind:
        """What it is."""
        return self.decoded.kind

    @property
    def size_bytes(self) -> int:
        """How much its files are together."""
        return self.decoded.size_bytes

    @cached_property
    def decoded(self) -> Listing:
        """What its listing says."""
        return Listing.decode(self.listing)

    @cached_property
    def _digest(self) -> str:
        return digest_of(self.listing)


def digest_of(listing: bytes) -> str:
    """Return the digest of the layer with this listing."""
    return hashlib.sha256(listing).hexdigest()


class Cutter:
    """Cuts the contents of files into packs, as they are read. Feed the files in their order."""

    def __init__(self, kind: Kind) -> None:
        self.packs: list[Pack] = []
        self._lone = kind in _LONE_FILES
        self._hash = hashlib.sha256()
        self._filled = 0

    def feed(self, data: bytes | memoryview) -> None:
        """Take more of a file."""
        view = memoryview(data)
        while len(view):
            piece = view[: PACK_BYTES - self._filled]
            self._hash.update(piece)
            self._filled += len(piece)
            view = view[len(piece) :]
            if self._filled == PACK_BYTES:
                self._end_pack()

    def end_file(self) -> None:
        """A file is over."""
        if self._lone:
            self._end_pack()

    def close(self) -> tuple[Pack, ...]:
        """Return all packs."""
        self._end_pack()
        return tuple(self.packs)

    def _end_pack(self) -> None:
        if self._filled:
            self.packs.append(Pack(self._hash.hexdigest(), self._filled))
            self._hash = hashlib.sha256()
            self._filled = 0


def is_safe(path: str) -> bool:
    """Whether a path is relative and stays below its root, whatever links there are."""
    return bool(path) and "\0" not in path and not {"", ".", ".."} & set(path.split("/"))


def _check(listing: Listing) -> None:
    solid: set[str] = set()  # files and links: nothing can be below them
    seen: set[str] = set()
    for entry in listing.entries:
        if not is_safe(entry.path):
            raise ValueError(f"a layer must not hold a file {entry.path!r}")
        if entry.path in seen:
            raise ValueError(f"a layer holds {entry.path!r} twice")
        seen.add(entry.path)
        if entry.size is not None or entry.target is not None:
            solid.add(entry.path)
    for entry in listing.entries:
        if any(parent in solid for parent in _parents(entry.path)):
            raise ValueError(f"a layer holds {entry.path!r} below what is no directory")
        if entry.target is not None and not _stays(entry.path, entry.target):
            raise ValueError(f"the link {entry.path!r} leads out of its layer: {entry.target!r}")
    files = sum(entry.size or 0 for entry in listing.entries)
    if files != listing.size_bytes or any(not 0 < p.size <= PACK_BYTES for p in listing.packs):
        raise ValueError("the packs of a layer do not add up to its files")


def _parents(path: str) -> Iterator[str]:
    at = path.find("/")
    while at >= 0:
        yield path[:at]
        at = path.find("/", at + 1)


def _stays(path: str, target: str) -> bool:
    """Whether a link's target is below the root, by the names alone."""
    if not target or target.startswith("/") or "\0" in target:
        return False
    depth = path.count("/")
    for part in target.split("/"):
        depth += -1 if part == ".." else part not in ("", ".")
        if depth < 0:
            return False
    return True


def _entry(values: Sequence[Any]) -> Entry:
    path, mode, size, target = values
    if size is not None and (not isinstance(size, int) or size < 0 or target is not None):
        raise ValueError(f"a file of size {size!r}")
    if not isinstance(mode, int) or mode & ~0o777:
        raise ValueError(f"a file of mode {mode!r}")
    return Entry(_text(path), mode, size, None if target is None else _text(target))


def _pack(values: Sequence[Any]) -> Pack:
    sha256, size = values
    if not isinstance(size, int) or len(bytes.fromhex(sha256)) != 32:
        raise ValueError(f"this is no pack: {values!r}")
    return Pack(_text(sha256), size)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _kind(value: object) -> Kind:
    if value not in get_args(Kind):
        raise ValueError(f"{value!r} is no kind of layer")
    return cast("Kind", value)


def sort_entries(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """Return entries in the order of a listing."""
    return tuple(sorted(entries, key=lambda entry: entry.path))
