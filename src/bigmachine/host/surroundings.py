"""What a machine's process puts in order around itself before a service arrives.

A machine is a copy of its template, or was one until a moment ago, in the middle of the user's
program. Whatever belongs to the template alone must not be used, run or removed by the machine: its
exit handlers, its finalizers, its running event loop, its random numbers, its streams' buffers, its
children.

All of it runs once for each of perhaps hundreds of machines, so it imports nothing that the
template has not imported already (`import_all`), and touches as little memory as it can: every page
written to is a page that this machine no longer shares.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import os
import random
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from bigmachine import osdep
from bigmachine.host import marks, temporaries
from bigmachine.host.imports import finish_imports

SWITCH_INTERVAL_SECONDS: Final = 0.0005
"""How long a thread that computes may hold the interpreter lock against one that waits for it: ten
times shorter than usual, so that calls are answered beside a method that computes."""

_STREAM_FDS: Final = (1, 2)

stack_fd = -1
"""Where faulthandler writes the stacks that the supervisor asks for; the number is the same in a
template and its copies, the file is each one's own."""


def prepare_template() -> None:
    """Do once, in the template, what its copies inherit."""
    global stack_fd
    finish_imports()
    _stop_profiling()
    temporaries.find()
    stack_fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    # Far from the small numbers that programs expect for their own files.
    stack_fd = _move_up(stack_fd)
    faulthandler.enable(file=2, all_threads=True)
    if osdep.STACK_DUMP_SIGNAL is not None:
        faulthandler.register(osdep.STACK_DUMP_SIGNAL, file=stack_fd, all_threads=True, chain=False)
    osdep.line_buffer_stdio()
    _line_buffer_streams()
    flush_streams()


def settle(
    *, streams: Sequence[int], mark: int, cwd: str, sys_path: Sequence[str], forked: bool
) -> None:
    """Become a process of one's own.

    Args:
        streams: The descriptors that are to be stdout and stderr. They are closed.
        mark: Marks this process and its descendants (`host.marks`).
        cwd: Where to work; "" stays.
        sys_path: What ``sys.path`` is to begin with.
        forked: Whether the template goes on beside this process, which is then a copy.
    """
    _redirect(streams)
    with contextlib.suppress(PermissionError):  # it leads a session already
        os.setsid()
    marks.mark_self(mark)
    osdep.raise_oom_score()
    _reset_signals()
    _own_stack_file()
    drop_inherited_handlers(forked=forked)
    reseed()
    detach_loop()
    if cwd:
        with contextlib.suppress(OSError):  # it may be gone by now: stay
            os.chdir(cwd)
    sys.path[:] = [*sys_path, *(entry for entry in sys.path if entry not in sys_path)]
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)


def set_environ(wanted: Mapping[str, str]) -> None:
    """Make the environment exactly this.

    What native code has put there by itself, unknown to ``os.environ``, stays: it is that code's.
    """
    for name in os.environ.keys() - wanted.keys():
        del os.environ[name]
    os.environ.update(wanted)


def drop_inherited_handlers(*, forked: bool) -> None:
    """Forget exit handlers, finalizers and children of the template's program.

    Temporary directories are removed by such finalizers, also when they are collected. They belong
    to whoever goes on in the template's process: the template, or this machine if not ``forked``.
    """
    atexit._clear()
    finalize: Any = weakref.finalize
    kept = {} if forked else dict(temporaries.directories())
    if forked:
        temporaries.disclaim()
    finalize._registry.clear()
    finalize._registry.update(kept)
    atexit.register(finalize._exitfunc)
    finalize._registered_with_atexit = True
    multiprocessing = sys.modules.get("multiprocessing.util")
    if multiprocessing is not None:
        # As multiprocessing's own children do. The template's are not this process's to end.
        multiprocessing._finalizer_registry.clear()
        sys.modules["multiprocessing.process"]._children.clear()
        atexit.register(multiprocessing._exit_function)


def reseed() -> None:
    """Seed the random generators anew, so that no two machines draw the same numbers."""
    random.seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def detach_loop() -> None:
    """Leave the event loop that ``bigmachine.start`` was called in, if any: it will not go on."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None:
        asyncio._set_running_loop(None)


def flush_streams() -> None:
    """Write out what Python's and the C library's streams have buffered."""
    for stream in (sys.stdout, sys.stderr):
        # None, closed, or an object of the program's that may raise anything.
        with contextlib.suppress(Exception):
            stream.flush()
    osdep.flush_stdio()


def leave(code: int, *, timeout: float) -> None:
    """End this process, after the exit handlers that were registered on the machine.

    Args:
        code: The exit code.
        timeout: How long the handlers, the removal of temporary files and the flushing of streams
            may take, in seconds.
    """
    deadline = threading.Timer(timeout, os._exit, (code,))
    deadline.daemon = True
    deadline.start()
    try:
        atexit._run_exitfuncs()
        temporaries.remove()
        flush_streams()
    finally:
        os._exit(code)


def without_fork_warning(fork: Callable[[], int]) -> int:
    """Fork without Python's warning about threads, which counts native ones that do no harm."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return fork()


def exit_code_of(code: Any) -> int:
    """Return the exit code that ``SystemExit(code)`` gives a process, which shows other values."""
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    with contextlib.suppress(Exception):
        print(code, file=sys.stderr)
    return 1


def _line_buffer_streams() -> None:
    """Have Python write each line at once: what a machine dies with in its buffer is lost."""
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            with contextlib.suppress(Exception):  # closed, or an object of the program's
                reconfigure(line_buffering=True)


def _stop_profiling() -> None:
    """End what ``python -m cProfile`` has begun: nobody would see its figures, but all would wait.

    Tracing goes on: measuring coverage in machines is possible (its option ``patch = _exit``).
    """
    sys.setprofile(None)
    threading.setprofile(None)
    monitoring: Any = getattr(sys, "monitoring", None)  # since Python 3.12
    if monitoring is not None and monitoring.get_tool(monitoring.PROFILER_ID) is not None:
        monitoring.set_events(monitoring.PROFILER_ID, monitoring.events.NO_EVENTS)


def _redirect(streams: Sequence[int]) -> None:
    devnull = os.open(os.devnull, os.O_RDONLY)
    if devnull != 0:
        os.dup2(devnull, 0)
        os.close(devnull)
    for number, descriptor in zip(_STREAM_FDS, streams, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)


def _reset_signals() -> None:
    if threading.current_thread() is not threading.main_thread():
        return  # Python allows it in the main thread only; the supervisor ignores SIGINT for us
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)  # of an event loop that will not go on


def _own_stack_file() -> None:
    if osdep.STACK_DUMP_SIGNAL is None:
        return
    with contextlib.suppress(OSError):
        descriptor = osdep.memfd("bigmachine-stack")
        os.dup2(descriptor, stack_fd, inheritable=False)
        os.close(descriptor)


def _move_up(descriptor: int) -> int:
    import fcntl

    try:
        moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 100)
    except OSError:
        return descriptor
    os.close(descriptor)
    return moved
