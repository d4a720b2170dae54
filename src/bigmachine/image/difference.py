"""How two images differ, and how much would travel to a host that has the first. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bigmachine.image.listing import Layer, Listing
from bigmachine.image.manifest import LayerRef, Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerChange:
    """A layer that is not the same in both images.

    Attributes:
        name: What both are called; a distribution without its version.
        old: What it was; None: there was none.
        new: What it is; None: there is none any more.
        files: Which files differ, where both are there and are the user's own; what two versions of
            a distribution have in common nobody asks.
        travels_bytes: How much of it travels to a host that has the first image.
    """

    name: str
    old: LayerRef | None
    new: LayerRef | None
    files: tuple[str, ...] = ()
    travels_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How two images differ.

    Attributes:
        facts: What else is not the same, as (what, old, new): Python, the platform, ``sys.path``.
        layers: The layers that are not the same.
        same: How many layers are.
    """

    facts: tuple[tuple[str, str, str], ...]
    layers: tuple[LayerChange, ...]
    same: int

    @property
    def travels_bytes(self) -> int:
        """How much travels to a host that has the first image, uncompressed."""
        return sum(change.travels_bytes for change in self.layers)

    def __bool__(self) -> bool:
        return bool(self.facts or self.layers)


def compare(
    old: tuple[Manifest, Mapping[str, Layer]], new: tuple[Manifest, Mapping[str, Layer]]
) -> Difference:
    """Compare two images, each a manifest with its layers by digest."""
    (before, old_layers), (after, new_layers) = old, new
    known = {ref.digest for ref in before.layers}
    there = {
        pack.sha256 for digest in known for pack in Listing.decode(old_layers[digest].listing).packs
    }
    was = _by_name(ref for ref in before.layers)
    changes = []
    same = 0
    for name, ref in _by_name(after.layers).items():
        past = was.pop(name, None)
        if past is not None and past.digest == ref.digest:
            same += 1
            continue
        listing = Listing.decode(new_layers[ref.digest].listing)
        lacking = {pack.sha256: pack.size for pack in listing.packs if pack.sha256 not in there}
        files: tuple[str, ...] = ()
        if past is not None:
            files = _changed(Listing.decode(old_layers[past.digest].listing), listing)
        travels = 0 if ref.digest in known else sum(lacking.values())
        changes.append(
            LayerChange(name=name[1], old=past, new=ref, files=files, travels_bytes=travels)
        )
    changes += [LayerChange(name=name[1], old=ref, new=None) for name, ref in was.items()]
    facts = tuple(each for each in _facts(before, after) if each[1] != each[2])
    layers = tuple(sorted(changes, key=lambda change: change.name.lower()))
    return Difference(facts=facts, layers=layers, same=same)


def _by_name(refs: Iterable[LayerRef]) -> dict[tuple[str, str, int], LayerRef]:
    """Return layers by what stays the same of them; those that share a name are numbered."""
    found: dict[tuple[str, str, int], LayerRef] = {}
    for ref in refs:
        name, number = ref.distribution[0] or ref.name, 0
        while (ref.kind, name, number) in found:
            number += 1
        found[ref.kind, name, number] = ref
    return found


def _changed(old: Listing, new: Listing) -> tuple[str, ...]:
    if new.kind not in ("source", "data"):
        return ()
    before, after = _contents(old), _contents(new)
    return tuple(sorted(path for path in before | after if before.get(path) != after.get(path)))


def _contents(listing: Listing) -> dict[str, object]:
    """Return what tells a file from another of its path, where each has packs of its own."""
    packs: dict[int, list[str]] = {}
    for pack, spans in zip(listing.packs, listing.spans(), strict=True):
        for span in spans:
            packs.setdefault(span.entry, []).append(pack.sha256)
    return {
        entry.path: (entry.mode, entry.size, entry.target, packs.get(number))
        for number, entry in enumerate(listing.entries)
    }


def _facts(old: Manifest, new: Manifest) -> Iterable[tuple[str, str, str]]:
    yield "Python", _version(old), _version(new)
    for key in sorted(old.platform.keys() | new.platform.keys()):
        yield key, _text(old.platform.get(key)), _text(new.platform.get(key))
    yield "sys.path", " ".join(old.sys_path), " ".join(new.sys_path)


def _version(manifest: Manifest) -> str:
    return ".".join(map(str, manifest.python))


def _text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value or "")
