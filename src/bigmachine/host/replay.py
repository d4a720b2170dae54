"""What the driver's program is, and how to run it again from its top.

`describe_main` runs in the driver, reads the interpreter's own command line, ``sys.orig_argv``, and
finds out what this process runs: a script, a module, a directory or archive, or nothing that could
be run twice (a REPL, ``-c``, standard input, a notebook), or should be (a test runner).

`run` runs in the template and does what the interpreter itself does with such a command line: it
sets ``sys.argv`` and ``sys.path[0]`` and executes the code as ``__main__``. A launcher such as
``coverage run x.py`` or ``bigmachine run x.py`` is a program like any other: it is run again with
its arguments, and comes by ``x.py`` again. Debuggers are not: the program inside is run alone.
"""

from __future__ import annotations

import contextlib
import os
import sys
from types import CodeType, ModuleType
from typing import Any, Final, Literal, TypeAlias

from bigmachine.errors import UsageError
from bigmachine.host.messages import Program

ProgramChoice: TypeAlias = Literal["auto", "main", "bare"]

_OPTIONS_WITH_VALUE: Final = "cmWX"  # python --help; "c" and "m" end the options
_DROPPED_FLAGS: Final = "ihV?"  # they would stop the program or wait for a person
_DEBUGGERS: Final = frozenset({"pdb", "ipdb", "pudb", "debugpy", "pydevd"})
_TEST_RUNNERS: Final = frozenset({"pytest", "py.test", "unittest", "nose2", "doctest", "ward"})
_TEST_MODULES: Final = frozenset({"_pytest.python", "unittest.case", "doctest"})
_NOTEBOOKS: Final = frozenset({"ipykernel", "ipykernel_launcher", "IPython", "ipython"})

_keep: list[object] = []


# In the driver


def describe_main(program: ProgramChoice = "auto") -> Program:
    """Describe what machines are to run.

    Cheap, and touches no file.

    Args:
        program: ``"main"``: this process's own program; ``"bare"``: none; ``"auto"``: its own where
            that can sensibly be run again.

    Raises:
        UsageError: ``"main"``, and this process runs nothing that can be run again; or another
            word was given.
    """
    if program not in ("auto", "main", "bare"):
        raise UsageError(f'program={program!r} is not one of "auto", "main" and "bare"')
    command = CommandLine.parse(tuple(sys.orig_argv))
    if program == "bare":
        return _bare(command)
    obstacle = _obstacle(command)
    if program == "main" and obstacle:
        raise UsageError(
            f'program="main" has each machine run the driver\'s program again, and {obstacle}; '
            'put it into a script or module, or use program="bare"'
        )
    if obstacle or (program == "auto" and _is_test_run(command)):
        return _bare(command)
    return _main(command)


class CommandLine:
    """The interpreter's command line, taken apart as the interpreter does it.

    Attributes:
        flags: The interpreter's own options, without those that would wait for a person.
        how: What it says to run.
        target: The script's path, the module's name, or "".
        args: What comes after that.
    """

    __slots__ = ("args", "flags", "how", "target")

    def __init__(
        self,
        how: Literal["script", "module", "command", "stdin", "prompt"],
        target: str,
        flags: tuple[str, ...],
        args: tuple[str, ...],
    ) -> None:
        self.how = how
        self.target = target
        self.flags = flags
        self.args = args

    def __repr__(self) -> str:
        return f"<CommandLine {' '.join([*self.flags, self.how, self.target, *self.args])}>"

    @classmethod
    def parse(cls, orig_argv: tuple[str, ...]) -> CommandLine:
        """Take ``sys.orig_argv`` apart."""
        flags: list[str] = []
        at = 1
        while at < len(orig_argv):
            word = orig_argv[at]
            at += 1
            if word == "-":
                return cls("stdin", "", tuple(flags), orig_argv[at:])
            if word == "--":
                break
            if not word.startswith("-"):
                return cls("script", word, tuple(flags), orig_argv[at:])
            if word.startswith("--"):
                flags.append(word)
                if word == "--check-hash-based-pycs" and at < len(orig_argv):
                    flags.append(orig_argv[at])
                    at += 1
                continue
            letter, value = _split_option(word)
            kept = "".join(c for c in word[1 : len(word) - len(letter + value)] if _is_kept(c))
            if kept:
                flags.append(f"-{kept}")
            if letter and not value and at < len(orig_argv):
                value = orig_argv[at]
                at += 1
            if letter == "c":
                return cls("command", "", tuple(flags), orig_argv[at:])
            if letter == "m":
                return cls("module", value, tuple(flags), orig_argv[at:])
            if letter:
                flags += [f"-{letter}", value]
        if at < len(orig_argv):  # after "--"
            return cls("script", orig_argv[at], tuple(flags), orig_argv[at + 1 :])
        return cls("prompt", "", tuple(flags), ())


def _split_option(word: str) -> tuple[str, str]:
    """Find, in a word as ``-Bm``, the first letter that takes a value, and the value."""
    for at, letter in enumerate(word[1:], start=1):
        if letter in _OPTIONS_WITH_VALUE:
            return letter, word[at + 1 :]
    return "", ""


def _is_kept(flag: str) -> bool:
    return flag not in _DROPPED_FLAGS


def _bare(command: CommandLine) -> Program:
    return Program(
        how="bare",
        executable=_executable(),
        flags=command.flags,
        argv=tuple(sys.argv),
        orig_argv=tuple(sys.orig_argv),
        directory=_started_in(""),
        own_args=len(command.args),
        main_file=_main_file(),
        sys_path=tuple(entry for entry in sys.path if isinstance(entry, str)),
        locale=_locale(),
    )


def _main(command: CommandLine) -> Program:
    target, args, how = command.target, command.args, command.how
    debugged = _debugged_script(command)
    if debugged:
        target, args, how = debugged, tuple(sys.argv[1:]), "script"
    return Program(
        how="module" if how == "module" else "script",
        target=target,
        executable=_executable(),
        flags=command.flags,
        argv=("-m" if how == "module" else target, *args),
        orig_argv=tuple(sys.orig_argv),
        directory=_started_in(target if how == "script" else ""),
        own_args=_count_own_args(how, target, args),
        main_file=_main_file(),
    )


def _count_own_args(how: str, target: str, args: tuple[str, ...]) -> int:
    """Return how many of the arguments are the user program's own, not those of a launcher.

    A launcher, as coverage, puts the program's name and arguments into ``sys.argv``. The
    interpreter had put its own name there.
    """
    main = sys.modules.get("__main__")
    started = target
    if how == "module":
        spec = getattr(main, "__spec__", None)
        is_itself = spec is not None and spec.name in (target, f"{target}.__main__")
        started = getattr(main, "__file__", "") if is_itself else ""
    own = tuple(sys.argv[1:])
    if sys.argv[:1] == [started] or own != args[len(args) - len(own) :]:
        return len(args)
    return len(own)


def _main_file() -> str:
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    return file if isinstance(file, str) and os.path.isabs(file) else ""


def _locale() -> str:
    import locale

    return locale.setlocale(locale.LC_ALL)


def _obstacle(command: CommandLine) -> str:
    """Say why the program cannot be run again; "" when it can."""
    match command.how:
        case "command":
            return "this one was given by -c"
        case "stdin":
            return "this one was read from standard input"
        case "prompt":
            return "there is none here, only an interactive prompt"
        case "script" | "module":
            pass
    if hasattr(sys, "ps1"):
        return "this one has ended: this is an interactive prompt"
    if _runner_name(command) in _NOTEBOOKS or _is_notebook():
        return "a notebook's cells are none"
    return ""


def _runner_name(command: CommandLine) -> str:
    """Return the name of the program, as ``pytest`` for ``/usr/bin/pytest`` and ``-m pytest``."""
    if command.how == "module":
        return command.target.partition(".")[0]
    name = os.path.basename(command.target)
    if name == "__main__.py":
        name = os.path.basename(os.path.dirname(command.target))
    return name.removesuffix(".py")


def _is_notebook() -> bool:
    shell = sys.modules.get("IPython.core.interactiveshell")
    return shell is not None and bool(shell.InteractiveShell.initialized())


def _is_test_run(command: CommandLine) -> bool:
    """Whether this call comes from a test: a test runner, if run again, would test again."""
    if _runner_name(command) in _TEST_RUNNERS:
        return True
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)  # coverage run -m pytest
    if spec is not None and spec.name.partition(".")[0] in _TEST_RUNNERS:
        return True
    frame = sys._getframe()
    while (outer := frame.f_back) is not None:  # unittest.main() in a script
        if frame.f_globals.get("__name__") in _TEST_MODULES:
            return True
        frame = outer
    return False


def _debugged_script(command: CommandLine) -> str:
    """Return the path of the program that is being debugged, "" when none is."""
    if _runner_name(command) not in _DEBUGGERS:
        return ""
    return str(getattr(sys.modules.get("__main__"), "__file__", None) or "")


def _executable() -> str:
    if not sys.executable:
        raise UsageError(
            "this Python does not know its own executable (sys.executable is empty), as when it is "
            "embedded: machines cannot be started from here"
        )
    return sys.executable


def _started_in(script: str) -> str:
    """Return the directory in which this process was started, as well as that can be known.

    The program may have changed it since. Python makes ``__main__.__file__`` absolute when it
    starts, so the difference to the path on the command line is the answer.
    """
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    if script and not os.path.isabs(script) and isinstance(file, str):
        directory = file.removesuffix(script)
        if directory != file and os.path.isabs(directory):
            return directory
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""


# In the template


def run(program: Program) -> None:
    """Run a program from its top as ``__main__``, as the interpreter would.

    Whatever the program raises comes out of here; see `program_traceback`.
    """
    sys.argv[:] = program.argv
    sys.orig_argv[:] = program.orig_argv
    if program.directory:
        os.chdir(program.directory)
    main = ModuleType("__main__")
    main.__dict__["__builtins__"] = sys.modules["builtins"]
    # The stub's own module must not be destroyed: that would empty it while its code still runs.
    _keep.append(sys.modules.get("__main__"))
    sys.modules["__main__"] = main
    if program.how == "module":
        _run_module(program.target)
    elif program.how == "script":
        _run_script(program.target, main)
    else:
        _be_like_the_driver(program)


def _be_like_the_driver(program: Program) -> None:
    """Have what the driver's program has made of its process, as far as it goes."""
    import locale

    # On another host the interpreter's own library is elsewhere, and no part of the image.
    sys.path[:] = dict.fromkeys([*program.sys_path, *sys.path])
    with contextlib.suppress(locale.Error):  # this host may lack it
        locale.setlocale(locale.LC_ALL, program.locale)


def _run_module(name: str) -> None:
    import runpy

    if not sys.flags.safe_path:
        sys.path.insert(0, os.getcwd())
    _runpy(runpy)(name)


def _run_script(path: str, main: ModuleType) -> None:
    import pkgutil

    if pkgutil.get_importer(path) is not None:  # a directory or an archive with a __main__.py
        import runpy

        sys.path.insert(0, path)
        _runpy(runpy)("__main__", alter_argv=False)
        return
    file = os.path.join(os.getcwd(), path)
    if not sys.flags.safe_path:
        sys.path.insert(0, os.path.dirname(os.path.realpath(file)))
    main.__dict__.update(__file__=file, __cached__=None, __loader__=_loader(file))
    exec(_code_of(file), main.__dict__)


def _runpy(runpy: ModuleType) -> Any:
    # What ``python -m`` itself calls: it runs in the ``__main__`` that there is, unlike the public
    # ``run_module``, whose temporary one is gone when a machine unpickles.
    return runpy._run_module_as_main


def _loader(file: str) -> object:
    from importlib.machinery import SourceFileLoader, SourcelessFileLoader

    kind = SourcelessFileLoader if file.endswith(".pyc") else SourceFileLoader
    return kind("__main__", file)


def _code_of(file: str) -> CodeType:
    import io
    import pkgutil

    with io.open_code(file) as stream:
        code: CodeType | None = pkgutil.read_code(stream)
        if code is not None:
            return code
        stream.seek(0)
        # ``dont_inherit``: this module's own ``from __future__`` is not the program's.
        return compile(stream.read(), file, "exec", dont_inherit=True)


def program_traceback(error: BaseException) -> BaseException:
    """Cut the frames of this module, and those above, off an exception that `run` let through."""
    traceback = error.__traceback__
    while traceback is not None and not _is_programs(traceback.tb_frame.f_globals):
        traceback = traceback.tb_next
    return error if traceback is None else error.with_traceback(traceback)


def _is_programs(namespace: dict[str, Any]) -> bool:
    return namespace is sys.modules["__main__"].__dict__
