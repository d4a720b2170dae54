"""A host that is reached over TLS, with certificates of the cluster's authority."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

import pytest
from hosting import connect_to, hosting
from services_for_tests import Probe

from bigmachine.addresses import Address
from bigmachine.errors import TransportError
from bigmachine.rpc.client import Client
from bigmachine.security.authority import Authority
from bigmachine.security.tls import client_context


def test_a_machine_proves_its_host_and_demands_the_same() -> None:
    authority = Authority()
    ours = authority.issue("driver")
    theirs = authority.issue("host-1")
    strangers = Authority().issue("driver")

    async def test() -> None:
        options = {"transport": "tls", "credentials": asdict(theirs)}
        async with hosting(tls=ours, **options) as host:
            (machine,) = await host.launch(1, {"Probe": Probe()})
            (ready,) = await host.wait_ready(machine)
            address = Address.parse(ready.address)
            assert (address.kind, address.subject) == ("tls", "host-1")
            pid = await host.call_host("Supervisor.Getpid", machine)
            assert await host.call(machine, "Probe.pid") == pid

            for credentials, subject in [(strangers, "host-1"), (ours, "host-2")]:
                context = client_context(credentials)
                stranger = Client(
                    host.loop,
                    lambda: connect_to(address),
                    timers=host.timers,
                    tls=lambda context=context, subject=subject: (context, subject),
                )
                with pytest.raises(TransportError):
                    await asyncio.wait_for(asyncio.wrap_future(stranger.call("Probe.pid")), 20)
                stranger.close()
            await host.shutdown()

    asyncio.run(test())


def test_the_end_of_the_boot_socket_is_the_end_of_the_host() -> None:
    authority = Authority()
    theirs = asdict(authority.issue("host-1"))

    async def test() -> None:
        tls = authority.issue("driver")
        async with hosting(tls=tls, transport="tls", credentials=theirs, driver_pid=None) as host:
            (machine,) = await host.launch(1, {"Probe": Probe()})
            await host.wait_ready(machine)
            host.boot.close()
            assert await asyncio.wait_for(host.wait_end(), 2) == 1

    asyncio.run(test())
