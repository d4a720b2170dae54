"""The driver's side of images: hosts are given the layers that they lack, by it or by each other.

One `ImageServer` for each image that machines run in. A host says which layers it lacks; the plan
(`image.plan`) says from whom it gets each; the driver sends what it has to itself, has the hosts
fetch the rest from each other, and plans anew when a source fails or goes. When a host has
everything it makes the tree (`host.images` is the other side of all of this).

On the runtime's loop; reading and compressing run in threads.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from bigmachine.driver.arrival import Arrival
from bigmachine.errors import ProvisionError
from bigmachine.image import transit
from bigmachine.image.assemble import DamagedLayerError
from bigmachine.image.former import Former
from bigmachine.image.listing import PACK_BYTES, digest_of
from bigmachine.image.plan import DRIVER, Fetch, Plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bigmachine.driver.progress import StatusLine
    from bigmachine.driver.runtime import Runtime
    from bigmachine.image.build import Image
    from bigmachine.image.listing import Layer
    from bigmachine.image.store import Store
    from bigmachine.rpc.client import Client

logger = logging.getLogger(__name__)

_ATTEMPTS: Final = 2  # to assemble an image: layers that were changed on the host come again
_FRAME_BYTES: Final = 2 * PACK_BYTES
_LISTING_BYTES: Final = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """An image on a host.

    Attributes:
        root: Where its tree is.
        python: The interpreter to run in it.
    """

    root: str
    python: str


@dataclass(slots=True)
class _Host:
    control: Client
    address: str
    complete: asyncio.Future[None]
    fetches: dict[str, asyncio.Task[None]] = field(default_factory=dict)


class ImageServer:
    """Provides hosts with one image.

    Args:
        runtime: The loop.
        image: The image.
        system: What the hosts' system is called, for errors.
        status: Where to show how far it is; None: the driver's terminal.
    """

    def __init__(
        self,
        runtime: Runtime,
        image: Image,
        *,
        system: str = "",
        status: StatusLine | None = None,
    ) -> None:
        self.image = image
        self.sent: Counter[str] = Counter()
        """How many bytes of each layer the driver has sent, as they travel."""
        self._runtime = runtime
        self._system = system
        self._manifest = image.manifest.encode()
        self._sizes = {digest: layer.size_bytes for digest, layer in image.layers.items()}
        self._plan = Plan(self._sizes)
        self._arrival = Arrival(self._sizes, self._plan.lacking, status)
        self._former = Former()
        self._is_remembered = False
        self._hosts: dict[str, _Host] = {}
        self._provided: dict[str, asyncio.Task[Prepared]] = {}

    def __repr__(self) -> str:
        return f"<ImageServer {self.image.digest[:12]}, {len(self._provided)} hosts>"

    async def provide(self, control: Client, address: str, host_id: str) -> Prepared:
        """Give a host the image, if it has not got it yet.

        Args:
            control: The connection to its supervisor.
            address: Where other hosts reach it.
            host_id: What the host is called.

        Raises:
            ProvisionError: It cannot take it; says why, and what to do.
            BigmachineError: The connection broke.
        """
        task = self._provided.get(host_id)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            self.forget(host_id)
            task = self._provided[host_id] = self._runtime.start_task(
                self._provide(control, address, host_id), f"image for {host_id}"
            )
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            me = asyncio.current_task()
            if me is None or me.cancelling():
                raise
            raise self._refused(host_id, "the host was given up meanwhile") from None

    def forget(self, host_id: str) -> None:
        """A host has ended, or is about to: nobody gets anything from it any more. Idempotent."""
        task = self._provided.pop(host_id, None)
        if task is not None:
            task.cancel()
        self._leave(host_id)

    # One host

    async def _provide(self, control: Client, address: str, host_id: str) -> Prepared:
        try:
            for attempt in range(_ATTEMPTS):
                await self._supply(control, address, host_id)
                try:
                    root, python = await control.call("Images.assemble", (self._manifest,))
                    self._remember()
                    return Prepared(root=root, python=python)
                except DamagedLayerError as error:
                    logger.warning("%s: %s; it is sent again", host_id, error)
                    self._leave(host_id)
                    if attempt == _ATTEMPTS - 1:
                        raise
            raise AssertionError("unreachable")
        except (OSError, ValueError) as error:
            self._leave(host_id)
            raise self._refused(host_id, getattr(error, "strerror", None) or str(error)) from error
        except BaseException:
            self._leave(host_id)
            raise

    async def _supply(self, control: Client, address: str, host_id: str) -> None:
        """Have a host get every layer it lacks."""
        lacking = await control.call("Images.offer", (list(self._sizes),))
        complete: asyncio.Future[None] = self._runtime.loop.create_future()
        host = self._hosts[host_id] = _Host(control, address, complete)
        self._begin(self._plan.join(host_id, lacking))
        if self._arrival.expect(host_id, lacking):
            self._runtime.start_task(self._arrival.show(), "show the image's arrival")
        self._check(host_id)
        try:
            await complete
        finally:
            for task in host.fetches.values():
                task.cancel()

    def _refused(self, host_id: str, answer: str) -> ProvisionError:
        return ProvisionError(
            f"{host_id} cannot take the program's image",
            system=self._system,
            requested=1,
            started=0,
            answer=answer,
        )

    def _leave(self, host_id: str) -> None:
        host = self._hosts.pop(host_id, None)
        if host is not None:
            for task in host.fetches.values():
                task.cancel()
            if not host.complete.done():
                host.complete.cancel()
            self._begin(self._plan.leave(host_id))

    def _check(self, host_id: str) -> None:
        host = self._hosts[host_id]
        if not host.complete.done() and not self._plan.lacking(host_id):
            host.complete.set_result(None)

    # What the plan says

    def _begin(self, fetches: Sequence[Fetch]) -> None:
        for fetch in fetches:
            host = self._hosts[fetch.host]
            old = host.fetches.get(fetch.layer)
            if old is not None:
                old.cancel()
            name = self.image.layers[fetch.layer].name
            host.fetches[fetch.layer] = self._runtime.start_task(
                self._run(fetch, host), f"{name} for {fetch.host}"
            )

    async def _run(self, fetch: Fetch, host: _Host) -> None:
        try:
            reason = await self._get(fetch, host)
        except Exception as error:  # whatever it was: the host has it not, and will not get it
            if not host.complete.done():
                host.complete.set_exception(error)
            return
        if self._hosts.get(fetch.host) is not host:
            return
        if host.fetches.get(fetch.layer) is asyncio.current_task():
            del host.fetches[fetch.layer]
        if reason:
            layer = self.image.layers[fetch.layer].name
            logger.info("%s does not get %s from %s: %s", fetch.host, layer, fetch.source, reason)
            self._begin(self._plan.failed(fetch.host, fetch.layer, fetch.source))
        else:
            self._begin(self._plan.done(fetch.host, fetch.layer))
            self._check(fetch.host)

    async def _get(self, fetch: Fetch, host: _Host) -> str:
        """Have a host get a layer; return why its source could not give it, or ""."""
        if fetch.source == DRIVER:
            await self._upload(host.control, self.image.layers[fetch.layer])
            return ""
        source = self._hosts.get(fetch.source)
        if source is None:
            return "it is gone"
        reason: str = await host.control.call("Images.fetch", (fetch.layer, source.address))
        return reason

    async def _upload(self, control: Client, layer: Layer) -> None:
        """Send a host what it lacks of a layer."""
        base, known = await self._earlier(control, layer)
        compress = partial(transit.compress, layer.listing, known)
        listing = await self._runtime.in_background(compress, f"listing of {layer.name}")
        self.sent[layer.digest] += len(listing)
        lacking = await control.call("Images.begin", (layer.digest, listing, base))
        if lacking:
            # A plain iterator is read in a thread of its own, no faster than it is taken.
            await control.call("Images.put", (layer.digest, self._pieces(layer, lacking)))

    async def _earlier(self, control: Client, layer: Layer) -> tuple[str, bytes]:
        """Return an earlier version of a layer that the host has, and its listing."""
        versions = self._former.versions(layer)
        if not versions:
            return "", b""
        base = await control.call("Images.newest", (versions,))
        listing = self._former.listing(layer.name, base) if base else None
        return ("", b"") if listing is None else (base, listing)

    def _remember(self) -> None:
        """Keep the listings that hosts have now; once, and nobody waits for it."""
        if not self._is_remembered:
            self._is_remembered = True
            keep = self._runtime.in_background(self._keep_listings, "keep listings")
            self._runtime.start_task(keep, "keep listings")

    def _keep_listings(self) -> None:
        for layer in self.image.layers.values():
            self._former.keep(layer)

    def _pieces(self, layer: Layer, wanted: Sequence[int]) -> Iterator[transit.Piece]:
        for number in wanted:
            raw = layer.read_pack(number)
            for piece in transit.pieces(number, transit.compress(raw)):
                self.sent[layer.digest] += len(piece[2])
                yield piece
            self._arrival.sent(layer.digest, len(raw))


async def fetch_image(runtime: Runtime, control: Client, digest: str, store: Store) -> Image:
    """Fetch an image back from a host that it was assembled on.

    Args:
        runtime: The loop.
        control: The connection to the host's supervisor.
        digest: The image's.
        store: Where its layers are kept here.

    Raises:
        LookupError: It was not assembled there.
        OSError: It cannot be kept here; the message says why, and what to do.
        ValueError: What comes is not what it should be.
    """
    from bigmachine.image.build import Image
    from bigmachine.image.manifest import Manifest
    from bigmachine.image.stored import StoredLayer

    manifest = Manifest.decode(await control.call("Images.manifest", (digest,)))
    if manifest.digest != digest:
        raise ValueError(f"{control.label} has another image than {digest}")
    layers: dict[str, Layer] = {}
    for ref in manifest.layers:
        if not await runtime.in_background(partial(store.hold, ref.digest), "hold layer"):
            await _fetch_layer(runtime, control, ref.digest, store)
        layers[ref.digest] = StoredLayer(store, ref.digest)
    return Image(manifest=manifest, layers=layers)


async def _fetch_layer(runtime: Runtime, control: Client, digest: str, store: Store) -> None:
    text = b""
    joiner = transit.Joiner(_LISTING_BYTES)
    with control.stream("Images.listing", (digest,)) as pieces:
        async for piece in pieces:
            pack = joiner.feed(piece)
            if pack is not None:
                text = transit.decompress(pack[1], _LISTING_BYTES)
    if digest_of(text) != digest:
        raise ValueError(f"{control.label} sent another layer than {digest}")
    receiving = await runtime.in_background(partial(store.begin, text), "begin layer")
    try:
        joiner = transit.Joiner(_FRAME_BYTES)
        with control.stream("Images.packs", (digest, receiving.lacking)) as pieces:
            async for piece in pieces:
                pack = joiner.feed(piece)
                if pack is not None:
                    unpack = partial(transit.unpack, receiving, *pack)
                    await runtime.in_background(unpack, "unpack")
        await runtime.in_background(receiving.finish, "finish layer")
    finally:
        receiving.close()
