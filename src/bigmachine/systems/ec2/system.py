"""The system: instances of EC2, launched for a cluster and terminated with it.

`options` has what the user may say, `plan` what that comes to once the API was asked, `launch` how
many instances are started at a time and when it is given up, `starter` one instance's way to being
a `host`. Each is made by calls of its own (`maker`, `docs/decisions/ec2-launch.md`), looked after
(`instances`, `reach`) and ended (`terminator`).

What always holds: an instance is tagged by the very call that makes it, terminates when it powers
itself off, and powers itself off when no driver reaches it in time, when its lease lapses, or when
its supervisor ends. `gc` ends what of a driver that was killed has not ended yet.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from bigmachine.errors import ProvisionError, UsageError
from bigmachine.host import role
from bigmachine.systems.base import Host, HostRequest, Keepalive, System
from bigmachine.systems.ec2 import errors
from bigmachine.systems.ec2.api import Api, require_boto3
from bigmachine.systems.ec2.instances import Instance, Watcher
from bigmachine.systems.ec2.launch import Launch
from bigmachine.systems.ec2.maker import Maker
from bigmachine.systems.ec2.options import BOOT_SECONDS, PORT, Options
from bigmachine.systems.ec2.plan import Plan, make_plan
from bigmachine.systems.ec2.reach import Reach
from bigmachine.systems.ec2.starter import Starter
from bigmachine.systems.ec2.terminator import Terminator

if TYPE_CHECKING:
    from bigmachine.systems.checks import Check, Leftover

__all__ = ["EC2"]

logger = logging.getLogger(__name__)


class EC2(System):
    """Instances of Amazon EC2.

    Args:
        instance_type: One type, or several of which the one is taken that is to be had best.
        region: The region; by default what the environment or the profile says.
        profile: A profile of ``~/.aws/config``; by default the usual chain of credentials.
        endpoint_url: Where the API is; by default AWS.
        on_demand: Take on-demand instances alone.
        spot_only: Take spot instances alone. With neither: spot, and on-demand where there is none.
        ami: An image's id, or its name: the newest of this account's, Amazon's, Canonical's and
            Debian's. By default of ``flavor``.
        flavor: ``"ubuntu"``, ``"debian"`` or ``"amazon"``: the newest image of these.
        subnets: Where instances may be; by default the default VPC.
        zones: Availability zones, where no subnets are named.
        security_groups: Ids of groups; they have to let the driver reach ``port``.
        key_name: A key pair for logging in.
        ssh_keys: Public keys that may log in, too.
        instance_profile: What instances themselves may do on AWS: a profile's name or ARN.
        public_ip: Whether instances get a public address; by default what the subnet says.
        use_private_ip: Reach instances by their private addresses.
        port: The port at which instances are reached.
        root_disk_gib: The root disk's size; by default the image's.
        data_disks_gib: Sizes of further disks, striped at ``/mnt/data`` with the instance's own.
        files: Files to write: a mapping of paths to contents.
        units: systemd units to start: a mapping of names to contents.
        tags: Further tags of instances and volumes.
        cpus_per_machine: How many processors each machine has to itself; ``"host"``: all of them.
        boot_seconds: How long an instance has from its boot until a driver has brought it up.
        keepalive: How often each is asked for a sign of life, in seconds.
        dry_run: Launch nothing; say what would be asked for, and what it costs.
    """

    name: ClassVar[str] = "ec2"
    requests_grow: ClassVar[bool] = True

    def __init__(
        self,
        instance_type: Sequence[str] | str = "m7i.large",
        *,
        region: str | None = None,
        profile: str | None = None,
        endpoint_url: str | None = None,
        on_demand: bool = False,
        spot_only: bool = False,
        ami: str | None = None,
        flavor: str = "ubuntu",
        subnets: Sequence[str] = (),
        zones: Sequence[str] = (),
        security_groups: Sequence[str] = (),
        key_name: str = "",
        ssh_keys: Sequence[str] = (),
        instance_profile: str = "",
        public_ip: bool | None = None,
        use_private_ip: bool = False,
        port: int = PORT,
        root_disk_gib: int = 0,
        data_disks_gib: Sequence[int] = (),
        files: Mapping[str, str] | None = None,
        units: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        cpus_per_machine: int | Literal["host"] = 1,
        boot_seconds: float = BOOT_SECONDS,
        keepalive: float | None = None,
        dry_run: bool = False,
    ) -> None:
        self._options = Options(
            instance_type=instance_type,
            on_demand=on_demand,
            spot_only=spot_only,
            ami=ami,
            flavor=flavor,
            subnets=subnets,
            zones=zones,
            security_groups=security_groups,
            key_name=key_name,
            ssh_keys=ssh_keys,
            instance_profile=instance_profile,
            public_ip=public_ip,
            use_private_ip=use_private_ip,
            port=port,
            root_disk_gib=root_disk_gib,
            data_disks_gib=data_disks_gib,
            files=files,
            units=units,
            tags=tags,
            cpus_per_machine=cpus_per_machine,
            boot_seconds=boot_seconds,
            dry_run=dry_run,
        )
        if role.current is role.Role.DRIVER:  # machines run the program up to here, and need none
            require_boto3()
        if keepalive is not None:
            self.keepalive = Keepalive.every(keepalive)
        self._where = {"region": region, "profile": profile, "endpoint_url": endpoint_url}
        self._api = Api(region=region, profile=profile, endpoint_url=endpoint_url)
        self._terminator = Terminator(self._api)
        self._maker = Maker(self._api, self._terminator, self.event)
        self._reach = Reach(self._api, port=port, boot_seconds=boot_seconds)
        self._plan: Plan | None = None
        self._watcher: Watcher | None = None

    def __repr__(self) -> str:
        options = self._options
        return f"<system ec2 {','.join(options.types)} {' or '.join(options.markets)}>"

    @property
    def api(self) -> Api:
        """The account and region."""
        return self._api

    @property
    def port(self) -> int:
        """Where instances are reached."""
        return self._options.port

    async def plan(self) -> Plan:
        """Return what will be launched; the API is asked once.

        Raises:
            UsageError: There are no such types, or no such image.
        """
        if self._plan is None:
            self._plan = await make_plan(self._api, self._options)
        return self._plan

    async def launch(self, request: HostRequest) -> AsyncIterator[Host]:
        """Launch instances until there is room for the machines; see `System.launch`."""
        try:
            plan = await self.plan()
        except (UsageError, ProvisionError):
            raise
        except Exception as error:
            raise errors.provision_error(
                "be asked about instance types and images",
                error,
                requested=request.machines,
                started=0,
            ) from None  # which says what the library said; its frames tell a user nothing
        if self._options.dry_run:
            raise await self._refusal_to_launch(plan, request.machines)
        launch = Launch(self._starter(plan), request)
        try:
            async for host in launch.run():
                yield host
        finally:
            await launch.close()

    async def shutdown(self) -> None:
        """Wait for the last terminations; see `System.shutdown`."""
        await self._maker.wait()
        await self._terminator.wait()
        if self._watcher is not None:
            await self._watcher.close()
            self._watcher = None
        self._plan = None
        await super().shutdown()

    # For whoever operates it

    async def doctor(self) -> AsyncIterator[Check]:
        """Look at credentials, permissions, types and images; see `System.doctor`."""
        from bigmachine.systems.ec2.doctor import examine

        async for check in examine(self):
            yield check

    async def gc(self, *, dry_run: bool) -> AsyncIterator[Leftover]:
        """End what drivers of this computer have left; see `System.gc`."""
        from bigmachine.systems.ec2.leftovers import collect

        try:
            async for leftover in collect(self._api, dry_run=dry_run):
                yield leftover
        except Exception as error:
            raise errors.provision_error(
                "be asked what is left", error, requested=0, started=0
            ) from None

    def recorded(self) -> Mapping[str, Any]:
        """Return where the instances are; see `System.recorded`."""
        return {key: value for key, value in self._where.items() if value is not None}

    # Its parts

    def _starter(self, plan: Plan) -> Starter:
        if self._watcher is None:
            self._watcher = Watcher(self._api, self._on_notice)
        return Starter(
            plan=plan,
            options=self._options,
            maker=self._maker,
            watcher=self._watcher,
            reach=self._reach,
            terminator=self._terminator,
            event=self.event,
        )

    async def _refusal_to_launch(self, plan: Plan, machines: int) -> ProvisionError:
        from bigmachine.systems.ec2.price import describe_plan

        return ProvisionError(
            "a dry run launches nothing. It would ask for:\n"
            f"{await describe_plan(self._api, plan, machines)}",
            system=self.name,
            requested=machines,
            started=0,
            remedy="leave out dry_run to launch them",
        )

    def _on_notice(self, instance: Instance) -> None:
        self.event("spotNotice", instance=instance.id)
        logger.warning("AWS will take back %s within two minutes", instance.id)
