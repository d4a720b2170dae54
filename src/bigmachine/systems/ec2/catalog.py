"""What EC2 has in a region: instance types and images. From the API; there is no table here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from bigmachine.errors import UsageError
from bigmachine.systems.ec2 import errors

if TYPE_CHECKING:
    from bigmachine.systems.ec2.api import Api

_PARAMETERS: Final = {
    "ubuntu": "/aws/service/canonical/ubuntu/server/24.04/stable/current/{deb}/hvm/ebs-gp3/ami-id",
    "debian": "/aws/service/debian/release/12/latest/{deb}",
    "amazon": "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-{aws}",
}
"""The public parameters that name the newest image of each flavour."""
FLAVORS: Final = tuple(_PARAMETERS)
OWNERS: Final = ("self", "amazon", "099720109477", "136693071363")
"""Whose images are looked for by name: this account, Amazon, Canonical, Debian.

Anybody may publish an image under any name, and would be given the credentials of a host.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceType:
    """An instance type, as the API describes it.

    Attributes:
        name: As ``m6i.large``.
        cpus: Its virtual processors.
        memory_bytes: Its memory.
        architecture: ``x86_64`` or ``arm64``.
        has_disks: Whether it has disks of its own.
    """

    name: str
    cpus: int
    memory_bytes: int
    architecture: str
    has_disks: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image, as the API describes it.

    Attributes:
        id: Its id.
        root_device: What its root disk is called.
        kept_disks: Its disks, and their sizes, that would outlive an instance.
    """

    id: str
    root_device: str = "/dev/xvda"
    kept_disks: Mapping[str, int] = field(default_factory=dict)


async def find_types(api: Api, names: Sequence[str]) -> list[InstanceType]:
    """Describe instance types, in the order of their names.

    Raises:
        UsageError: There is no such type in this region.
    """
    try:
        answer = await api.call("describe_instance_types", InstanceTypes=list(names))
    except Exception as error:
        if errors.code_of(error) == "InvalidInstanceType":
            raise UsageError(f"EC2: instance_type={list(names)!r}: {error}") from error
        raise
    found = {each["InstanceType"]: read_type(each) for each in answer["InstanceTypes"]}
    missing = [name for name in names if name not in found]
    if missing:
        raise UsageError(f"EC2: this region has no instance type {', '.join(missing)}")
    return [found[name] for name in names]


async def find_image(api: Api, ami: str | None, flavor: str, architecture: str) -> Image:
    """Return an image.

    Args:
        api: The account and region.
        ami: Its id, or a name (``*`` stands for anything) of which the newest of `OWNERS` is
            taken; None is the newest of a flavour.
        flavor: One of `FLAVORS`.
        architecture: ``x86_64`` or ``arm64``.

    Raises:
        UsageError: There is none of that name.
    """
    wanted = ami
    if wanted is None:
        deb = "amd64" if architecture == "x86_64" else "arm64"
        name = _PARAMETERS[flavor].format(deb=deb, aws=architecture)
        answer = await api.call("get_parameter", service="ssm", Name=name)
        wanted = str(answer["Parameter"]["Value"])
    if wanted.startswith("ami-"):
        answer = await api.call("describe_images", ImageIds=[wanted])
    else:
        filters = [
            {"Name": "name", "Values": [wanted]},
            {"Name": "architecture", "Values": [architecture]},
            {"Name": "state", "Values": ["available"]},
        ]
        answer = await api.call("describe_images", Owners=list(OWNERS), Filters=filters)
    images = sorted(answer["Images"], key=lambda image: image.get("CreationDate", ""))
    if images:
        return read_image(images[-1])
    if wanted.startswith("ami-"):
        return Image(id=wanted)  # it is not ours to see, but may be ours to run
    raise UsageError(
        f"EC2: ami={ami!r}: neither this account nor Amazon, Canonical or Debian has an "
        f"{architecture} image of that name in this region; say another one's image by its id"
    )


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


def read_type(values: Mapping[str, Any]) -> InstanceType:
    """Read what the API says of an instance type."""
    architectures = values.get("ProcessorInfo", {}).get("SupportedArchitectures", ["x86_64"])
    return InstanceType(
        name=values["InstanceType"],
        cpus=int(values["VCpuInfo"]["DefaultVCpus"]),
        memory_bytes=int(values["MemoryInfo"]["SizeInMiB"]) << 20,
        architecture="arm64" if "arm64" in architectures else "x86_64",
        has_disks=bool(values.get("InstanceStorageSupported")),
    )
