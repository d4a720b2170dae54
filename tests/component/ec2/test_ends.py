"""What EC2 alone knows of an instance's end, which says nothing itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from moto.ec2.models.instances import InstanceState

import bigmachine as bm
from bigmachine.image.build import Image

from .cloud import REGION, TYPE, Cloud, set_reason
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


PROGRAM = """
import json, sys, threading
import bigmachine as bm
from bigmachine.systems.ec2 import EC2
from bigmachine.systems.ec2.maker import Maker

class Service:
    def nothing(self):
        pass

if __name__ == "__main__":
    made, ask = threading.Event(), Maker.ask

    async def tell(*args):
        try:
            return await ask(*args)
        finally:
            made.set()

    Maker.ask = tell
    cluster = bm.start(EC2(**json.loads(sys.argv[1])))
    cluster.start(1, services={"S": Service()})
    made.wait()
"""


@pytest.mark.parametrize("options", [{"on_demand": True}, {"spot_only": True}])
def test_a_program_that_ends_without_a_word_has_its_instances_terminated(
    cloud: Cloud, tmp_path: Path, options: dict[str, bool]
) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, "utf-8")
    cloud.boots = lambda number: False
    chosen = {
        "endpoint_url": cloud.url,
        "region": REGION,
        "instance_type": TYPE,
        "ami": cloud.ami,
        **options,
    }
    changed = {**os.environ, "HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state")}
    ended = subprocess.run(
        [sys.executable, program, json.dumps(chosen)],
        env=changed,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert len(cloud.booted) == 1
    assert cloud.living() == []
