"""Machines on instances of a cloud that is moto's, but whose instances really boot."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import bigmachine as bm
from bigmachine.image.build import Image
from bigmachine.systems.ec2 import EC2

from .cloud import TYPE, Cloud, start_script, wait_until

LIMIT = 60.0


class Service:
    def double(self, n: int) -> int:
        return 2 * n

    def hang(self) -> None:
        threading.Event().wait()


def ec2(cloud: Cloud, **options: Any) -> EC2:
    chosen = {"instance_type": TYPE, "ami": cloud.ami, "use_private_ip": True, **options}
    return EC2(endpoint_url=cloud.url, region="us-east-1", **chosen)


def test_machines_run_on_instances_which_end_with_the_cluster(
    cloud: Cloud, small_image: Image
) -> None:
    with bm.start(ec2(cloud, on_demand=True)) as cluster:
        machines = cluster.start(3, services={"S": Service()}, image=small_image)
        assert [f.result(LIMIT) for f in machines.call(Service.double, 21)] == [42, 42, 42]
        assert len(cloud.living()) == 2  # of two processors each
        (marks, _) = (cloud.tags(instance) for instance in cloud.living())
        assert marks["bigmachine:cluster"] == cluster.name
        assert marks["bigmachine:digest"] == bm.local_info().digest
    assert cloud.living() == []


def test_machines_that_are_started_later_do_not_wait_for_the_first_ones_instances(
    cloud: Cloud, small_image: Image
) -> None:
    cloud.boots = lambda number: number > 0
    options = {"services": {"S": Service()}, "image": small_image}
    with bm.start(ec2(cloud, on_demand=True, cpus_per_machine="host")) as cluster:
        (first,) = cluster.start(1, **options)  # type: ignore[arg-type]
        wait_until(lambda: len(cloud.living()) == 1)
        later = cluster.start(2, **options)  # type: ignore[arg-type]
        # Two of three instances boot, and those that were started first have them.
        assert first.call(Service.double, 1).result(LIMIT) == 2
        assert later[0].call(Service.double, 2).result(LIMIT) == 4
        assert len(cloud.living()) == 3
        assert later[1].state < bm.State.RUNNING


def test_machines_that_are_started_later_are_told_too_why_there_are_no_instances(
    cloud: Cloud, small_image: Image
) -> None:
    cloud.boots = lambda number: False
    options = {"services": {"S": Service()}, "image": small_image}
    chosen = {"on_demand": True, "cpus_per_machine": "host", "boot_seconds": 4}
    with bm.start(ec2(cloud, **chosen)) as cluster:
        (first,) = cluster.start(1, **options)  # type: ignore[arg-type]
        wait_until(lambda: len(cloud.living()) == 1)
        (later,) = cluster.start(1, **options)  # type: ignore[arg-type]
        for machine in (first, later):
            with pytest.raises(bm.MachineStoppedError) as raised:
                machine.call(Service.double, 1).result(LIMIT)
            assert isinstance(raised.value.__cause__, bm.ProvisionError)
    assert cloud.living() == []


def test_spot_comes_first_and_its_instances_come_of_a_fleet(
    cloud: Cloud, small_image: Image
) -> None:
    with bm.start(ec2(cloud)) as cluster:
        (machine,) = cluster.start(1, services={"S": Service()}, image=small_image)
        assert machine.call(Service.double, 1).result(LIMIT) == 2
    assert [market for market, _ in cloud.made if market == "spot"]
    assert cloud.backend.launch_templates == {}


def test_a_spot_instance_that_is_taken_back_is_said_to_be(cloud: Cloud, small_image: Image) -> None:
    with bm.start(ec2(cloud, spot_only=True)) as cluster:
        (machine,) = cluster.start(1, services={"S": Service()}, image=small_image)
        machine.wait().result(LIMIT)
        call = machine.call(Service.hang)
        (instance,) = cloud.living()
        cloud.take_back(instance)
        with pytest.raises(bm.MachineStoppedError) as raised:
            call.result(LIMIT)
        assert raised.value.death.kind == "spot"


def test_where_there_is_no_spot_on_demand_is_taken(cloud: Cloud, small_image: Image) -> None:
    cloud.refuse = lambda market, _: "InsufficientInstanceCapacity" if market == "spot" else ""
    with bm.start(ec2(cloud)) as cluster:
        (machine,) = cluster.start(1, services={"S": Service()}, image=small_image)
        assert machine.call(Service.double, 1).result(LIMIT) == 2


def test_without_any_capacity_the_machines_say_so(cloud: Cloud, small_image: Image) -> None:
    cloud.refuse = lambda *_: "InsufficientInstanceCapacity"
    with bm.start(ec2(cloud)) as cluster:
        (machine,) = cluster.start(1, services={"S": Service()}, image=small_image)
        machine.wait().result(LIMIT)
        assert machine.err is not None
        cause = machine.err.__cause__
        assert isinstance(cause, bm.ProvisionError)
        assert "name more types" in cause.remedy
        assert cause.temporary


def test_a_missing_permission_names_itself(cloud: Cloud, small_image: Image) -> None:
    cloud.refuse = lambda *_: "UnauthorizedOperation"
    with bm.start(ec2(cloud, on_demand=True)) as cluster:
        (machine,) = cluster.start(1, services={"S": Service()}, image=small_image)
        machine.wait().result(LIMIT)
        assert "let the policy of these credentials allow the action" in str(machine.err)


def test_user_data_is_small_and_has_one_hosts_credentials(cloud: Cloud, small_image: Image) -> None:
    with bm.start(ec2(cloud, on_demand=True)) as cluster:
        machines = cluster.start(4, services={"S": Service()}, image=small_image)
        machines.running().result(LIMIT)
    texts = [start_script(data) for data in cloud.booted.values()]
    assert len(texts) == 2
    assert max(map(len, cloud.booted.values())) < 16 << 10
    assert [text.count("BEGIN PRIVATE KEY") for text in texts] == [1, 1]
