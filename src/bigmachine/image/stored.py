"""Layers of a store as layers that can be sent: what was fetched back from a machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigmachine.image.listing import Listed

if TYPE_CHECKING:
    from bigmachine.image.store import Store


class StoredLayer(Listed):
    """A layer in a store, where it is in use.

    Args:
        store: The store.
        digest: The layer.
    """

    def __init__(self, store: Store, digest: str) -> None:
        super().__init__(store.listing_text(digest))
        self._contents = store.contents(digest)

    def read_pack(self, number: int) -> bytes:
        """Return one of its packs, uncompressed.

        Raises:
            OSError: It can no longer be read.
            ValueError: It is no longer what it was.
        """
        return self._contents.read_pack(number)
