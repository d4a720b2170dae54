"""What a dry run says of what would be asked for, and of its price."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from bigmachine.systems.ec2.catalog import InstanceType
from bigmachine.systems.ec2.plan import Plan
from bigmachine.systems.ec2.price import describe_plan, on_demand_price, spot_price
from bigmachine.systems.ec2.request import Wishes
from bigmachine.systems.ec2.userdata import Extras

SMALL = InstanceType(name="m7i.large", cpus=2, memory_bytes=8 << 30, architecture="x86_64")
LARGE = InstanceType(name="m7i.2xlarge", cpus=8, memory_bytes=32 << 30, architecture="x86_64")

PRODUCT = {
    "terms": {
        "OnDemand": {
            "SKU.TERM": {"priceDimensions": {"SKU.TERM.RATE": {"pricePerUnit": {"USD": "0.1008"}}}}
        }
    }
}


class Answers:
    """AWS, as far as it is asked about prices; what it has no answer to it refuses."""

    meta = SimpleNamespace(region_name="eu-west-1")

    def __init__(self, answers: Mapping[str, Any]) -> None:
        self.answers = answers
        self.asked: list[dict[str, Any]] = []

    async def call(self, method: str, **parameters: Any) -> Any:
        return self.answer(method, **parameters)

    async def run(self, act: Callable[[], Any]) -> Any:
        return act()

    def client(self, service: str, **more: Any) -> Answers:
        self.asked += [{"service": service, **more}] if more else []
        return self

    def get_products(self, **parameters: Any) -> Any:
        return self.answer("get_products", **parameters)

    def answer(self, method: str, **parameters: Any) -> Any:
        self.asked.append(parameters)
        if method not in self.answers:
            raise PermissionError(method)
        return self.answers[method]


def plan(*kinds: InstanceType, markets: Sequence[str], root_disk_gib: int = 0) -> Plan:
    wishes = Wishes(ami="ami-1", root_disk_gib=root_disk_gib)
    return Plan(kinds=kinds, markets=markets, wishes=wishes, extras=Extras(), cpus_per_machine=1)


def api(**answers: Any) -> Any:
    return Answers(answers)


HISTORY = {"SpotPriceHistory": [{"SpotPrice": "0.0501"}, {"SpotPrice": "0.0405"}]}
PRICES = {"PriceList": [json.dumps(PRODUCT)]}


def test_the_spot_price_is_that_of_the_cheapest_zone_now() -> None:
    asked = api(describe_spot_price_history=HISTORY)
    assert asyncio.run(spot_price(asked, "m7i.large")) == 0.0405
    assert asked.asked[0]["StartTime"].tzinfo is not None


def test_the_price_on_demand_is_asked_for_the_region_of_the_instances() -> None:
    asked = api(get_products=PRICES)
    assert asyncio.run(on_demand_price(asked, "m7i.large")) == 0.1008
    client, question = asked.asked
    assert client["service"] == "pricing"
    assert client["region_name"] == "us-east-1"  # hardly any other has that service
    fields = {each["Field"]: each["Value"] for each in question["Filters"]}
    assert fields["regionCode"] == "eu-west-1"
    assert fields["instanceType"] == "m7i.large"


def test_who_may_not_ask_for_prices_is_shown_the_plan_without() -> None:
    described = describe_plan(api(), plan(SMALL, markets=["spot"]), 3)
    assert asyncio.run(described) == (
        "  2 x m7i.large (2 cpus, 8 GiB, x86_64), 2 machines of 1 cpus on each\n"
        "    spot, per hour: not known\n"
        "  image ami-1, its own number of GiB root disk"
    )


def test_a_plan_names_each_type_in_each_market_with_the_price_of_all() -> None:
    asked = api(describe_spot_price_history=HISTORY, get_products=PRICES)
    either = plan(SMALL, LARGE, markets=["spot", "on-demand"], root_disk_gib=50)
    described = asyncio.run(describe_plan(asked, either, 16))
    assert "one of these" in described
    assert "8 x m7i.large" in described
    assert "2 x m7i.2xlarge" in described
    assert "spot, per hour: 0.0405 USD, all 0.32" in described
    assert "on-demand, per hour: 0.1008 USD, all 0.81" in described
    assert "50 GiB root disk" in described
