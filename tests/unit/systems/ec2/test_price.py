"""What a dry run says of what would be asked for, and of its price."""

from __future__ import annotations

import asyncio
import datetime
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest
from botocore.stub import ANY, Stubber

from bigmachine.systems.ec2.api import Api
from bigmachine.systems.ec2.catalog import InstanceType
from bigmachine.systems.ec2.plan import Plan
from bigmachine.systems.ec2.price import (
    PRICING_REGION,
    describe_plan,
    on_demand_price,
    spot_price,
)
from bigmachine.systems.ec2.request import Wishes
from bigmachine.systems.ec2.userdata import Extras

SMALL = InstanceType(name="m7i.large", cpus=2, memory_bytes=8 << 30, architecture="x86_64")
LARGE = InstanceType(name="m7i.2xlarge", cpus=8, memory_bytes=32 << 30, architecture="x86_64")

RATE = "JRTCKXETXF.6YS6EN2CT7"
"""What every offer on demand, and each that is paid by the hour, is called."""


def product(dollars: str, *, sku: str = "4FQGSNFNGE3ZSUJS", unit: str = "Hrs") -> dict[str, Any]:
    """Return a product as the price list describes one, with what else stands there."""
    code = f"{sku}.{RATE}"
    reserved = f"{sku}.38NPMPTW36"
    return {
        "product": {
            "productFamily": "Compute Instance",
            "attributes": {
                "instanceType": "m7i.large",
                "regionCode": "eu-west-1",
                "operatingSystem": "Linux",
                "operation": "RunInstances",
                "usagetype": "EU-BoxUsage:m7i.large",
                "capacitystatus": "Used",
                "marketoption": "OnDemand",
                "tenancy": "Shared",
                "preInstalledSw": "NA",
                "vcpu": "2",
                "memory": "8 GiB",
            },
            "sku": sku,
        },
        "serviceCode": "AmazonEC2",
        "terms": {
            "OnDemand": {
                code.rpartition(".")[0]: {
                    "priceDimensions": {
                        code: {
                            "unit": unit,
                            "beginRange": "0",
                            "endRange": "Inf",
                            "description": f"${dollars} per On Demand Linux m7i.large Hour",
                            "appliesTo": [],
                            "rateCode": code,
                            "pricePerUnit": {"USD": dollars},
                        }
                    },
                    "sku": sku,
                    "effectiveDate": "2026-10-01T00:00:00Z",
                    "offerTermCode": "JRTCKXETXF",
                    "termAttributes": {},
                }
            },
            "Reserved": {
                reserved: {
                    "priceDimensions": {
                        f"{reserved}.2TG2D8R56U": {
                            "unit": "Quantity",
                            "description": "Upfront Fee",
                            "appliesTo": [],
                            "rateCode": f"{reserved}.2TG2D8R56U",
                            "pricePerUnit": {"USD": "558"},
                        },
                        f"{reserved}.6YS6EN2CT7": {
                            "unit": "Hrs",
                            "beginRange": "0",
                            "endRange": "Inf",
                            "description": "Linux/UNIX (Amazon VPC), m7i.large reserved instance",
                            "appliesTo": [],
                            "rateCode": f"{reserved}.6YS6EN2CT7",
                            "pricePerUnit": {"USD": "0.0000000000"},
                        },
                    },
                    "sku": sku,
                    "offerTermCode": "38NPMPTW36",
                    "termAttributes": {"LeaseContractLength": "1yr", "PurchaseOption": "All"},
                }
            },
        },
        "version": "20261120185943",
        "publicationDate": "2026-11-20T18:59:43Z",
    }


class Aws:
    """AWS, whose answers botocore itself holds to its description of the service."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self._stack = ExitStack()
        pricing = api.client("pricing", attempts=2, region_name=PRICING_REGION)
        self.pricing = self._stack.enter_context(Stubber(pricing))
        self.ec2 = self._stack.enter_context(Stubber(api.client("ec2")))

    def __enter__(self) -> Aws:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def prices(self, *pages: Sequence[dict[str, Any]], filters: Any = ANY) -> None:
        """Have the price list answer in so many pages."""
        for number, products in enumerate(pages):
            answer: dict[str, Any] = {
                "FormatVersion": "aws_v1",
                "PriceList": [json.dumps(each) for each in products],
            }
            if number + 1 < len(pages):
                answer["NextToken"] = f"page {number + 1}"
            asked = {"ServiceCode": "AmazonEC2", "Filters": filters}
            more = {"NextToken": f"page {number}"} if number else {}
            self.pricing.add_response("get_products", answer, {**asked, **more})

    def history(self, *prices: str) -> None:
        """Have the spot market answer."""
        listed = [
            {
                "AvailabilityZone": f"eu-west-1{zone}",
                "InstanceType": "m7i.large",
                "ProductDescription": "Linux/UNIX",
                "SpotPrice": price,
                "Timestamp": datetime.datetime.now(datetime.UTC),
            }
            for zone, price in zip("abcdef", prices, strict=False)
        ]
        answer = {"SpotPriceHistory": listed, "NextToken": ""}
        self.ec2.add_response("describe_spot_price_history", answer)


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    """One for all tests, since botocore takes half a second to read a service's description."""
    api = Api(region="eu-west-1", profile=None, endpoint_url=None)
    yield api
    api.close()


@pytest.fixture
def aws(api: Api) -> Iterator[Aws]:
    with Aws(api) as aws:
        yield aws


def plan(*kinds: InstanceType, markets: Sequence[str], root_disk_gib: int = 0) -> Plan:
    wishes = Wishes(ami="ami-1", root_disk_gib=root_disk_gib)
    return Plan(kinds=kinds, markets=markets, wishes=wishes, extras=Extras(), cpus_per_machine=1)


def test_the_spot_price_is_that_of_the_cheapest_zone_now(aws: Aws) -> None:
    aws.history("0.050100", "0.040500")
    assert asyncio.run(spot_price(aws.api, "m7i.large")) == 0.0405


def test_the_price_on_demand_is_that_of_an_hour_in_the_region_of_the_instances(aws: Aws) -> None:
    wanted = {
        "instanceType": "m7i.large",
        "regionCode": "eu-west-1",
        "operatingSystem": "Linux",
        "tenancy": "Shared",
        "preInstalledSw": "NA",
        "capacitystatus": "Used",
        "marketoption": "OnDemand",
    }
    filters = [{"Type": "TERM_MATCH", "Field": key, "Value": v} for key, v in wanted.items()]
    aws.prices([product("0.1131000000")], filters=filters)
    assert asyncio.run(on_demand_price(aws.api, "m7i.large")) == 0.1131


@pytest.mark.parametrize(
    ("pages", "expected"),
    [
        ([[], [product("0.1131000000")]], 0.1131),
        ([[product("0.0000000000"), product("0.1131000000", sku="B")]], 0.1131),
        ([[product("9", unit="Quantity"), product("0.1131000000", sku="B")]], 0.1131),
        ([[]], None),
    ],
)
def test_of_what_the_list_has_an_hour_that_costs_something_counts(aws: Aws, pages, expected):
    aws.prices(*pages)
    assert asyncio.run(on_demand_price(aws.api, "m7i.large")) == expected


def test_who_may_not_ask_for_prices_is_shown_the_plan_without(aws: Aws) -> None:
    aws.ec2.add_client_error("describe_spot_price_history", "UnauthorizedOperation")
    assert asyncio.run(describe_plan(aws.api, plan(SMALL, markets=["spot"]), 3)) == (
        "  2 x m7i.large (2 cpus, 8 GiB, x86_64), 2 machines of 1 cpus on each\n"
        "    spot, per hour: not known\n"
        "  image ami-1, its own number of GiB root disk"
    )


def test_a_plan_names_each_type_in_each_market_with_the_price_of_all(aws: Aws) -> None:
    aws.history("0.0405")
    aws.history("0.1620")
    aws.prices([product("0.1131")])
    aws.prices([product("0.4525")])
    either = plan(SMALL, LARGE, markets=["spot", "on-demand"], root_disk_gib=50)
    described = asyncio.run(describe_plan(aws.api, either, 16))
    assert "one of these" in described
    assert "8 x m7i.large" in described
    assert "2 x m7i.2xlarge" in described
    assert "spot, per hour: 0.0405 USD, all 0.32" in described
    assert "on-demand, per hour: 0.1131 USD, all 0.90" in described
    assert "spot, per hour: 0.1620 USD, all 0.32" in described
    assert "on-demand, per hour: 0.4525 USD, all 0.91" in described
    assert "50 GiB root disk" in described
