"""An EC2 for tests whose instances are real ones: `instances` boots what the API was given.

What the API says of an instance is what becomes of it: an address on the lab's network, and that it
has ended as soon as it has powered itself off.
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Any

from moto.ec2.models.instances import InstanceState

from ..component.ec2.cloud import Cloud, set_reason, user_data_of
from . import instances
from .lab import Lab

POWERED_OFF = "Client.InstanceInitiatedShutdown"


class RealCloud(Cloud):
    """A cloud whose instances boot systemd and cloud-init.

    Attributes:
        instances: The instances, by id, whether they are up or not.
    """

    def __init__(self, directory: Path, lab: Lab) -> None:
        super().__init__(directory)
        self.instances: dict[str, instances.Instance] = {}
        self._lab = lab
        self._starting = threading.Lock()

    def up(self) -> list[instances.Instance]:
        """Return the instances that are up, whatever the API says."""
        return [each for each in self.instances.values() if each.is_up]

    def kill(self, instance: str) -> None:
        """End an instance, as EC2 does."""
        found = self.instances.get(instance)
        if found is not None:
            found.terminate()

    def __exit__(self, *exc_info: object) -> None:
        for name in self.instances:
            self.kill(name)
        super().__exit__(*exc_info)

    def _boot(self, instance: Any) -> None:
        data = user_data_of(instance)
        with self._starting:
            number = len(self.booted)
            self.booted[instance.id] = data
            if not self.boots(number):
                data = b"#!/bin/sh\n"
            is_spot = bool(getattr(instance, "lifecycle", None) == "spot")
            host = instances.start(self._lab, data, instance_id=instance.id, spot=is_spot)
            self.instances[instance.id] = host
        for interface in instance.nics.values():
            interface.private_ip_address = host.address
            interface.public_ip = None
        instance._state = InstanceState("running", 16)
        host.on_end(lambda: self._ended(instance))

    def _ended(self, instance: Any) -> None:
        if instance._state.name in ("pending", "running"):
            with contextlib.suppress(Exception):  # the test may be over
                instance.terminate()
                set_reason(instance, POWERED_OFF, "Instance initiated shutdown")
