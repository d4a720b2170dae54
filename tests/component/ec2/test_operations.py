"""What operators ask: what a killed driver has left, what is wrong, what it would cost."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

import bigmachine as bm
from bigmachine.image.build import Image
from bigmachine.systems.checks import Check, Leftover, Verdict
from bigmachine.systems.ec2 import EC2
from bigmachine.systems.origin import Origin

from .cloud import REGION, TYPE, Cloud, wait_until
from .test_instances import LIMIT, Service, ec2

PROGRAM = """
import json, sys
import bigmachine as bm
from bigmachine.systems.ec2 import EC2

class Service:
    def nothing(self):
        pass

if __name__ == "__main__":
    with bm.start(EC2(**json.loads(sys.argv[1]))) as cluster:
        cluster.start(1, services={"S": Service()})[0].wait().result()
"""


def collected(system: EC2, *, dry_run: bool) -> list[Leftover]:
    async def run() -> list[Leftover]:
        return [each async for each in system.gc(dry_run=dry_run)]

    return asyncio.run(run())


def examined(system: EC2) -> list[Check]:
    async def run() -> list[Check]:
        return [check async for check in system.doctor()]

    return asyncio.run(run())


def make(cloud: Cloud, **tags: str) -> str:
    """Make an instance that nobody looks after; return its id."""
    listed = [{"Key": key.replace("_", ":"), "Value": value} for key, value in tags.items()]
    specification = [{"ResourceType": "instance", "Tags": listed}] if listed else []
    making = ec2(cloud).api.submit(
        "run_instances",
        ImageId=cloud.ami,
        InstanceType=TYPE,
        MinCount=1,
        MaxCount=1,
        TagSpecifications=specification,
    )
    return str(making.result(LIMIT)["Instances"][0]["InstanceId"])


def test_what_a_killed_driver_left_is_ended_and_nothing_else(cloud: Cloud, tmp_path: Path) -> None:
    cloud.boots = lambda number: False
    others = {
        make(cloud),
        make(cloud, bigmachine_cluster="c", bigmachine_driver=str(Origin.here())),
        make(cloud, bigmachine_cluster="c", bigmachine_driver="elsewhere/b+1/0/1/1.0"),
        make(cloud, bigmachine_cluster="c"),
    }
    killed = []

    def kill(*_: str) -> str:  # while EC2 makes the instance, for which there is a template
        if not killed:
            driver.kill()
            killed.append(driver.wait(LIMIT))
        return ""

    cloud.refuse = kill
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, "utf-8")
    options = {
        "endpoint_url": cloud.url,
        "region": REGION,
        "instance_type": TYPE,
        "ami": cloud.ami,
        "spot_only": True,
    }
    changed = {**os.environ, "HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state")}
    driver = subprocess.Popen([sys.executable, program, json.dumps(options)], env=changed)
    driver.wait(LIMIT)
    wait_until(lambda: set(cloud.living()) > others)
    assert killed == [-signal.SIGKILL]
    (left,) = set(cloud.living()) - others

    found = collected(ec2(cloud), dry_run=True)
    assert [(each.kind, each.ended) for each in found] == [
        ("instance", False),
        ("launch template", False),
    ]
    assert found[0].name == left
    assert found[0].cluster
    assert TYPE in found[0].detail
    assert left in cloud.living()

    ended = collected(ec2(cloud), dry_run=False)
    assert [(each.name, each.ended) for each in ended] == [(each.name, True) for each in found]
    assert set(cloud.living()) == others
    assert cloud.backend.launch_templates == {}
    assert collected(ec2(cloud), dry_run=False) == []


def let_in(cloud: Cloud, **who: Any) -> str:
    """Have the default security group let somebody in; return its id."""
    api = ec2(cloud).api
    answer = api.submit("describe_security_groups", GroupNames=["default"]).result(LIMIT)
    group = str(answer["SecurityGroups"][0]["GroupId"])
    rule = {"IpProtocol": "tcp", "FromPort": 5550, "ToPort": 5550, **who}
    rules = {"GroupId": group, "IpPermissions": [rule]}
    api.submit("authorize_security_group_ingress", **rules).result(LIMIT)
    return group


def test_doctor_finds_nothing_wrong_and_launches_nothing(cloud: Cloud) -> None:
    group = let_in(cloud, IpRanges=[{"CidrIp": "203.0.113.0/24"}])
    checks = examined(ec2(cloud))
    assert [check.name for check in checks] == [
        "credentials",
        "types",
        "image",
        "RunInstances",
        "CreateLaunchTemplate",
        "CreateFleet",
        "port 5550",
    ]
    assert {check.verdict for check in checks} == {Verdict.OK}, checks
    assert f"{TYPE} (2 cpus)" in checks[1].seen
    assert checks[-1].seen == f"{group} lets in 203.0.113.0/24"
    assert cloud.booted == {}
    assert cloud.backend.launch_templates == {}


def test_doctor_says_which_permission_is_missing(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = ec2(cloud)
    allowed = system.api.call

    async def call(method: str, **parameters: Any) -> Any:
        if method == "create_fleet":
            error = {"Code": "UnauthorizedOperation", "Message": "You are not authorized."}
            raise ClientError({"Error": error}, "CreateFleet")
        return await allowed(method, **parameters)

    monkeypatch.setattr(system.api, "call", call)
    (check,) = [check for check in examined(system) if check.verdict is Verdict.FAIL][:1]
    assert check.name == "CreateFleet"
    assert "let the policy of these credentials allow the action" in check.remedy


def test_doctor_says_how_a_security_group_lets_this_computer_in(cloud: Cloud) -> None:
    check = examined(ec2(cloud))[-1]
    assert (check.name, check.verdict) == ("port 5550", Verdict.FAIL)
    assert "lets nobody in" in check.seen
    assert "authorize-security-group-ingress --group-id sg-" in check.remedy


def test_doctor_knows_that_a_default_group_lets_in_its_own_alone(cloud: Cloud) -> None:
    group = ec2(cloud).api.submit("describe_security_groups").result(LIMIT)["SecurityGroups"][0]
    let_in(cloud, UserIdGroupPairs=[{"GroupId": group["GroupId"]}])
    check = examined(ec2(cloud, security_groups=[group["GroupId"]]))[-1]
    assert check.verdict is Verdict.WARN
    assert "unless it is an instance with that group" in check.remedy


def test_doctor_says_that_there_are_no_credentials(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    (check,) = examined(ec2(cloud))
    assert (check.name, check.verdict) == ("credentials", Verdict.FAIL)
    assert "aws configure" in check.remedy


def test_doctor_says_that_a_region_or_profile_is_missing(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    (check,) = examined(EC2(endpoint_url=cloud.url))
    assert "region=" in check.remedy
    (check,) = examined(EC2(endpoint_url=cloud.url, region=REGION, profile="nobody"))
    assert "profile=" in check.remedy


def test_doctor_says_which_type_there_is_not(cloud: Cloud) -> None:
    checks = examined(ec2(cloud, instance_type="m5.huge"))
    assert [check.verdict for check in checks] == [Verdict.OK, Verdict.FAIL]
    assert "m5.huge" in checks[1].seen


def test_a_dry_run_says_what_would_be_asked_for_and_asks_for_nothing(
    cloud: Cloud, small_image: Image
) -> None:
    with bm.start(ec2(cloud, dry_run=True, cpus_per_machine=1)) as cluster:
        (machine, *_) = cluster.start(5, services={"S": Service()}, image=small_image)
        machine.wait().result(LIMIT)
        cause = machine.err.__cause__ if machine.err else None
    assert isinstance(cause, bm.ProvisionError)
    assert f"3 x {TYPE} (2 cpus, 8 GiB, x86_64), 2 machines of 1 cpus on each" in str(cause)
    assert "spot, per hour:" in str(cause)
    assert "on-demand, per hour:" in str(cause)
    assert f"image {cloud.ami}" in str(cause)
    assert cloud.booted == {}
