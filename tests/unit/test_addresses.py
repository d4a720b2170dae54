from __future__ import annotations

import pytest

from bigmachine.addresses import HOST_TARGET, Address
from bigmachine.errors import UsageError

ADDRESSES = [
    "unix:/run/user/0/bigmachine/4f1c/host.sock#3-9f3a01c2",
    "tls:10.0.0.7:40123#3-9f3a01c2?host=h1.bigpi-4f1c",
    "tls:127.0.0.1:40123#3-9f3a01c2?host=h1.bigpi-4f1c&via=gateway",
    "tls:[::1]:40123#host",
    "inproc:inprocess-7#3-9f3a01c2",
]


@pytest.mark.parametrize("text", ADDRESSES)
def test_an_address_is_what_it_was_parsed_from(text: str) -> None:
    address = Address.parse(text)
    assert str(address) == text
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize("text", ADDRESSES)
def test_the_supervisor_is_at_the_same_place_under_another_target(text: str) -> None:
    address = Address.parse(text)
    host = address.at(HOST_TARGET)
    assert str(host).partition("#")[0] == text.partition("#")[0]
    assert host.target == HOST_TARGET
    assert host.hostname == address.hostname


@pytest.mark.parametrize("text", ["", "unix:", "inproc:#x", "tls:host", "tls:host:x#y", "tcp:a:1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no machine's address"):
        Address.parse(text)
