"""Hosts that cannot be used: the error names the cause and the remedy, in one paragraph each."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from bigmachine.errors import ProvisionError
from bigmachine.security.authority import Authority
from bigmachine.systems.base import HostRequest
from bigmachine.systems.ssh import SSH

from .conftest import StartHosts
from .host import HostOptions, LabHost
from .lab import Key, Lab


def refusal(lab: Lab, host: LabHost, **changes: Any) -> str:
    """Launch a host that cannot be; return what the error says."""
    authority = Authority()

    def boot(host_id: str) -> dict[str, Any]:
        return {
            "cluster": "c-1",
            "id": host_id,
            "credentials": asdict(authority.issue(host_id)),
            "boot_seconds": 20.0,
            "lease_seconds": 20.0,
        }

    async def launch() -> None:
        system = SSH(
            **{
                "hosts": [f"worker@{host.address}"],
                "key": str(lab.key),
                "known_hosts": str(lab.known_hosts),
                "config": str(lab.ssh_config),
                "connect_seconds": 2.0,
                **changes,
            }
        )
        request = HostRequest(cluster="c-1", machines=1, boot=boot)
        try:
            async for launched in system.launch(request):
                launched.kill()
        finally:
            system.abandon("c-1")
            await system.shutdown()

    with pytest.raises(ProvisionError) as refused:
        asyncio.run(launch())
    text = str(refused.value)
    assert "\n\n" not in text
    assert refused.value.remedy
    return text


def test_a_wrong_key(lab: Lab, hosts: StartHosts, tmp_path: Path) -> None:
    (host,) = hosts()
    wrong = Key().write(tmp_path / "wrong")

    text = refusal(lab, host, key=str(wrong), config=str(_empty(tmp_path)))

    assert f"worker@{host.address}" in text
    assert "lets none of our keys in" in text
    assert f"tried {wrong}" in text
    assert "ssh-copy-id" in text


def test_an_unknown_host(lab: Lab, hosts: StartHosts, tmp_path: Path) -> None:
    (host,) = hosts()

    text = refusal(lab, host, known_hosts=str(_empty(tmp_path)), config=str(_empty(tmp_path)))

    assert "so it may be anybody's" in text
    assert "ssh-keyscan" in text


def test_a_host_that_was_swapped(lab: Lab, hosts: StartHosts, tmp_path: Path) -> None:
    one, other = hosts(2)
    known = tmp_path / "known"
    key = next(line for line in lab.known_hosts.read_text().splitlines() if other.address in line)
    known.write_text(key.replace(other.address, one.address) + "\n")

    text = refusal(lab, one, known_hosts=str(known), config=str(_empty(tmp_path)))

    assert "Somebody may be listening in" in text
    assert "ssh-keygen -R" in text


def test_a_closed_port(lab: Lab, hosts: StartHosts) -> None:
    (host,) = hosts()

    text = refusal(lab, host, hosts=[f"worker@{host.address}:2222"])

    assert f"nothing listens at {host.address}" in text
    assert "2222" in text


def test_a_host_that_is_down(lab: Lab, hosts: StartHosts) -> None:
    (host,) = hosts()
    host.link_down()

    text = refusal(lab, host)

    assert f"{host.address}" in text
    assert "no way to" in text or "did not answer within 2 s" in text


def test_a_name_that_nobody_has(lab: Lab, hosts: StartHosts) -> None:
    (host,) = hosts()

    text = refusal(lab, host, hosts=["nobody.invalid"])

    assert "nobody.invalid" in text


def test_a_user_whom_the_host_does_not_know(lab: Lab, hosts: StartHosts) -> None:
    (host,) = hosts()

    text = refusal(lab, host, hosts=[f"stranger@{host.address}"])

    assert f"stranger@{host.address}" in text


def test_no_python(lab: Lab, hosts: StartHosts) -> None:
    (host,) = hosts([HostOptions(python="")])

    text = refusal(lab, host)

    assert "there is no python3" in text
    assert "apt-get install python3" in text


def test_a_python_that_is_too_old(lab: Lab, hosts: StartHosts, old_python: Any) -> None:
    (host,) = hosts([HostOptions(python=old_python("3.7"))])

    text = refusal(lab, host)

    assert "3.7" in text
    assert "3.8" in text
    assert "python=" in text


def _empty(directory: Path) -> Path:
    path = directory / "empty"
    path.touch()
    return path
