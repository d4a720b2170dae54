"""A cloud for tests: moto's server, whose instances really run their boot file, each at an address.

They are processes of this computer, each listening at an address of the loopback network of its
own, and end when they are terminated or end by themselves. Capacity can be taken away, calls be
refused, and instances be taken back.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
from moto.core.exceptions import ServiceException
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import ec2_backends
from moto.ec2.models.fleets import FleetsBackend
from moto.ec2.models.instances import Instance, InstanceBackend, InstanceState, StateReason
from moto.server import ThreadedMotoServer

from bigmachine.systems.ec2 import userdata

ACCOUNT = "123456789012"
REGION = "us-east-1"
TYPE = "m5.large"

WAIT_SECONDS = 10.0

__all__ = ["Cloud", "ServiceException"]


def wait_until(condition: Callable[[], object], seconds: float = WAIT_SECONDS) -> None:
    """Wait for what the cloud does in its own time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.02)


class Cloud:
    """The cloud, and what befalls it.

    Attributes:
        booted: The user-data of each instance, by id, as it was given.
        refuse: Asked before instances are made, with the market and the types; returns an error's
            code, or "".
        boots: Whether an instance, by its number, boots at all.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.booted: dict[str, bytes] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.refuse: Callable[[str, str], str] = lambda market, kind: ""
        self.boots: Callable[[int], bool] = lambda number: True
        self.made: list[tuple[str, str]] = []
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        # Other runs of the tests, side by side with this one, have clouds as well.
        self._network = f"127.{random.randrange(1, 255)}.{random.randrange(256)}"
        self._spared: set[str] = set()
        self._lock = threading.Lock()
        self._patches = contextlib.ExitStack()

    @property
    def url(self) -> str:
        """Where the API is."""
        host, port = self._server.get_host_and_port()
        return f"http://{host}:{port}"

    def __enter__(self) -> Cloud:
        self._patch()
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        for instance in list(self.processes):
            self.kill(instance)
        self._server.stop()
        self._patches.close()
        for backends in ec2_backends.values():
            for backend in backends.values():
                backend.reset()

    @property
    def backend(self) -> Any:
        """What moto knows of the region."""
        return ec2_backends[ACCOUNT][REGION]

    @property
    def ami(self) -> str:
        """An image that there is."""
        return str(next(iter(self.backend.amis)))

    def state(self, instance: str) -> str:
        """Return an instance's state."""
        return str(self.backend.get_instance(instance).state)

    def living(self) -> list[str]:
        """Return the instances that have not ended."""
        reservations = self.backend.all_reservations()
        found = [each for reservation in reservations for each in reservation.instances]
        return [each.id for each in found if str(each.state) in ("pending", "running")]

    def tags(self, resource: str) -> dict[str, str]:
        """Return the tags of something."""
        return dict(self.backend.tags.get(resource, {}))

    def take_back(self, instance: str) -> None:
        """End an instance as AWS ends one whose capacity it wants."""
        found = self.backend.get_instance(instance)
        self._spared.add(instance)  # until the API has the reason, for the driver asks at once
        found.terminate()
        set_reason(found, "Server.SpotInstanceTermination", "Spot instance termination")
        self._spared.remove(instance)
        self.kill(instance)

    def kill(self, instance: str) -> None:
        """End an instance's processes."""
        process = self.processes.pop(instance, None)
        if process is not None:
            while self._signal(process, signal.SIGKILL):
                process.poll()
            process.wait()

    def freeze(self, instance: str) -> None:
        """Have an instance's processes do nothing any more, which nobody is told."""
        self._signal(self.processes[instance], signal.SIGSTOP)

    def _signal(self, process: subprocess.Popen[bytes], number: int) -> int:
        """Send a signal to a process and all below it; return how many there were but that one."""
        with contextlib.suppress(psutil.NoSuchProcess):
            first = psutil.Process(process.pid)
            # From below: who has lost its parent would not be found any more.
            below = first.children(recursive=True)[::-1]
            for each in (*below, first):
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.send_signal(number)
            return len(below)
        return 0

    # moto, changed where it only pretends

    def _patch(self) -> None:
        cloud = self
        init, terminate = Instance.__init__, Instance.terminate
        run, fleet = InstanceBackend.run_instances, FleetsBackend.create_fleet

        def new_init(self: Any, *args: Any, **kwargs: Any) -> None:
            init(self, *args, **kwargs)
            cloud._boot(self)

        def new_terminate(self: Any, *args: Any, **kwargs: Any) -> Any:
            if self.id not in cloud._spared:
                cloud.kill(self.id)
            return terminate(self, *args, **kwargs)

        def new_run(self: Any, *args: Any, **kwargs: Any) -> Any:
            market = "spot" if kwargs.get("instance_market_options") else "on-demand"
            cloud._check(market, str(kwargs.get("instance_type")))
            return run(self, *args, **kwargs)

        def new_fleet(self: Any, *args: Any, **kwargs: Any) -> Any:
            wanted = kwargs.get("target_capacity_specification") or args[2]
            cloud._check(str(wanted["DefaultTargetCapacityType"]), "")
            return fleet(self, *args, **kwargs)

        for owner, name, value in (
            (Instance, "__init__", new_init),
            (Instance, "terminate", new_terminate),
            (InstanceBackend, "run_instances", new_run),
            (FleetsBackend, "create_fleet", new_fleet),
        ):
            self._patches.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)

    def _check(self, market: str, kind: str) -> None:
        self.made.append((market, kind))
        code = self.refuse(market, kind)
        if code:
            raise EC2ClientError(code, f"injected: {code}")

    def _boot(self, instance: Any) -> int:
        with self._lock:
            number = len(self.booted)
            address = f"{self._network}.{1 + number}"
            self.booted[instance.id] = data = user_data_of(instance)
        for interface in instance.nics.values():
            interface.private_ip_address = address
            interface.public_ip = None
        instance._state = InstanceState("running", 16)
        if self.boots(number):
            self._start(instance.id, address, data)
        return number

    def _start(self, instance: str, address: str, data: bytes) -> None:
        home = self.directory / instance
        home.mkdir()
        script = start_script(data)
        script = script.replace(userdata.RUN_DIRECTORY, str(home / "run"))
        script = script.replace(userdata.CACHE_DIRECTORY, str(home / "cache"))
        script = script.replace(userdata.LOG, str(home / "log"))
        script = script.replace("systemd-run", "false")
        # Where an instance has a network of its own, this one has an address.
        script = script.replace('"port": ', f'"listen": "{address}", "port": ')
        script = script.replace("poweroff || shutdown -h now", f"touch {home / 'off'} || true")
        self.processes[instance] = subprocess.Popen(
            ["sh", "-c", script + "\nwait"],
            env={"HOME": str(home), "PATH": os.environ["PATH"]},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def is_off(self, instance: str) -> bool:
        """Whether an instance has powered itself off."""
        return (self.directory / instance / "off").exists()


def set_reason(instance: Any, code: str, text: str) -> None:
    """Have the API say why an instance has ended."""
    instance.state_reason = StateReason(f"{code}: {text}", code)


def user_data_of(instance: Any) -> bytes:
    """Return the user-data of an instance, as it gets it."""
    data = str(instance.user_data).encode()
    for _ in range(2):  # the API and moto encode it, each for itself
        with contextlib.suppress(ValueError):
            data = base64.b64decode(data, validate=True)
    return data


def cloud_config(data: bytes) -> dict[str, Any]:
    """Return what user-data tells cloud-init."""
    text = gzip.decompress(data)
    head, _, body = text.partition(b"\n")
    assert head == b"#cloud-config"
    found: dict[str, Any] = json.loads(body)
    return found


def start_script(data: bytes) -> str:
    """Return the script that starts the boot file."""
    return str(cloud_config(data)["bootcmd"][-1][2])


@contextlib.contextmanager
def credentials(monkeypatch: Any) -> Iterator[None]:
    """Have credentials that no cloud would take."""
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "x"),
        ("AWS_SECRET_ACCESS_KEY", "y"),
        ("AWS_DEFAULT_REGION", REGION),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ):
        monkeypatch.setenv(name, value)
    yield
