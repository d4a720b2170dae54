"""What an instance is given to do when it first boots."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
from dataclasses import asdict
from typing import Any

import pytest

from bigmachine.errors import UsageError
from bigmachine.security.authority import Authority
from bigmachine.systems.ec2 import userdata
from bigmachine.systems.ec2.userdata import Extras

HOST = "ec2-0123456789ab"


def config() -> dict[str, Any]:
    return {
        "cluster": "a-cluster-of-some-name",
        "id": HOST,
        "credentials": asdict(Authority().issue(HOST)),
        "boot_seconds": 600.0,
        "lease_seconds": 120.0,
        "port": 5550,
    }


def cloud_config(data: bytes) -> dict[str, Any]:
    head, _, body = gzip.decompress(data).partition(b"\n")
    assert head == b"#cloud-config"
    found: dict[str, Any] = json.loads(body)
    return found


def shell_texts(data: bytes) -> list[str]:
    commands = cloud_config(data)["bootcmd"]
    assert all(command[:2] == ["sh", "-c"] for command in commands)
    return [command[2] for command in commands]


def test_it_leaves_room_in_what_ec2_takes() -> None:
    data = userdata.make(config(), Extras())
    assert userdata.MAX_BYTES == 16 * 1024
    assert len(data) < userdata.MAX_BYTES - 1024  # for a user's extras


def test_it_begins_before_all_else_and_is_only_that() -> None:
    assert list(cloud_config(userdata.make(config(), Extras()))) == ["bootcmd"]


@pytest.mark.parametrize("disks", [False, True])
def test_every_script_is_one_that_a_shell_can_read(disks: bool) -> None:
    for text in shell_texts(userdata.make(config(), Extras(data_disks=disks))):
        subprocess.run(["sh", "-n"], input=text, text=True, check=True)


def test_it_powers_off_when_the_boot_file_has_ended_and_is_told_to_by_it() -> None:
    (text,) = shell_texts(userdata.make(config(), Extras()))
    assert text.count(userdata.POWER_OFF) == 2  # by the boot file, and whatever became of that
    assert text.index("BEGIN PRIVATE KEY") < text.rindex(userdata.POWER_OFF)


def test_disks_are_made_one_before_the_boot_file_wants_them() -> None:
    first, second = shell_texts(userdata.make(config(), Extras(data_disks=True)))
    assert userdata.DATA_DIRECTORY in first
    assert "BEGIN PRIVATE KEY" in second


def test_it_has_the_users_keys_files_and_units() -> None:
    extras = Extras(
        ssh_keys=["ssh-ed25519 AAAA me"],
        files={"/etc/motd": "hello: 'you' \u00e9\n"},
        units={"agent.service": "[Service]\nExecStart=/bin/true\n"},
    )
    made = cloud_config(userdata.make(config(), extras))
    assert made["ssh_authorized_keys"] == ["ssh-ed25519 AAAA me"]
    written = {each["path"]: each["content"] for each in made["write_files"]}
    assert written == {
        "/etc/motd": "hello: 'you' \u00e9\n",
        "/etc/systemd/system/agent.service": "[Service]\nExecStart=/bin/true\n",
    }
    assert ["systemctl", "enable", "--now", "agent.service"] in made["runcmd"]


def test_more_than_ec2_takes_is_the_users_to_mend() -> None:
    noise = random.Random(1).randbytes(16 << 10).hex()
    with pytest.raises(UsageError, match=r"user-data .* \d+ bytes of the 16384 .*files="):
        userdata.make(config(), Extras(files={"/etc/noise": noise}))


@pytest.mark.parametrize("name", ["RUN", "LOG", "MARK", "BOOT", "POWER_OFF"])
def test_words_of_a_configuration_stay_what_they_are(name: str) -> None:
    (text,) = shell_texts(userdata.make({**config(), "cluster": name}, Extras()))
    assert f'"cluster": "{name}"' in text
