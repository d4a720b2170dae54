"""What will be launched: the options, and what the API says of the types and image in them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from bigmachine.errors import UsageError
from bigmachine.systems.ec2.catalog import InstanceType, find_image, find_types

if TYPE_CHECKING:
    from bigmachine.systems.ec2.api import Api
    from bigmachine.systems.ec2.options import Options
    from bigmachine.systems.ec2.request import Wishes
    from bigmachine.systems.ec2.userdata import Extras


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What instances are to be.

    Attributes:
        kinds: The types that will do, all of one architecture.
        markets: Where they are looked for, one after the other.
        wishes: What they are to be, whatever their type.
        extras: What else is wanted of them.
        cpus_per_machine: How many processors each machine has to itself.
    """

    kinds: Sequence[InstanceType]
    markets: Sequence[str]
    wishes: Wishes
    extras: Extras
    cpus_per_machine: int | Literal["host"]

    @property
    def is_one_call(self) -> bool:
        """Whether there is nothing to choose, so that no fleet is needed."""
        places = max(len(self.wishes.subnets), len(self.wishes.zones))
        return list(self.markets) == ["on-demand"] and len(self.kinds) == 1 and places < 2

    def share(self, cpus: int) -> tuple[int, int]:
        """Return how many machines an instance holds, and how many processors each has."""
        return share(cpus, self.cpus_per_machine)

    def count(self, machines: int) -> int:
        """Return how many instances hold so many machines for sure, whichever type they are."""
        smallest = min(self.share(kind.cpus)[0] for kind in self.kinds)
        return count(machines, smallest)

    def cpus_of(self, described: Mapping[str, Any]) -> int:
        """Return how many processors an instance has, as the API describes it."""
        by_name = {kind.name: kind.cpus for kind in self.kinds}
        return by_name.get(described.get("InstanceType", ""), min(by_name.values()))


async def make_plan(api: Api, options: Options) -> Plan:
    """Learn what the types are, and which image they boot.

    Raises:
        UsageError: There are none such.
    """
    kinds = await find_types(api, options.types)
    architectures = {kind.architecture for kind in kinds}
    if len(architectures) > 1:
        raise UsageError(
            f"EC2: instance_type={list(options.types)!r} mixes architectures, which boot different "
            "images: name types of one"
        )
    image = await find_image(api, options.ami, options.flavor, architectures.pop())
    return Plan(
        kinds=kinds,
        markets=options.markets,
        wishes=options.wishes(image),
        extras=options.extras(has_disks=any(kind.has_disks for kind in kinds)),
        cpus_per_machine=options.cpus_per_machine,
    )


def share(cpus: int, cpus_per_machine: int | Literal["host"]) -> tuple[int, int]:
    """Return how many machines an instance holds, and how many processors each has."""
    if cpus_per_machine == "host":
        return 1, cpus
    each = min(cpus_per_machine, cpus)
    return max(1, cpus // each), each


def count(machines: int, capacity: int) -> int:
    """Return how many instances of a capacity hold so many machines."""
    return math.ceil(machines / capacity)
