"""The command ``bigmachine``: run a program on a system, and see what systems there are.

::

    bigmachine run [--system S] [--profile P] [--system-option K=V] script.py ARGS...
    bigmachine run [...] -m package.module ARGS...
    bigmachine systems
    bigmachine doctor [SYSTEM [KEY=VALUE ...]]
    bigmachine ps
    bigmachine gc [SYSTEM [KEY=VALUE ...]] [--dry-run]
    bigmachine image ls | show | build | diff
    bigmachine cache [ls] | prune [--limit SIZE | --clear]
    bigmachine --version

``run`` runs the program in this very process, as ``python script.py ARGS...`` would: it is
``__main__``, its directory leads ``sys.path``, ``sys.argv`` is its own. A machine replays its
driver's command line and so comes by here too. The flags are kept in this process; a program that
the script starts does not see them.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import types
from typing import TYPE_CHECKING

from bigmachine import cli_cache, cli_doctor, cli_gc, cli_image, cli_listing, cli_ps, config
from bigmachine.driver import add_arguments, flags_of
from bigmachine.errors import UsageError
from bigmachine.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Args:
        arguments: The command line without the command's name; None: this process's.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser, run_parser = _parsers()
    if words[:1] == ["run"]:
        return _run(run_parser, words[1:])
    found = parser.parse_args(words)
    if found.command is None:
        parser.print_help()
        return 2
    try:
        status: int = found.run(found)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads it has seen enough, as head(1) does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the last flush
        return 128 + signal.SIGPIPE
    return status


def _parsers() -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    """Return the parser of the whole command, and that of ``run``'s own flags."""
    parser = argparse.ArgumentParser(
        prog="bigmachine",
        description="Run Python programs that bring their own cluster.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"bigmachine {VERSION}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    run = commands.add_parser(
        "run",
        help="run a program, its machines on the system that the flags name",
        usage="bigmachine run [flags] (script.py | -m module) [arguments of the program ...]",
        allow_abbrev=False,
    )
    add_arguments(run)
    for module in (cli_listing, cli_doctor, cli_ps, cli_gc, cli_image, cli_cache):
        module.add_parser(commands)
    return parser, run


def _run(parser: argparse.ArgumentParser, words: list[str]) -> int:
    start = _program_start(words)
    flags = flags_of(parser.parse_args(words[:start]))
    program = words[start:]
    as_module = program[:1] == ["-m"]
    if as_module or program[:1] == ["--"]:
        program = program[1:]
    if not program:
        parser.error("a module's name is missing" if as_module else "a script is missing")
    config.set_flags(flags)
    if flags != config.Flags() and (problem := _problem_of_flags()):
        print(f"bigmachine run: {problem}", file=sys.stderr)
        return 2
    target, *rest = program
    problem = _run_module(target, rest) if as_module else _run_script(target, rest)
    if problem:
        parser.error(problem)
    return 0


def _problem_of_flags() -> str:
    """Return what is wrong with the flags in force, or "".

    Options alone say nothing of which system they are for: the program may name it.
    """
    from bigmachine.host import role

    if role.current is not role.Role.DRIVER:
        return ""  # its driver has seen to it, and a machine may lack what only drivers need
    try:
        settings = config.resolve()
        if settings.by_flags:
            settings.make_system()
    except UsageError as error:
        return str(error)
    return ""


def _program_start(words: list[str]) -> int:
    """Return where the program begins: what follows is its own, whatever it looks like.

    ``argparse`` cannot tell: it would take a ``--`` away from the program.
    """
    index = 0
    while index < len(words) and words[index].startswith("-"):
        word = words[index]
        if word in ("-m", "--"):
            break
        takes_another = word.startswith("--") and "=" not in word and word != "--help"
        index += 2 if takes_another else 1
    return min(index, len(words))


def _run_script(path: str, arguments: list[str]) -> str:
    """Run a script as ``__main__``; return what is wrong if it cannot even be read.

    Not by ``runpy.run_path``, which puts the old ``__main__`` back at the end: what the program
    left running (threads, atexit handlers) could then not be pickled by reference any more.
    """
    if os.path.isdir(path) or _is_zip(path):
        return _run_container(path, arguments)
    from importlib.machinery import SourceFileLoader

    try:
        with open(path, "rb") as file:
            source = file.read()
    except OSError as exc:
        return f"cannot open {path!r}: {exc.strerror}"
    sys.argv = [path, *arguments]
    _lead_path_with(os.path.dirname(os.path.realpath(path)))
    module = _new_main()
    module.__dict__.update(__file__=path, __cached__=None)
    module.__loader__ = SourceFileLoader("__main__", path)
    exec(compile(source, path, "exec", dont_inherit=True), module.__dict__)
    return ""


def _run_module(name: str, arguments: list[str]) -> str:
    """Run a module, or a package's ``__main__``, as ``python -m`` does."""
    import importlib.util

    _lead_path_with(os.getcwd())
    sys.argv = ["-m", *arguments]
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{name}.__main__")
    except ModuleNotFoundError as exc:
        if exc.name is None or not f"{name}.__main__".startswith(exc.name):
            raise  # the package lacks something itself
        return f"no module {name!r}: {exc}"
    code = getattr(spec.loader, "get_code", lambda _: None)(spec.name) if spec else None
    if spec is None or code is None:
        return f"no module {name!r} that can be run"
    sys.argv[0] = spec.origin or name
    module = _new_main()
    module.__dict__.update(__file__=spec.origin, __cached__=spec.cached)
    module.__spec__, module.__loader__, module.__package__ = spec, spec.loader, spec.parent
    exec(code, module.__dict__)
    return ""


def _run_container(path: str, arguments: list[str]) -> str:
    """Run the ``__main__`` of a directory or a zip file."""
    import runpy

    sys.argv = [path, *arguments]
    if not sys.flags.safe_path:
        del sys.path[0]  # run_path puts the container there
    try:
        runpy.run_path(path, run_name="__main__")
    except ImportError as exc:
        if not str(exc).startswith("can't find '__main__' module"):
            raise  # the program's own
        return str(exc)
    return ""


def _is_zip(path: str) -> bool:
    if path.endswith(".py"):
        return False
    import zipfile

    return zipfile.is_zipfile(path)


def _new_main() -> types.ModuleType:
    """Make the module that the program runs in, in the place of the command's own."""
    module = types.ModuleType("__main__")
    module.__dict__["__builtins__"] = sys.modules["builtins"]
    sys.modules["__main__"] = module
    return module


def _lead_path_with(directory: str) -> None:
    """Put the program's directory where the interpreter put the command's.

    Under ``-P`` and ``-I`` it put none there, and wants none.
    """
    if not sys.flags.safe_path:
        sys.path[0] = directory
