"""What the doctor finds on hosts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from sshd import Server, free_port, serving

from bigmachine.systems.checks import Check, Verdict
from bigmachine.systems.ssh import SSH


def findings_of(server: Server, **changes: Any) -> dict[tuple[str, str], Check]:
    given: dict[str, Any] = {
        "hosts": [server.name],
        "key": str(server.keys.user_key),
        "known_hosts": str(server.keys.known_hosts),
        **changes,
    }

    async def look() -> list[Check]:
        return [check async for check in SSH(**given).doctor()]

    return {(each.subject, each.name): each for each in asyncio.run(look())}


def test_a_host_that_is_well(server: Server):
    found = findings_of(server)
    assert {check for _, check in found} == {"login", "python", "disk", "clock", "ways"}
    assert all(each.verdict is not Verdict.FAIL for each in found.values()), found
    assert found[server.name, "ways"].seen == "reached directly, by tunnel"
    assert found[server.name, "clock"].verdict is Verdict.OK


def test_each_host_is_looked_at_whatever_the_others_have(server: Server):
    closed = f"127.0.0.1:{free_port()}"
    found = findings_of(server, hosts=[closed, server.name])
    assert found[closed, "login"].verdict is Verdict.FAIL
    assert "refused" in found[closed, "login"].seen
    assert found[closed, "login"].remedy
    assert found[server.name, "login"].verdict is Verdict.OK


def test_a_host_without_python(server: Server):
    finding = findings_of(server, python="python9")[server.name, "python"]
    assert finding.verdict is Verdict.FAIL
    assert "no python9" in finding.seen


def test_tunnels_that_are_forbidden(server: Server, tmp_path: Path):
    with serving(tmp_path / "b", "AllowTcpForwarding no", keys=server.keys) as other:
        assert findings_of(other)[other.name, "ways"].verdict is Verdict.WARN
        assert findings_of(other, tunnel="never")[other.name, "ways"].verdict is Verdict.OK
        always = findings_of(other, tunnel="always")[other.name, "ways"]
    assert always.verdict is Verdict.FAIL
    assert "AllowTcpForwarding" in always.remedy


def test_a_directory_that_is_not_there_yet_is_made_in_one_that_is(server: Server):
    finding = findings_of(server, directory="/proc/nothing/here")[server.name, "disk"]
    assert "/proc" in finding.seen
