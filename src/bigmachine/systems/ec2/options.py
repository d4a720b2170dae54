"""What a user may say of instances, checked before anything is asked of AWS. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from bigmachine.errors import UsageError
from bigmachine.systems.ec2.catalog import FLAVORS, Image
from bigmachine.systems.ec2.request import MAX_DATA_DISKS, Wishes
from bigmachine.systems.ec2.tags import TAG
from bigmachine.systems.ec2.userdata import Extras

PORT: Final = 5550
BOOT_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of `EC2` that instances have something of.

    Their descriptions stand there, since it is there that users look for them.

    Raises:
        UsageError: They make no sense; says which, and what would.
    """

    instance_type: Sequence[str] | str
    on_demand: bool = False
    spot_only: bool = False
    ami: str | None = None
    flavor: str = "ubuntu"
    subnets: Sequence[str] = ()
    zones: Sequence[str] = ()
    security_groups: Sequence[str] = ()
    key_name: str = ""
    ssh_keys: Sequence[str] = ()
    instance_profile: str = ""
    public_ip: bool | None = None
    use_private_ip: bool = False
    port: int = PORT
    root_disk_gib: int = 0
    data_disks_gib: Sequence[int] = ()
    files: Mapping[str, str] | None = None
    units: Mapping[str, str] | None = None
    tags: Mapping[str, str] | None = field(default=None)
    cpus_per_machine: int | Literal["host"] = 1
    boot_seconds: float = BOOT_SECONDS
    dry_run: bool = False

    def __post_init__(self) -> None:
        self._check_types()
        self._check_disks()
        if self.flavor not in FLAVORS:
            raise _refusal("flavor", self.flavor, f"it is one of {', '.join(FLAVORS)}")
        if not 0 < self.port < 65536:
            raise _refusal("port", self.port, "it is a number from 1 to 65535")
        if any(key.startswith(f"{TAG}:") for key in self.tags or {}):
            raise _refusal("tags", self.tags, f"names that begin with {TAG}: are our own")
        if self.boot_seconds <= 0:
            raise _refusal("boot_seconds", self.boot_seconds, "it is positive")

    def _check_types(self) -> None:
        if not self.types or not all(self.types):
            raise UsageError("EC2: name an instance type, instance_type='m7i.large'")
        if self.on_demand and self.spot_only:
            raise UsageError("EC2: on_demand and spot_only exclude each other; give one or none")
        cpus = self.cpus_per_machine
        if cpus != "host" and (not isinstance(cpus, int) or cpus < 1):
            raise _refusal("cpus_per_machine", cpus, "it is a number from 1 on, or 'host'")

    def _check_disks(self) -> None:
        if self.root_disk_gib < 0:
            raise _refusal("root_disk_gib", self.root_disk_gib, "it is not negative")
        disks = list(self.data_disks_gib)
        if len(disks) > MAX_DATA_DISKS or min(disks, default=1) < 1:
            what = f"sizes of at most {MAX_DATA_DISKS} disks, each of 1 GiB or more"
            raise _refusal("data_disks_gib", disks, what)

    @property
    def types(self) -> tuple[str, ...]:
        """The instance types that will do."""
        named = self.instance_type
        return (named,) if isinstance(named, str) else tuple(named)

    @property
    def markets(self) -> tuple[str, ...]:
        """Where instances are looked for, one after the other."""
        if self.on_demand:
            return ("on-demand",)
        return ("spot",) if self.spot_only else ("spot", "on-demand")

    def wishes(self, image: Image) -> Wishes:
        """Return what instances are to be, booting an image."""
        return Wishes(
            ami=image.id,
            root_device=image.root_device,
            kept_disks=image.kept_disks,
            root_disk_gib=self.root_disk_gib,
            data_disks_gib=tuple(self.data_disks_gib),
            subnets=tuple(self.subnets),
            zones=tuple(self.zones),
            security_groups=tuple(self.security_groups),
            key_name=self.key_name,
            instance_profile=self.instance_profile,
            public_ip=self.public_ip,
            tags=dict(self.tags or {}),
        )

    def extras(self, *, has_disks: bool) -> Extras:
        """Return what else is wanted of instances, of which some may have disks of their own."""
        return Extras(
            ssh_keys=tuple(self.ssh_keys),
            files=self.files,
            units=self.units,
            data_disks=has_disks or bool(self.data_disks_gib),
        )


def _refusal(name: str, value: Any, what: str) -> UsageError:
    return UsageError(f"EC2({name}={value!r}): {what}")
