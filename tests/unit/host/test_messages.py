"""Messages that travel as JSON, and what makes templates differ."""

from __future__ import annotations

import json

import pytest

from bigmachine.host.messages import HostConfig, LaunchSpec, MachineSpec, Program, TemplateSpec
from bigmachine.rpc import codec
from bigmachine.values import changed

PROGRAM = Program(
    how="script", target="x.py", executable="/usr/bin/python3", argv=("x.py", "a"), own_args=1
)


def test_a_hosts_configuration_survives_json() -> None:
    config = HostConfig(
        cluster="c",
        directory="/tmp/x",
        driver_pid=7,
        transport="tls",
        credentials={"subject": "s", "key": "k"},
        lease_seconds=3.5,
        sys_path=("/a", "/b"),
        template=TemplateSpec(
            program=PROGRAM,
            environ={"A": "\udcff"},
            later_environ={"A": "1", "B": "2"},
            start_method="spawn",
        ),
    )
    text = json.dumps(config.to_mapping())
    assert HostConfig.from_mapping(json.loads(text)) == config


def test_an_entry_that_is_not_known_is_refused() -> None:
    with pytest.raises(TypeError, match="colour"):
        HostConfig.from_mapping({"cluster": "c", "directory": "/x", "colour": "red"})


def test_secrets_are_not_shown() -> None:
    config = HostConfig(cluster="c", directory="/x", credentials={"key": "SECRET"})
    assert "SECRET" not in repr(config)
    assert "SECRET" not in repr(TemplateSpec(program=PROGRAM, environ={"TOKEN": "SECRET"}))


def test_the_template_depends_on_program_arguments_environment_and_spawning() -> None:
    spec = TemplateSpec(program=PROGRAM, environ={"A": "1"})
    same = TemplateSpec(program=PROGRAM, environ={"A": "1"}, start_method="fork")
    assert spec.key() == same.key()
    others = [
        changed(spec, environ={"A": "2"}),
        changed(spec, environ=None),
        changed(spec, later_environ={"A": "1"}),
        changed(spec, program=PROGRAM.with_args(("b",))),
        changed(spec, start_method="spawn"),
    ]
    assert len({spec.key(), *(other.key() for other in others)}) == 6


def test_changes_of_the_environment_are_applied() -> None:
    spec = LaunchSpec(
        machines=(MachineSpec(id="0-ab", index=0),),
        cluster="c",
        program=PROGRAM,
        services=codec.encode({}),
        args=("b", "c"),
        env={"NEW": "1", "GONE": None},
    )
    template = spec.template({"GONE": "x", "STAYS": "y"})
    assert template.environ == {"STAYS": "y", "NEW": "1"}
    assert template.later_environ is None
    assert template.program.argv == ("x.py", "b", "c")
    unchanged = changed(spec, env={}, args=None)
    assert unchanged.template({"A": "1"}).environ is None
    replayed = changed(spec, environ={"GONE": "1"}, later_environ={"GONE": "2", "MADE": "3"})
    assert replayed.template({}).environ == {"NEW": "1"}
    assert replayed.template({}).later_environ == {"NEW": "1", "MADE": "3"}
    assert unchanged.machines[0].label == "m0"
