"""How instances end: whatever is killed on them, and when AWS wants them back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

pytest.importorskip("moto")

from bigmachine.security.authority import Authority
from bigmachine.systems.ec2 import userdata

from ..component.ec2.cloud import REGION, TYPE, credentials
from ..programs.driven import wait_until
from . import instances
from .cloud import RealCloud
from .drivers import Drivers
from .lab import Lab
from .network import Ailment

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(240)]

HOST = "ec2-0123456789ab"
OFF_SECONDS = 30.0
"""For an instance to shut down its services, on a busy computer."""

PROGRAM = """
    import logging

    class Notes(logging.Handler):
        def emit(self, record):
            if "event=spotNotice" in record.getMessage():
                say("notice")

    if __name__ == "__main__":
        logger = logging.getLogger("bigmachine.systems.base")
        logger.setLevel(logging.DEBUG)
        logger.addHandler(Notes())
        with bm.start() as cluster:
            (machine,) = cluster.start(1, services={"Probe": Probe()})
            machine.wait().result(timeout=90)
            if machine.err:
                say("never ran", machine.err)
                sys.exit()
            say("running")
            try:
                machine.call(Probe.block, 90.0).result()
            except bm.MachineStoppedError as error:
                say("death", error.death.kind, error)
"""


@pytest.fixture
def cloud(tmp_path: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealCloud]:
    directory = tmp_path / "cloud"
    directory.mkdir()
    with credentials(monkeypatch), RealCloud(directory, lab) as cloud:
        yield cloud


def settings(cloud: RealCloud, **more: str) -> dict[str, str]:
    options = {
        "endpoint_url": cloud.url,
        "region": REGION,
        "instance_type": TYPE,
        "ami": cloud.ami,
        "use_private_ip": "true",
        **more,
    }
    named = {f"BIGMACHINE_EC2_{name.upper()}": value for name, value in options.items()}
    return {"BIGMACHINE_SYSTEM": "ec2", **named}


def test_an_instance_on_which_all_of_ours_is_killed_powers_itself_off(lab: Lab) -> None:
    config = {
        "cluster": "c",
        "id": HOST,
        "credentials": asdict(Authority().issue(HOST)),
        "boot_seconds": 600.0,
        "lease_seconds": 600.0,
        "port": 5550,
    }
    instance = instances.start(lab, userdata.make(config, userdata.Extras()))
    instance.wait_booted()
    wait_until(lambda: 5550 in instance.listening(), 30)

    shown = instance.run("systemctl", "show", "bigmachine", "-p", "OOMPolicy", "-p", "TasksMax")
    assert set(shown.split()) == {"OOMPolicy=continue", "TasksMax=infinity"}
    assert instance.try_run("ls", "/run/bigmachine/boot.py").returncode  # the key was in it
    instance.run("systemctl", "kill", "--signal=KILL", "--kill-who=all", "bigmachine")

    instance.wait_ended(OFF_SECONDS)


def test_a_spot_notice_is_heard_on_the_instance_and_told_before_its_end(
    cloud: RealCloud, make_drivers: Callable[..., Drivers]
) -> None:
    drivers = make_drivers("boto3")
    with drivers.driven(PROGRAM, [], env=settings(cloud)) as driver:
        driver.expect(r"^running", instances.BOOT_SECONDS)
        (instance,) = cloud.up()
        instance.notify_spot()
        driver.expect(r"^notice", 20)
        instance.run("systemctl", "poweroff", "--no-block")  # as AWS does two minutes later
        assert driver.expect(r"^death (\S+)", OFF_SECONDS)[1] == "spot"
        instance.wait_ended(OFF_SECONDS)
        assert driver.wait(20) == 0


def test_an_instance_that_the_driver_never_reaches_is_given_up_with_advice(
    cloud: RealCloud, lab: Lab, make_drivers: Callable[..., Drivers]
) -> None:
    lab.network.ail(Ailment(one=lab.network.driver))  # a security group lets nobody in
    drivers = make_drivers("boto3")
    with drivers.driven(PROGRAM, [], env=settings(cloud, boot_seconds="8")) as driver:
        said = driver.expect(r"^never ran (.*)", 90)[1]
        assert driver.wait(20) == 0
    assert "within 8 s" in said
    assert "security group" in said
    wait_until(lambda: not cloud.up(), OFF_SECONDS)
