"""The template: the user's program, run up to ``bigmachine.start``; then it only forks.

    supervisor ── TemplateStart ──▶ template: runs the program as __main__
               ◀── Reached ──────── bigmachine.start ▶ role.take_over: never returns
               ── MachineStart, n ─▶ fork ─▶ intermediate: fork ─▶ machine
               ◀── Forked, n ───────────────    │           fork ─▶ machine
                                             ends: the machines are the supervisor's children now

Forking twice makes machines children of the supervisor, a subreaper, which alone waits for them.
One intermediate serves all requests that wait (up to `BATCH`), so a machine costs one fork.

Where the program must not be forked (it has other threads, or the platform does not stand it) the
template becomes the first machine itself, and the supervisor starts a process for each other one.

A program that ends or raises before it reaches ``bigmachine.start`` simply ends this process, with
its own exit code and its traceback; the supervisor sees that.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import sys
from typing import Any, Final, NoReturn

from bigmachine import osdep
from bigmachine.host import frames, marks, processes, replay, role
from bigmachine.host.link import Link
from bigmachine.host.messages import (
    Forked,
    ForkFailed,
    MachineStart,
    Preload,
    Preloaded,
    Reached,
    Retire,
    TemplateStart,
)

BATCH: Final = 16
"""How many machines one intermediate makes: they wait until it has ended."""

_FDS: Final = 4  # that come with a request: stdout, stderr, link, services

Request = tuple[MachineStart, tuple[int, ...]]


def main(link_fd: int) -> None:
    """Run the program that the supervisor names over the link. Returns if the program does."""
    sock = socket.socket(fileno=link_fd)
    try:
        start = TemplateStart.from_mapping(json.loads(frames.receive(link_fd)))
    except EOFError:
        os._exit(1)
    link = Link(sock)
    with contextlib.suppress(PermissionError):  # it leads a session already, but for macOS
        os.setsid()
    processes.protect_from_orphanhood(start.supervisor_pid)
    marks.mark_self(start.mark)
    if start.open_files is not None:
        osdep.restore_open_files_limit(start.open_files)
    template = Template(link, start)
    role.become_template(template.take_over)
    _run(template)


def _run(template: Template) -> None:
    program = template.start.program
    try:
        replay.run(program)
    except Exception as error:  # as the interpreter shows it, without the frames of this package
        shown = replay.program_traceback(error)
        sys.excepthook(type(shown), shown, shown.__traceback__)
        sys.exit(1)
    finally:
        _join_threads()
    if program.is_bare:
        template.take_over()


def _join_threads() -> None:
    """Wait for the program's threads, as the interpreter does at its end.

    Only not there: one of them may call ``bigmachine.start``, and an interpreter that has begun to
    end is no place for a machine.
    """
    threading = sys.modules.get("threading")
    if threading is not None:
        for thread in threading.enumerate():
            if not thread.daemon and thread is not threading.current_thread():
                thread.join()


class Template:
    """The state of a template.

    Args:
        link: The link to the supervisor.
        start: What it is to be.
    """

    def __init__(self, link: Link, start: TemplateStart) -> None:
        self.link = link
        self.start = start
        self._forks = True

    def take_over(self) -> NoReturn:
        """Leave the program, here, and make machines until no more are wanted."""
        try:
            self._take_over()
        except BaseException:
            # Nothing may get back into the program, not even SystemExit.
            with contextlib.suppress(Exception):
                import traceback

                traceback.print_exc()
            os._exit(1)

    def _take_over(self) -> NoReturn:
        from bigmachine.host import machine, surroundings

        reason = self._why_not_fork()
        self._forks = not reason
        if self.start.environ is not None:
            surroundings.set_environ(self.start.environ)
        surroundings.prepare_template()
        context = machine.prepare(self.start)
        # For the descriptors of machines that are about to be made; they have the program's limit.
        open_files = osdep.raise_open_files_limit()
        gc.freeze()
        self.link.send(Reached(stack_fd=surroundings.stack_fd, reason=reason))
        while True:
            batch = [self._next()]
            if not self._forks:
                ((request, fds),) = batch
                self.link.close()
                osdep.restore_open_files_limit(open_files)
                machine.run(request, fds, context)
            while len(batch) < BATCH and self.link.waiting():
                batch.append(self._next())
            self._make(batch, context, open_files)

    def _why_not_fork(self) -> str:
        if self.start.start_method == "spawn":
            return 'start_method="spawn"'
        if sys.platform == "darwin":
            return "this platform does not stand it"
        if not osdep.has_fork_safe():
            import threading

            names = [each.name for each in threading.enumerate()]
            names.remove(threading.current_thread().name)
            return f"the program runs other threads: {', '.join(names) or 'native ones'}"
        return ""

    def _next(self) -> Request:
        """Wait for a request; end this process when no more are wanted."""
        while True:
            try:
                message, fds = self.link.next()
            except EOFError:
                message, fds = Retire(), ()
            if isinstance(message, MachineStart):
                if len(fds) == _FDS:
                    return message, fds
                self._refuse(message, fds)
                continue
            if not isinstance(message, Preload):
                break
            self._preload(message)
        _remove_temporaries()
        os._exit(0)

    def _refuse(self, request: MachineStart, fds: tuple[int, ...]) -> None:
        """The kernel had no room here for all that came with a request."""
        for fd in fds:
            os.close(fd)
        reason = "its template may not have so many open files (ulimit -n)"
        self.link.send(ForkFailed(machine_id=request.identity.id, reason=reason))

    def _preload(self, wanted: Preload) -> None:
        """Import what the services need, so that each machine finds it here."""
        from bigmachine.host.preload import import_all

        sys.path[:] = dict.fromkeys([*wanted.sys_path, *sys.path])
        import_all(wanted.modules)
        gc.freeze()
        reason = self._why_not_fork()  # a module may have started threads
        self._forks = not reason
        self.link.send(Preloaded(reason=reason))

    def _make(self, batch: list[Request], context: Any, open_files: int) -> None:
        template_pid = os.getpid()
        try:
            pid = _fork()
        except OSError as error:
            for request, _ in batch:
                self.link.send(ForkFailed(machine_id=request.identity.id, reason=str(error)))
        else:
            if pid == 0:
                processes.protect_from_orphanhood(template_pid)
                self._make_each(batch, context, open_files)
            os.waitpid(pid, 0)
        for _, fds in batch:
            for fd in fds:
                os.close(fd)

    def _make_each(self, batch: list[Request], context: Any, open_files: int) -> NoReturn:
        """In the intermediate: fork each machine and end."""
        from bigmachine.host import machine

        intermediate = os.getpid()
        for request, fds in batch:
            identity = request.identity
            try:
                pid = _fork()
            except OSError as error:
                self.link.send(ForkFailed(machine_id=identity.id, reason=str(error)))
                continue
            if pid == 0:
                self.link.close()
                for _, others in batch:
                    if others is not fds:
                        for fd in others:
                            os.close(fd)
                osdep.restore_open_files_limit(open_files)
                machine.run(request, fds, context, intermediate=intermediate)
            self.link.send(Forked(machine_id=identity.id, pid=pid))
        os._exit(0)


def _fork() -> int:
    from bigmachine.host import surroundings

    return surroundings.without_fork_warning(os.fork)


def _remove_temporaries() -> None:
    """Remove the temporary files and directories that the program has made in this process.

    Nobody else will. Its exit handlers are not run: the driver has run the same ones, or will, and
    their effects are not to appear twice.
    """
    from bigmachine.host import temporaries

    with contextlib.suppress(ValueError):  # Python allows it in the main thread only
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(2)  # a limit, should the disk hang
    temporaries.remove()
