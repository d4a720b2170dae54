"""What is most likely wrong where an instance runs and does not answer."""

from __future__ import annotations

from typing import Any

import pytest

from bigmachine.systems.ec2.advice import advise, sources

PUBLIC = "198.51.100.7"
DESCRIBED = {
    "InstanceId": "i-1",
    "PublicIpAddress": PUBLIC,
    "PrivateIpAddress": "10.0.0.7",
    "SubnetId": "subnet-1",
    "VpcId": "vpc-1",
    "SecurityGroups": [{"GroupId": "sg-1", "GroupName": "default"}],
}


def group(*rules: dict[str, Any]) -> dict[str, Any]:
    return {"GroupId": "sg-1", "IpPermissions": list(rules)}


def rule(low: int = 0, high: int = 65535, protocol: str = "tcp", **who: Any) -> dict[str, Any]:
    ports = {} if protocol == "-1" else {"FromPort": low, "ToPort": high}
    return {"IpProtocol": protocol, **ports, **who}


WORLD = {"IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
OFFICE = {"IpRanges": [{"CidrIp": "203.0.113.0/24"}]}
ITSELF = {"UserIdGroupPairs": [{"GroupId": "sg-1", "UserId": "1"}]}


def said(*rules: dict[str, Any], ip: str = PUBLIC, refused: bool = False) -> str:
    return advise(DESCRIBED, [group(*rules)], ip=ip, port=5550, is_refused=refused)


def test_a_group_that_lets_nobody_in_is_named_with_the_command_that_does() -> None:
    assert "sg-1 lets nobody in: let this computer in (aws ec2 authorize-" in said(rule(22, 22))
    assert "--group-id sg-1 --protocol tcp --port 5550 --cidr" in said()


def test_a_default_group_lets_its_own_in_alone() -> None:
    assert "lets TCP port 5550 in from sg-1 alone" in said(rule(protocol="-1", **ITSELF))
    assert "from 203.0.113.0/24 alone" in said(rule(5550, 5550, **OFFICE))


def test_where_the_group_is_right_it_is_the_way_there() -> None:
    words = said(rule(5000, 6000, **WORLD))
    assert "lets everybody in" in words
    assert "subnet-1 has a route to an internet gateway" in words
    assert "authorize" not in words


def test_an_address_that_is_private_is_said_to_be_first() -> None:
    words = said(rule(**WORLD), ip="10.0.0.7")
    assert words.startswith("10.0.0.7 is a private address: run the program inside vpc-1")
    assert "public_ip=True" in words


def test_who_refuses_is_reached_and_its_image_is_to_blame() -> None:
    words = said(refused=True)
    assert "cloud-init" in words
    assert "--instance-id i-1" in words
    assert "sg-1" not in words


def test_who_may_not_see_the_groups_is_told_to_look() -> None:
    words = advise(DESCRIBED, None, ip=PUBLIC, port=5550, is_refused=False)
    assert (
        "see whether its security group sg-1 lets this computer connect to TCP port 5550" in words
    )


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([], []),
        ([rule(5550, 5550, **OFFICE)], ["203.0.113.0/24"]),
        ([rule(5551, 6000, **OFFICE)], []),
        ([rule(5000, 5549, **OFFICE)], []),
        ([rule(5550, 5550, "udp", **OFFICE)], []),
        ([rule(5550, 5550, "6", **OFFICE)], ["203.0.113.0/24"]),
        ([rule(protocol="-1", **OFFICE, **ITSELF)], ["203.0.113.0/24", "sg-1"]),
        ([rule(Ipv6Ranges=[{"CidrIpv6": "::/0"}])], ["::/0"]),
        ([rule(PrefixListIds=[{"PrefixListId": "pl-1"}])], ["pl-1"]),
        ([rule(**OFFICE), rule(protocol="-1", **OFFICE)], ["203.0.113.0/24"]),
    ],
)
def test_the_rules_of_a_group_are_read_as_ec2_means_them(rules, expected) -> None:
    assert sources([group(*rules)], 5550) == expected
