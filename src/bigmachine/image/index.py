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
from collections.abc import Iterable, Mapping
from typing import Any, Final

from bigmachine.image.files import FileLayer, Source
from bigmachine.image.manifest import LayerRef

logger = logging.getLogger(__name__)

_VERSION: Final = 1


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

    def find(self, key: str) -> tuple[LayerRef, FileLayer] | None:
        """Return a layer that has not changed since it was kept.

        Args:
            key: What it was kept as.
        """
        known = self._known.get(key)
        if known is None:
            return None
        try:
            paths = [path for _, path, _ in known["sources"]]
            if known["signature"] != signature(paths):
                return None
            ref = LayerRef(
                **{
                    **known["ref"],
                    "distribution": tuple(known["ref"]["distribution"]),
                    "tags": tuple(known["ref"]["tags"]),
                }
            )
            sources = {
                place: Source(path, head=bytes.fromhex(head))
                for place, path, head in known["sources"]
            }
            layer = FileLayer(known["listing"].encode("utf-8", "surrogateescape"), sources)
        except (KeyError, TypeError, ValueError):
            return None
        self._used[key] = known
        return ref, layer

    def keep(
        self, key: str, ref: LayerRef, layer: FileLayer, sources: Mapping[str, Source]
    ) -> None:
        """Keep what came of reading a layer's files, none of which is made up."""
        self._changed = True
        self._used[key] = {
            "signature": signature([source.path for source in sources.values()]),
            "ref": {
                "digest": ref.digest,
                "name": ref.name,
                "kind": ref.kind,
                "mount": ref.mount,
                "size_bytes": ref.size_bytes,
                "distribution": ref.distribution,
                "tags": ref.tags,
            },
            "sources": [[place, each.path, each.head.hex()] for place, each in sources.items()],
            "listing": layer.listing.decode("utf-8", "surrogateescape"),
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
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(path)
                raise
        except OSError as error:
            logger.debug("the index of images cannot be written: %s", error)

    def _load(self) -> dict[str, Any]:
        try:
            with open(self._path, encoding="utf-8", errors="surrogateescape") as file:
                values = json.load(file)
            if values["v"] != _VERSION:
                return {}
            known: dict[str, Any] = values["layers"]
            return known if isinstance(known, dict) else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}


def signature(paths: Iterable[str]) -> str:
    """Return a text that changes when one of these files does."""
    state = hashlib.sha256()
    for path in paths:
        try:
            found = os.stat(path)
            state.update(b"%d %d %d\n" % (found.st_mtime_ns, found.st_size, found.st_mode))
        except OSError:
            state.update(b"gone\n")
    return state.hexdigest()


def default_directory() -> str:
    """Return where a user's indexes are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "bigmachine", "index")
