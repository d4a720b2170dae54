"""What the API says, in this package's terms."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.stub import Stubber

from bigmachine.errors import UsageError
from bigmachine.systems.ec2.api import Api
from bigmachine.systems.ec2.catalog import Image, find_image, read_image


def disk(name: str, **ebs: Any) -> dict[str, Any]:
    return {"DeviceName": name, "Ebs": ebs}


def test_the_disks_are_found_that_an_image_would_have_outlive_an_instance() -> None:
    image = read_image(
        {
            "ImageId": "ami-1",
            "RootDeviceName": "/dev/sda1",
            "BlockDeviceMappings": [
                disk("/dev/sda1", VolumeSize=8, DeleteOnTermination=False),
                disk("/dev/sdb", VolumeSize=9, DeleteOnTermination=True),
                {"DeviceName": "/dev/sdc", "VirtualName": "ephemeral0"},
            ],
        }
    )
    assert (image.id, image.root_device) == ("ami-1", "/dev/sda1")
    assert image.kept_disks == {"/dev/sda1": 8}


def test_an_image_that_says_nothing_of_its_disks_is_taken_as_it_is() -> None:
    image = read_image({"ImageId": "ami-1"})
    assert image.root_device == "/dev/xvda"
    assert image.kept_disks == {}


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    api = Api(region="eu-west-1", profile=None, endpoint_url=None)
    yield api
    api.close()


def found(api: Api, ami: str | None, flavor: str = "ubuntu", architecture: str = "arm64") -> Image:
    return asyncio.run(find_image(api, ami, flavor, architecture))


def asked_by_name(name: str) -> dict[str, Any]:
    return {
        "Owners": ["self", "amazon", "099720109477", "136693071363"],
        "Filters": [
            {"Name": "name", "Values": [name]},
            {"Name": "architecture", "Values": ["arm64"]},
            {"Name": "state", "Values": ["available"]},
        ],
    }


def test_by_name_it_is_the_newest_of_those_whose_images_can_be_trusted(api: Api) -> None:
    images = [
        {"ImageId": "ami-1", "CreationDate": "2026-01-01T00:00:00.000Z"},
        {"ImageId": "ami-2", "CreationDate": "2026-03-01T00:00:00.000Z"},
        {"ImageId": "ami-3", "CreationDate": "2025-12-01T00:00:00.000Z"},
    ]
    with Stubber(api.client("ec2")) as stub:
        stub.add_response("describe_images", {"Images": images}, asked_by_name("mine-*"))
        assert found(api, "mine-*").id == "ami-2"


def test_a_name_that_nobody_has_is_refused_with_the_way_out(api: Api) -> None:
    with Stubber(api.client("ec2")) as stub:
        stub.add_response("describe_images", {"Images": []}, asked_by_name("other"))
        with pytest.raises(UsageError, match=r"'other'.* by its id"):
            found(api, "other")


@pytest.mark.parametrize(
    ("flavor", "architecture", "name"),
    [
        (
            "ubuntu",
            "arm64",
            "/aws/service/canonical/ubuntu/server/24.04/stable/current/arm64/hvm/ebs-gp3/ami-id",
        ),
        ("debian", "x86_64", "/aws/service/debian/release/12/latest/amd64"),
        (
            "amazon",
            "x86_64",
            "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64",
        ),
    ],
)
def test_a_flavor_is_the_image_that_a_public_parameter_names(
    api: Api, flavor: str, architecture: str, name: str
) -> None:
    parameter = {"Parameter": {"Name": name, "Type": "String", "Value": "ami-7"}}
    with Stubber(api.client("ssm")) as ssm, Stubber(api.client("ec2")) as stub:
        ssm.add_response("get_parameter", parameter, {"Name": name})
        stub.add_response("describe_images", {"Images": []}, {"ImageIds": ["ami-7"]})
        assert found(api, None, flavor, architecture) == Image(id="ami-7")


def test_an_image_that_is_named_by_its_id_may_be_anybodys(api: Api) -> None:
    images = [{"ImageId": "ami-9", "RootDeviceName": "/dev/sda1"}]
    with Stubber(api.client("ec2")) as stub:
        stub.add_response("describe_images", {"Images": images}, {"ImageIds": ["ami-9"]})
        assert found(api, "ami-9").root_device == "/dev/sda1"
