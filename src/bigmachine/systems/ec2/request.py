"""What is asked of EC2, made of the options: pure, texts and numbers in, parameters out.

Everything that an instance is goes into the one call that makes it: its tags, so that it can be
found again before anybody knows its id; that it terminates when it powers itself off; that its
metadata is not to be had without a session token (IMDSv2).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from bigmachine.systems.ec2.catalog import InstanceType

_LETTERS: Final = "fghijklmnop"
"""What EC2 recommends for the names of further disks."""

MAX_DATA_DISKS: Final = len(_LETTERS)

_RESOURCES: Final = ("instance", "volume", "network-interface")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What instances are to be, whatever their type.

    Attributes:
        ami: Their image.
        root_device: That image's root device.
        root_disk_gib: The size of their root disk; 0 is the image's own.
        data_disks_gib: Sizes of further disks.
        kept_disks: The disks of the image, and their sizes, that would outlive an instance.
        subnets: Where they may be; () is anywhere.
        zones: Likewise.
        security_groups: Ids of groups.
        key_name: A key pair's name; "" is none.
        instance_profile: The name or ARN of a profile; "" is none.
        public_ip: Whether they get a public address; None is the subnet's own setting.
        tags: What they and their volumes are marked with.
    """

    ami: str
    root_device: str = "/dev/xvda"
    root_disk_gib: int = 0
    data_disks_gib: Sequence[int] = ()
    kept_disks: Mapping[str, int] = field(default_factory=dict)
    subnets: Sequence[str] = ()
    zones: Sequence[str] = ()
    security_groups: Sequence[str] = ()
    key_name: str = ""
    instance_profile: str = ""
    public_ip: bool | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


def run_instances(
    wishes: Wishes, kind: InstanceType, user_data: bytes, token: str
) -> dict[str, Any]:
    """Return the parameters of ``RunInstances`` for one on-demand instance."""
    parameters = {
        **_instance(wishes),
        "InstanceType": kind.name,
        "MinCount": 1,
        "MaxCount": 1,
        "UserData": user_data,  # boto3 encodes it
        "ClientToken": token,
        "TagSpecifications": _tag_specifications(wishes.tags, _RESOURCES),
    }
    place = wishes.subnets[0] if wishes.subnets else ""
    if wishes.public_ip is not None:
        parameters["NetworkInterfaces"] = [_interface(wishes, place)]
        parameters.pop("SecurityGroupIds", None)
    elif place:
        parameters["SubnetId"] = place
    elif wishes.zones:
        parameters["Placement"] = {"AvailabilityZone": wishes.zones[0]}
    return parameters


def launch_template(wishes: Wishes, user_data: bytes, name: str) -> dict[str, Any]:
    """Return the parameters of ``CreateLaunchTemplate`` for one instance of a fleet."""
    data = {
        **_instance(wishes),
        "UserData": base64.b64encode(user_data).decode(),
        "TagSpecifications": _tag_specifications(wishes.tags, _RESOURCES),
    }
    if wishes.public_ip is not None:
        data["NetworkInterfaces"] = [_interface(wishes, "")]
        data.pop("SecurityGroupIds", None)
    return {
        "LaunchTemplateName": name,
        "LaunchTemplateData": data,
        "TagSpecifications": _tag_specifications(wishes.tags, ("launch-template",)),
    }


def fleet(
    wishes: Wishes, kinds: Sequence[InstanceType], *, template: str, market: str, token: str
) -> dict[str, Any]:
    """Return the parameters of ``CreateFleet`` for one instance, at once or not at all.

    Args:
        wishes: What it is to be.
        kinds: The types that will do.
        template: The name of its launch template.
        market: ``"spot"`` or ``"on-demand"``.
        token: What makes the request the same one when it is sent again.
    """
    places: list[dict[str, str]] = [{"SubnetId": each} for each in wishes.subnets]
    places = places or [{"AvailabilityZone": each} for each in wishes.zones] or [{}]
    overrides = [{"InstanceType": kind.name, **place} for kind in kinds for place in places]
    is_spot = market == "spot"
    parameters: dict[str, Any] = {
        "Type": "instant",
        "ClientToken": token,
        "LaunchTemplateConfigs": [
            {
                "LaunchTemplateSpecification": {
                    "LaunchTemplateName": template,
                    "Version": "$Latest",
                },
                "Overrides": overrides,
            }
        ],
        "TargetCapacitySpecification": {
            "TotalTargetCapacity": 1,
            "SpotTargetCapacity": int(is_spot),
            "OnDemandTargetCapacity": int(not is_spot),
            "DefaultTargetCapacityType": market,
        },
        "TagSpecifications": _tag_specifications(wishes.tags, ("fleet", "instance")),
    }
    if is_spot:
        parameters["SpotOptions"] = {
            "AllocationStrategy": "price-capacity-optimized",
            "InstanceInterruptionBehavior": "terminate",
        }
    else:
        parameters["OnDemandOptions"] = {"AllocationStrategy": "lowest-price"}
    return parameters


def _instance(wishes: Wishes) -> dict[str, Any]:
    parameters: dict[str, Any] = {
        "ImageId": wishes.ami,
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {
            "HttpTokens": "required",
            "HttpEndpoint": "enabled",
            "HttpPutResponseHopLimit": 1,
        },
    }
    devices = _devices(wishes)
    if devices:
        parameters["BlockDeviceMappings"] = devices
    if wishes.security_groups:
        parameters["SecurityGroupIds"] = list(wishes.security_groups)
    if wishes.key_name:
        parameters["KeyName"] = wishes.key_name
    if wishes.instance_profile:
        key = "Arn" if wishes.instance_profile.startswith("arn:") else "Name"
        parameters["IamInstanceProfile"] = {key: wishes.instance_profile}
    return parameters


def _devices(wishes: Wishes) -> list[dict[str, Any]]:
    sizes = {wishes.root_device: wishes.root_disk_gib} if wishes.root_disk_gib else {}
    sizes |= {f"/dev/sd{_LETTERS[n]}": size for n, size in enumerate(wishes.data_disks_gib)}
    disks: dict[str, dict[str, Any]] = {
        name: {"VolumeSize": n} for name, n in wishes.kept_disks.items()
    }
    disks |= {name: {"VolumeSize": n, "VolumeType": "gp3"} for name, n in sizes.items()}
    return [
        {"DeviceName": name, "Ebs": {**disk, "DeleteOnTermination": True}}
        for name, disk in disks.items()
    ]


def _interface(wishes: Wishes, subnet: str) -> dict[str, Any]:
    interface: dict[str, Any] = {
        "DeviceIndex": 0,
        "AssociatePublicIpAddress": wishes.public_ip,
        "DeleteOnTermination": True,
    }
    if subnet:
        interface["SubnetId"] = subnet
    if wishes.security_groups:
        interface["Groups"] = list(wishes.security_groups)
    return interface


def _tag_specifications(marks: Mapping[str, str], kinds: Sequence[str]) -> list[dict[str, Any]]:
    listed = [{"Key": key, "Value": value} for key, value in dict(marks).items()]
    return [{"ResourceType": kind, "Tags": listed} for kind in kinds]
