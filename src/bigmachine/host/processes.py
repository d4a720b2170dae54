"""The supervisor's children: how they are waited for and ended.

How processes ended is learned by `Reaper`. It looks before it reaps, so that whoever must act while
a dead process still holds its id (kill its group, say) can do so.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bigmachine import osdep
from bigmachine.host import marks

if TYPE_CHECKING:
    import asyncio

_LOOK_SECONDS: Final = 0.002
_WATCH_SECONDS: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How a process ended.

    Attributes:
        pid: Which.
        status: What ``os.waitpid`` says.
        peak_memory_bytes: The most memory it had resident.
    """

    pid: int
    status: int
    peak_memory_bytes: int


def protect_from_orphanhood(parent: int) -> None:
    """End with the parent: called in the child, when the parent is its final one."""
    if not osdep.set_parent_death_signal(signal.SIGKILL):
        _thread.start_new_thread(_end_with, (parent,))
    if os.getppid() != parent:
        os._exit(1)


def _end_with(pid: int) -> None:
    """Watch a process where the kernel does not do that for its children."""
    with contextlib.suppress(ProcessLookupError):
        watch = osdep.watch_process(pid)
        while not osdep.wait_process(watch, _WATCH_SECONDS):
            continue
    os._exit(1)


def wait_for_reparenting(before: int, after: int) -> None:
    """Wait until this process's parent has ended and another has taken its place.

    Ends this process if it is anybody else than ``after``.
    """
    with contextlib.suppress(ProcessLookupError):
        watch = osdep.watch_process(before)
        # The kernel hands the children on before it tells of the end.
        while os.getppid() == before:
            osdep.wait_process(watch, 1.0)
        os.close(watch)
    protect_from_orphanhood(after)


# Waiting


class Reaper:
    """Waits for every child of this process, also for those it has inherited.

    Args:
        on_ended: Called with the id of a child that has ended, before anybody reaps it.
        on_reaped: Called when it has been reaped.
    """

    def __init__(self, on_ended: Callable[[int], None], on_reaped: Callable[[Exit], None]) -> None:
        self._on_ended = on_ended
        self._on_reaped = on_reaped

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Reap whenever a child has ended, on this loop (of the main thread)."""
        loop.add_signal_handler(signal.SIGCHLD, self.reap)
        loop.call_soon(self.reap)  # some may have ended before

    def reap(self) -> None:
        """Reap all children that have ended by now."""
        with contextlib.suppress(ChildProcessError):
            while self._reap_one():
                continue

    def _reap_one(self) -> bool:
        looks = hasattr(os, "waitid")  # macOS: since Python 3.13
        pid = -1
        if looks:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if found is None:
                return False
            pid = found.si_pid
            self._on_ended(pid)
        pid, status, usage = os.wait4(pid, os.WNOHANG)
        if not pid:
            return False
        if not looks:  # a moment late: its id is free by now, though not soon taken again
            self._on_ended(pid)
        peak = osdep.peak_memory_bytes(usage)
        self._on_reaped(Exit(pid=pid, status=status, peak_memory_bytes=peak))
        return True


# Ending


class Orphanage:
    """The processes that machines have left behind to this one.

    Args:
        is_known: Whether a child of this process is one that it has started itself.
    """

    def __init__(self, is_known: Callable[[int], bool]) -> None:
        self._is_known = is_known

    def sweep(self, dead: Callable[[int | None], bool], sessions: Iterable[int] = ()) -> int:
        """Kill the processes that dead machines have left behind, and all their descendants.

        Those are children of this process by now; their own children become so in turn, when they
        have ended, so repeat it until it finds none. On macOS they are nobody's, and found by their
        session.

        Args:
            dead: Whether a mark (None: none) is one of a machine that is dead.
            sessions: The sessions of dead machines.

        Returns:
            How many were found.
        """
        left = set(sessions)
        killed = {pid for pid in osdep.strays_of(left) if not self._is_known(pid)}
        for orphan in osdep.children_of(os.getpid()):
            if self._is_known(orphan):
                continue
            if dead(marks.mark_of(orphan)) or osdep.session_of(orphan) in left:
                killed |= {orphan, *osdep.descendants_of(orphan)}
        for pid in killed:
            kill(pid, signal.SIGKILL)
        return len(killed)


def kill(pid: int, sig: int) -> None:
    """Send a signal to a process; one that is gone, or not ours to signal, is left alone."""
    if pid > 1:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, sig)


def kill_everything(pids: Iterable[int], *, timeout: float) -> None:
    """Kill these processes with their groups, and all descendants of this one, and reap them.

    Args:
        pids: Processes that lead groups.
        timeout: How long to wait for the last of them, in seconds.
    """
    leaders = set(pids)
    for pid in leaders:
        osdep.kill_process_group(pid, signal.SIGKILL)
        kill(pid, signal.SIGKILL)
    end = time.monotonic() + timeout
    # Who is killed hands its children on to this process: look again until there are none.
    while found := [*osdep.descendants_of(os.getpid()), *osdep.strays_of(leaders)]:
        for pid in found:
            kill(pid, signal.SIGKILL)
        if not reap_all() and time.monotonic() > end:
            return
        time.sleep(_LOOK_SECONDS)


def start_apart(command: str | Sequence[str]) -> None:
    """Start a command that outlives this process; its streams lead nowhere.

    Args:
        command: A text for the shell, or a list of words.
    """
    import subprocess

    with contextlib.suppress(OSError):
        subprocess.Popen(
            command,
            shell=isinstance(command, str),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )


def reap_all() -> int:
    """Reap whatever has ended, and return how many that were."""
    reaped = 0
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            reaped += 1
    return reaped
