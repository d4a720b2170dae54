"""The command ``bigmachine``, run as a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

SHOW = """
import json, sys
from bigmachine import config
def show():
    settings = config.resolve()
    return json.dumps({
        "system": settings.system,
        "source": settings.source,
        "options": {name: setting.value for name, setting in settings.options.items()},
        "argv": sys.argv,
        "main": sys.modules["__main__"].show is show,
        "name": __name__,
        "path0": sys.path[0],
        "file": __file__,
        "spec": getattr(__spec__, "name", None),
    })
if __name__ == "__main__":
    print(show())
"""


@pytest.fixture
def show(tmp_path: Path) -> Path:
    path = tmp_path / "programs" / "show.py"
    path.parent.mkdir()
    path.write_text(SHOW, "utf-8")
    return path


@pytest.fixture
def bigmachine(run_program):
    def run(*words: object, flags: tuple[str, ...] = (), **options):
        command = ("-m", "bigmachine", *map(str, words))
        return run_program("", flags=(*flags, *command), **options)

    return run


def test_a_script_runs_as_itself_with_the_flags_in_force(bigmachine, show: Path):
    done = bigmachine(
        *("run", "--system", "inprocess", "--system-option=keepalive=5", show),
        *("--system", "its own", "--", "-m"),
    )
    told = json.loads(done.stdout)
    assert (told["system"], told["source"]) == ("inprocess", "--system")
    assert told["options"] == {"keepalive": "5"}
    assert told["argv"] == [str(show), "--system", "its own", "--", "-m"]
    assert (told["main"], told["name"]) == (True, "__main__")
    assert (told["path0"], told["file"], told["spec"]) == (str(show.parent), str(show), None)


def test_a_module_runs_as_under_python_m(bigmachine, show: Path):
    done = bigmachine("run", "--system=inprocess", "-m", "show", "-x", cwd=show.parent)
    told = json.loads(done.stdout)
    assert (told["system"], told["argv"]) == ("inprocess", [str(show), "-x"])
    assert (told["spec"], told["path0"], told["main"]) == ("show", str(show.parent), True)


def test_a_package_runs_by_its_main_module(bigmachine, show: Path, tmp_path: Path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    show.rename(package / "__main__.py")
    told = json.loads(bigmachine("run", "-m", "package", "a").stdout)
    assert told["spec"] == "package.__main__"
    assert told["argv"] == [str(package / "__main__.py"), "a"]


def test_a_zip_file_runs_by_its_main_module(bigmachine, show: Path, tmp_path: Path):
    archive = tmp_path / "program.zip"
    with zipfile.ZipFile(archive, "w") as content:
        content.write(show, "__main__.py")
    told = json.loads(bigmachine("run", archive, "a").stdout)
    assert (told["argv"], told["path0"]) == ([str(archive), "a"], str(archive))


def test_no_process_that_the_script_starts_inherits_the_flags(bigmachine, run_program, show: Path):
    parent = show.with_name("parent.py")
    parent.write_text(f"import subprocess, sys; subprocess.run([sys.executable, {str(show)!r}])")
    told = json.loads(bigmachine("run", "--system", "inprocess", parent).stdout)
    assert told["system"] == "local"


def test_the_profile_of_the_flag_is_in_force(bigmachine, show: Path, tmp_path: Path):
    (tmp_path / "bigmachine.toml").write_text('[profiles.big]\nsystem = "inprocess"\n')
    told = json.loads(bigmachine("run", "--profile", "big", show).stdout)
    assert told["system"] == "inprocess"


def test_what_a_program_leaves_running_still_finds_itself_in_main(bigmachine, tmp_path: Path):
    script = tmp_path / "late.py"
    script.write_text(
        "import atexit, pickle\nclass Late: pass\n"
        "atexit.register(lambda: print(pickle.loads(pickle.dumps(Late)) is Late))\n"
    )
    assert bigmachine("run", script).stdout == "True\n"


def test_the_exit_status_is_the_programs(bigmachine, tmp_path: Path):
    script = tmp_path / "leave.py"
    script.write_text("import sys; sys.exit(7)")
    assert bigmachine("run", script, check=False).returncode == 7


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["run"], "a script is missing"),
        (["run", "-m"], "a module's name is missing"),
        (["run", "--system"], "expected one argument"),
        (["run", "--sistem", "x", "y.py"], "unrecognized arguments: --sistem"),
        (["run", "nowhere.py"], "cannot open 'nowhere.py': No such file"),
        (["run", "-m", "no.such"], "no module 'no.such'"),
        (["run", "-m", "xml"], "no module 'xml' that can be run"),
        (["run", "."], "can't find '__main__' module"),
        (["rnu", "x"], "invalid choice: 'rnu'"),
    ],
)
def test_a_wrong_command_line_is_told_what_is_wrong(bigmachine, words, complaint):
    done = bigmachine(*words, check=False)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--system", "sssh"], "--system: there is no system 'sssh'"),
        (["--profile", "x"], "--profile: there is no profile 'x'"),
        (["--system=local", "--system-option", "transprot=tls"], "has no option 'transprot'"),
        (["--system=local", "--system-option=keepalive=soon"], "--system-option keepalive: "),
        (["--profile", "p", "--system-option=keepalive=soon"], "--system-option keepalive: "),
        (["--system=local", "--system-option=keepalive=-1"], "keepalive"),
    ],
)
def test_a_wrong_flag_is_told_in_a_line_before_the_program_runs(
    bigmachine, show: Path, tmp_path: Path, words: list[str], complaint: str
):
    (tmp_path / "bigmachine.toml").write_text('[profiles.p]\nsystem = "local"\n')
    done = bigmachine("run", *words, show, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("bigmachine run: ")
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1


def test_options_alone_may_be_for_a_system_that_the_program_names(bigmachine, tmp_path: Path):
    script = tmp_path / "rack.py"
    script.write_text(
        "from bigmachine import config\n"
        "print({n: s.value for n, s in config.resolve('inprocess').options.items()})\n"
    )
    done = bigmachine("run", "--system-option", "machineprocs=2", script)
    assert done.stdout == "{'machineprocs': '2'}\n"


def test_a_module_that_a_program_lacks_is_the_programs_own_error(bigmachine, tmp_path: Path):
    (tmp_path / "lacking").mkdir()
    (tmp_path / "lacking" / "__init__.py").write_text("import no_such_module")
    done = bigmachine("run", "-m", "lacking", check=False)
    assert "ModuleNotFoundError: No module named 'no_such_module'" in done.stderr


def test_the_version_is_told(bigmachine):
    assert bigmachine("--version").stdout.startswith("bigmachine ")


def test_the_systems_and_their_options_are_listed(bigmachine):
    lines = bigmachine("systems").stdout.splitlines()
    assert any(line.startswith("local") for line in lines)
    assert any(line.startswith("  transport: 'unix' or 'tls'") for line in lines)


def test_a_reader_that_has_seen_enough_ends_a_command_without_a_word(tmp_path: Path):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "bigmachine", "systems"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, cwd=tmp_path, timeout=60)
    os.close(write)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")
