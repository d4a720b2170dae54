"""Connecting to hosts, and what is said when that fails."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sshd import Server, free_port, make_key, serving

from bigmachine.systems.ssh.connect import Jumps, connect
from bigmachine.systems.ssh.hosts import parse
from bigmachine.systems.ssh.problems import HostError, Problem
from bigmachine.systems.ssh.settings import ConnectSettings


def settings_of(server: Server, **changes) -> ConnectSettings:
    given = {
        "key": (str(server.keys.user_key),),
        "known_hosts": (str(server.keys.known_hosts),),
        "connect_seconds": 5.0,
        **changes,
    }
    return ConnectSettings(**given)


async def say(name: str, settings: ConnectSettings) -> str:
    jumps = Jumps()
    try:
        connected = await connect(parse(name), settings, jumps)
        async with connected.ssh as connection:
            result = await connection.run("echo in", check=True)
            return str(result.stdout).strip()
    finally:
        jumps.close()


def problem_of(name: str, settings: ConnectSettings) -> Problem:
    with pytest.raises(HostError) as raised:
        asyncio.run(say(name, settings))
    problem = raised.value.problem
    assert problem.host == name
    assert problem.what
    assert "\n" not in str(problem)
    assert problem.remedy, "every failure says what to do"
    return problem


def test_a_key_a_known_host_and_a_command(server: Server):
    assert asyncio.run(say(server.name, settings_of(server))) == "in"


def test_an_alias_of_the_ssh_configuration_says_the_rest(server: Server, home: Path):
    (home / ".ssh" / "config").write_text(
        f"Host rack\n  HostName 127.0.0.1\n  Port {server.port}\n"
        f"  IdentityFile {server.keys.user_key}\n"
        f"  UserKnownHostsFile {server.keys.known_hosts}\n",
        "utf-8",
    )
    assert asyncio.run(say("rack", ConnectSettings())) == "in"


def test_the_usual_files_of_a_home_are_used(server: Server, home: Path):
    (home / ".ssh" / "id_ed25519").write_bytes(server.keys.user_key.read_bytes())
    (home / ".ssh" / "known_hosts").write_bytes(server.keys.known_hosts.read_bytes())
    assert asyncio.run(say(server.name, ConnectSettings())) == "in"


@contextlib.contextmanager
def agent(*keys: Path) -> Iterator[str]:
    """An agent that holds keys."""
    output = subprocess.run(["ssh-agent", "-s"], check=True, capture_output=True, text=True).stdout
    said = dict(part.split("=", 1) for part in output.replace("\n", " ").split("; ") if "=" in part)
    environ = {**os.environ, **said}
    try:
        for key in keys:
            subprocess.run(["ssh-add", "-q", key], check=True, env=environ)
        yield said["SSH_AUTH_SOCK"]
    finally:
        subprocess.run(["ssh-agent", "-k"], check=True, env=environ, stdout=subprocess.DEVNULL)


def test_a_key_of_the_agent_lets_in(server: Server, monkeypatch):
    with agent(server.keys.user_key) as path:
        monkeypatch.setenv("SSH_AUTH_SOCK", path)
        assert asyncio.run(say(server.name, settings_of(server, key=()))) == "in"


def test_a_jump_host_is_passed(server: Server, tmp_path: Path):
    with serving(tmp_path / "jump", keys=server.keys) as jump:
        settings = settings_of(server, jump=jump.name)
        assert asyncio.run(say(server.name, settings)) == "in"
        assert "direct-tcpip" in jump.log or "Accepted publickey" in jump.log


def test_a_jump_host_of_the_configuration_is_passed(server: Server, home: Path, tmp_path: Path):
    with serving(tmp_path / "jump", keys=server.keys) as jump:
        (home / ".ssh" / "config").write_text(f"Host 127.0.0.1\n ProxyJump {jump.name}\n", "utf-8")
        assert asyncio.run(say(server.name, settings_of(server))) == "in"
        assert "Accepted publickey" in jump.log


# What fails.


def test_an_unknown_host_name():
    problem = problem_of("no-such-host.invalid", ConnectSettings())
    assert problem.kind == "unknown-host"
    assert "no-such-host.invalid" in problem.what
    assert "HostName" in problem.remedy


def test_a_closed_port():
    port = free_port()
    problem = problem_of(f"127.0.0.1:{port}", ConnectSettings())
    assert problem.kind == "refused"
    assert f"127.0.0.1:{port}" in problem.what


def test_a_host_that_does_not_answer():
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):  # its queue is full now
            problem = problem_of(f"127.0.0.1:{port}", ConnectSettings(connect_seconds=0.3))
    assert problem.kind == "timeout"
    assert "0.3 s" in problem.what


def test_a_server_that_accepts_and_says_nothing():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        problem = problem_of(f"127.0.0.1:{port}", ConnectSettings(connect_seconds=0.3))
    assert problem.kind == "slow"


def test_something_that_is_no_ssh_server():
    async def both() -> None:
        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as other:
            port = other.sockets[0].getsockname()[1]
            await say(f"127.0.0.1:{port}", ConnectSettings())

    with pytest.raises(HostError) as raised:
        asyncio.run(both())
    assert raised.value.problem.kind == "dropped"


def test_a_host_whose_key_is_not_known(server: Server, tmp_path: Path):
    empty = tmp_path / "known_hosts"
    empty.touch()
    problem = problem_of(server.name, settings_of(server, known_hosts=(str(empty),)))
    assert problem.kind == "host-key-unknown"
    assert "SHA256:" in problem.what
    assert f"ssh-keyscan -p {server.port} 127.0.0.1 >> {empty}" in problem.remedy


def test_a_file_of_known_hosts_that_is_not_there(server: Server, tmp_path: Path):
    missing = str(tmp_path / "missing")
    problem = problem_of(server.name, settings_of(server, known_hosts=(missing,)))
    assert problem.kind == "no-file"
    assert missing in problem.what


def test_no_configuration_turns_checking_off(server: Server, home: Path):
    (home / ".ssh" / "config").write_text(
        "Host *\n UserKnownHostsFile none\n StrictHostKeyChecking no\n", "utf-8"
    )
    problem = problem_of(server.name, settings_of(server, known_hosts=()))
    assert problem.kind == "host-key-unknown"


def test_a_host_whose_key_has_changed(server: Server, tmp_path: Path):
    other = make_key(tmp_path / "other")
    known = tmp_path / "known_hosts"
    public = Path(f"{other}.pub").read_text("utf-8")
    known.write_text(f"[127.0.0.1]:{server.port} {public}", "utf-8")
    problem = problem_of(server.name, settings_of(server, known_hosts=(str(known),)))
    assert problem.kind == "host-key-changed"
    assert "ssh-keygen -R" in problem.remedy
    assert f"[127.0.0.1]:{server.port}" in problem.remedy


def test_a_host_that_has_none_of_the_kinds_of_keys_that_are_known(server: Server, tmp_path: Path):
    import asyncssh

    key = asyncssh.generate_private_key("ecdsa-sha2-nistp256")
    known = tmp_path / "known_hosts"
    public = key.export_public_key().decode()
    known.write_text(f"[127.0.0.1]:{server.port} {public}", "utf-8")
    problem = problem_of(server.name, settings_of(server, known_hosts=(str(known),)))
    assert problem.kind == "host-key-changed", problem


def test_a_key_that_the_host_does_not_know(server: Server, tmp_path: Path):
    other = str(make_key(tmp_path / "other"))
    problem = problem_of(server.name, settings_of(server, key=(other,)))
    assert problem.kind == "wrong-key"
    assert other in problem.what
    assert "no agent runs" in problem.what
    assert f"ssh-copy-id -p {server.port} " in problem.remedy


def test_a_key_of_the_agent_that_the_host_does_not_know(server: Server, tmp_path, monkeypatch):
    with agent(make_key(tmp_path / "other")) as path:
        monkeypatch.setenv("SSH_AUTH_SOCK", path)
        problem = problem_of(server.name, settings_of(server, key=()))
    assert problem.kind == "wrong-key"
    assert "other of the agent" in problem.what


def test_a_user_who_may_not_log_in_with_a_key(server: Server, tmp_path: Path):
    with serving(tmp_path / "b", "PubkeyAuthentication no", "PasswordAuthentication yes") as other:
        problem = problem_of(other.name, settings_of(other))
    assert problem.kind == "no-key-login"
    assert "PubkeyAuthentication" in problem.remedy


def test_no_key_at_all(server: Server):
    problem = problem_of(server.name, settings_of(server, key=()))
    assert problem.kind == "no-key"
    assert "SSH_AUTH_SOCK is not set" in problem.what


def test_an_agent_that_is_gone(server: Server, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "gone"))
    problem = problem_of(server.name, settings_of(server, key=()))
    assert problem.kind == "no-key"
    assert "does not answer" in problem.what


def test_a_key_with_a_passphrase(server: Server, tmp_path: Path):
    key = str(make_key(tmp_path / "locked", passphrase="secret"))
    problem = problem_of(server.name, settings_of(server, key=(key,)))
    assert problem.kind == "key-encrypted"
    assert f"ssh-add {key}" in problem.remedy


def test_a_usual_key_with_a_passphrase(server: Server, home: Path):
    make_key(home / ".ssh" / "id_ed25519", passphrase="secret")
    problem = problem_of(server.name, settings_of(server, key=()))
    assert problem.kind == "key-encrypted"
    assert "id_ed25519" in problem.remedy


def test_a_key_file_that_is_not_there(server: Server, tmp_path: Path):
    problem = problem_of(server.name, settings_of(server, key=(str(tmp_path / "missing"),)))
    assert problem.kind == "no-file"


def test_a_key_file_that_holds_none(server: Server, tmp_path: Path):
    (tmp_path / "odd").write_text("no key\n", "utf-8")
    problem = problem_of(server.name, settings_of(server, key=(str(tmp_path / "odd"),)))
    assert problem.kind == "settings"


def test_a_jump_host_that_refuses(server: Server):
    jump = f"127.0.0.1:{free_port()}"
    problem = problem_of(server.name, settings_of(server, jump=jump))
    assert problem.kind == "jump-failed"
    assert jump in problem.what
    assert "refused" in problem.what


def test_a_jump_host_that_cannot_reach_the_host(server: Server, tmp_path: Path):
    port = free_port()
    problem = problem_of(f"127.0.0.1:{port}", settings_of(server, jump=server.name))
    assert problem.kind == "beyond-jump"
    assert server.name in problem.what


def test_a_jump_host_that_forbids_forwarding(server: Server, tmp_path: Path):
    with serving(tmp_path / "jump", "AllowTcpForwarding no", keys=server.keys) as jump:
        problem = problem_of(server.name, settings_of(server, jump=jump.name))
    assert problem.kind == "forwarding-forbidden"
    assert "AllowTcpForwarding yes" in problem.remedy


def test_a_configuration_that_cannot_be_read(server: Server, home: Path):
    (home / ".ssh" / "config").write_text("Host a\n Port many\n", "utf-8")
    problem = problem_of("a", settings_of(server))
    assert problem.kind == "settings"
    assert "~/.ssh/config" in problem.remedy
