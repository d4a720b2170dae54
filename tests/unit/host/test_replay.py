"""What the driver's program is: the interpreter's command line, taken apart."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from bigmachine.errors import UsageError
from bigmachine.host.messages import Program
from bigmachine.host.replay import CommandLine, describe_main


@pytest.mark.parametrize(
    ("line", "how", "target", "flags", "args"),
    [
        ("python x.py -a b", "script", "x.py", "", "-a b"),
        ("python -Bm pkg.mod -c", "module", "pkg.mod", "-B", "-c"),
        ("python -mpkg a", "module", "pkg", "", "a"),
        ("python -X dev -m pkg", "module", "pkg", "-X dev", ""),
        ("python -Xdev -bbi x.py", "script", "x.py", "-X dev -bb", ""),
        ("python -Wd -u -c code a", "command", "", "-W d -u", "a"),
        ("python", "prompt", "", "", ""),
        ("python -i", "prompt", "", "", ""),
        ("python -Eq - a", "stdin", "", "-Eq", "a"),
        (
            "python --check-hash-based-pycs always -- -x.py",
            "script",
            "-x.py",
            "--check-hash-based-pycs always",
            "",
        ),
        ("python /bin/coverage run x.py", "script", "/bin/coverage", "", "run x.py"),
        ("python -W error -Im a", "module", "a", "-W error -I", ""),
    ],
)
def test_command_lines_are_taken_apart(
    line: str, how: str, target: str, flags: str, args: str
) -> None:
    found = CommandLine.parse(tuple(line.split()))
    assert (found.how, found.target) == (how, target)
    assert found.flags == tuple(flags.split())
    assert found.args == tuple(args.split())


def test_under_a_test_runner_machines_run_no_main_program() -> None:
    assert describe_main().is_bare
    assert describe_main("bare").is_bare


def test_an_unknown_choice_is_refused() -> None:
    with pytest.raises(UsageError, match='"auto", "main" and "bare"'):
        describe_main("mian")  # type: ignore[arg-type]


REPORT = """
import json
from bigmachine.errors import UsageError
from bigmachine.host.replay import describe_main
from bigmachine.values import as_mapping
def report():
    try:
        main = as_mapping(describe_main("main"))
    except UsageError as error:
        main = str(error)
    print(json.dumps([as_mapping(describe_main()), main]))
"""


def describe(tmp_path: Path, *command: str, stdin: str = "") -> tuple[Program, Program | str]:
    """What a process started by this command line says that its program is, by auto and main."""
    import json

    (tmp_path / "report.py").write_text(REPORT)
    done = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    lines = (line.removeprefix(">>> ") for line in done.stdout.splitlines())
    auto, main = next(json.loads(line) for line in lines if line.startswith("[{"))
    return Program.from_mapping(auto), main if isinstance(main, str) else Program.from_mapping(main)


def write(path: Path, source: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(textwrap.dedent(source), "utf-8")


def test_a_script_that_has_changed_its_directory(tmp_path: Path) -> None:
    write(tmp_path / "sub" / "x.py", "import os, report; os.chdir('/'); report.report()")
    auto, main = describe(tmp_path, "-X", "dev", "sub/x.py", "-n", "5")
    assert auto == main
    assert (auto.how, auto.target, auto.directory) == ("script", "sub/x.py", f"{tmp_path}/")
    assert auto.argv == ("sub/x.py", "-n", "5")
    assert auto.flags == ("-X", "dev")
    assert auto.orig_argv[1:] == ("-X", "dev", "sub/x.py", "-n", "5")


def test_a_module(tmp_path: Path) -> None:
    write(tmp_path / "pkg" / "__init__.py", "")
    write(tmp_path / "pkg" / "__main__.py", "import report; report.report()")
    auto, _ = describe(tmp_path, "-m", "pkg", "a")
    assert (auto.how, auto.target, auto.argv) == ("module", "pkg", ("-m", "a"))


@pytest.mark.parametrize(
    ("command", "stdin", "why"),
    [
        (("-c", "import report; report.report()"), "", "given by -c"),
        (("-",), "import report; report.report()\n", "standard input"),
        (("-i",), "import report; report.report()\n", "interactive prompt"),
    ],
)
def test_what_cannot_be_run_again_is_bare_and_refused_as_main(
    tmp_path: Path, command: tuple[str, ...], stdin: str, why: str
) -> None:
    auto, main = describe(tmp_path, *command, stdin=stdin)
    assert auto.is_bare
    assert str(tmp_path) in auto.sys_path
    assert isinstance(main, str)
    assert why in main
    assert 'program="bare"' in main


def test_a_script_that_runs_unittest_is_bare(tmp_path: Path) -> None:
    write(
        tmp_path / "x.py",
        """
        import unittest, report
        class Test(unittest.TestCase):
            def test(self):
                report.report()
        unittest.main()
        """,
    )
    auto, _ = describe(tmp_path, "x.py")
    assert auto.is_bare


def test_a_program_in_a_debugger_is_run_without_it(tmp_path: Path) -> None:
    write(tmp_path / "x.py", "import report; report.report()")
    auto, _ = describe(tmp_path, "-m", "pdb", "-c", "continue", "-c", "quit", "x.py", "a")
    assert (auto.how, auto.target) == ("script", str(tmp_path / "x.py"))
    assert auto.argv[1:] == ("a",)


def test_other_arguments_replace_the_drivers() -> None:
    program = Program(
        how="script",
        target="x.py",
        executable="python",
        argv=("x.py", "a", "b"),
        own_args=2,
        orig_argv=("python", "-u", "x.py", "a", "b"),
    )
    changed = program.with_args(("c",))
    assert changed.argv == ("x.py", "c")
    assert changed.orig_argv == ("python", "-u", "x.py", "c")
