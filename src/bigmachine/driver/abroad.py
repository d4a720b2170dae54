"""Hosts elsewhere: what it takes until they can do what this computer can, and to keep them.

A host that is another computer has nothing at first but the boot file, which listens. It is brought
up in three steps: the boot file is given the runtime and starts the supervisor
(`driver.bootstrap`); the keeper begins to renew its lease (`driver.keeper`); and before machines
start there, the program's image is provided (`driver.images`) and the orders are put in the host's
terms (`driver.translate`). The image is built while the hosts come up.

Nothing of the driver's environment goes to such a host: it gets the image, and what ``env=`` names.
"""

from __future__ import annotations

import asyncio
import posixpath
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from bigmachine.addresses import HOST_TARGET
from bigmachine.driver.relay import Relay
from bigmachine.driver.translate import translate
from bigmachine.wire import frames

if TYPE_CHECKING:
    import socket

    from bigmachine.configfile import ImageTable
    from bigmachine.driver.hostlink import HostLink
    from bigmachine.driver.images import ImageServer
    from bigmachine.driver.keeper import Keeper
    from bigmachine.driver.orders import Orders
    from bigmachine.driver.runtime import Runtime
    from bigmachine.host.messages import Program
    from bigmachine.image.build import Image
    from bigmachine.image.listing import Layer
    from bigmachine.image.platforms import Platform
    from bigmachine.rpc.client import Client
    from bigmachine.rpc.dialer import Dialer
    from bigmachine.security.credentials import Credentials
    from bigmachine.systems.base import Host, System

BOOT_SECONDS: Final = 60.0
"""How long a host has, from the boot file's first second, until its supervisor runs."""


@dataclass(frozen=True, slots=True)
class _Settled:
    """A host that is up: where it is reached, and what its boot file said of it."""

    address: str
    facts: Mapping[str, Any]


class Abroad:
    """A cluster's dealings with hosts that are other computers. Used on the runtime's loop.

    Args:
        name: The cluster's name.
        system: Where the hosts come from.
        program: What machines run.
        runtime: The loop.
        dialer: With the driver's credentials.
        table: What is to travel, and how much of it hosts keep.
    """

    def __init__(
        self,
        name: str,
        system: System,
        program: Program,
        runtime: Runtime,
        dialer: Dialer,
        table: ImageTable,
    ) -> None:
        self._name = name
        self._system = system
        self._program = program
        self._runtime = runtime
        self._dialer = dialer
        self._table = table
        self._own: asyncio.Task[Image] | None = None
        self._runtime_layers: asyncio.Task[Sequence[Layer]] | None = None
        self._images: dict[tuple[str, Platform], asyncio.Task[Image]] = {}
        self._servers: dict[str, ImageServer] = {}
        self._relay = Relay()
        self._keeper: Keeper | None = None
        self._hosts: dict[str, _Settled] = {}

    def __repr__(self) -> str:
        return f"<Abroad of {self._name}: {len(self._hosts)} hosts>"

    def boot_config(self, host_id: str, credentials: Credentials) -> Mapping[str, Any]:
        """Return what the boot file of a host is to be given, as `HostRequest.boot` promises."""
        return {
            "cluster": self._name,
            "id": host_id,
            "credentials": asdict(credentials),
            "boot_seconds": BOOT_SECONDS,
            "lease_seconds": self._system.keepalive.timeout,
        }

    async def begin(self, image: Image | None) -> None:
        """Begin with what takes time and needs no host: the runtime's layers, and the image."""
        if self._runtime_layers is None:
            self._runtime_layers = self._runtime.start_task(
                self._runtime.in_background(_runtime_layers, "runtime layers"), "runtime layers"
            )
        if image is None and self._own is None:
            make = partial(_build, self._program, self._table)
            self._own = self._runtime.start_task(
                self._runtime.in_background(make, "image"), "image"
            )

    # A host's way.

    async def connect(self, host: Host) -> socket.socket:
        """Return a socket to a host's supervisor; see `Host.connect`."""
        sock = await host.connect()
        try:
            await self._runtime.loop.sock_sendall(sock, frames.preamble(HOST_TARGET))
        except BaseException:
            sock.close()
            raise
        return sock

    async def bring_up(self, link: HostLink) -> None:
        """Have the boot file start the host's supervisor, and its lease renewed from then on.

        Raises:
            ProvisionError: It cannot be; says why, and what to do.
        """
        from bigmachine.driver.bootstrap import bootstrap

        host, keepalive = link.host, self._system.keepalive
        assert self._runtime_layers is not None
        layers = await asyncio.shield(self._runtime_layers)
        facts: dict[str, Any] = {}

        def layers_for(said: Mapping[str, Any]) -> Sequence[Layer]:
            facts.update(said)
            return layers

        if host.tunnel is not None:
            self._dialer.use_gateway(host.id, host.tunnel, direct=host.direct)
        feed = partial(_feed, link.control)
        ready = await bootstrap(
            host,
            tls=self._dialer.context(),
            subject=host.id,
            config={
                "cluster": self._name,
                "lease_seconds": keepalive.timeout,
                "gateway": host.gateway,
                "metadata": host.metadata,
                "cache_bytes": self._table.cache_bytes,
            },
            layers=layers_for,
            python=sys.version_info[:2],
            seconds=host.boot_seconds,
            system=self._system.name,
            member=self._relay.join(host.id, feed),
        )
        self._hosts[host.id] = _Settled(ready.address, facts)
        self._keep(host, ready.address)

    async def settle(self, link: HostLink, orders: Orders) -> Orders:
        """Provide a host with the image, and return the orders as it understands them.

        Raises:
            ProvisionError: The host cannot take the image.
            UsageError: The program is no part of the image.
        """
        from bigmachine.image.manifest import map_path

        host = self._hosts[link.host.id]
        server = await self._server(orders.image, host.facts)
        prepared = await server.provide(link.control, host.address, link.host.id)
        manifest = server.image.manifest

        def where(path: str) -> str | None:
            mapped = map_path(manifest, path)
            return None if mapped is None else posixpath.join(prepared.root, mapped)

        return translate(
            replace(orders, image=server.image),
            where,
            root=prepared.root,
            python=prepared.python,
            sys_path=tuple(posixpath.join(prepared.root, entry) for entry in manifest.sys_path),
        )

    def part(self, link: HostLink) -> None:
        """Forget a host: it has ended, or is about to."""
        self._hosts.pop(link.host.id, None)
        self._relay.leave(link.host.id)
        self._dialer.forget_gateway(link.host.id)
        for server in self._servers.values():
            server.forget(link.host.id)
        if self._keeper is not None:
            self._keeper.remove(link.host.id)

    def close(self) -> None:
        """End the keeper. Idempotent; from any thread."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.close()

    def _keep(self, host: Host, address: str) -> None:
        if self._keeper is None:
            from bigmachine.driver.keeper import Keeper

            assert self._dialer.credentials is not None
            self._keeper = Keeper(self._dialer.credentials)
        keepalive = self._system.keepalive
        self._keeper.add(
            host.id,
            address,
            period=keepalive.period,
            timeout=keepalive.timeout,
            tunnel=host.tunnel,
            direct=host.direct,
        )

    async def _server(self, image: Image | None, facts: Mapping[str, Any]) -> ImageServer:
        """Return what serves an image to hosts of one kind."""
        from bigmachine.driver.images import ImageServer
        from bigmachine.image.platforms import Platform

        wanted = image
        if wanted is None:
            assert self._own is not None
            wanted = await asyncio.shield(self._own)
        platform = Platform.from_mapping(facts["platform"], wanted.manifest.python)
        key = (wanted.digest, platform)
        if key not in self._images:
            self._images[key] = self._runtime.start_task(
                self._runtime.in_background(partial(_adapt, wanted, platform), "adapt"), "adapt"
            )
        adapted = await asyncio.shield(self._images[key])
        server = self._servers.get(adapted.digest)
        if server is None:
            server = ImageServer(self._runtime, adapted, system=self._system.name)
            self._servers[adapted.digest] = server
        return server


async def _feed(control: Client, address: str, packs: Mapping[str, list[int]]) -> None:
    await control.call("Images.feed", (address, packs))


def _build(program: Program, table: ImageTable) -> Image:
    from bigmachine.image.build import build
    from bigmachine.image.gitignore import Exclusion

    exclusion = Exclusion(patterns=table.exclude, base=table.base)
    return build(program, data=table.data, exclude=exclusion)


def _adapt(image: Image, platform: Platform) -> Image:
    from bigmachine.image.foreign import adapt
    from bigmachine.image.index import default_directory

    directory = posixpath.join(posixpath.dirname(default_directory()), "platforms")
    return adapt(image, platform, directory)


def _runtime_layers() -> Sequence[Layer]:
    from bigmachine.image.runtime import runtime_layers

    return runtime_layers()
