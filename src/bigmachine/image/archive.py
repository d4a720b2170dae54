"""An image in one file, which can be kept and given to `Cluster.start` again.

::

    magic   packs, each a Zstandard frame ...   index   where the index is   magic
     16                                                  8 + 4 + 32 bytes      16

The index says what the manifest and the listings are, and where each pack is. It comes last, so
that an image is written in one go; it appears under its name when it is whole. Nothing in it is
believed: listings and packs are held to the digests that name them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
import tempfile
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from bigmachine.image import transit
from bigmachine.image.listing import Listed, Listing
from bigmachine.image.manifest import Manifest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bigmachine.image.listing import Layer

MAGIC: Final = b"bigmachine image"
_TAIL: Final = struct.Struct(">QI32s16s")  # the index's place, size and SHA-256; the magic again
_INDEX_BYTES: Final = 1 << 30
_VERSION: Final = 1


def is_archive(path: str) -> bool:
    """Whether a file is an image in one file."""
    try:
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def save(manifest: Manifest, layers: Mapping[str, Layer], path: str) -> None:
    """Write an image into a file.

    Args:
        manifest: The image's.
        layers: Its layers, by digest.
        path: The file; one that is there is replaced.

    Raises:
        OSError: It cannot be written; or a file of the image cannot be read, or has changed.
    """
    directory = os.path.dirname(os.path.abspath(path))
    handle, new = tempfile.mkstemp(dir=directory, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as file:
            _write(file, manifest, layers)
        os.chmod(new, 0o644)
        os.replace(new, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise


def load(path: str) -> tuple[Manifest, dict[str, Layer]]:
    """Read an image from a file; its packs are read when they are asked for.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no image, or a damaged one.
    """
    path = os.path.abspath(path)
    try:
        values = json.loads(_read_index(path).decode("utf-8", "surrogateescape"))
        if values["v"] != _VERSION:
            raise ValueError("its version is not known")
        manifest = Manifest.decode(values["manifest"].encode("utf-8", "surrogateescape"))
        layers: dict[str, Layer] = {}
        for text in values["listings"]:
            layer = ArchivedLayer(path, text.encode("utf-8", "surrogateescape"), values["packs"])
            layers[layer.digest] = layer
        lacking = [ref.name for ref in manifest.layers if ref.digest not in layers]
        if lacking:
            raise ValueError(f"it lacks {lacking[0]}")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is no image, or is damaged: {error}") from error
    return manifest, layers


class ArchivedLayer(Listed):
    """A layer in such a file.

    Args:
        path: The file.
        listing: The canonical text of its listing.
        packs: Where packs are in the file, and how long, by SHA-256.

    Raises:
        ValueError: A pack of it is not in the file.
    """

    def __init__(self, path: str, listing: bytes, packs: Mapping[str, Any]) -> None:
        super().__init__(listing)
        self._path = path
        self._packs = packs
        if any(pack.sha256 not in packs for pack in self.decoded.packs):
            raise ValueError(f"it lacks a part of {self.name}")

    def read_pack(self, number: int) -> bytes:
        """Return one of its packs, uncompressed.

        Raises:
            OSError: It can no longer be read.
            ValueError: It is damaged.
        """
        pack = self.decoded.packs[number]
        offset, size = self._packs[pack.sha256]
        with open(self._path, "rb") as file:
            file.seek(offset)
            data = transit.decompress(file.read(size), pack.size)
        if hashlib.sha256(data).hexdigest() != pack.sha256:
            raise ValueError(f"{self._path} is damaged: a part of {self.name} is not what it was")
        return data


def _write(file: BinaryIO, manifest: Manifest, layers: Mapping[str, Layer]) -> None:
    offset = file.write(MAGIC)
    packs: dict[str, tuple[int, int]] = {}
    for layer in layers.values():
        for number, pack in enumerate(Listing.decode(layer.listing).packs):
            if pack.sha256 not in packs:
                size = file.write(transit.compress(layer.read_pack(number)))
                packs[pack.sha256] = offset, size
                offset += size
    texts = [layer.listing.decode("utf-8", "surrogateescape") for layer in layers.values()]
    values = {
        "v": _VERSION,
        "manifest": manifest.encode().decode("utf-8", "surrogateescape"),
        "listings": texts,
        "packs": packs,
    }
    index = transit.compress(json.dumps(values).encode())
    file.write(index)
    file.write(_TAIL.pack(offset, len(index), hashlib.sha256(index).digest(), MAGIC))


def _read_index(path: str) -> bytes:
    with open(path, "rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - _TAIL.size))
        tail = file.read(_TAIL.size)
        if len(tail) < _TAIL.size or not tail.endswith(MAGIC):
            raise ValueError("its end is not that of an image")
        offset, size, digest, _ = _TAIL.unpack(tail)
        if offset + size + _TAIL.size != end:
            raise ValueError("it is cut short")
        file.seek(offset)
        index = file.read(size)
    if hashlib.sha256(index).digest() != digest:
        raise ValueError("its index is not what it was")
    return transit.decompress(index, _INDEX_BYTES)
