"""Layers made of texts, for tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bigmachine.image.listing import Cutter, Entry, Kind, Listing, digest_of, sort_entries
from bigmachine.image.manifest import LayerRef, Manifest


@dataclass(frozen=True)
class TextLayer:
    """A layer whose files are in memory."""

    listing: bytes
    content: bytes
    name: str
    kind: Kind

    @property
    def digest(self) -> str:
        return digest_of(self.listing)

    @property
    def size_bytes(self) -> int:
        return len(self.content)

    @property
    def packs(self) -> int:
        return len(Listing.decode(self.listing).packs)

    def read_pack(self, number: int) -> bytes:
        packs = Listing.decode(self.listing).packs
        start = sum(pack.size for pack in packs[:number])
        return self.content[start : start + packs[number].size]

    @property
    def raw_packs(self) -> list[bytes]:
        return [self.read_pack(number) for number in range(self.packs)]


def layer_of(
    files: Mapping[str, bytes | str],
    *,
    name: str = "thing-1.0",
    kind: Kind = "distribution",
    mode: int = 0o644,
) -> TextLayer:
    """Make a layer: a text is where a link leads, bytes are a file."""
    entries = sort_entries(
        Entry(path, mode, len(data)) if isinstance(data, bytes) else Entry(path, mode, None, data)
        for path, data in files.items()
    )
    cutter, content = Cutter(kind), b""
    for entry in entries:
        data = files[entry.path]
        if isinstance(data, bytes):
            cutter.feed(data)
            cutter.end_file()
            content += data
    listing = Listing(name=name, kind=kind, entries=entries, packs=cutter.close())
    return TextLayer(listing.encode(), content, name, kind)


def manifest_of(
    *layers: TextLayer, mounts: Mapping[str, str] | None = None, **more: Any
) -> Manifest:
    """Make the manifest of an image with these layers."""
    import sys

    refs = tuple(
        LayerRef(
            digest=layer.digest,
            name=layer.name,
            kind=layer.kind,
            mount=(mounts or {}).get(layer.name, ""),
            size_bytes=layer.size_bytes,
        )
        for layer in layers
    )
    values: dict[str, Any] = {"sys_path": (), "places": (), "platform": {}, **more}
    return Manifest(python=sys.version_info[:3], layers=refs, **values)  # type: ignore[arg-type]
