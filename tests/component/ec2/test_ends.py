"""What EC2 alone knows of an instance's end, which says nothing itself."""

from __future__ import annotations

import time

import pytest
from moto.ec2.models.instances import InstanceState

import bigmachine as bm
from bigmachine.image.build import Image

from .cloud import Cloud, set_reason
from .test_instances import LIMIT, Service, ec2

NOTICED_SECONDS = 15.0
"""EC2 is asked every three seconds; other tests run beside this one."""


def test_an_instance_that_was_stopped_is_noticed_though_it_falls_silent(
    cloud: Cloud, small_image: Image
) -> None:
    with bm.start(ec2(cloud, on_demand=True)) as cluster:
        (machine,) = cluster.start(1, services={"S": Service()}, image=small_image)
        machine.wait().result(LIMIT)
        call = machine.call(Service.hang)
        (instance,) = cloud.living()
        cloud.freeze(instance)
        began = time.monotonic()
        found = cloud.backend.get_instance(instance)
        found._state = InstanceState("stopped", 80)
        set_reason(found, "Server.InternalError", "Internal error on launch")
        with pytest.raises(bm.MachineStoppedError) as raised:
            call.result(LIMIT)
        assert time.monotonic() - began < NOTICED_SECONDS
        assert raised.value.death.kind == "host"
        assert instance in str(raised.value)
        assert "EC2 says stopped: Server.InternalError" in str(raised.value)
    assert str(found.state) == "terminated"
