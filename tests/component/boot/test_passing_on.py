"""The runtime goes from the driver to two hosts, and from these to all others."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from booting import Cluster, connected, run

from bigmachine.driver.relay import Relay
from bigmachine.errors import ProvisionError
from bigmachine.host.bootlink import BOOT_TARGET, BootLink
from bigmachine.host.messages import HostReady
from bigmachine.image.runtime import runtime_layers
from bigmachine.security.tls import client_context
from bigmachine.testing.booted import BootedHost
from bigmachine.wire import frames


class Passing:
    """A driver whose hosts give each other the runtime."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.relay = Relay()
        self.fed: list[str] = []
        self.ready: dict[str, HostReady] = {}

    async def bring_up(self, host: BootedHost, feed: Any = None) -> HostReady:
        async def of_host(address: str, packs: Mapping[str, list[int]]) -> None:
            self.fed.append(host.id)
            await self.cluster.call(self.ready[host.id], "Images.feed", address, packs)

        member = self.relay.join(host.id, feed or of_host)
        ready = self.ready[host.id] = await self.cluster.bring_up(host, member=member)
        return ready


def test_the_driver_sends_the_runtime_twice_however_many_hosts_there_are(cluster: Cluster) -> None:
    async def test() -> None:
        passing = Passing(cluster)
        hosts = [await cluster.listening() for _ in range(5)]
        await asyncio.gather(*map(passing.bring_up, hosts))
        assert dict(passing.relay.sent) == {layer.digest: 2 for layer in runtime_layers()}
        assert len(passing.fed) == 3  # each by one that was up: `of_host` would not have it else

    run(test())


def test_where_a_host_cannot_give_the_driver_does_at_once(cluster: Cluster) -> None:
    async def refuse(address: str, packs: object) -> None:
        raise OSError("no way")

    async def test() -> None:
        passing = Passing(cluster)
        for feed in (refuse, None):
            await passing.bring_up(await cluster.listening(), feed)
        assert max(passing.relay.sent.values()) == 1, "the second time it was in that host's stead"

    run(test())


def test_where_a_host_ends_while_it_gives_the_driver_does(cluster: Cluster) -> None:
    async def test() -> None:
        passing = Passing(cluster)
        giver = await cluster.listening()

        async def break_off(address: str, packs: Mapping[str, list[int]]) -> None:
            link = await link_from(cluster, giver.id, host)
            await link.send({"layer": next(iter(packs)), "pack": 0, "bytes": 1 << 20}, b"x" * 1000)
            await link.close()
            raise OSError("it has ended")

        await passing.bring_up(giver, break_off)
        host = await cluster.listening()
        await passing.bring_up(host)
        assert set(passing.relay.sent.values()) == {2}, "once for each of the two"

    run(test())


async def link_from(cluster: Cluster, name: str, host: BootedHost) -> BootLink:
    """Connect as a host of the cluster does."""
    sock = connected(host)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_sendall(sock, frames.preamble(BOOT_TARGET))
    context = client_context(cluster.authority.issue(name))
    return await BootLink.over(sock, context, host.id)


def test_only_the_host_that_was_named_may_give(cluster: Cluster) -> None:
    async def test() -> None:
        passing = Passing(cluster)
        giver = await cluster.listening()

        async def give_late(address: str, packs: Mapping[str, list[int]]) -> None:
            stranger = await link_from(cluster, "booted-another", host)
            await stranger.wait_closed()  # which it is, while the one that was named is waited for
            await cluster.call(passing.ready[giver.id], "Images.feed", address, packs)

        await passing.bring_up(giver, give_late)
        host = await cluster.listening()
        await passing.bring_up(host)
        assert max(passing.relay.sent.values()) == 1

    run(test())


def test_what_a_host_gives_is_held_to_the_drivers_hashes(cluster: Cluster) -> None:
    async def test() -> None:
        passing = Passing(cluster)
        giver = await cluster.listening()

        async def give_another(address: str, packs: Mapping[str, list[int]]) -> None:
            link = await link_from(cluster, giver.id, host)
            await link.send_pack(
                next(iter(packs)), 0, b"x\x9c\x03\x00\x00\x00\x00\x01"
            )  # of nothing
            await link.wait_closed()
            await link.close()

        await passing.bring_up(giver, give_another)
        host = await cluster.listening()
        with pytest.raises(ProvisionError, match="is damaged"):
            await passing.bring_up(host)

    run(test())


def test_a_host_that_has_not_the_layers_says_so(cluster: Cluster) -> None:
    async def test() -> None:
        host = await cluster.listening()
        ready = await cluster.bring_up(host)
        with pytest.raises(LookupError, match="no layer 00"):
            await cluster.call(ready, "Images.feed", ready.address, {"0" * 64: [0]})

    run(test())
