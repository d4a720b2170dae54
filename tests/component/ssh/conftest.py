"""SSH servers on the loopback interface, and a home that has nothing of the tester's own in it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

from sshd import Server, find_sshd, install_sshd, serving


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without keys, known hosts or configuration, and no agent."""
    home = tmp_path / "driver"
    (home / ".ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return home


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that lets the user of ``server.keys`` in."""
    if find_sshd() is None and not install_sshd():
        pytest.skip("there is no sshd: apt-get install openssh-server")
    with serving(tmp_path_factory.mktemp("sshd") / "a") as server:
        yield server
