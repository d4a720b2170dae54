"""What instances cost: for the dry run. From the API; there is no table in the code."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from bigmachine.systems.ec2.plan import count

if TYPE_CHECKING:
    from bigmachine.systems.ec2.api import Api
    from bigmachine.systems.ec2.plan import Plan

PRICING_REGION: Final = "us-east-1"
"""Few regions tell prices; these tell those of all."""


async def describe_plan(api: Api, plan: Plan, machines: int) -> str:
    """Return what would be asked for and what it costs per hour, for a person."""
    lines = []
    for kind in plan.kinds:
        capacity, cpus = plan.share(kind.cpus)
        number = count(machines, capacity)
        lines.append(
            f"  {number} x {kind.name} ({kind.cpus} cpus, {kind.memory_bytes >> 30} GiB, "
            f"{kind.architecture}), {capacity} machines of {cpus} cpus on each"
        )
        for market in plan.markets:
            price = await (spot_price if market == "spot" else on_demand_price)(api, kind.name)
            cost = "not known" if price is None else f"{price:.4f} USD, all {price * number:.2f}"
            lines.append(f"    {market}, per hour: {cost}")
    if len(plan.kinds) > 1:
        lines.insert(0, "  one of these, as AWS has them:")
    disk = plan.wishes.root_disk_gib or "its own number of"
    lines.append(f"  image {plan.wishes.ami}, {disk} GiB root disk")
    return "\n".join(lines)


async def spot_price(api: Api, name: str) -> float | None:
    """Return the lowest price that a type has now on the spot market, in dollars per hour."""
    try:
        answer = await api.call(
            "describe_spot_price_history",
            InstanceTypes=[name],
            ProductDescriptions=["Linux/UNIX"],
            StartTime=datetime.datetime.now(datetime.UTC),  # those that hold now
            MaxResults=20,
        )
        return min(float(each["SpotPrice"]) for each in answer["SpotPriceHistory"])
    except Exception:  # without a price the plan is still worth showing
        return None


async def on_demand_price(api: Api, name: str) -> float | None:
    """Return what a type costs without any discount, in dollars per hour."""
    region = api.client("ec2").meta.region_name
    wanted = {
        "instanceType": name,
        "regionCode": region,
        "operatingSystem": "Linux",
        "tenancy": "Shared",
        "preInstalledSw": "NA",
        "capacitystatus": "Used",
        "marketoption": "OnDemand",
    }
    filters = [{"Type": "TERM_MATCH", "Field": key, "Value": v} for key, v in wanted.items()]

    def pages() -> list[dict[str, Any]]:
        client = api.client("pricing", attempts=2, region_name=PRICING_REGION)
        paginator = client.get_paginator("get_products")  # a page may be empty before others
        return list(paginator.paginate(ServiceCode="AmazonEC2", Filters=filters))

    try:
        products = [json.loads(text) for page in await api.run(pages) for text in page["PriceList"]]
        return min(price for product in products for price in _hourly(product))
    except Exception:
        return None


def _hourly(product: dict[str, Any]) -> Iterator[float]:
    """Yield what an hour of a product costs on demand, in dollars; its reservations are left out.

    https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/using-price-list-query-api.html
    """
    for offer in product["terms"].get("OnDemand", {}).values():
        for dimension in offer["priceDimensions"].values():
            price = float(dimension["pricePerUnit"].get("USD", 0.0))
            if dimension["unit"] == "Hrs" and price > 0.0:  # 0: what was paid for otherwise
                yield price
