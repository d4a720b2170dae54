"""What an image is: its layers, and how a program finds its way in them.

An image is the environment of one program: an interpreter's version, the layers, ``sys.path``, and
where each of the driver's directories is in it. On a host it becomes a virtual environment::

    lib/python3.11/site-packages/…   the distributions      bin/…     their scripts
    src/0/…, src/1/…                 the user's source      data/0/…  files the user has named

Pure: texts in, texts out. The digest of the manifest's text names the image.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from bigmachine.image.listing import Kind

_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRef:
    """A layer of an image.

    Attributes:
        digest: Its name by content.
        name: What it is, for a person.
        kind: What it is.
        mount: Where its files are in the image, relative to the root; "" is the root itself.
        size_bytes: How much its files are together.
        distribution: For what is a distribution: its name and version, else two empty texts.
        tags: For what is a distribution: its wheel's tags; () when it is not known what made it.
    """

    digest: str
    name: str
    kind: Kind
    mount: str
    size_bytes: int
    distribution: tuple[str, str] = ("", "")
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """An image, without the contents of its layers.

    Attributes:
        python: The driver's Python, as three numbers.
        platform: Of what it was built for: ``system``, ``machine``, ``libc`` as a boot file says.
        layers: The layers; where two have the same file, the later one's holds.
        sys_path: The program's ``sys.path``, relative to the image's root, without what every
            interpreter has itself.
        places: The driver's directories and files, absolute, and where they are in the image.
        scripts: Files of which the first line names the interpreter.
        left_out: What of the user's directories is not in it, and why.
    """

    python: tuple[int, int, int]
    platform: Mapping[str, Any]
    layers: tuple[LayerRef, ...]
    sys_path: tuple[str, ...]
    places: tuple[tuple[str, str], ...]
    scripts: tuple[str, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()

    @property
    def digest(self) -> str:
        """The image's name by content."""
        return hashlib.sha256(self.encode()).hexdigest()

    @property
    def size_bytes(self) -> int:
        """How much all its files are together."""
        return sum(layer.size_bytes for layer in self.layers)

    def encode(self) -> bytes:
        """Return the canonical text."""
        values = {
            "v": _VERSION,
            "python": self.python,
            "platform": dict(self.platform),
            "layers": [
                {
                    "digest": layer.digest,
                    "name": layer.name,
                    "kind": layer.kind,
                    "mount": layer.mount,
                    "size_bytes": layer.size_bytes,
                    "distribution": layer.distribution,
                    "tags": layer.tags,
                }
                for layer in self.layers
            ],
            "sys_path": self.sys_path,
            "places": self.places,
            "scripts": self.scripts,
            "left_out": self.left_out,
        }
        text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return text.encode("utf-8", "surrogateescape")

    @classmethod
    def decode(cls, text: bytes) -> Manifest:
        """Rebuild a manifest from its text.

        Raises:
            ValueError: It is none.
        """
        try:
            values = json.loads(text.decode("utf-8", "surrogateescape"))
            if values.pop("v") != _VERSION:
                raise ValueError("this version of images is not known")
            major, minor, patch = values["python"]
            return cls(
                python=(major, minor, patch),
                platform=values["platform"],
                layers=tuple(_layer(each) for each in values["layers"]),
                sys_path=tuple(values["sys_path"]),
                places=tuple((ours, there) for ours, there in values["places"]),
                scripts=tuple(values["scripts"]),
                left_out=tuple((path, why) for path, why in values["left_out"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"this is no image's manifest: {error!r}") from error


def map_path(manifest: Manifest, path: str) -> str | None:
    """Return where a file or directory of the driver is in the image, relative to its root.

    Args:
        manifest: The image's.
        path: Absolute, as the driver knows it.

    Returns:
        None: It is in no part of the image.
    """
    return place_of(manifest.places, path)


def place_of(places: Iterable[tuple[str, str]], path: str) -> str | None:
    """Return where a path is, by the longest of the places that it is in; see `map_path`."""
    path = posixpath.normpath(path)
    best: tuple[str, str] | None = None
    for ours, there in places:
        inside = path == ours or path.startswith(ours.rstrip("/") + "/")
        if inside and (best is None or len(ours) > len(best[0])):
            best = ours, there
    if best is None:
        return None
    return posixpath.normpath(posixpath.join(best[1], path[len(best[0]) :].lstrip("/")))


def _layer(values: Mapping[str, Any]) -> LayerRef:
    name, version = values["distribution"]
    return LayerRef(
        **{**values, "distribution": (name, version), "tags": tuple(values["tags"])},
    )
