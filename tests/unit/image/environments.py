"""Environments made for a test, and what is in an image of one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from bigmachine.image.build import Image, build
from bigmachine.image.index import Index
from bigmachine.image.layout import SITE
from bigmachine.image.listing import Entry, Listing


class Environment:
    """A prefix with a ``site-packages``, and a project beside it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.prefix = root / "venv"
        self.site = self.prefix / SITE
        self.project = root / "project"
        self.site.mkdir(parents=True)
        self.project.mkdir()
        self.sys_path = [str(self.project), str(self.site)]

    def write(self, path: Path, text: str = "x = 1\n") -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def install(
        self, name: str, *files: str, record: bool = True, wheel: str = "py3-none-any"
    ) -> None:
        info = f"{name}-1.0.dist-info"
        self.write(
            self.site / info / "METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        )
        self.write(self.site / info / "WHEEL", f"Wheel-Version: 1.0\nTag: {wheel}\n")
        for file in files:
            if not (self.site / file).exists():
                self.write(Path(os.path.normpath(self.site / file)))
        if record:
            rows = [*files, f"{info}/METADATA", f"{info}/WHEEL", f"{info}/RECORD"]
            self.write(self.site / info / "RECORD", "".join(f"{row},,\n" for row in rows))

    def build(self, **more: object) -> Image:
        index = Index([str(self.root)], directory=str(self.root / "index"))
        return build(sys_path=self.sys_path, index=index, **more)  # type: ignore[arg-type]


def files(image: Image, choose: Callable[[str], bool] = lambda name: True) -> dict[str, Entry]:
    """All files of an image, by their places."""
    found: dict[str, Entry] = {}
    for ref in image.manifest.layers:
        if choose(ref.name):
            listing = Listing.decode(image.layers[ref.digest].listing)
            found.update((os.path.join(ref.mount, each.path), each) for each in listing.entries)
    return found


def content(image: Image, place: str) -> bytes:
    """What is in a file of an image."""
    for ref in image.manifest.layers:
        layer = image.layers[ref.digest]
        listing = Listing.decode(layer.listing)
        packs = [layer.read_pack(number) for number in range(len(listing.packs))]
        data = b"".join(packs)
        at = 0
        for entry in listing.entries:
            if os.path.join(ref.mount, entry.path) == place:
                return data[at : at + (entry.size or 0)]
            at += entry.size or 0
    raise AssertionError(f"there is no {place}")
