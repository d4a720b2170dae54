"""Layers of a store as layers that can be sent: what was fetched back from a machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bigmachine.image.listing import Kind
    from bigmachine.image.store import Store


class StoredLayer:
    """A layer in a store, where it is in use.

    Args:
        store: The store.
        digest: The layer.
    """

    def __init__(self, store: Store, digest: str) -> None:
        self._store = store
        self._contents = store.contents(digest)
        self.digest = digest
        self.listing = store.listing_text(digest)

    def __repr__(self) -> str:
        return f"<StoredLayer {self.name}>"

    @property
    def name(self) -> str:
        """What it is, for a person."""
        return self._contents.listing.name

    @property
    def kind(self) -> Kind:
        """What it is."""
        return self._contents.listing.kind

    @property
    def size_bytes(self) -> int:
        """How much its files are together."""
        return self._contents.listing.size_bytes

    def read_pack(self, number: int) -> bytes:
        """Return one of its packs, uncompressed.

        Raises:
            OSError: It can no longer be read.
            ValueError: It is no longer what it was.
        """
        return self._contents.read_pack(number)
