"""What can be said of SSH hosts, and what is made of it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import bigmachine as bm
from bigmachine.config import resolve
from bigmachine.errors import UsageError
from bigmachine.host import role
from bigmachine.systems.ssh.problems import Problem, provision_error

# A driver's own settings and options.


def test_the_hosts_may_be_a_text_with_commas_in_settings(tmp_path: Path):
    settings = resolve(
        environ={
            "BIGMACHINE_SYSTEM": "ssh",
            "BIGMACHINE_SSH_HOSTS": "a, ops@b:2222",
            "BIGMACHINE_SSH_CPUS_PER_MACHINE": "host",
            "BIGMACHINE_SSH_KEY": "k1,k2",
            "BIGMACHINE_SSH_TUNNEL": "never",
        },
        cwd=tmp_path,
    )
    system = settings.make_system()
    assert isinstance(system, bm.systems.SSH)
    assert [host.text for host in system.hosts] == ["a", "ops@b:2222"]
    assert system.settings.key == ("k1", "k2")
    assert system.tunnel == "never"
    assert system.share(8) == (1, 8)


def test_hosts_come_from_a_file_too(tmp_path: Path):
    file = tmp_path / "hosts"
    file.write_text("b # the other\n", "utf-8")
    system = bm.systems.SSH(["a"], hosts_file=file)
    assert [host.text for host in system.hosts] == ["a", "b"]


@pytest.mark.parametrize(
    ("cpus", "per_machine", "expected"),
    [(8, 1, (8, 1)), (8, 3, (2, 3)), (8, "host", (1, 8)), (2, 4, (1, 2)), (1, 1, (1, 1))],
)
def test_a_host_holds_as_many_machines_as_its_processors_allow(cpus, per_machine, expected):
    assert bm.systems.SSH(["a"], cpus_per_machine=per_machine).share(cpus) == expected


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hosts": []}, "name hosts"),
        ({"hosts": ["a", "a"]}, "named twice"),
        ({"hosts": ["a b"]}, "no SSH host"),
        ({"hosts": ["a"], "tunnel": "sometimes"}, "'auto', 'always' or 'never'"),
        ({"hosts": ["a"], "cpus_per_machine": 0}, "number from 1 on, or 'host'"),
        ({"hosts": ["a"], "cpus_per_machine": True}, "number from 1 on, or 'host'"),
        ({"hosts": ["a"], "connect_seconds": 0}, "positive"),
        ({"hosts_file": "/nowhere/hosts"}, "cannot be read"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(options, words):
    with pytest.raises(UsageError, match=words):
        bm.systems.SSH(**options)


def test_without_asyncssh_it_says_how_to_install_it(monkeypatch):
    # In place of an environment without it: the test's own has it.
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"bigmachine\[ssh\] brings: pip install asyncssh$"):
        bm.systems.SSH(["a"])


def test_a_machine_that_runs_the_program_needs_no_hosts_file(monkeypatch):
    with pytest.raises(UsageError, match="/nowhere/hosts"):
        bm.systems.SSH(hosts_file="/nowhere/hosts")
    monkeypatch.setattr(role, "current", role.Role.TEMPLATE)
    assert bm.systems.SSH(hosts_file="/nowhere/hosts").name == "ssh"


# Errors.


def problem(host: str, *, temporary: bool = False) -> Problem:
    return Problem(
        host=host, kind="refused", what="it was refused", remedy="try", temporary=temporary
    )


def test_the_error_of_one_host_is_its_own():
    error = provision_error([problem("a", temporary=True)], requested=1, started=0)
    assert str(error) == "a: it was refused (0 of 1 machines of 'ssh'); try"
    assert error.retryable


def test_the_error_of_several_has_a_line_for_each_and_their_group_for_a_cause():
    error = provision_error(
        [problem("a"), problem("b", temporary=True)], requested=4, started=1, exhausted="too few"
    )
    lines = str(error).splitlines()
    assert lines[0] == "too few"
    assert lines[1] == "  - a: it was refused; try"
    assert lines[2] == "  - b: it was refused; try"
    assert not error.retryable
    assert isinstance(error.__cause__, ExceptionGroup)
    assert [str(each) for each in error.__cause__.exceptions] == [
        "a: it was refused (1 of 4 machines of 'ssh'); try",
        "b: it was refused (1 of 4 machines of 'ssh'); try",
    ]


def test_a_problem_survives_its_way_from_the_switchboard():
    assert Problem.from_mapping(problem("a").to_mapping()) == problem("a")
