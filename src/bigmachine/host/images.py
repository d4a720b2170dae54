"""The service ``Images`` of a supervisor: layers come in, go on to other hosts, and become a tree.

::

    driver ── offer(layers) ──▶ here: which of them are lacking
           ── begin, put ─────▶ the driver sends a layer itself
           ── fetch(source) ──▶ here ── listing, packs ──▶ another host's Images
           ── assemble ───────▶ the tree of the image, and the interpreter in it

The driver says who gets what from whom (`image.plan`). What always holds: only what is verified is
kept or passed on; a fetch that ends early goes on with what is still lacking, from wherever.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Final

from bigmachine.addresses import Address
from bigmachine.errors import BigmachineError, is_remote
from bigmachine.host import bootlink, inbound
from bigmachine.host.inbound import FRAME_BYTES, LISTING_BYTES, Held, Inbound
from bigmachine.host.peer import Peer
from bigmachine.image import transit

if TYPE_CHECKING:
    from bigmachine.host.messages import HostConfig
    from bigmachine.image.assemble import Assembled
    from bigmachine.image.store import Store
    from bigmachine.rpc.client import Client
    from bigmachine.rpc.dialer import Dialer
    from bigmachine.rpc.server import Server
    from bigmachine.rpc.streams import Stream

RECENT_BYTES: Final = 48 << 20
"""How much of the packs is kept in memory to be passed on."""
PRUNE_SECONDS: Final = 5.0
"""How long after a launch that brought layers the cache is looked through: not in its midst."""


class ImagesService:
    """What the driver and other hosts ask for.

    Args:
        store: Opens the store; called in a thread, when it is first needed.
        connect: Returns a client of the supervisor at an address.
        dialer: With this host's credentials.
    """

    def __init__(
        self, store: Callable[[], Store], connect: Callable[[Address], Client], dialer: Dialer
    ) -> None:
        self._open_store = store
        self._connect = connect
        self._dialer = dialer
        self._opening = asyncio.Lock()
        self._store: Store | None = None
        self._recent = transit.Recent(RECENT_BYTES)
        self._inbound: dict[str, Inbound] = {}
        self._peers: dict[str, Peer] = {}
        self._images: dict[str, Assembled] = {}
        self._pruning: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<ImagesService {self._store}, {len(self._inbound)} layers came in>"

    # For the driver.

    async def offer(self, layers: list[str]) -> list[str]:
        """Take layers into use, and return which of them are not here.

        Raises:
            OSError: This host cannot keep layers; the message says why, and what to do.
        """
        store = await self._ready()
        lacking = await asyncio.to_thread(
            lambda: [layer for layer in layers if not store.hold(layer)]
        )
        for layer in lacking:
            old = self._inbound.get(layer)
            if old is None or old.whole or old.problem is not None:
                if old is not None:
                    old.close()
                self._inbound[layer] = Inbound(layer, store, self._recent)
        return lacking

    async def newest(self, layers: list[str]) -> str:
        """Return the first of some layers that is here, in use from now on; "": none is."""
        store = await self._ready()
        return await asyncio.to_thread(lambda: next(filter(store.hold, layers), ""))

    async def begin(self, layer: str, listing: bytes, base: str = "") -> list[int]:
        """Take a listing, compressed, and return the numbers of the packs that are lacking.

        Args:
            layer: The layer.
            listing: Its listing.
            base: The layer whose listing it is the difference to.

        Raises:
            OSError: This host cannot take the layer; the message says why, and what to do.
        """
        coming, store = self._coming(layer), await self._ready()
        known = await asyncio.to_thread(store.listing_text, base) if base else b""
        text = await asyncio.to_thread(transit.decompress, listing, LISTING_BYTES, known)
        await coming.begin(text)
        return coming.lacking

    async def put(self, layer: str, packs: Stream[transit.Piece]) -> None:
        """Take what is lacking of a layer from the driver; errors as in `begin`.

        Raises:
            ValueError: It was damaged on its way, or not all of it has come.
        """
        coming = self._coming(layer)
        joiner = transit.Joiner(FRAME_BYTES)
        async for piece in packs:
            pack = joiner.feed(piece)
            if pack is not None:
                await coming.take(*pack)
        if not await coming.settle():
            raise ValueError(f"only a part of layer {layer} has come")

    async def fetch(self, layer: str, address: str) -> str:
        """Get what is lacking of a layer from another host.

        Returns:
            "" when it is all here, else why that host could not give it.

        Raises:
            OSError: This host cannot take the layer; the message says why, and what to do.
        """
        coming = self._coming(layer)
        peer = self._peer(address)
        try:
            await peer.reach()
            await self._pull(coming, peer)
        except (BigmachineError, TimeoutError, ValueError) as error:
            return f"{type(error).__name__}: {error}"
        except Exception as error:
            if not is_remote(error):
                raise
            return f"{type(error).__name__}: {error}"
        return "" if await coming.settle() else "it ended early"

    async def assemble(self, manifest: bytes) -> tuple[str, str]:
        """Return the root of an image of which all layers are here, and the interpreter in it.

        Raises:
            DamagedLayerError: A layer was changed on this host; it has to be offered again.
            OSError: The tree cannot be written; the message says why, and what to do.
        """
        from bigmachine.image.assemble import DamagedLayerError, assemble
        from bigmachine.image.manifest import Manifest

        store = await self._ready()
        image = Manifest.decode(manifest)
        held = self._images.get(image.digest)
        if held is None:
            try:
                held = await asyncio.to_thread(assemble, store, image, base_python())
            except DamagedLayerError as error:
                self._inbound.pop(error.digest, None)
                await asyncio.to_thread(store.condemn, error.digest)
                raise
            other = self._images.setdefault(image.digest, held)
            if other is not held:
                os.close(held.lock)
            if self._pruning is None or self._pruning.done():  # nobody has to wait for it
                self._pruning = asyncio.ensure_future(self._keep_within_limit(store))
        return held.root, held.python

    async def manifest(self, digest: str) -> bytes:
        """Return the manifest of an image that was assembled on this host.

        Raises:
            LookupError: It was not.
        """
        from bigmachine.image.assemble import find_manifest

        text = await asyncio.to_thread(find_manifest, await self._ready(), digest)
        if text is None:
            raise LookupError(f"there is no image {digest} on this host")
        return text

    async def feed(self, address: str, packs: Mapping[str, list[int]]) -> None:
        """Send a host that boots what it lacks of the runtime, which this host has.

        Args:
            address: Where it listens; it expects this host.
            packs: The layers and their packs, in the order in which it wants them.

        Raises:
            LookupError: A layer is not here.
            OSError: That host is not reached, or does not take all of it.
        """
        store = await self._ready()
        for layer in packs:
            if not await asyncio.to_thread(store.hold, layer):
                raise LookupError(f"there is no layer {layer} on this host")
        await bootlink.feed(self._dialer, Address.parse(address), store, packs)

    # For other hosts, and the driver too.

    async def here(self) -> bool:
        """Return True: this host can be reached."""
        return True

    async def listing(self, layer: str) -> AsyncIterator[transit.Piece]:
        """Send the listing of a layer, when it is known."""
        async with aclosing(inbound.send_listing(await self._source(layer))) as pieces:
            async for piece in pieces:
                yield piece

    async def packs(self, layer: str, wanted: list[int]) -> AsyncIterator[transit.Piece]:
        """Send packs of a layer, as they come in."""
        async with aclosing(inbound.send_packs(await self._source(layer), wanted)) as pieces:
            async for piece in pieces:
                yield piece

    def close(self) -> None:
        """End what comes in, and take everything out of use."""
        if self._pruning is not None:
            self._pruning.cancel()
        for coming in self._inbound.values():
            coming.close()
        for peer in self._peers.values():
            peer.client.close()
        for image in self._images.values():
            os.close(image.lock)
        self._images.clear()
        if self._store is not None:
            self._store.close()

    async def _keep_within_limit(self, store: Store) -> None:
        from bigmachine.image.prune import prune

        if self._inbound:  # should this host end before, the next one looks at once
            await asyncio.sleep(PRUNE_SECONDS)
        elif store.is_within(store.limit_bytes):
            return
        with suppress(OSError):
            await asyncio.to_thread(prune, store, store.limit_bytes)

    async def _ready(self) -> Store:
        async with self._opening:
            if self._store is None:
                self._store = await asyncio.to_thread(self._open_store)
        return self._store

    def _coming(self, layer: str) -> Inbound:
        coming = self._inbound.get(layer)
        if coming is None:
            raise LookupError(f"layer {layer} was not offered to this host")
        return coming

    async def _source(self, layer: str) -> Inbound | Held:
        coming = self._inbound.get(layer)
        if coming is not None:
            return coming
        store = await self._ready()
        if not await asyncio.to_thread(store.hold, layer):
            raise LookupError(f"there is no layer {layer} on this host")
        return Held(layer, store, self._recent)

    def _peer(self, address: str) -> Peer:
        peer = self._peers.get(address)
        if peer is None:
            peer = self._peers[address] = Peer(self._connect(Address.parse(address)))
        return peer

    async def _pull(self, coming: Inbound, peer: Peer) -> None:
        if not coming.text:
            joiner = transit.Joiner(LISTING_BYTES)
            async with aclosing(peer.follow("Images.listing", coming.digest)) as pieces:
                async for piece in pieces:
                    pack = joiner.feed(piece)
                    if pack is not None:
                        text = await asyncio.to_thread(transit.decompress, pack[1], LISTING_BYTES)
                        await coming.begin(text)
        if coming.whole or not coming.text:
            return
        joiner = transit.Joiner(FRAME_BYTES)
        async with aclosing(peer.follow("Images.packs", coming.digest, coming.lacking)) as pieces:
            async for piece in pieces:
                pack = joiner.feed(piece)
                if pack is not None:
                    await coming.take(*pack)


def images_service(config: HostConfig, server: Server) -> ImagesService:
    """Return the service of a supervisor, which reaches others with its own credentials."""
    from bigmachine.image.prune import make_room
    from bigmachine.image.store import DEFAULT_LIMIT_BYTES, Store
    from bigmachine.rpc.client import Client
    from bigmachine.rpc.dialer import Dialer
    from bigmachine.security.credentials import Credentials

    credentials = None if config.credentials is None else Credentials(**config.credentials)
    dialer = Dialer(credentials, gateway=config.gateway)

    def connect(address: Address) -> Client:
        return Client(
            server.loop,
            lambda: dialer.connect(address),
            timers=server.timers,
            label=f"the supervisor at {address}",
            tls=lambda: (dialer.tls(address), address.subject),
        )

    # The boot file removes that directory once this process is gone, killed or not.
    inside = config.cache and config.directory.startswith(os.path.join(config.cache, ""))
    temporary = config.directory if inside else None
    limit = DEFAULT_LIMIT_BYTES if config.cache_bytes is None else config.cache_bytes

    def open_store() -> Store:
        return Store(config.cache, limit_bytes=limit, room=make_room, temporary=temporary)

    return ImagesService(open_store, connect, dialer)


def base_python() -> str:
    """Return this process's interpreter, or that of its virtual environment."""
    return os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)
