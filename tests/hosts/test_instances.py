"""The instances that other tests stand on boot their user-data, and end when they power off."""

from __future__ import annotations

import gzip
import threading

import pytest

from . import instances
from .lab import Lab

pytestmark = pytest.mark.cloud

USER_DATA = b"""\
#!/bin/sh
echo "$(hostname) $(id -u)" > /root/trace
python3 -c "import time; print(time.time())" >> /root/trace
exec sleep infinity &
"""

FETCH = """
import urllib.request as u
t = u.urlopen(u.Request("http://169.254.169.254/latest/api/token", method="PUT",
    headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"})).read().decode()
def get(path, token=t):
    try:
        return u.urlopen(u.Request("http://169.254.169.254/latest/" + path,
            headers={"X-aws-ec2-metadata-token": token})).read().decode()
    except u.HTTPError as error:
        return error.code
print(get("meta-data/instance-id"), get("meta-data/instance-id", "none"))
print("spot/" in get("meta-data/"), get("meta-data/spot/instance-action"))
"""


def test_an_instance_runs_its_user_data_has_metadata_and_can_power_itself_off(lab: Lab) -> None:
    instance = instances.start(lab, gzip.compress(USER_DATA), instance_id="i-0123456789abcdef0")

    instance.wait_booted()

    assert instance.root.joinpath("root/trace").read_text().split()[1] == "0"
    told = instance.run("python3", "-c", FETCH).split()
    assert told == ["i-0123456789abcdef0", "401", "False", "404"]
    instance.notify_spot()
    assert '"action": "terminate"' in instance.run("python3", "-c", FETCH)
    assert instance.run("hostname").startswith("ip-10-")

    ended = threading.Event()
    instance.on_end(ended.set)
    instance.run("systemctl", "poweroff", "--no-block")
    instance.wait_ended()
    assert ended.wait(5)
    assert not instance.is_up
