"""Orders are put in a host's terms: paths of the driver become paths of the image."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bigmachine.driver.orders import Orders
from bigmachine.driver.translate import translate
from bigmachine.errors import UsageError
from bigmachine.host.messages import Program
from bigmachine.rpc import codec
from bigmachine.values import changed

ROOT = "/cache/images/4f1c"
ENV = f"{ROOT}/lib/python3.11/site-packages"


def where(path: str) -> str | None:
    """The driver's project and its environment, as the image has them."""
    for ours, theirs in (("/home/u/project", f"{ROOT}/src/0"), ("/venv/bin", f"{ROOT}/bin")):
        if path == ours or path.startswith(ours + "/"):
            return theirs + path.removeprefix(ours)
    return None


def orders(program: Program, cwd: str = "/home/u/project") -> Orders:
    return Orders(
        cluster="pi",
        program=program,
        services=codec.encode({}),
        env={"A": "1"},
        args=None,
        start_method="auto",
        environ=None,
        cwd=cwd,
        sys_path=("/home/u/project", "/venv/lib/python3.11/site-packages"),
    )


def script(target: str, directory: str) -> Program:
    return Program(
        how="script",
        target=target,
        executable="/venv/bin/python",
        argv=(target, "-n", "7"),
        orig_argv=("python", target, "-n", "7"),
        directory=directory,
        own_args=2,
        main_file="/home/u/project/pi.py",
    )


def translated(program: Program, cwd: str = "/home/u/project") -> Orders:
    return translate(
        orders(program, cwd),
        where,
        root=ROOT,
        python=f"{ROOT}/bin/python",
        sys_path=(f"{ROOT}/src/0", ENV),
    )


def test_a_script_that_was_named_relatively_keeps_its_name() -> None:
    moved = translated(script("pi.py", "/home/u/project"))
    assert moved.program.target == "pi.py"
    assert moved.program.argv == ("pi.py", "-n", "7")
    assert moved.program.directory == f"{ROOT}/src/0"
    assert moved.program.executable == f"{ROOT}/bin/python"
    assert moved.program.main_file == f"{ROOT}/src/0/pi.py"
    assert moved.cwd == f"{ROOT}/src/0"
    assert moved.sys_path == (f"{ROOT}/src/0", ENV)


def test_a_script_that_was_named_absolutely_is_named_as_the_host_has_it() -> None:
    moved = translated(script("/home/u/project/pi.py", "/somewhere/else"), "/somewhere/else")
    assert moved.program.target == f"{ROOT}/src/0/pi.py"
    assert moved.program.argv == (f"{ROOT}/src/0/pi.py", "-n", "7")
    assert moved.program.directory == f"{ROOT}/src/0"
    assert moved.cwd == f"{ROOT}/src/0"


def test_a_script_that_was_started_from_outside_of_its_directory_is_found() -> None:
    moved = translated(script("project/pi.py", "/home/u"), "/home/u")
    assert moved.program.target == f"{ROOT}/src/0/pi.py"
    assert moved.program.directory == f"{ROOT}/src/0"


def test_a_console_script_is_that_of_the_image() -> None:
    moved = translated(script("/venv/bin/tool", "/somewhere"), "/somewhere")
    assert moved.program.target == f"{ROOT}/bin/tool"
    assert moved.cwd == f"{ROOT}/bin"


def test_a_program_that_is_not_in_the_image_is_named() -> None:
    with pytest.raises(UsageError, match=r"/elsewhere/pi\.py is no part of the image"):
        translated(script("pi.py", "/elsewhere"))


def test_a_module_is_found_by_the_images_path() -> None:
    program = Program(
        how="module",
        target="pkg.tool",
        executable="/venv/bin/python",
        argv=("-m", "7"),
        directory="/tmp/work",
    )
    moved = translated(program, "/tmp/work")
    assert moved.program.target == "pkg.tool"
    assert moved.program.directory == ROOT
    assert moved.cwd == ROOT


def test_without_a_program_the_images_path_is_what_the_machine_has() -> None:
    bare = changed(script("", ""), how="bare", sys_path=("/home/u/project",), main_file="")
    moved = translated(bare)
    assert moved.program.sys_path == (f"{ROOT}/src/0", ENV)
    assert moved.program.main_file == ""


def test_the_drivers_environment_stays_where_it_is() -> None:
    with_environ = replace(orders(script("pi.py", "/home/u/project")), environ={"SECRET": "x"})
    moved = translate(with_environ, where, root=ROOT, python="p", sys_path=())
    assert moved.environ is None
    assert moved.env == {"A": "1"}
