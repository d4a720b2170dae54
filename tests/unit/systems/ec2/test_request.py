"""What EC2 is asked for: everything that must hold is in the call that makes an instance."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from bigmachine.systems.ec2 import request
from bigmachine.systems.ec2.catalog import InstanceType
from bigmachine.systems.ec2.request import Wishes

MARKS = {"Name": "c h", "bigmachine:cluster": "c", "bigmachine:driver": "d"}
DATA = b"\x1f\x8b user-data"


def kind(name: str = "m7i.large", cpus: int = 2) -> InstanceType:
    return InstanceType(name=name, cpus=cpus, memory_bytes=8 << 30, architecture="x86_64")


def wishes(**more: Any) -> Wishes:
    return Wishes(**{"ami": "ami-1", "tags": MARKS, **more})


def from_call(**more: Any) -> dict[str, Any]:
    return request.run_instances(wishes(**more), kind(), DATA, "token")


def from_template(**more: Any) -> dict[str, Any]:
    found = request.launch_template(wishes(**more), DATA, "t")["LaunchTemplateData"]
    return dict(found)


BOTH = pytest.mark.parametrize("make", [from_call, from_template])


@BOTH
def test_instances_end_with_their_power_and_give_metadata_to_their_own_processes(make) -> None:
    made = make()
    assert made["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert made["MetadataOptions"]["HttpTokens"] == "required"
    assert made["MetadataOptions"]["HttpPutResponseHopLimit"] == 1


@BOTH
def test_the_call_that_makes_an_instance_tags_it_and_all_that_comes_with_it(make) -> None:
    listed = [{"Key": key, "Value": value} for key, value in MARKS.items()]
    assert {each["ResourceType"]: each["Tags"] for each in make()["TagSpecifications"]} == {
        "instance": listed,
        "volume": listed,
        "network-interface": listed,
    }


@BOTH
def test_volumes_and_interfaces_end_with_their_instance(make) -> None:
    made = make(root_disk_gib=50, data_disks_gib=[100, 200], public_ip=True, root_device="/dev/r")
    disks = {each["DeviceName"]: each["Ebs"] for each in made["BlockDeviceMappings"]}
    assert [(name, disk["VolumeSize"]) for name, disk in disks.items()] == [
        ("/dev/r", 50),
        ("/dev/sdf", 100),
        ("/dev/sdg", 200),
    ]
    assert all(disk["DeleteOnTermination"] is True for disk in disks.values())
    assert made["NetworkInterfaces"][0]["DeleteOnTermination"] is True


@BOTH
def test_volumes_that_the_image_would_keep_end_with_their_instance_too(make) -> None:
    made = make(kept_disks={"/dev/r": 8, "/dev/x": 9}, root_device="/dev/r", root_disk_gib=50)
    disks = {each["DeviceName"]: each["Ebs"] for each in made["BlockDeviceMappings"]}
    assert disks["/dev/r"]["VolumeSize"] == 50
    assert disks["/dev/x"] == {"VolumeSize": 9, "DeleteOnTermination": True}


@BOTH
def test_nothing_is_asked_for_that_was_not_wished(make) -> None:
    left_out = {
        "BlockDeviceMappings",
        "SecurityGroupIds",
        "KeyName",
        "IamInstanceProfile",
        "NetworkInterfaces",
        "SubnetId",
        "Placement",
    }
    assert not left_out & make().keys()


@BOTH
def test_groups_keys_and_profiles_are_passed_on(make) -> None:
    made = make(security_groups=["sg-1"], key_name="k", instance_profile="p")
    assert made["SecurityGroupIds"] == ["sg-1"]
    assert made["KeyName"] == "k"
    assert made["IamInstanceProfile"] == {"Name": "p"}
    arn = "arn:aws:iam::1:instance-profile/p"
    assert make(instance_profile=arn)["IamInstanceProfile"] == {"Arn": arn}


@BOTH
@pytest.mark.parametrize("public", [True, False])
def test_with_an_address_of_their_own_the_groups_are_the_interfaces(make, public: bool) -> None:
    made = make(public_ip=public, security_groups=["sg-1"])
    (interface,) = made["NetworkInterfaces"]
    assert interface["AssociatePublicIpAddress"] is public
    assert interface["Groups"] == ["sg-1"]
    assert "SecurityGroupIds" not in made  # EC2 refuses both


def test_one_on_demand_instance_is_one_call_that_can_be_sent_again() -> None:
    made = request.run_instances(wishes(subnets=["s-1"]), kind(), DATA, "token")
    assert (made["MinCount"], made["MaxCount"]) == (1, 1)
    assert made["ClientToken"] == "token"
    assert made["UserData"] == DATA
    assert made["SubnetId"] == "s-1"
    assert from_call(zones=["z"])["Placement"] == {"AvailabilityZone": "z"}


def test_a_template_has_its_user_data_in_base64_and_is_tagged_itself() -> None:
    made = request.launch_template(wishes(), DATA, "t")
    assert base64.b64decode(made["LaunchTemplateData"]["UserData"]) == DATA
    assert [each["ResourceType"] for each in made["TagSpecifications"]] == ["launch-template"]


def fleet(market: str = "spot", **more: Any) -> dict[str, Any]:
    kinds = [kind("a"), kind("b")]
    return request.fleet(wishes(**more), kinds, template="t", market=market, token="token")


def test_a_fleet_is_one_instance_at_once_where_there_is_most_of_it() -> None:
    made = fleet()
    assert made["Type"] == "instant"
    assert made["ClientToken"] == "token"
    assert made["SpotOptions"]["AllocationStrategy"] == "price-capacity-optimized"
    assert made["SpotOptions"]["InstanceInterruptionBehavior"] == "terminate"
    capacity = made["TargetCapacitySpecification"]
    assert capacity["TotalTargetCapacity"] == capacity["SpotTargetCapacity"] == 1
    assert capacity["OnDemandTargetCapacity"] == 0
    assert {each["ResourceType"] for each in made["TagSpecifications"]} >= {"instance"}


def test_a_fleet_on_demand_is_the_cheapest() -> None:
    made = fleet("on-demand")
    assert "SpotOptions" not in made
    assert made["OnDemandOptions"] == {"AllocationStrategy": "lowest-price"}
    assert made["TargetCapacitySpecification"]["OnDemandTargetCapacity"] == 1


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ({}, [{}]),
        ({"subnets": ["s", "t"]}, [{"SubnetId": "s"}, {"SubnetId": "t"}]),
        ({"zones": ["y", "z"]}, [{"AvailabilityZone": "y"}, {"AvailabilityZone": "z"}]),
        ({"subnets": ["s"], "zones": ["y", "z"]}, [{"SubnetId": "s"}]),
    ],
)
def test_any_type_will_do_in_any_place(places, expected) -> None:
    (config,) = fleet(**places)["LaunchTemplateConfigs"]
    assert config["LaunchTemplateSpecification"]["LaunchTemplateName"] == "t"
    assert config["Overrides"] == [
        {"InstanceType": name, **place} for name in ("a", "b") for place in expected
    ]
