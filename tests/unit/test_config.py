"""Which system and options hold, out of everything that may say so."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from bigmachine import config
from bigmachine.config import Flags, resolve
from bigmachine.errors import UsageError

TOML = """\
default_profile = "home"

[profiles.home]
system = "rack"          # line 4

[profiles.home.rack]
rows = 3
power = "high"

[profiles.big]
system = "rack-strict"
[profiles.big.rack-strict]
key = "k"

[profiles.wrong]
system = "rack"
[profiles.wrong.rack]
power = "hihg"
[profiles.misspelt]
rack = { rwos = 3 }
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "bigmachine.toml").write_text(TOML, "utf-8")
    return tmp_path


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    directory = tmp_path / "empty"
    directory.mkdir()
    return directory


def decide(cwd: Path, system=None, flags: Flags | None = None, **environ: str) -> config.Settings:
    return resolve(system, environ=environ, cwd=cwd, flags=flags or Flags())


def refusal(settings_of, *args, **kwargs) -> str:
    with pytest.raises(UsageError) as raised:
        settings_of(*args, **kwargs).make_system()
    return str(raised.value)


def test_without_any_setting_it_is_local(empty: Path):
    settings = decide(empty)
    assert (settings.system, settings.source, settings.profile) == ("local", "the default", None)
    assert settings.options == {}


LEVELS = ("program", "flag", "profile flag", "variable", "profile variable", "file")


@pytest.mark.parametrize(
    "present", [c for n in range(7) for c in itertools.combinations(LEVELS, n)], ids="+".join
)
def test_the_strongest_source_decides(tmp_path: Path, present: tuple[str, ...]):
    tables = "".join(
        f'[profiles.p{number}]\nsystem = "{level}"\n' for number, level in enumerate(LEVELS)
    )
    default = f'default_profile = "p{LEVELS.index("file")}"\n' if "file" in present else ""
    (tmp_path / "bigmachine.toml").write_text(default + tables, "utf-8")
    flags = Flags(
        system="flag" if "flag" in present else None,
        profile=f"p{LEVELS.index('profile flag')}" if "profile flag" in present else None,
    )
    environ = {}
    if "variable" in present:
        environ["BIGMACHINE_SYSTEM"] = "variable"
    if "profile variable" in present:
        environ["BIGMACHINE_PROFILE"] = f"p{LEVELS.index('profile variable')}"
    program = "program" if "program" in present else None
    settings = resolve(program, environ=environ, cwd=tmp_path, flags=flags)
    assert settings.system == (present[0] if present else "local")


def test_a_setting_names_its_source(project: Path):
    file = project / "bigmachine.toml"
    assert decide(project).source == f"{file}:4"
    assert decide(project, BIGMACHINE_SYSTEM="x").source == "BIGMACHINE_SYSTEM"
    assert decide(project, flags=Flags(system="x")).source == "--system"
    options = decide(project, BIGMACHINE_RACK_LOAD="1").options
    assert options["rows"].source == f"{file}:7"
    assert options["load"].source == "BIGMACHINE_RACK_LOAD"


@pytest.mark.usefixtures("rack")
def test_options_come_from_file_then_environment_then_flags(project: Path):
    made = decide(
        project,
        flags=Flags(options=(("hosts", "a,b"), ("load", "3"))),
        BIGMACHINE_RACK_POWER="low",
        BIGMACHINE_RACK_LOAD="2",
        BIGMACHINE_EC2_REGION="of no interest",
    ).make_system()
    assert vars(made) == {"rows": 3, "power": "low", "hosts": ["a", "b"], "load": 3.0}


@pytest.mark.usefixtures("rack")
def test_the_profile_gives_options_to_a_system_that_a_stronger_source_chose(project: Path):
    made = decide(project, "rack", BIGMACHINE_PROFILE="home").make_system()
    assert vars(made)["rows"] == 3


@pytest.mark.usefixtures("rack")
def test_options_of_the_command_line_are_only_for_the_system_that_it_names(empty: Path):
    flags = Flags(system="rack", options=(("rows", "9"),))
    assert vars(decide(empty, None, flags).make_system())["rows"] == 9
    assert decide(empty, "local", flags).options == {}


def test_a_system_object_settles_everything(rack: Path, project: Path):
    system = decide(project, "rack").make_system()
    settings = decide(project, system, Flags(system="nonsense", profile="nonsense"))
    assert settings.make_system() is system
    assert settings.system == "rack"


def test_a_class_instead_of_an_object_is_refused_with_the_remedy(rack: Path, project: Path):
    cls = type(decide(project, "rack").make_system())
    assert "write Rack()" in refusal(decide, project, cls)
    assert "not 3" in refusal(decide, project, 3)


def test_the_file_is_found_upwards(project: Path):
    below = project / "a" / "b"
    below.mkdir(parents=True)
    assert decide(below).profile == "home"


def test_an_empty_variable_is_one_that_is_not_set(project: Path):
    settings = decide(project, BIGMACHINE_SYSTEM="", BIGMACHINE_PROFILE="", BIGMACHINE_RACK_ROWS="")
    assert settings.profile == "home"
    assert settings.options["rows"].value == 3


def test_an_unknown_profile_names_its_source_and_the_profiles_there_are(project: Path):
    text = refusal(decide, project, BIGMACHINE_PROFILE="bgi")
    assert text.startswith("BIGMACHINE_PROFILE: there is no profile 'bgi' in ")
    assert "'home', 'big'" in text
    assert "did you mean 'big'?" in text


def test_of_a_file_without_profiles_it_is_said_that_there_are_none(empty: Path):
    (empty / "bigmachine.toml").touch()
    text = refusal(decide, empty, flags=Flags(profile="big"))
    assert (
        text == f"--profile: there is no profile 'big' in {empty}/bigmachine.toml; there are none"
    )


def test_a_profile_without_a_file_says_that_there_is_no_file(empty: Path):
    assert "no bigmachine.toml" in refusal(decide, empty, flags=Flags(profile="big"))


@pytest.mark.usefixtures("rack")
def test_a_wrong_value_names_its_source_and_what_is_allowed(project: Path):
    text = refusal(decide, project, BIGMACHINE_RACK_POWER="medium")
    assert text == (
        "BIGMACHINE_RACK_POWER: power of the system 'rack': 'medium' is not 'high' or 'low'"
    )
    text = refusal(decide, project, flags=Flags(profile="wrong"))
    assert text.startswith(f"{project / 'bigmachine.toml'}:18: power of the system 'rack': 'hihg'")
    text = refusal(decide, project, flags=Flags(options=(("rows", "x"),)))
    assert text.startswith("--system-option rows: ")


@pytest.mark.usefixtures("rack")
def test_an_unknown_option_names_its_source_and_the_nearest(project: Path):
    text = refusal(decide, project, BIGMACHINE_RACK_POWRE="low")
    assert text.startswith("BIGMACHINE_RACK_POWRE: the system 'rack' has no option 'powre'")
    assert "did you mean 'power'?" in text
    inline = decide(project, "rack", Flags(profile="misspelt"))
    assert f"{project / 'bigmachine.toml'}:20: " in refusal(lambda: inline)


@pytest.mark.usefixtures("rack")
def test_the_variable_of_a_system_with_a_longer_name_is_left_alone(project: Path):
    assert decide(project, BIGMACHINE_RACK_STRICT_KEY="k").make_system().name == "rack"


@pytest.mark.usefixtures("rack")
def test_a_missing_option_is_asked_for_with_every_way_to_give_it(empty: Path):
    text = refusal(decide, empty, BIGMACHINE_SYSTEM="rack-strict")
    assert "needs the option 'key'" in text
    assert "BIGMACHINE_RACK_STRICT_KEY" in text
    assert "[profiles.NAME.rack-strict]" in text


@pytest.mark.usefixtures("rack")
def test_a_value_that_the_system_itself_refuses_names_where_it_was_set(empty: Path):
    text = refusal(decide, empty, "rack", BIGMACHINE_RACK_ROWS="0")
    assert text == "rack: rows must be positive (set: rows by BIGMACHINE_RACK_ROWS)"
    text = refusal(decide, empty, "rack", BIGMACHINE_RACK_ROWS="0", BIGMACHINE_RACK_LOAD="1")
    assert text == "rack: rows must be positive (set: rows by BIGMACHINE_RACK_ROWS)"


def test_what_a_system_says_of_itself_is_not_said_twice(empty: Path):
    assert refusal(decide, empty, "ssh").startswith("SSH: name hosts")
    assert "(set:" not in refusal(decide, empty, "ssh")
    text = refusal(decide, empty, "local", BIGMACHINE_LOCAL_KEEPALIVE="-1")
    assert text == (
        "local: keepalive is a number of seconds above 0, not -1.0 "
        "(set: keepalive by BIGMACHINE_LOCAL_KEEPALIVE)"
    )


@pytest.mark.usefixtures("rack")
def test_a_misspelt_table_of_the_chosen_system_is_refused(tmp_path: Path):
    (tmp_path / "bigmachine.toml").write_text(
        '[profiles.p]\nsystem = "rack"\n[profiles.p.rakc]\nrows = 2\n[profiles.p.elsewhere]\n'
    )
    text = refusal(decide, tmp_path, BIGMACHINE_PROFILE="p")
    assert text.startswith(f"{tmp_path / 'bigmachine.toml'}:3: profiles.p.rakc: ")
    assert "did you mean 'rack'?" in text


def test_no_value_of_an_option_is_shown(project: Path):
    assert "high" not in repr(decide(project))
    assert "hunter2" not in repr(Flags(options=(("password", "hunter2"),)))


def test_flags_of_a_call_go_before_those_of_the_process(empty: Path):
    process = Flags(system="rack", options=(("rows", "2"),))
    config.set_flags(process)
    try:
        assert resolve(environ={}, cwd=empty).system == "rack"
        with config.using_flags(Flags(system="other")):
            assert config.current_flags() == Flags(system="other")
        with config.using_flags(Flags(options=(("rows", "3"),))):
            assert resolve(environ={}, cwd=empty).options["rows"].value == "3"
        with config.using_flags(Flags(profile="p")):
            assert config.current_flags() == Flags(profile="p")
        assert config.current_flags() == process
    finally:
        config.set_flags(Flags())
