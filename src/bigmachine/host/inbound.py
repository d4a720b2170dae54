"""A layer on its way to this host, and at once to others that follow.

On the supervisor's loop; what blocks runs in threads. Each pack is verified and on the disk before
it is passed on, so what is damaged goes no further; the frame that came is passed on as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from bigmachine.image import transit
from bigmachine.image.listing import PACK_BYTES, digest_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from bigmachine.image.receiving import Receiving
    from bigmachine.image.store import Store

BEAT_SECONDS: Final = 2.0
"""How often a sender that has nothing to send says that it is there."""
FRAME_BYTES: Final = PACK_BYTES + PACK_BYTES // 8
"""How large a pack's frame may be: what cannot be compressed grows a little."""
LISTING_BYTES: Final = 256 << 20


class Inbound:
    """One layer that this host lacks, from the moment that is known.

    Attributes:
        digest: The layer.
        whole: Whether it is here and in its place.
        problem: Why this host cannot take it (a full disk), or None.
    """

    def __init__(self, digest: str, store: Store, recent: transit.Recent) -> None:
        self.digest = digest
        self.whole = False
        self.problem: Exception | None = None
        self._store = store
        self._recent = recent
        self._receiving: Receiving | None = None
        self._text = b""
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Inbound {self.digest[:12]} {self._receiving}>"

    @property
    def text(self) -> bytes:
        """The layer's listing; empty as long as that is not known."""
        return self._text

    @property
    def lacking(self) -> list[int]:
        """The packs that are not here yet; the listing has to be."""
        assert self._receiving is not None
        return [] if self.whole else self._receiving.lacking

    def has(self, number: int) -> bool:
        """Whether a pack is here."""
        return self.whole or (self._receiving is not None and self._receiving.has(number))

    async def begin(self, text: bytes) -> None:
        """Take the listing, and whatever packs are on this host already. Idempotent.

        Raises:
            ValueError: It is not this layer's, or one that must not be unpacked.
            OSError: This host cannot take it.
        """
        if digest_of(text) != self.digest:
            raise ValueError(f"this is not the listing of layer {self.digest}")
        async with self._turn, _Told(self):
            if self._receiving is None:
                await _undisturbed(self._begin, text)
            await self._finish()

    async def take(self, number: int, frame: bytes) -> None:
        """Take a pack; errors as in `begin`."""
        receiving = self._receiving
        assert receiving is not None
        if self.has(number) or not 0 <= number < len(receiving.listing.packs):
            return
        async with _Told(self):
            await _undisturbed(transit.unpack, receiving, number, frame)
            self._recent.put(self.digest, number, frame)

    async def settle(self) -> bool:
        """Put the layer into its place if all of it is here; whether that is so. Idempotent."""
        async with self._turn, _Told(self):
            await self._finish()
        return self.whole

    async def frame(self, number: int) -> bytes:
        """Return a pack that is here as it travels."""
        frame = self._recent.get(self.digest, number)
        if frame is None:
            assert self._receiving is not None
            frame = await asyncio.to_thread(_read, self._receiving.read_pack, number)
            self._recent.put(self.digest, number, frame)
        return frame

    async def wait(self) -> bool:
        """Wait until something has changed; False when that takes longer than a beat.

        Raises:
            OSError: This host cannot take the layer, so nobody will get it from here.
        """
        if self.problem is not None:
            raise OSError(f"this host cannot take the layer itself: {self.problem}")
        with suppress(TimeoutError):
            async with asyncio.timeout(BEAT_SECONDS):
                await self._changed.wait()
                return True
        return False

    def close(self) -> None:
        """Stop receiving; what is here is there for the next attempt."""
        if self._receiving is not None:
            self._receiving.close()

    def tell(self) -> None:
        """Wake those who wait for a change."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _begin(self, text: bytes) -> None:
        receiving = self._store.begin(text)
        try:
            receiving.reuse()
        except BaseException:
            receiving.close()
            raise
        self._receiving, self._text = receiving, text

    async def _finish(self) -> None:
        if not self.whole and self._receiving is not None and not self._receiving.lacking:
            await _undisturbed(self._receiving.finish)
            self.whole = True


class _Told:
    """Tells those who wait what came of something."""

    def __init__(self, inbound: Inbound) -> None:
        self._inbound = inbound

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, OSError):
            self._inbound.problem = error
        self._inbound.tell()


async def _undisturbed(function: Callable[..., None], *args: Any) -> None:
    """Run what blocks in a thread, to its end also when this task is cancelled."""
    running = asyncio.ensure_future(asyncio.to_thread(function, *args))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait((running,))
        running.exception()  # whoever comes next will meet it too
        raise


def _read(read: Callable[[int], bytes], number: int) -> bytes:
    return transit.compress(read(number))


class Held:
    """A layer that was here from the beginning, as a source for others."""

    problem = None

    def __init__(self, digest: str, store: Store, recent: transit.Recent) -> None:
        self.digest = digest
        self._store = store
        self._recent = recent

    async def listing(self) -> bytes:
        """Return its listing."""
        return await asyncio.to_thread(self._store.listing_text, self.digest)

    async def frame(self, number: int) -> bytes:
        """Return a pack as it travels."""
        frame = self._recent.get(self.digest, number)
        if frame is None:
            store, digest = self._store, self.digest
            frame = await asyncio.to_thread(_read, lambda n: store.read_pack(digest, n), number)
            self._recent.put(digest, number, frame)
        return frame


async def send_listing(source: Inbound | Held) -> AsyncGenerator[transit.Piece, None]:
    """Send the listing of a layer as soon as it is known here."""
    if isinstance(source, Held):
        text = await source.listing()
    else:
        while not source.text:
            if not await source.wait():
                yield transit.BEAT, True, b""
        text = source.text
    for piece in transit.pieces(0, await asyncio.to_thread(transit.compress, text)):
        yield piece


async def send_packs(
    source: Inbound | Held, wanted: list[int]
) -> AsyncGenerator[transit.Piece, None]:
    """Send packs of a layer in the order in which they are here."""
    left = dict.fromkeys(wanted)
    while left:
        number = next((each for each in left if isinstance(source, Held) or source.has(each)), None)
        if number is None:
            assert isinstance(source, Inbound)
            if not await source.wait():
                yield transit.BEAT, True, b""
            continue
        del left[number]
        for piece in transit.pieces(number, await source.frame(number)):
            yield piece
