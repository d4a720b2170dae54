"""What `EC2` may be told, and what it refuses before anything is asked of AWS."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from bigmachine.errors import UsageError
from bigmachine.host import role
from bigmachine.systems.ec2 import EC2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"instance_type": ""}, "name an instance type"),
        ({"instance_type": []}, "name an instance type"),
        ({"on_demand": True, "spot_only": True}, "exclude each other"),
        ({"flavor": "gentoo"}, "flavor='gentoo'.*ubuntu, debian, amazon"),
        ({"cpus_per_machine": 0}, "cpus_per_machine=0"),
        ({"cpus_per_machine": "all"}, "cpus_per_machine='all'"),
        ({"port": 0}, "port=0"),
        ({"port": 65536}, "port=65536"),
        ({"boot_seconds": 0}, "boot_seconds=0.*positive"),
        ({"keepalive": -1}, "keepalive"),
        ({"endpoint_url": "localhost:4566"}, "endpoint_url='localhost:4566'.*http://"),
        ({"data_disks_gib": [0]}, "data_disks_gib"),
        ({"data_disks_gib": [1] * 12}, "data_disks_gib.*11"),
        ({"root_disk_gib": -1}, "root_disk_gib=-1"),
        ({"tags": {"bigmachine:driver": "x"}}, "tags.*bigmachine:"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        EC2(**options)


def test_without_boto3_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(UsageError, match=r"bigmachine\[ec2\] brings: pip install boto3$"):
        EC2()


def test_machines_which_run_the_same_program_need_no_boto3(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    monkeypatch.setattr(role, "current", role.Role.MACHINE)
    assert isinstance(EC2(), EC2)


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({}, "<system ec2 m7i.large spot or on-demand>"),
        ({"on_demand": True}, "<system ec2 m7i.large on-demand>"),
        ({"spot_only": True, "instance_type": ["a", "b"]}, "<system ec2 a,b spot>"),
    ],
)
def test_it_shows_what_it_launches(options: dict[str, Any], shown: str) -> None:
    assert repr(EC2(**options)) == shown


def test_what_is_recorded_finds_the_instances_again_and_holds_no_secrets() -> None:
    assert EC2(region="eu-west-1", profile="work").recorded() == {
        "region": "eu-west-1",
        "profile": "work",
    }
