"""What an instance is given to do when it first boots: user-data, for cloud-init.

Pure. The boot file starts in the first stage in which there is a network, before packages, users or
files, as a service of its own: in cloud-init's own, systemd would stop it as soon as any machine
ran out of memory. The script and the host's key in it are in memory only until they have been read
(cloud-init keeps user-data in a file that is root's alone). Whatever becomes of the boot file, and
if everything is killed at once, the instance powers itself off afterwards, which terminates it.

EC2 takes 16 KB, compressed.
"""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bigmachine.errors import UsageError
from bigmachine.systems import bootfile

MAX_BYTES: Final = 16 << 10
"""What EC2 takes, before base64."""
POWER_OFF: Final = "poweroff || shutdown -h now || poweroff -f || echo o > /proc/sysrq-trigger"
DATA_DIRECTORY: Final = "/mnt/data"
CACHE_DIRECTORY: Final = "/var/cache/bigmachine"
RUN_DIRECTORY: Final = "/run/bigmachine"
"""Made by the one start that there is after each boot; `/run` is memory."""
LOG: Final = "/var/log/bigmachine-boot.log"

# An instance that was rebooted gives itself up like one that no driver reaches. Where there is no
# systemd, or one that does not know all this, the shell sees to the end. When the instance is shut
# down, the boot file alone is told, and has its machines end in good order.
_START: Final = """\
mkdir -m 700 RUN || exit 0
umask 077
cat >RUN/boot.py <<'MARK'
BOOT
MARK
cat >RUN/start <<'MARK'
exec <RUN/boot.py >>LOG 2>&1
rm RUN/boot.py
exec python3 -
MARK
systemd-run --quiet --unit=bigmachine -p DefaultDependencies=no -p Conflicts=shutdown.target \\
    -p Before=shutdown.target -p KillMode=mixed -p TimeoutStopSec=10 -p OOMPolicy=continue \\
    -p TasksMax=infinity -p SuccessAction=poweroff -p FailureAction=poweroff sh RUN/start ||
    (trap '' HUP; setsid sh RUN/start; POWER_OFF) </dev/null >/dev/null 2>&1 &
"""

# Instance stores and attached volumes that nobody uses yet become one file system.
_STRIPE: Final = """\
set -u
root=$(lsblk -no PKNAME "$(findmnt -no SOURCE /)" 2>/dev/null | head -n 1)
disks=
for name in $(lsblk -dno NAME,TYPE | awk '$2 == "disk" {print $1}'); do
    [ "$name" = "$root" ] && continue
    [ -z "$(lsblk -no FSTYPE,MOUNTPOINT "/dev/$name" | tr -d ' \\n')" ] && disks="$disks /dev/$name"
done
set -- $disks
[ $# -gt 0 ] || exit 0
target=$1
if [ $# -gt 1 ]; then
    if command -v mdadm >/dev/null; then
        target=/dev/md0
        mdadm --create $target --run --force --level=0 --raid-devices=$# "$@"
    elif command -v mkfs.btrfs >/dev/null; then
        mkfs.btrfs -f -d raid0 -m raid0 "$@" && mkdir -p DIRECTORY && mount "$1" DIRECTORY
        chmod 1777 DIRECTORY
        exit 0
    fi
fi
mkfs.ext4 -q -E nodiscard "$target" && mkdir -p DIRECTORY && mount -o noatime "$target" DIRECTORY
chmod 1777 DIRECTORY
""".replace("DIRECTORY", DATA_DIRECTORY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """What else the user wants of an instance.

    Attributes:
        ssh_keys: Public keys that may log in.
        files: Files to write: their paths and contents.
        units: systemd units to start: their names and contents.
        data_disks: Whether there are disks to be made one at `DATA_DIRECTORY`.
    """

    ssh_keys: Sequence[str] = ()
    files: Mapping[str, str] | None = None
    units: Mapping[str, str] | None = None
    data_disks: bool = False


def make(config: Mapping[str, Any], extras: Extras) -> bytes:
    """Return the user-data of one instance, compressed.

    Args:
        config: For the boot file; the instance's private key is in it.
        extras: What else is wanted.

    Raises:
        UsageError: It is more than EC2 takes.
    """
    own = {"at_end": POWER_OFF, "directory": CACHE_DIRECTORY}
    boot = bootfile.source({**own, **config}).decode()
    first = [_STRIPE] if extras.data_disks else []
    cloud: dict[str, Any] = {"bootcmd": [["sh", "-c", each] for each in (*first, _start(boot))]}
    files = dict(extras.files or {})
    commands: list[list[str]] = []
    for name, text in (extras.units or {}).items():
        files[f"/etc/systemd/system/{name}"] = text
        commands.append(["systemctl", "enable", "--now", name])
    if commands:
        cloud["runcmd"] = commands
    if files:
        cloud["write_files"] = [
            {"path": path, "content": text, "permissions": "0644"} for path, text in files.items()
        ]
    if extras.ssh_keys:
        cloud["ssh_authorized_keys"] = list(extras.ssh_keys)
    # JSON is YAML, and needs no library.
    data = gzip.compress(b"#cloud-config\n" + json.dumps(cloud).encode(), 9, mtime=0)
    if len(data) > MAX_BYTES:
        raise UsageError(
            f"EC2: the user-data of an instance would have {len(data)} bytes of the {MAX_BYTES} "
            "that EC2 takes: write fewer or smaller files=, units= or ssh_keys="
        )
    return data


def _start(boot: str) -> str:
    """Return a shell script that starts the boot file and leaves it running."""
    mark = f"BIGMACHINE{os.urandom(8).hex()}"
    assert mark not in boot
    words = {"RUN": RUN_DIRECTORY, "LOG": LOG, "POWER_OFF": POWER_OFF, "MARK": mark, "BOOT": boot}
    return re.sub("|".join(words), lambda found: words[found[0]], _START)
