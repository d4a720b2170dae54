"""What an operator sees of programs: while they run, and when their drivers were killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .driven import driven, send, wait_until

PROGRAM = """
with bm.start(name="watched") as cluster:
    (machine,) = cluster.start(1, services={"Probe": Probe()})
    machine.call(Probe.echo, 1).result()
    say('begun')
    listen()
"""


def bigmachine(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "bigmachine", *words], capture_output=True, text=True, check=True
    )
    return done.stdout


def clusters() -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(bigmachine("ps", "--json"))
    return listed


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def test_a_cluster_is_listed_while_it_is_open(tmp_path: Path) -> None:
    with driven(PROGRAM, tmp_path) as program:
        program.expect("begun")
        wait_until(lambda: [each for each in clusters() if each["hosts"]])
        (cluster,) = clusters()
        assert (cluster["name"], cluster["standing"]) == ("watched", "open")
        assert (cluster["system"], cluster["pid"]) == ("local", program.pid)
        assert cluster["hosts"][0]["address"].startswith("unix:")
        program.tell("end")
        assert program.wait() == 0
    assert clusters() == []


def test_one_whose_driver_was_killed_is_forgotten_with_its_last_host(tmp_path: Path) -> None:
    with driven(PROGRAM, tmp_path) as program:
        program.expect("begun")
        send(program.pid, signal.SIGKILL)
        program.wait()
    wait_until(lambda: clusters() == [])
    bigmachine("gc")
    assert clusters() == []
