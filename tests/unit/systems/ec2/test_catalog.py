"""What the API says, in this package's terms."""

from __future__ import annotations

from typing import Any

from bigmachine.systems.ec2.catalog import read_image


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
