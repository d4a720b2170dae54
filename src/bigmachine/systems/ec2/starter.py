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
class Made:
    """An instance that was made and is about to come up.

    Attributes:
        host_id: What the cluster calls it.
        instance: What is known of it.
        begun: When it was asked for, in the loop's time.
    """

    host_id: str
    instance: Instance
    begun: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Starter:
    """Starts hosts, in two steps. What came of the first is its caller's to have ended.

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

    async def make(self, request: HostRequest) -> Made:
        """Have an instance made.

        Raises:
            Exception: What boto3 raises.
        """
        host_id = f"ec2-{secrets.token_hex(6)}"
        begun = asyncio.get_running_loop().time()
        boot = {
            **request.boot(host_id),
            "port": self.options.port,
            "boot_seconds": self.options.boot_seconds,
        }
        name = await self.maker.make(self.plan, request.cluster, host_id, boot)
        return Made(host_id=host_id, instance=self.watcher.add(name), begun=begun)

    async def bring_up(self, made: Made) -> EC2Host:
        """Return the host when its instance answers.

        Raises:
            InstanceFailed: Nothing comes of it.
        """
        described = await self._running(made.instance)
        host = self._host(made.host_id, made.instance, described)
        await self.reach.wait(host, described)
        self.event(
            "launch",
            host=host.id,
            instance=made.instance.id,
            type=described.get("InstanceType", ""),
            market=described.get("InstanceLifecycle", "on-demand"),
            seconds=round(asyncio.get_running_loop().time() - made.begun, 3),
        )
        return host

    def discard(self, made: Made) -> None:
        """End an instance that nobody wants any more."""
        self.watcher.remove(made.instance.id)
        self.terminator.end(made.instance.id)

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
