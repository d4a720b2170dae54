"""Starts hosts: one instance's way from the call that makes it to what the driver can have."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bigmachine.systems.ec2.errors import InstanceFailed
from bigmachine.systems.ec2.host import EC2Host

if TYPE_CHECKING:
    from bigmachine.systems.base import HostRequest
    from bigmachine.systems.ec2.instances import Instance, Watcher
    from bigmachine.systems.ec2.maker import Maker
    from bigmachine.systems.ec2.options import Options
    from bigmachine.systems.ec2.plan import Plan
    from bigmachine.systems.ec2.reach import Reach
    from bigmachine.systems.ec2.terminator import Terminator


@dataclass(frozen=True, slots=True, kw_only=True)
class Starter:
    """Starts hosts, each by a call of `start`.

    Attributes:
        plan: What they are to be.
        options: What the user said.
        maker: Makes instances.
        watcher: Watches them.
        reach: Waits until they answer.
        terminator: Ends them.
        event: Takes note of an event, as `System.event`.
    """

    plan: Plan
    options: Options
    maker: Maker
    watcher: Watcher
    reach: Reach
    terminator: Terminator
    event: Callable[..., None]

    async def start(self, request: HostRequest) -> EC2Host:
        """Have an instance made, and return its host when it answers.

        Raises:
            InstanceFailed: It was made, and nothing came of it.
            Exception: What boto3 raises: it was not made.
        """
        host_id = f"ec2-{secrets.token_hex(6)}"
        loop = asyncio.get_running_loop()
        begun = loop.time()
        boot = {
            **request.boot(host_id),
            "port": self.options.port,
            "boot_seconds": self.options.boot_seconds,
        }
        instance = self.watcher.add(
            await self.maker.make(self.plan, request.cluster, host_id, boot)
        )
        try:
            described = await self._running(instance)
            host = self._host(host_id, instance, described)
            await self.reach.wait(host, described)
        except BaseException:
            self.watcher.remove(instance.id)
            self.terminator.end(instance.id)
            raise
        self.event(
            "launch",
            host=host_id,
            instance=instance.id,
            type=described.get("InstanceType", ""),
            market=described.get("InstanceLifecycle", "on-demand"),
            seconds=round(loop.time() - begun, 3),
        )
        return host

    def discard(self, host: EC2Host) -> None:
        """End a host that nobody wants any more."""
        self.terminator.end(host.instance.id)

    async def _running(self, instance: Instance) -> Mapping[str, Any]:
        """Wait until an instance runs; return what EC2 says of it."""
        limit = self.options.boot_seconds
        try:
            async with asyncio.timeout(limit):
                return await instance.running
        except TimeoutError as error:
            text = f"{instance.id} did not run within {limit:g} s, EC2 does not say why"
            raise InstanceFailed(text) from error

    def _host(self, host_id: str, instance: Instance, described: Mapping[str, Any]) -> EC2Host:
        host = EC2Host(
            host_id,
            instance,
            self._address_of(described),
            self.options.port,
            watcher=self.watcher,
            terminator=self.terminator,
        )
        host.boot_seconds = self.options.boot_seconds
        host.capacity, host.maxprocs = self.plan.share(self.plan.cpus_of(described))
        return host

    def _address_of(self, described: Mapping[str, Any]) -> str:
        """Return the IP address at which an instance is reached."""
        private = str(described.get("PrivateIpAddress") or "")
        public = str(described.get("PublicIpAddress") or "")
        return private if self.options.use_private_ip else public or private
