"""What is already known of this computer's distributions, so that building an image is quick.

To name a layer every file of it has to be read. Distributions hardly ever change, so what came of
reading them is kept in the user's cache, with the size and time of every file; as long as these
are the same, nothing is read. The index is a convenience: where it cannot be read or written, all
is read anew. Programs that write it at the same time lose nothing but time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final

from bigmachine.image.files import FileLayer, Source
from bigmachine.image.manifest import LayerRef

logger = logging.getLogger(__name__)

_VERSION: Final = 2
_UNUSED_SECONDS: Final = 30 * 86_400.0
"""How long an index is kept that nobody reads."""


@dataclass(frozen=True, slots=True)
class Known:
    """A layer, and what was found out when it was made.

    Attributes:
        ref: What the manifest says of it.
        layer: The layer.
        places: Its files and links, by path in the layer.
        problems: What could not travel, and why.
    """

    ref: LayerRef
    layer: FileLayer
    places: tuple[str, ...]
    problems: tuple[tuple[str, str], ...] = ()


class Index:
    """The index of one environment.

    Args:
        environment: What tells it from others: the directories of its distributions.
        directory: Where indexes are kept.
    """

    def __init__(self, environment: Iterable[str], directory: str | None = None) -> None:
        key = hashlib.sha256("\n".join(environment).encode("utf-8", "surrogateescape"))
        self._directory = directory or default_directory()
        self._path = os.path.join(self._directory, f"{key.hexdigest()[:24]}.json")
        self._known = self._load()
        self._used: dict[str, Any] = {}
        self._changed = False

    def beside(self, environment: Iterable[str]) -> Index:
        """Return another one, kept where this is."""
        return Index(environment, self._directory)

    def find(self, key: str) -> Known | None:
        """Return a layer that has not changed since it was kept.

        Args:
            key: What it was kept as.
        """
        kept = self._known.get(key)
        if kept is None:
            return None
        try:
            if kept["signature"] != signature(path for _, path, _ in kept["sources"]):
                return None
            values = kept["ref"]
            name, version = values["distribution"]
            ref = LayerRef(
                **{**values, "distribution": (name, version), "tags": tuple(values["tags"])}
            )
            text = kept["listing"].encode("utf-8", "surrogateescape")
            layer = FileLayer(text, partial(_sources_of, kept["sources"]))
            problems = tuple((path, why) for path, why in kept["problems"])
            places = (*(place for place, _, _ in kept["sources"]), *kept["links"])
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        self._used[key] = kept
        return Known(ref, layer, places, problems)

    def keep(self, key: str, known: Known, sources: Mapping[str, Source], state: str) -> None:
        """Keep what came of reading a layer's files, none of which is made up.

        Args:
            key: What to keep it as.
            known: What came of it.
            sources: Its files.
            state: Their `signature`, from before they were read.
        """
        self._changed = True
        self._used[key] = {
            "signature": state,
            "ref": asdict(known.ref),
            "sources": [[place, each.path, each.head.hex()] for place, each in sources.items()],
            "links": [place for place in known.places if place not in sources],
            "problems": known.problems,
            "listing": known.layer.listing.decode("utf-8", "surrogateescape"),
        }

    def save(self) -> None:
        """Write what was used down, if there is anything new."""
        if not self._changed and len(self._used) == len(self._known):
            return
        values = {"v": _VERSION, "layers": self._used}
        try:
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            handle, path = tempfile.mkstemp(dir=self._directory, prefix=".new-")
            try:
                with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as file:
                    json.dump(values, file, ensure_ascii=False)
                os.replace(path, self._path)
                self._forget_others()
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(path)
                raise
        except OSError as error:
            logger.debug("the index of images cannot be written: %s", error)

    def _forget_others(self) -> None:
        """Remove the indexes of environments that have not been used for long."""
        limit = time.time() - _UNUSED_SECONDS
        with os.scandir(self._directory) as entries:
            for entry in entries:
                if entry.stat(follow_symlinks=False).st_mtime < limit:
                    os.unlink(entry.path)

    def _load(self) -> dict[str, Any]:
        try:
            with open(self._path, encoding="utf-8", errors="surrogateescape") as file:
                values = json.load(file)
            if values["v"] != _VERSION:
                return {}
            os.utime(self._path)
            known: dict[str, Any] = values["layers"]
            return known if isinstance(known, dict) else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}


def _sources_of(kept: list[tuple[str, str, str]]) -> dict[str, Source]:
    return {place: Source(path, head=bytes.fromhex(head)) for place, path, head in kept}


def key_of(sources: Mapping[str, Source], links: Mapping[str, str]) -> str:
    """Return a text that changes when other files are to be in a layer, or some are no more.

    It is "" for what cannot be kept: contents that are made up.
    """
    if any(source.data is not None for source in sources.values()):
        return ""
    names = [[place, each.path, each.head.hex()] for place, each in sorted(sources.items())]
    text = json.dumps([names, sorted(links.items())])
    return hashlib.sha256(text.encode()).hexdigest()


def signature(paths: Iterable[str]) -> str:
    """Return a text that changes when one of these files does.

    The time of a file's last change of status is part of it: it is the one that nobody can set, so
    what was written in place with the old time and size is noticed too.
    """
    state = hashlib.sha256()
    for path in paths:
        try:
            found = os.stat(path)
        except OSError:
            state.update(b"gone\n")
            continue
        values = found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_mode
        state.update(b"%d %d %d %d\n" % values)
    return state.hexdigest()


def default_directory() -> str:
    """Return where a user's indexes are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "bigmachine", "index")
