"""Whole programs on an EC2 whose instances boot their user-data by cloud-init, and power off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("moto")

from ..component.ec2.cloud import REGION, TYPE, credentials
from ..programs.driven import wait_until
from .cloud import POWERED_OFF, RealCloud
from .drivers import Drivers
from .instances import BOOT_SECONDS, Instance
from .lab import Lab

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(240)]

EXAMPLES = Path(__file__).parents[2] / "examples"
KEEPALIVE = 2.0
SLACK = 20.0
"""For an instance to shut down its services, on a busy computer."""
READY_SECONDS = 5.0
"""What the boot file, the runtime and the image may take, from the boot file's start."""

PROGRAM = """
    def dies_after(owner, name):
        wrapped = getattr(owner, name)

        async def run(*args):
            await wrapped(*args)
            os.kill(os.getpid(), signal.SIGKILL)
        setattr(owner, name, run)

    if __name__ == "__main__":
        if "unborn" in sys.argv:
            from bigmachine.systems.ec2.maker import Maker
            dies_after(Maker, "ask")
        with bm.start() as cluster:
            (machine,) = cluster.start(1, services={"Probe": Probe()})
            machine.wait().result(timeout=90)
            say("running", time.time())
            try:
                machine.call(Probe.block, 90.0).result()
            except bm.MachineStoppedError as error:
                say("death", error.death.kind)
"""


@pytest.fixture
def cloud(tmp_path: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealCloud]:
    directory = tmp_path / "cloud"
    directory.mkdir()
    with credentials(monkeypatch), RealCloud(directory, lab) as cloud:
        yield cloud


@pytest.fixture
def drivers(make_drivers: Callable[..., Drivers]) -> Drivers:
    return make_drivers("boto3")


def settings(cloud: RealCloud, **options: object) -> dict[str, str]:
    chosen = {
        "endpoint_url": cloud.url,
        "region": REGION,
        "instance_type": TYPE,
        "ami": cloud.ami,
        "use_private_ip": "true",
        "keepalive": KEEPALIVE,
        **options,
    }
    named = {f"BIGMACHINE_EC2_{name.upper()}": str(value) for name, value in chosen.items()}
    return {"BIGMACHINE_SYSTEM": "ec2", **named}


def boot_file_started(instance: Instance) -> float:
    """Return when an instance began to run what is ours."""
    (found,) = [each for each in instance.processes() if each.cmdline() == ["python3", "-"]]
    return found.create_time()


@pytest.mark.parametrize(
    ("example", "words", "said"),
    [
        ("bigpi.py", ["-n", "1_000_000"], "pi = 3.1"),
        ("wordcount.py", ["--files", "100", "--check"], "checked against a count in one process"),
    ],
)
def test_an_example_runs_on_two_instances_which_are_gone_afterwards(
    cloud: RealCloud, drivers: Drivers, example: str, words: list[str], said: str
) -> None:
    words = [*words, "--machines", "4"]
    result = drivers.run(EXAMPLES / example, [], *words, env=settings(cloud), timeout=150)
    assert said in result.stdout
    assert len(cloud.instances) == 2  # of two processors each
    wait_until(lambda: not cloud.up(), SLACK)
    assert cloud.living() == []
    assert cloud.backend.launch_templates == {}


def test_the_time_to_a_machine_is_the_instances_own_and_little_of_ours(
    cloud: RealCloud, drivers: Drivers
) -> None:
    with drivers.driven(PROGRAM, [], env=settings(cloud, on_demand="true")) as driver:
        running = float(driver.expect(r"^running (.*)", BOOT_SECONDS)[1])
        (instance,) = cloud.up()
        ours = running - boot_file_started(instance)
        booted = boot_file_started(instance) - instance.first_process_started()
        print(f"from systemd to the boot file {booted:.2f} s, from there to a machine {ours:.2f} s")
        assert ours < READY_SECONDS + SLACK


def test_a_spot_instance_that_is_taken_back_is_said_to_be(
    cloud: RealCloud, drivers: Drivers
) -> None:
    with drivers.driven(PROGRAM, [], env=settings(cloud, spot_only="true")) as driver:
        driver.expect(r"^running", BOOT_SECONDS)
        cloud.take_back(*cloud.living())
        assert driver.expect(r"^death (.*)", SLACK)[1] == "spot"
        assert driver.wait(SLACK) == 0
    assert cloud.living() == []


@pytest.mark.parametrize("when", ["unborn", "in a call"])
def test_an_instance_whose_driver_was_killed_powers_itself_off(
    cloud: RealCloud, drivers: Drivers, when: str
) -> None:
    """When it has not booted yet it waits for a driver as long as it may; later, for its lease."""
    changed = settings(cloud, boot_seconds=3 if when == "unborn" else 60)
    with drivers.driven(PROGRAM, [], when, env=changed) as driver:
        if when == "unborn":
            assert driver.wait(60) == -9
            assert len(cloud.up()) == 1
        else:
            driver.expect(r"^running", BOOT_SECONDS)
            driver.process.kill()
        wait_until(lambda: not cloud.up(), BOOT_SECONDS)
        driver.assert_gone()
    (instance,) = cloud.instances
    found = cloud.backend.get_instance(instance)
    wait_until(lambda: found.state_reason.code == POWERED_OFF, 5.0)
    assert cloud.living() == []
