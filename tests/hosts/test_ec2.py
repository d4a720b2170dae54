"""Whole programs on an EC2 whose instances boot their user-data by cloud-init, and power off."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("moto")

from ..component.ec2.cloud import REGION, TYPE, credentials
from .cloud import RealCloud
from .drivers import Drivers
from .lab import Lab

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(240)]


@pytest.fixture
def cloud(tmp_path: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealCloud]:
    directory = tmp_path / "cloud"
    directory.mkdir()
    with credentials(monkeypatch), RealCloud(directory, lab) as cloud:
        yield cloud


def settings(cloud: RealCloud, **options: object) -> dict[str, str]:
    chosen = {
        "endpoint_url": cloud.url,
        "region": REGION,
        "instance_type": TYPE,
        "ami": cloud.ami,
        "use_private_ip": "true",
        "keepalive": "2",
        **options,
    }
    named = {f"BIGMACHINE_EC2_{name.upper()}": str(value) for name, value in chosen.items()}
    return {"BIGMACHINE_SYSTEM": "ec2", **named}


def wait_until(condition: Callable[[], bool], timeout: float) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + timeout
        time.sleep(0.05)
    return time.monotonic() - began


EXAMPLES = Path(__file__).parents[2] / "examples"


def test_an_example_runs_on_instances_which_are_gone_afterwards(
    cloud: RealCloud, make_drivers: Callable[..., Drivers]
) -> None:
    drivers = make_drivers("boto3")
    result = drivers.run(EXAMPLES / "bigpi.py", [], env=settings(cloud), timeout=120)
    assert "pi = 3.14" in result.stdout
    wait_until(lambda: not cloud.up(), 10)
    assert cloud.living() == []
