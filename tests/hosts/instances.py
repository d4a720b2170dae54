"""EC2-like instances: they boot systemd, run their user-data by cloud-init, and can power off.

```
lab.instance(user_data=b"#!/bin/sh …")  →  Instance, which ends by itself or by `Instance.terminate`
```

They have the metadata service (version 2 alone) at its usual address. `on_end` tells whoever
stands for EC2's API that an instance is no more.
"""

from __future__ import annotations

import json
import secrets
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import psutil

from . import roots
from .host import HostOptions, LabHost
from .lab import Lab

BOOT_SECONDS: Final = 90.0
"""How long an instance may take until cloud-init is done."""

CLOUD_CONFIG: Final = """\
datasource_list: [ Ec2 ]
datasource: { Ec2: { strict_id: false, max_wait: 20, timeout: 3 } }
network: { config: disabled }
cloud_init_modules: [bootcmd, write-files, set_hostname]
cloud_config_modules: [runcmd]
cloud_final_modules: [scripts-per-once, scripts-per-boot, scripts-user, final-message]
"""
"""Only the modules that user-data needs: the others take seconds for keys and packages."""


DMIDECODE: Final = """\
#!/bin/sh
# There are no tables of hardware here, in which cloud-init finds that it is on EC2.
case "$*" in
*system-uuid* | *system-serial-number*) echo ec2abcde-0000-0000-0000-000000000000 ;;
*) echo Amazon EC2 ;;
esac
"""

NOT_NEEDED: Final = (
    "cloud-init-local.service",  # would wait for DHCP
    "ssh.service",
    "getty@tty1.service",
    "console-getty.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "systemd-networkd.service",
    "systemd-networkd-wait-online.service",
)


class Instance(LabHost):
    """One instance; see `start`."""

    SCRIPT = "instance.sh"

    def __init__(self, *args: object, metadata: Path, **kwargs: object) -> None:
        self.metadata = metadata
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]

    def write_metadata(self, path: str, text: str) -> None:
        """Have the metadata service say something, such as ``spot/instance-action``."""
        file = self.metadata / "meta-data" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")

    def notify_spot(self, action: str = "terminate", *, seconds: float = 120.0) -> None:
        """Announce that the instance is to be taken back."""
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))
        self.write_metadata("spot/instance-action", json.dumps({"action": action, "time": at}))
        self.write_metadata("spot/termination-time", at)

    def wait_booted(self, timeout: float = BOOT_SECONDS) -> None:
        """Wait until cloud-init has run everything."""
        finished = self.root / f"var/lib/cloud/instances/{self.name}/boot-finished"
        self._wait_until(finished.exists, timeout)

    @property
    def root(self) -> Path:
        """The instance's root directory, without what it has mounted there itself."""
        return Path(f"/proc/{self.pid}/root{self._area}/root")

    def first_process(self) -> int:
        """Its systemd, as this computer numbers it."""
        below = psutil.Process(self.pid).children(recursive=True)
        # The first after the container's own program.
        return next(each.pid for each in below if each.name() == "systemd")

    def first_process_started(self) -> float:
        """When its systemd started: the first second of its boot."""
        return psutil.Process(self.first_process()).create_time()

    def wait_ended(self, timeout: float = BOOT_SECONDS) -> None:
        """Wait until it has powered itself off."""
        self._unshare.wait(timeout)

    def terminate(self) -> None:
        """End it, as EC2 does."""
        self.kill()

    def on_end(self, call: Callable[[], None]) -> None:
        """Call this once it has ended, on a thread of its own."""

        def wait() -> None:
            self._unshare.wait()
            call()

        threading.Thread(target=wait, name=f"end of {self.name}", daemon=True).start()

    def _environment(self) -> Mapping[str, str]:
        return {
            "METADATA": str(self.metadata),
            "PYTHON": sys.executable,
            "IMDS": str(Path(__file__).with_name("imds.py")),
        }


def start(
    lab: Lab,
    user_data: bytes,
    *,
    instance_id: str | None = None,
    spot: bool = False,
    options: HostOptions | None = None,
) -> Instance:
    """Start an instance, without waiting until it has booted.

    Args:
        lab: Where.
        user_data: What cloud-init gets, as EC2 would hand it out: not in base64.
        instance_id: Its id; a random one if it is left out.
        spot: Whether it says that it is a spot instance.
        options: What is particular about it; ``disk`` alone is heeded.
    """
    root = roots.get(roots.CLOUD)
    options = options or HostOptions()
    instance_id = instance_id or f"i-{secrets.token_hex(8)}"
    files = lab.make_files(instance_id)
    _write_files(files)
    metadata = files.with_name("metadata")
    metadata.mkdir()
    instance = Instance(
        lab.network, instance_id, root=root, files=files, options=options, metadata=metadata
    )
    lab.hosts.append(instance)
    _write_metadata(instance, user_data, spot)
    instance.find_first_process()
    lab.network.connect([(instance.interface, instance.pid)])
    instance.begin()
    return instance


def _write_files(files: Path) -> None:
    """Write what makes the root an instance."""
    contents = {
        "etc/cloud/cloud.cfg.d/90_test.cfg": CLOUD_CONFIG,
        "etc/cloud/ds-identify.cfg": "datasource: Ec2\npolicy: enabled\n",
        "usr/sbin/dmidecode": DMIDECODE,
        "etc/resolv.conf": "",  # otherwise cloud-init waits minutes for answers
        "etc/hosts": "127.0.0.1 localhost\n",
    }
    for path, text in contents.items():
        files.joinpath(path).parent.mkdir(parents=True, exist_ok=True)
        files.joinpath(path).write_text(text, "utf-8")
    files.joinpath("usr/sbin/dmidecode").chmod(0o755)
    units = files / "etc/systemd/system"
    units.mkdir(parents=True)
    for unit in NOT_NEEDED:
        units.joinpath(unit).symlink_to("/dev/null")


def _write_metadata(instance: Instance, user_data: bytes, spot: bool) -> None:
    address = instance.address
    name = f"ip-{address.replace('.', '-')}.ec2.internal"
    values = {
        "instance-id": instance.name,
        "local-ipv4": address,
        "public-ipv4": address,
        "local-hostname": name,
        "hostname": name,
        "ami-id": "ami-0123456789abcdef0",
        "instance-type": "c6i.large",
        "instance-life-cycle": "spot" if spot else "on-demand",
        "placement/availability-zone": "us-east-1a",
        "placement/region": "us-east-1",
    }
    for path, text in values.items():
        instance.write_metadata(path, text)
    identity = instance.metadata / "dynamic/instance-identity/document"
    identity.parent.mkdir(parents=True)
    document = {"region": "us-east-1", "instanceId": instance.name}
    identity.write_text(json.dumps(document), "utf-8")
    if user_data:
        instance.metadata.joinpath("user-data").write_bytes(user_data)
