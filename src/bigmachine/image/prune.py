"""Keeps a store within its limit: what was used least recently goes, never what is in use.

In use is what somebody has locked (`image.locks`), and the layers of images that are. Files that an
image shares with a layer count once.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from bigmachine.image import locks

if TYPE_CHECKING:
    from bigmachine.image.store import Store

_STALE_SECONDS: Final = 86_400.0
"""What nobody has gone on receiving for so long is given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A layer, an image, or what is left of an attempt to receive a layer.

    Attributes:
        kind: Which of these.
        path: Where it is.
        name: What it is, for a person.
        size_bytes: How much would be free without it.
        used: When it was last taken into use, in seconds since the epoch.
        in_use: Whether it is in use now.
    """

    kind: Literal["layer", "image", "partial"]
    path: str
    name: str
    size_bytes: int
    used: float
    in_use: bool


def items(store: Store) -> list[Item]:
    """Return what is in a store, the least recently used first."""
    found: list[Item] = []
    needed: dict[str, float] = {}  # layers of images that are in use
    for path in _paths(store, "images"):
        digests = [str(layer["digest"]) for layer in _manifest(path).get("layers", ())]
        item = _item("image", path, f"image of {len(digests)} layers")
        if item.in_use:
            needed.update(dict.fromkeys(digests, item.used))
        found.append(item)
    for path in _paths(store, "layers"):
        item = _item("layer", path, _layer_name(path))
        since = needed.get(os.path.basename(path))
        if since is not None:
            item = replace(item, in_use=True, used=max(item.used, since))
        found.append(item)
    for path in (*_paths(store, "partial"), *_paths(store, "tmp")):
        found.append(_item("partial", path, _layer_name(path)))  # noqa: PERF401
    return sorted(found, key=lambda item: (item.used, item.kind))


def prune(store: Store, limit_bytes: int) -> list[Item]:
    """Remove what was used least recently until the rest is within a limit; return what went."""
    gone: list[Item] = []
    mark = store.begin_look()
    all_of_them = items(store)
    left = sum(item.size_bytes for item in all_of_them)
    stale = time.time() - _STALE_SECONDS
    for item in all_of_them:
        is_stale = item.kind == "partial" and item.used < stale
        if (left > limit_bytes or is_stale) and not item.in_use and store.discard(item.path):
            left -= item.size_bytes
            gone.append(item)
    _forget_names(store)
    if left <= limit_bytes:
        store.note_within(limit_bytes, mark)
    return gone


def make_room(store: Store, needed_bytes: int) -> bool:
    """Remove what is not in use until the disk has room; whether anything was removed."""
    gone = False
    for item in items(store):
        if shutil.disk_usage(store.root).free > 2 * needed_bytes and gone:
            break
        gone |= not item.in_use and store.discard(item.path)
    return gone


def _item(kind: Literal["layer", "image", "partial"], path: str, name: str) -> Item:
    return Item(
        kind=kind,
        path=path,
        name=name,
        size_bytes=_size(path, shared=kind == "layer"),
        used=_used(path),
        in_use=_is_locked(path),
    )


def _paths(store: Store, directory: str) -> Iterator[str]:
    with contextlib.suppress(OSError):
        for entry in sorted(os.listdir(store.path(directory))):
            path = store.path(directory, entry)
            if os.path.isdir(path):
                yield path


def _used(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0


def _is_locked(path: str) -> bool:
    lock = locks.claim(path)
    if lock is None:
        return os.path.isdir(path)
    os.close(lock)
    return False


def _size(path: str, *, shared: bool) -> int:
    """Return the bytes of the files below a directory, those with other names too or not."""
    total = 0
    pending = [path]
    while pending:
        with contextlib.suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                else:
                    found = entry.stat(follow_symlinks=False)
                    if shared or found.st_nlink == 1:
                        total += found.st_size
    return total


def _manifest(path: str) -> dict[str, list[dict[str, object]]]:
    try:
        with open(os.path.join(path, "manifest.json"), "rb") as file:
            return json.load(file)  # type: ignore[no-any-return]
    except (OSError, ValueError):
        return {}


def _layer_name(path: str) -> str:
    try:
        with open(os.path.join(path, "listing.json"), "rb") as file:
            return str(json.load(file)["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return os.path.basename(path)


def _forget_names(store: Store) -> None:
    """Forget the names of layers that are gone."""
    for directory in _paths(store, "names"):
        with contextlib.suppress(OSError):
            for digest in os.listdir(directory):
                if not os.path.isdir(store.path("layers", digest)):
                    os.unlink(os.path.join(directory, digest))
            os.rmdir(directory)
