"""What befalls a launch: AWS says too often, instances do not come up, or are not known yet."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from moto.ec2.models.instances import InstanceBackend, InstanceState

import bigmachine as bm
from bigmachine.image.build import Image
from bigmachine.systems.ec2 import reach, terminator
from bigmachine.systems.ec2.maker import Maker
from bigmachine.systems.ec2.terminator import Terminator

from .cloud import TYPE, Cloud, set_reason, wait_until
from .test_instances import LIMIT, Service, ec2


def at_first(count: int, then: Callable[[], str] = lambda: "") -> Callable[..., str]:
    """Return a refusal of so many calls."""
    left = iter(range(count))
    return lambda *_: "RequestLimitExceeded" if next(left, None) is not None else then()


def end_at_once(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, which: Callable[[int], bool]
) -> None:
    """Have instances, by their number, end before they have booted."""
    boot = cloud._boot
    code = "Client.InternalError"

    def new_boot(instance: Any) -> None:
        if which(boot(instance)):  # several boot at a time: it knows its own number
            instance._state = InstanceState("terminated", 48)
            set_reason(instance, code, "error on launch")

    cloud.boots = lambda number: not which(number)
    monkeypatch.setattr(cloud, "_boot", new_boot)


def test_being_asked_too_often_only_takes_time(cloud: Cloud, small_image: Image) -> None:
    cloud.refuse = at_first(3)
    with bm.start(ec2(cloud, on_demand=True)) as cluster:
        machines = cluster.start(3, services={"S": Service()}, image=small_image)
        assert [f.result(LIMIT) for f in machines.call(Service.double, 21)] == [42, 42, 42]
        assert len(cloud.living()) == 2
    assert cloud.living() == []


def test_instances_that_end_at_once_are_replaced_as_often_as_it_makes_sense(
    cloud: Cloud, small_image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_at_once(cloud, monkeypatch, lambda number: number % 2 == 0)
    with bm.start(ec2(cloud, on_demand=True)) as cluster:
        machines = cluster.start(4, services={"S": Service()}, image=small_image)
        assert [f.result(LIMIT) for f in machines.call(Service.double, 1)] == [2] * 4
        assert len(cloud.living()) == 2
        assert 3 <= len(cloud.booted) <= 5


def test_when_all_end_at_once_it_is_given_up_and_the_reason_is_said(
    cloud: Cloud, small_image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_at_once(cloud, monkeypatch, lambda number: True)
    with bm.start(ec2(cloud, on_demand=True)) as cluster:
        machines = cluster.start(2, services={"S": Service()}, image=small_image)
        machine = machines[0]
        machine.wait().result(LIMIT)
        assert "error on launch" in str(machine.err)
        assert len(cloud.booted) <= 6
    assert cloud.living() == []


def test_instances_that_never_boot_are_replaced_once_others_have(
    cloud: Cloud, small_image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reach, "SILENT_SECONDS", 2.0)
    cloud.boots = lambda number: number % 2 == 1
    with bm.start(ec2(cloud, on_demand=True)) as cluster:
        machines = cluster.start(4, services={"S": Service()}, image=small_image)
        assert [f.result(LIMIT) for f in machines.call(Service.double, 1)] == [2] * 4
        assert len(cloud.booted) == 4
        wait_until(lambda: len(cloud.living()) == 2)
    assert cloud.living() == []


def test_where_no_instance_ever_boots_it_is_said_early_and_why(
    cloud: Cloud,
    small_image: Image,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(reach, "SILENT_SECONDS", 0.5)
    cloud.boots = lambda number: False
    with bm.start(ec2(cloud, on_demand=True, boot_seconds=3)) as cluster:
        (machine,) = cluster.start(1, services={"S": Service()}, image=small_image)
        wait_until(lambda: "has not answered" in caplog.text)
        assert machine.err is None
        machine.wait().result(LIMIT)
        (instance,) = cloud.booted  # for nobody would reach another one, either
        said = str(machine.err)
        assert f"{instance} runs, but did not answer at 127." in said
        assert "within 3 s" in said
        assert "nothing listens there" in said
    assert cloud.living() == []


def test_ec2_may_know_an_instance_later_than_who_has_made_it(
    cloud: Cloud, small_image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = InstanceBackend.all_reservations
    asked: list[int] = []

    def later(self: Any, filters: Any = None) -> Any:
        found = known(self, filters)
        if filters and "instance-id" in filters:
            asked.append(len(found))
            return found if len(asked) > 2 else []
        return found

    monkeypatch.setattr(InstanceBackend, "all_reservations", later)
    with bm.start(ec2(cloud, on_demand=True)) as cluster:
        (machine,) = cluster.start(1, services={"S": Service()}, image=small_image)
        assert machine.call(Service.double, 1).result(LIMIT) == 2
    assert len(asked) > 2
    assert len(cloud.booted) == 1


def test_an_instance_that_ec2_does_not_know_yet_does_not_keep_others_from_their_end(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminator, "UNKNOWN_PAUSES", (0.01, 0.02))
    cloud.boots = lambda number: False

    async def run() -> None:
        one = ec2(cloud, on_demand=True)
        made = await one.api.call(
            "run_instances", ImageId=cloud.ami, InstanceType=TYPE, MinCount=1, MaxCount=1
        )
        assert len(cloud.living()) == 1
        ender = Terminator(one.api)
        ender.end("i-00000000000000000")
        ender.end(made["Instances"][0]["InstanceId"])
        await ender.wait()
        assert cloud.living() == []

    asyncio.run(run())


@pytest.mark.parametrize("options", [{"on_demand": True}, {"spot_only": True}])
def test_what_was_under_way_when_the_cluster_ended_ends_too(
    cloud: Cloud,
    small_image: Image,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, bool],
) -> None:
    asked, may = threading.Event(), threading.Event()
    wait_for_made = Maker.wait

    async def let_them_be_made(maker: Maker) -> None:
        may.set()
        await wait_for_made(maker)

    def wait(*_: str) -> str:
        asked.set()
        may.wait(LIMIT)
        return ""

    monkeypatch.setattr(Maker, "wait", let_them_be_made)
    cloud.refuse = wait
    with bm.start(ec2(cloud, **options)) as cluster:
        cluster.start(1, services={"S": Service()}, image=small_image)
        assert asked.wait(LIMIT)
    wait_until(lambda: any(each.instances for each in cloud.backend.all_reservations()))
    wait_until(lambda: not cloud.living())
    wait_until(lambda: not cloud.backend.launch_templates)
