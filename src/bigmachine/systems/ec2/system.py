"""The system: instances of EC2, launched for a cluster and terminated with it.

Each host is one instance with credentials of its own, in user-data of its own, so each is launched
by a call of its own (``docs/decisions/ec2-launch.md``), several at a time.

What always holds: an instance is tagged by the very call that makes it, terminates when it powers
itself off, and powers itself off when no driver reaches it in time, when its lease lapses, or when
its supervisor ends. `gc` ends what of a driver that was killed has not ended yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import logging
import os
import secrets
import socket
import sys
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from bigmachine.addresses import Address
from bigmachine.death import DeathKind
from bigmachine.errors import ProvisionError, UsageError
from bigmachine.host import role
from bigmachine.info import program_digest
from bigmachine.systems.base import Host, HostRequest, Keepalive, System
from bigmachine.systems.ec2 import errors, request, userdata
from bigmachine.systems.ec2.api import FLAVORS, Api, require_boto3
from bigmachine.systems.ec2.instances import Instance, InstanceEnded, Watcher
from bigmachine.systems.origin import Origin

if TYPE_CHECKING:
    from bigmachine.systems.checks import Check, Leftover
    from bigmachine.systems.ec2.request import InstanceType, Wishes

__all__ = ["EC2", "EC2Host"]

logger = logging.getLogger(__name__)

PORT: Final = 5550
METADATA: Final = "169.254.169.254:80"
"""Where an instance learns of itself."""
BOOT_SECONDS: Final = 600.0
AT_ONCE: Final = 16
"""How many instances are launched at a time."""
SPARE_FAILURES: Final = 3
"""How many instances may fail in a launch, beyond half of those asked for, until it is given up."""
CONNECT_SECONDS: Final = 3.0
MAKING_SECONDS: Final = 10.0
"""How long a cluster's end waits for instances that are about to be made, to terminate them."""
TERMINATE_SECONDS: Final = 0.05
"""How long terminations wait for others, to go in one call."""
UNKNOWN_PAUSES: Final = (0.5, 1.0, 2.0, 4.0)
"""When EC2 is told again to terminate an instance that it does not know yet."""


class EC2(System):
    """Instances of Amazon EC2.

    Args:
        instance_type: One type, or several of which the one is taken that is to be had best.
        region: The region; by default what the environment or the profile says.
        profile: A profile of ``~/.aws/config``; by default the usual chain of credentials.
        endpoint_url: Where the API is; by default AWS.
        on_demand: Take on-demand instances alone.
        spot_only: Take spot instances alone. With neither: spot, and on-demand where there is none.
        ami: An image's id, or its name (the newest of that name); by default of ``flavor``.
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
        types = [instance_type] if isinstance(instance_type, str) else list(instance_type)
        if not types or not all(types):
            raise UsageError("EC2: name an instance type, instance_type='m7i.large'")
        if on_demand and spot_only:
            raise UsageError("EC2: on_demand and spot_only exclude each other; give one or none")
        if flavor not in FLAVORS:
            raise UsageError(f"EC2(flavor={flavor!r}): it is one of {', '.join(FLAVORS)}")
        if cpus_per_machine != "host" and (
            not isinstance(cpus_per_machine, int) or cpus_per_machine < 1
        ):
            raise UsageError(
                f"EC2(cpus_per_machine={cpus_per_machine!r}): it is a number from 1 on, or 'host'"
            )
        if not 0 < port < 65536:
            raise UsageError(f"EC2(port={port!r}): it is a number from 1 to 65535")
        if any(key.startswith(f"{request.TAG}:") for key in tags or {}):
            raise UsageError(f"EC2(tags={tags!r}): names that begin with bigmachine: are our own")
        if boot_seconds <= 0:
            raise UsageError(f"EC2(boot_seconds={boot_seconds!r}): it is positive")
        if role.current is role.Role.DRIVER:  # machines run the program up to here, and need none
            require_boto3()
        if keepalive is not None:
            self.keepalive = Keepalive.every(keepalive)
        self._types = types
        self._region, self._profile, self._endpoint_url = region, profile, endpoint_url
        self._api = Api(region=region, profile=profile, endpoint_url=endpoint_url)
        self._markets = (
            ["on-demand"] if on_demand else ["spot"] if spot_only else ["spot", "on-demand"]
        )
        self._ami = ami
        self._flavor = flavor
        self._use_private_ip = use_private_ip
        self._port = port
        self._cpus_per_machine: int | Literal["host"] = cpus_per_machine
        self._boot_seconds = boot_seconds
        self._tags = dict(tags or {})
        self._dry_run = dry_run
        self._extras = userdata.Extras(
            ssh_keys=tuple(ssh_keys),
            files=files,
            units=units,
            data_disks=bool(data_disks_gib),
        )
        self._wishes = request.Wishes(
            ami="",
            root_disk_gib=root_disk_gib,
            data_disks_gib=tuple(data_disks_gib),
            subnets=tuple(subnets),
            zones=tuple(zones),
            security_groups=tuple(security_groups),
            key_name=key_name,
            instance_profile=instance_profile,
            public_ip=public_ip,
        )
        self._kinds: list[InstanceType] = []
        self._watcher: Watcher | None = None
        self._making: set[asyncio.Task[str]] = set()
        self._ending: set[str] = set()
        self._ender: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<system ec2 {','.join(self._types)} {' or '.join(self._markets)}>"

    @property
    def api(self) -> Api:
        """The account and region."""
        return self._api

    @property
    def port(self) -> int:
        """Where instances are reached."""
        return self._port

    @property
    def boot_seconds(self) -> float:
        """How long an instance has until its supervisor runs."""
        return self._boot_seconds

    # Launching

    async def launch(self, request: HostRequest) -> AsyncIterator[Host]:
        """Launch instances until there is room for the machines; see `System.launch`."""
        try:
            await self._prepare()
        except (UsageError, ProvisionError):
            raise
        except Exception as error:
            raise errors.provision_error(
                "be asked about instance types and images",
                error,
                requested=request.machines,
                started=0,
            ) from error
        if self._dry_run:
            raise await self._refuse_dry(request.machines)
        launch = _Launch(self, request)
        try:
            async for host in launch.run():
                yield host
        finally:
            await launch.close()
        if launch.room < request.machines:
            raise launch.failure()

    async def _prepare(self) -> None:
        """Learn what the types are, and which image they boot; once."""
        if self._kinds:
            return
        kinds = await self._api.instance_types(self._types)
        architectures = {kind.architecture for kind in kinds}
        if len(architectures) > 1:
            raise UsageError(
                f"EC2: instance_type={self._types!r} mixes architectures, which boot different "
                "images: name types of one"
            )
        image = await self._api.image(self._ami, self._flavor, architectures.pop())
        self._wishes = replace(
            self._wishes, ami=image.id, root_device=image.root_device, kept_disks=image.kept_disks
        )
        if any(kind.has_disks for kind in kinds):
            self._extras = replace(self._extras, data_disks=True)
        self._watcher = Watcher(self._api, self._on_notice)
        self._kinds = kinds

    async def _refuse_dry(self, machines: int) -> ProvisionError:
        from bigmachine.systems.ec2.price import describe_plan

        text = await describe_plan(
            self._api, self._wishes, self._kinds, self._markets, machines, self._cpus_per_machine
        )
        return ProvisionError(
            f"a dry run launches nothing. It would ask for:\n{text}",
            system=self.name,
            requested=machines,
            started=0,
            remedy="leave out dry_run to launch them",
        )

    def begin_instance(self, host_id: str, given: HostRequest) -> asyncio.Task[str]:
        """Have an instance made, by a task for which `shutdown` waits: EC2 cannot be stopped."""
        making = asyncio.get_running_loop().create_task(self.make_instance(host_id, given))
        self._making.add(making)
        making.add_done_callback(self._making.discard)
        return making

    def end_made(self, making: asyncio.Task[str]) -> None:
        """End what a task has made."""
        if not making.cancelled() and making.exception() is None:
            self.end(making.result())

    async def make_instance(self, host_id: str, given: HostRequest) -> str:
        """Have one instance made, in the market that has one; return its id."""
        wishes = replace(self._wishes, tags={**self._tags, **_tags(given.cluster, host_id)})
        boot = {**given.boot(host_id), "port": self._port, "boot_seconds": self._boot_seconds}
        data = userdata.make(boot, self._extras)
        places = max(len(wishes.subnets), len(wishes.zones))
        if self._markets == ["on-demand"] and len(self._kinds) == 1 and places < 2:
            parameters = request.run_instances(wishes, self._kinds[0], data, host_id)
            answer = await self._api.call("run_instances", **parameters)
            return str(answer["Instances"][0]["InstanceId"])
        name = f"bigmachine-{host_id}"
        template = request.launch_template(wishes, data, name)
        await self._api.call("create_launch_template", **template)
        try:
            return await self._from_fleet(wishes, name)
        finally:
            with contextlib.suppress(Exception):
                await self._api.call("delete_launch_template", LaunchTemplateName=name)

    async def _from_fleet(self, wishes: Wishes, template: str) -> str:
        problem: BaseException = RuntimeError("no market was tried")
        for market in self._markets:
            parameters = request.fleet(
                wishes, self._kinds, template=template, market=market, token=secrets.token_hex(16)
            )
            try:
                answer = await self._api.call("create_fleet", **parameters)
            except Exception as error:
                if not errors.is_capacity(errors.code_of(error)):
                    raise
                problem = error
                continue
            ids = [each for part in answer.get("Instances", ()) for each in part["InstanceIds"]]
            if ids:
                return str(ids[0])
            problem = FleetError(answer.get("Errors", ()))
            if not errors.is_capacity(errors.code_of(problem)):
                raise problem
            self.event("noCapacity", market=market, code=errors.code_of(problem))
        raise problem

    # For whoever operates it

    async def doctor(self) -> AsyncIterator[Check]:
        """Look at credentials, permissions, types and images; see `System.doctor`."""
        from bigmachine.systems.ec2.doctor import examine

        async for check in examine(self):
            yield check

    async def gc(self, *, dry_run: bool) -> AsyncIterator[Leftover]:
        """End what drivers of this computer have left; see `System.gc`."""
        from bigmachine.systems.ec2.leftovers import collect

        async for leftover in collect(self._api, dry_run=dry_run):
            yield leftover

    def recorded(self) -> Mapping[str, Any]:
        """Return where the instances are; see `System.recorded`."""
        where = {
            "region": self._region,
            "profile": self._profile,
            "endpoint_url": self._endpoint_url,
        }
        return {key: value for key, value in where.items() if value is not None}

    @property
    def wishes(self) -> Wishes:
        """What instances are to be."""
        return self._wishes

    async def prepare(self) -> None:
        """Learn what the types are, and which image they boot; once."""
        await self._prepare()

    # Ends

    def end(self, instance_id: str) -> None:
        """Have an instance terminated, in one call with others that end now. On the loop."""
        self._ending.add(instance_id)
        if self._ender is None or self._ender.done():
            self._ender = asyncio.get_running_loop().create_task(self._end_soon())

    async def wait_ended(self) -> None:
        """Wait until what `end` was told has been said to EC2."""
        if self._ender is not None:
            await asyncio.wait((self._ender,))

    async def _end_soon(self) -> None:
        while self._ending:
            await asyncio.sleep(TERMINATE_SECONDS)
            ids = sorted(self._ending)
            self._ending.clear()
            try:
                await self._api.call("terminate_instances", InstanceIds=ids)
            except Exception:  # one that EC2 does not know spoils the call for all
                await asyncio.gather(*(self._terminate(each) for each in ids))

    async def _terminate(self, instance_id: str) -> None:
        """Have one instance terminated, also if EC2 does not know it yet."""
        pauses = iter(UNKNOWN_PAUSES)
        while True:
            try:
                await self._api.call("terminate_instances", InstanceIds=[instance_id])
                return
            except Exception as error:
                pause = next(pauses, None)
                if pause is None or not errors.is_not_found(errors.code_of(error)):
                    logger.warning(
                        "EC2 was not told to terminate %s, which ends by itself: %s",
                        instance_id,
                        error,
                    )
                    return
            await asyncio.sleep(pause)

    def end_now(self, instance_id: str) -> None:
        """Have an instance terminated; from any thread, without waiting."""

        def act() -> None:
            with contextlib.suppress(Exception):
                self._api.call_now("terminate_instances", InstanceIds=[instance_id])

        threading.Thread(target=act, name="bigmachine-ec2-end").start()

    async def shutdown(self) -> None:
        """Wait for the last terminations; see `System.shutdown`."""
        if self._making:
            await asyncio.wait(self._making, timeout=MAKING_SECONDS)
        await self.wait_ended()
        if self._watcher is not None:
            await self._watcher.close()
            self._watcher = None
            self._kinds = []
        await super().shutdown()

    @property
    def watcher(self) -> Watcher:
        """Who watches the instances."""
        assert self._watcher is not None
        return self._watcher

    @property
    def kinds(self) -> Sequence[InstanceType]:
        """The instance types that will do, as EC2 describes them."""
        return self._kinds

    def share(self, cpus: int) -> tuple[int, int]:
        """Return how many machines an instance holds, and how many processors each has."""
        return request.share(cpus, self._cpus_per_machine)

    def address_of(self, described: Mapping[str, Any]) -> str:
        """Return the IP address at which an instance is reached."""
        private = str(described.get("PrivateIpAddress") or "")
        public = str(described.get("PublicIpAddress") or "")
        return private if self._use_private_ip else public or private

    def _on_notice(self, instance: Instance) -> None:
        self.event("spotNotice", instance=instance.id)
        logger.warning("AWS will take back %s within two minutes", instance.id)


class FleetError(Exception):
    """A fleet was made, and no instance."""

    def __init__(self, listed: Sequence[Mapping[str, Any]]) -> None:
        first = listed[0] if listed else {}
        code = first.get("ErrorCode", "InsufficientCapacity")
        message = first.get("ErrorMessage", "the fleet has no instance, and no reason")
        super().__init__(message)
        self.response = {"Error": {"Code": code, "Message": message}}


class _Launch:
    """One launch: instances are made side by side, until there is room enough."""

    def __init__(self, system: EC2, given: HostRequest) -> None:
        self._system = system
        self._given = given
        self._tasks: set[asyncio.Task[EC2Host]] = set()
        self._problems: list[BaseException] = []
        self.room = 0

    async def run(self) -> AsyncIterator[Host]:
        """Yield hosts as they run."""
        machines = self._given.machines
        smallest = min(self._system.share(kind.cpus)[0] for kind in self._system.kinds)
        allowed = request.count(machines, smallest) // 2 + SPARE_FAILURES
        while self.room < machines:
            left = request.count(machines - self.room, smallest)
            if len(self._problems) > allowed or not self._may_go_on():
                left = 0
            while len(self._tasks) < min(left, AT_ONCE):
                self._tasks.add(asyncio.ensure_future(self._bring_up()))
            if not self._tasks:
                return
            done, self._tasks = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if (error := task.exception()) is not None:
                    self._problems.append(error)
                    continue
                host = task.result()
                if self.room >= machines:
                    self._system.end(host.instance.id)
                    continue
                self.room += host.capacity
                yield host

    def _may_go_on(self) -> bool:
        """Whether what went wrong is not bound to go wrong again."""
        fatal = (
            error
            for error in self._problems
            if not isinstance(error, InstanceEnded) and not isinstance(error, OSError)
        )
        return next(fatal, None) is None

    async def _bring_up(self) -> EC2Host:
        system = self._system
        host_id = f"ec2-{secrets.token_hex(6)}"
        loop = asyncio.get_running_loop()
        begun = loop.time()
        instance_id = await self._make(host_id)
        instance = system.watcher.add(instance_id)
        try:
            described = await instance.running
        except BaseException:
            system.watcher.remove(instance_id)
            system.end(instance_id)
            raise
        cpus = _cpus(described, system.kinds)
        host = EC2Host(system, host_id, instance, system.address_of(described))
        host.capacity, host.maxprocs = system.share(cpus)
        system.event(
            "launch",
            host=host_id,
            instance=instance_id,
            type=described.get("InstanceType", ""),
            market=described.get("InstanceLifecycle", "on-demand"),
            seconds=round(loop.time() - begun, 3),
        )
        return host

    async def _make(self, host_id: str) -> str:
        """Have an instance made; one that is under way when this is cancelled is ended."""
        making = self._system.begin_instance(host_id, self._given)
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            making.add_done_callback(self._system.end_made)
            raise

    def failure(self) -> ProvisionError:
        """Return why there is not room enough."""
        last = self._problems[-1] if self._problems else RuntimeError("EC2 gave no instances")
        if isinstance(last, UsageError | ProvisionError):
            raise last
        return errors.provision_error(
            "give an instance", last, requested=self._given.machines, started=self.room
        )

    async def close(self) -> None:
        """End what is under way, and what has come up and was not asked for any more."""
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled() and task.exception() is None:
                self._system.end(task.result().instance.id)
        await self._system.wait_ended()


class EC2Host(Host):
    """One instance.

    Args:
        system: Its system.
        host_id: What the cluster calls it.
        instance: What is known of it.
        ip: Where it is reached.
    """

    cause_seconds = 3.0  # to ask EC2, and for it to know
    metadata = METADATA

    def __init__(self, system: EC2, host_id: str, instance: Instance, ip: str) -> None:
        self.id = host_id
        self.instance = instance
        self._system = system
        self._ip = ip
        self.boot_seconds = system.boot_seconds
        self.address = str(Address(kind="tls", host=ip, port=system.port, subject=host_id))

    async def connect(self) -> socket.socket:
        """Return a socket to the instance; see `Host.connect`."""
        if self.instance.ended.is_set():
            raise ProvisionError(
                f"the instance {self.instance.id} has ended: {self.instance.reason}",
                system="ec2",
                requested=1,
                started=0,
                temporary=True,
            )
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in self._ip else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await loop.sock_connect(sock, (self._ip, self._system.port))
        except BaseException:
            sock.close()
            raise
        return sock

    async def stop(self, timeout: float) -> None:
        """Terminate the instance; see `Host.stop`."""
        self._system.end(self.instance.id)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._system.wait_ended()

    def kill(self) -> None:
        """Terminate the instance; see `Host.kill`."""
        self._system.end_now(self.instance.id)

    async def wait_closed(self) -> None:
        """Return when EC2 says that the instance has ended, or is about to."""
        self._system.watcher.wake()
        await self.instance.ended.wait()

    def cause(self) -> str:
        """Return why it ended, as EC2 says."""
        if self.instance.is_reclaimed:
            return f"AWS took the spot instance {self.instance.id} back"
        return f"{self.instance.id}: {self.instance.reason}" if self.instance.reason else ""

    def take_notice(self, notice: str) -> None:
        """Take note that AWS wants it back, of which the instance knows first."""
        del notice
        self._system.watcher.notice(self.instance)

    def death_kind(self) -> DeathKind | None:
        """Return ``spot`` where AWS took it back."""
        return DeathKind.SPOT if self.instance.is_reclaimed else None


def owner() -> str:
    """Return who launches here: a user of a computer."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def _tags(cluster: str, host_id: str) -> dict[str, str]:
    program = os.path.basename(sys.argv[0]) if sys.argv else ""
    return request.tags(
        cluster=cluster,
        host=host_id,
        owner=owner(),
        driver=str(Origin.here()),
        program=program or "python",
        arguments=" ".join(sys.argv[1:]),
        digest=program_digest(),
    )


def _cpus(described: Mapping[str, Any], kinds: Sequence[InstanceType]) -> int:
    by_name = {kind.name: kind.cpus for kind in kinds}
    return by_name.get(described.get("InstanceType", ""), min(by_name.values()))
