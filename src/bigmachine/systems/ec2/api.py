"""Calls of AWS's API: by boto3, in threads, a few at a time, again when AWS says too often.

boto3 itself finds credentials, repeats what may be repeated, and slows down when it is throttled
(its ``adaptive`` mode). What is here bounds how many calls are under way, and puts their results
into this package's terms.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, cast

from bigmachine.errors import UsageError
from bigmachine.systems.ec2 import errors
from bigmachine.systems.ec2.request import TAG, Image, InstanceType

AT_ONCE: Final = 8
"""How many calls are under way at a time."""
ATTEMPTS: Final = 10
CONNECT_SECONDS: Final = 5.0
READ_SECONDS: Final = 30.0
DESCRIBED_AT_ONCE: Final = 100

_PARAMETERS: Final = {
    "ubuntu": "/aws/service/canonical/ubuntu/server/24.04/stable/current/{deb}/hvm/ebs-gp3/ami-id",
    "debian": "/aws/service/debian/release/12/latest/{deb}",
    "amazon": "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-{aws}",
}
FLAVORS: Final = tuple(_PARAMETERS)


def require_boto3() -> None:
    """See that boto3 is there.

    Raises:
        UsageError: It is not; says how to install it.
    """
    try:
        import boto3  # noqa: F401
    except ImportError as error:
        raise UsageError("the system ec2 needs boto3: pip install 'bigmachine[ec2]'") from error


class Api:
    """One account and region, as seen with one set of credentials. Used from any thread.

    Args:
        region: The region; None is what the environment and the profile say.
        profile: A profile of ``~/.aws/config``; None is the usual chain of credentials.
        endpoint_url: Where the API is; None is AWS.
    """

    def __init__(
        self,
        *,
        region: str | None = None,
        profile: str | None = None,
        endpoint_url: str | None = None,
    ) -> None:
        self._region = region
        self._profile = profile
        self._endpoint_url = endpoint_url
        self._clients: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="bigmachine-ec2")

    def __repr__(self) -> str:
        return f"<Api region={self._region} profile={self._profile}>"

    def client(self, service: str, *, attempts: int = ATTEMPTS, **more: Any) -> Any:
        """Return boto3's client for a service.

        Args:
            service: As boto3 calls it.
            attempts: How often a call is made that fails for the time being.
            more: For ``boto3.Session.client``: another region.
        """
        import boto3
        from botocore.config import Config

        key = f"{service} {attempts} {more}"
        with self._lock:
            if key not in self._clients:
                session = boto3.Session(profile_name=self._profile, region_name=self._region)
                config = Config(
                    retries={"mode": "adaptive", "max_attempts": attempts},
                    connect_timeout=CONNECT_SECONDS,
                    read_timeout=READ_SECONDS,
                    max_pool_connections=AT_ONCE + 2,
                )
                self._clients[key] = session.client(
                    service, endpoint_url=self._endpoint_url, config=config, **more
                )
            return self._clients[key]

    async def call(self, method: str, *, service: str = "ec2", **parameters: Any) -> dict[str, Any]:
        """Make a call, without holding up the loop.

        Raises:
            Exception: What boto3 raises; see `errors`.
        """

        def act() -> dict[str, Any]:
            answer: dict[str, Any] = getattr(self.client(service), method)(**parameters)
            return answer

        return cast("dict[str, Any]", await self.run(act))

    async def run(self, act: Callable[[], Any]) -> Any:
        """Run a function that makes calls in a thread of these."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, act)

    def call_now(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Make a call in this thread."""
        answer: dict[str, Any] = getattr(self.client("ec2"), method)(**parameters)
        return answer

    def close(self) -> None:
        """Make no more calls. Idempotent."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    # What this package asks

    async def instance_types(self, names: Sequence[str]) -> list[InstanceType]:
        """Describe instance types, in the order of their names.

        Raises:
            UsageError: There is no such type in this region.
        """
        try:
            answer = await self.call("describe_instance_types", InstanceTypes=list(names))
        except Exception as error:
            if errors.code_of(error) == "InvalidInstanceType":
                raise UsageError(f"EC2: instance_type={list(names)!r}: {error}") from error
            raise
        found = {each["InstanceType"]: _instance_type(each) for each in answer["InstanceTypes"]}
        missing = [name for name in names if name not in found]
        if missing:
            raise UsageError(f"EC2: this region has no instance type {', '.join(missing)}")
        return [found[name] for name in names]

    async def image(self, ami: str | None, flavor: str, architecture: str) -> Image:
        """Return an image.

        Args:
            ami: Its id, or a name (``*`` stands for anything), of which the newest is taken; None
                is the newest of a flavour.
            flavor: One of `FLAVORS`.
            architecture: ``x86_64`` or ``arm64``.

        Raises:
            UsageError: There is none of that name.
        """
        wanted = ami
        if wanted is None:
            deb = "amd64" if architecture == "x86_64" else "arm64"
            name = _PARAMETERS[flavor].format(deb=deb, aws=architecture)
            answer = await self.call("get_parameter", service="ssm", Name=name)
            wanted = str(answer["Parameter"]["Value"])
        if wanted.startswith("ami-"):
            answer = await self.call("describe_images", ImageIds=[wanted])
        else:
            filters = [
                {"Name": "name", "Values": [wanted]},
                {"Name": "architecture", "Values": [architecture]},
                {"Name": "state", "Values": ["available"]},
            ]
            answer = await self.call("describe_images", Filters=filters)
        images = sorted(answer["Images"], key=lambda image: image.get("CreationDate", ""))
        if images:
            return read_image(images[-1])
        if wanted.startswith("ami-"):
            return Image(id=wanted)  # it is not ours to see, but may be ours to run
        raise UsageError(f"EC2: ami={ami!r}: no {architecture} image of this region has that name")

    async def describe(self, ids: Iterable[str]) -> dict[str, Mapping[str, Any]]:
        """Describe instances; those that EC2 does not know, perhaps not yet, are left out."""
        found: dict[str, Mapping[str, Any]] = {}
        wanted = list(ids)
        for at in range(0, len(wanted), DESCRIBED_AT_ONCE):
            part = wanted[at : at + DESCRIBED_AT_ONCE]
            # By a filter, since one unknown id would be an error for all.
            filters = [{"Name": "instance-id", "Values": part}]
            answer = await self.call("describe_instances", Filters=filters)
            for reservation in answer["Reservations"]:
                found.update((each["InstanceId"], each) for each in reservation["Instances"])
        return found

    async def ours(self, more: Mapping[str, str]) -> list[Mapping[str, Any]]:
        """Describe the instances that live and have our tag, and those given."""
        filters = [
            {"Name": "tag-key", "Values": [f"{TAG}:cluster"]},
            {
                "Name": "instance-state-name",
                "Values": ["pending", "running", "stopping", "stopped"],
            },
            *({"Name": f"tag:{key}", "Values": [value]} for key, value in more.items()),
        ]
        pages = functools.partial(
            lambda: list(
                self.client("ec2").get_paginator("describe_instances").paginate(Filters=filters)
            )
        )
        return [
            each
            for page in await self.run(pages)
            for reservation in page["Reservations"]
            for each in reservation["Instances"]
        ]


def read_image(values: Mapping[str, Any]) -> Image:
    """Read what the API says of an image."""
    disks = {
        each["DeviceName"]: each["Ebs"]
        for each in values.get("BlockDeviceMappings", ())
        if each.get("Ebs", {}).get("VolumeSize")
    }
    return Image(
        id=values["ImageId"],
        root_device=values.get("RootDeviceName") or "/dev/xvda",
        kept_disks={
            name: int(disk["VolumeSize"])
            for name, disk in disks.items()
            if not disk.get("DeleteOnTermination", True)
        },
    )


def _instance_type(values: Mapping[str, Any]) -> InstanceType:
    architectures = values.get("ProcessorInfo", {}).get("SupportedArchitectures", ["x86_64"])
    return InstanceType(
        name=values["InstanceType"],
        cpus=int(values["VCpuInfo"]["DefaultVCpus"]),
        memory_bytes=int(values["MemoryInfo"]["SizeInMiB"]) << 20,
        architecture="arm64" if "arm64" in architectures else "x86_64",
        has_disks=bool(values.get("InstanceStorageSupported")),
    )
