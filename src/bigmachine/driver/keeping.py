"""The keeper's process: it tells hosts elsewhere that the driver lives, as long as it does.

It has no user code in it, so a program that holds the interpreter lock for minutes loses no host.
The driver tells it over a socket pair which hosts there are; it ends with the driver's process,
which it watches: the socket alone is not enough, since a process that the program has forked keeps
it open.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import socket
import sys
from typing import Any

from bigmachine import osdep
from bigmachine.addresses import Address
from bigmachine.driver.renewal import Renewal
from bigmachine.errors import BigmachineError
from bigmachine.host import frames


def main(fd: int) -> None:
    """Be the keeper. Never returns."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    link = socket.socket(fileno=fd)
    try:
        first = json.loads(frames.receive(fd))
        sys.path += [entry for entry in first["sys_path"] if entry not in sys.path]
        watch = osdep.watch_process(first["driver_pid"])
        asyncio.run(_Keeper(first, link).run(watch))
    except (EOFError, OSError):
        pass  # the driver is gone
    os._exit(0)


class _Keeper:
    def __init__(self, first: dict[str, Any], link: socket.socket) -> None:
        from bigmachine.rpc.dialer import Dialer
        from bigmachine.security.credentials import Credentials

        self._link = link
        self._dialer = Dialer(Credentials(**first["credentials"]))
        self._hosts: dict[str, asyncio.Task[None]] = {}

    async def run(self, watch: int) -> None:
        loop = asyncio.get_running_loop()
        over = asyncio.Event()
        loop.add_reader(watch, over.set)
        orders = loop.create_task(self._follow())
        orders.add_done_callback(lambda _: over.set())
        gc.freeze()
        await over.wait()
        os._exit(0)

    async def _follow(self) -> None:
        """Do what the driver says, until it closes its end."""
        reader, _ = await asyncio.open_connection(sock=self._link)
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                size = int.from_bytes(await reader.readexactly(4), "big")
                order = json.loads(await reader.readexactly(size))
                self._remove(order["id"])
                if order["do"] == "add":
                    self._hosts[order["id"]] = asyncio.create_task(self._keep(order))

    def _remove(self, host_id: str) -> None:
        task = self._hosts.pop(host_id, None)
        if task is not None:
            task.cancel()
        self._dialer.forget_gateway(host_id)

    async def _keep(self, order: dict[str, Any]) -> None:
        from bigmachine.rpc.client import Client
        from bigmachine.rpc.timers import Timers

        address = Address.parse(order["address"])
        if order["tunnel"] is not None:
            self._dialer.use_gateway(address.subject, order["tunnel"], direct=order["direct"])
        renewal = Renewal(period=order["period"], timeout=order["timeout"])
        loop = asyncio.get_running_loop()

        async def connect() -> socket.socket:
            return await self._dialer.connect(address)

        client = Client(
            loop,
            connect,
            timers=Timers(loop),
            label=f"the supervisor of {order['id']}",
            tls=lambda: (self._dialer.tls(address), address.subject),
        )
        try:
            while True:
                try:
                    async with asyncio.timeout(renewal.attempt_seconds):
                        await client.call("Host.keepalive", (renewal.timeout,))
                    pause = renewal.renewed()
                except (BigmachineError, OSError, TimeoutError):
                    pause = renewal.failed()
                await asyncio.sleep(pause)
        finally:
            client.close()
