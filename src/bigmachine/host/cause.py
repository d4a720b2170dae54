"""From how a machine's process ended to the `Death` that the driver is told.

Pure: the supervisor gathers an `Ending`, and `explain` judges it. The first of these that fits:

    a crash (SIGSEGV and its like)       signal   even while it was being stopped
    somebody here stopped it             that reason: shutdown, canceled, keepalive, host, spot
    ``init`` of a service raised         init
    SIGKILL, and memory was short        oom
    it had not reached bigmachine.start  boot
    a signal                             signal
    anything else                        exit

The interpreter's own crash report (faulthandler's, on stderr) is taken out of the last lines of
output: its stack is shown as the stack, and what the program printed before it stays in view.
"""

from __future__ import annotations

import os
import re
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, assert_never

from bigmachine.death import Death, DeathKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bigmachine.host.oom import OomEvidence

#: How many lines of output a death carries.
OUTPUT_LINES = 20

#: Signals that a process brings upon itself by a fault.
_CRASHES = {"SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT", "SIGSYS", "SIGTRAP"}

_CRASH_BEGINS = re.compile(r"Fatal Python error: ")
_CRASHED_THREAD = re.compile(r"Current thread 0x[0-9a-f]+.*\(most recent call first\):")
_FRAME = re.compile(r'  (File "|\.\.\.$|<no Python frame>|<truncated|<invalid)')
_OTHER_REPORT = re.compile(
    r"Thread 0x[0-9a-f]+.*\(most recent call first\):"
    r"|Current thread's C stack trace \(most recent call first\):"
    r"|  (Binary file \"|Garbage-collecting$|<cannot get C stack)"
    r"|Python runtime state: "
    r"|Extension modules: "
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What is known when a machine's process has ended.

    Attributes:
        machine: Its address or label.
        status: The status that ``os.waitpid`` gave; None if nobody could wait for it.
        reason: Why somebody here stopped it (shutdown, canceled, keepalive, host, spot); None if
            nobody did.
        reason_detail: More about that, for a person.
        booted: Whether the program had reached ``bigmachine.start``.
        init_error: The text of what ``init`` of a service raised, or None.
        oom: What speaks for an end by lack of memory; counts for a SIGKILL alone.
        output: The last lines of its output, a few hundred for a crash's report to be among them.
        stack: The last Python stack that the supervisor got hold of, or "".
        calls: The methods that it was running.
        peak_memory_bytes: The most memory that it had resident.
    """

    machine: str
    status: int | None
    reason: DeathKind | None = None
    reason_detail: str = ""
    booted: bool = True
    init_error: str | None = None
    oom: OomEvidence | None = None
    output: Sequence[str] = ()
    stack: str = ""
    calls: Sequence[str] = ()
    peak_memory_bytes: int | None = None


def explain(ending: Ending) -> Death:
    """Say what a machine died of."""
    exit_code, ended_by = read_status(ending.status)
    stack, output = split_crash_report(ending.output)
    kind = _judge(ending, ended_by)
    return Death(
        kind=kind,
        machine=ending.machine,
        exit_code=exit_code,
        signal=ended_by,
        output=tuple(output[-OUTPUT_LINES:]),
        stack=stack or ending.stack,
        calls=tuple(ending.calls),
        peak_memory_bytes=ending.peak_memory_bytes,
        detail=_detail(ending, kind),
        certainty=_certainty(ending, kind),
    )


def read_status(status: int | None) -> tuple[int | None, str | None]:
    """Split a status of ``os.waitpid`` into exit code and signal's name; one of them is None.

    Both are None for an unknown status.
    """
    if status is None:
        return None, None
    code = os.waitstatus_to_exitcode(status)
    return (code, None) if code >= 0 else (None, signal_name(-code))


def signal_name(number: int) -> str:
    """Name a signal: ``SIGKILL``, ``SIGRTMIN+5``."""
    try:
        return signal.Signals(number).name
    except ValueError:
        pass
    # macOS has no real-time signals.
    first, last = getattr(signal, "SIGRTMIN", 0), getattr(signal, "SIGRTMAX", 0)
    if first < number <= last:
        return f"SIGRTMIN+{number - first}"
    return f"signal {number}"


def split_crash_report(lines: Sequence[str]) -> tuple[str, list[str]]:
    """Take the interpreter's crash report out of lines of output.

    Lines of other streams may stand between those of the report.

    Returns:
        The stack of the thread that crashed, most recent call first, and the lines that are not the
        report's. Without a report, or in one that shows no such thread: "" and all lines.
    """
    rest: list[str] = []
    stack: list[str] = []
    crashed = in_stack = False
    for line in lines:
        if _CRASH_BEGINS.match(line):
            crashed, in_stack, stack = True, False, [line]
        elif not crashed:
            rest.append(line)
        elif _CRASHED_THREAD.match(line):
            in_stack = True
            stack.append(line)
        elif _FRAME.match(line):
            stack += [line] if in_stack else []
        elif _OTHER_REPORT.match(line):
            in_stack = False
        elif line:  # the report separates its parts by empty lines
            rest.append(line)
    return ("\n".join(stack), rest) if len(stack) > 1 else ("", list(lines))


def _judge(ending: Ending, ended_by: str | None) -> DeathKind:
    if ended_by in _CRASHES and ending.booted:
        return DeathKind.SIGNAL
    if ending.reason is not None:
        return ending.reason
    if ending.init_error is not None:
        return DeathKind.INIT
    if ended_by == "SIGKILL" and ending.oom is not None:
        return DeathKind.OOM
    if not ending.booted:
        return DeathKind.BOOT
    return DeathKind.EXIT if ended_by is None else DeathKind.SIGNAL


def _detail(ending: Ending, kind: DeathKind) -> str:
    match kind:
        case DeathKind.INIT:
            return ending.init_error or ""
        case DeathKind.OOM:
            return ending.oom.detail if ending.oom else ""
        case (
            DeathKind.SHUTDOWN
            | DeathKind.CANCELED
            | DeathKind.KEEPALIVE
            | DeathKind.HOST
            | DeathKind.SPOT
            | DeathKind.BOOT
        ):
            return ending.reason_detail
        case DeathKind.SIGNAL | DeathKind.EXIT:
            if ending.reason is not None:
                return f"while it was being stopped ({ending.reason})"
            return ""
        case _:
            assert_never(kind)


def _certainty(ending: Ending, kind: DeathKind) -> Literal["seen", "inferred"]:
    if kind is DeathKind.OOM and ending.oom is not None:
        return ending.oom.certainty
    # Nobody saw how it ended, and nobody here has ended it.
    return "inferred" if ending.status is None and ending.reason is None else "seen"
