"""An image for another kind of computer: the same distributions and versions, as that needs them.

What is written in Python is the same everywhere and stays. What was compiled for this kind is had
anew for the other (`image.resolve`). The user's own compiled modules cannot be, and are named.
"""

from __future__ import annotations

import os
from dataclasses import replace

from bigmachine.errors import ProvisionError
from bigmachine.image.build import Image
from bigmachine.image.distributions import with_compiled
from bigmachine.image.files import FileLayer, Source, make_layer
from bigmachine.image.layout import SITE
from bigmachine.image.listing import Layer, Listing
from bigmachine.image.manifest import LayerRef
from bigmachine.image.platforms import Platform
from bigmachine.image.resolve import resolve

_COMPILED = (".so", ".dylib", ".pyd")
_NOTED_BY_INSTALLERS = ("REQUESTED", "direct_url.json", "INSTALLER", "RECORD")


def adapt(image: Image, platform: Platform, directory: str) -> Image:
    """Return an image as hosts of another kind need it; blocks, the first time for a while.

    Args:
        image: What the driver has.
        platform: The hosts' kind, with the Python that runs there.
        directory: Where distributions for other kinds are kept between runs.

    Raises:
        ProvisionError: Something cannot be had for that kind. It is named.
    """
    here = Platform.from_mapping(image.manifest.platform, image.manifest.python)
    if platform.runs_what_is_made_for(here):
        return image
    foreign = [ref for ref in image.manifest.layers if not _runs(ref, image, platform)]
    own = [ref for ref in foreign if not ref.distribution[1]]
    if own:
        raise _own_modules(own, image, platform)
    found = resolve([ref.distribution for ref in foreign], platform, directory)
    layers = dict(image.layers)
    refs: list[LayerRef] = []
    for ref in image.manifest.layers:
        if ref in foreign:
            layer = _layer(ref, found[ref.distribution[0]])
            layers[layer.digest] = layer
            ref = replace(ref, digest=layer.digest, size_bytes=layer.size_bytes)
        refs.append(ref)
    manifest = replace(
        image.manifest,
        layers=tuple(refs),
        platform={
            "system": platform.system,
            "machine": platform.machine,
            "libc": [platform.libc, ".".join(map(str, platform.libc_version))],
        },
    )
    used = {ref.digest for ref in refs}
    return Image(manifest=manifest, layers={d: layers[d] for d in layers if d in used})


def _runs(ref: LayerRef, image: Image, platform: Platform) -> bool:
    if ref.tags:
        return any(platform.runs(tag) for tag in ref.tags)
    return ref.kind == "data" or not _compiled(image.layers[ref.digest])


def _compiled(layer: Layer) -> list[str]:
    entries = Listing.decode(layer.listing).entries
    return [entry.path for entry in entries if entry.path.endswith(_COMPILED)]


def _layer(ref: LayerRef, directory: str) -> FileLayer:
    """Make a layer of what was unpacked, laid out as an image is."""
    sources: dict[str, Source] = {}
    for parent, _, names in os.walk(directory):
        below = os.path.relpath(parent, directory).replace(os.sep, "/")
        for name in names:
            inside = name if below == "." else f"{below}/{name}"
            place = inside if inside.startswith(("bin/", "share/")) else f"{SITE}/{inside}"
            if not name.startswith(".") and name not in _NOTED_BY_INSTALLERS:
                sources.update(with_compiled(place, os.path.join(parent, name)))
    return make_layer(ref.name, "distribution", sources)


def _own_modules(refs: list[LayerRef], image: Image, platform: Platform) -> ProvisionError:
    files = [f"{ref.name}: {path}" for ref in refs for path in _compiled(image.layers[ref.digest])]
    return ProvisionError(
        f"modules that were compiled on this computer do not run on {platform}, and no package "
        f"index has them: {', '.join(files[:5])}{' and more' if len(files) > 5 else ''}",
        system="image",
        requested=len(refs),
        started=0,
        remedy="build a wheel of them for that platform and install it, leave them out, or use "
        "hosts of the driver's own kind",
    )
