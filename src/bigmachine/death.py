"""What a machine died of, and the text that says so.

The supervisor sees how a machine's process ended and makes a ``Death`` of it; the death travels to
the driver and stands in the ``MachineStoppedError`` of every call that it ended. Its text is what
somebody reads first when a machine is gone, so it says what happened, how sure that is, what the
machine was doing, what to do now, and shows the last stack and the last lines of output.
"""

from __future__ import annotations

import dataclasses
import enum
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal, Self

__all__ = ["Death", "DeathKind"]

MAX_NAMED_CALLS = 5
"""How many different methods the text of a death names; the rest are counted."""


class DeathKind(enum.StrEnum):
    """What ended a machine."""

    EXIT = "exit"
    SIGNAL = "signal"
    OOM = "oom"
    KEEPALIVE = "keepalive"
    HOST = "host"
    INIT = "init"
    BOOT = "boot"
    CANCELED = "canceled"
    SHUTDOWN = "shutdown"
    SPOT = "spot"


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """What ended a machine, with the evidence. ``str`` gives a paragraph that one can act on.

    Attributes:
        kind: What ended it.
        machine: Its address or label.
        exit_code: The process's exit code, if it exited.
        signal: The name of the signal that ended it, as ``"SIGKILL"``.
        output: The last lines of its output, without line ends, oldest first.
        stack: The last Python stack: a crash's, or the one it held when it was killed; or "".
        calls: The methods that it was running, one entry for each call.
        peak_memory_bytes: The most memory that it had resident.
        detail: More: the text of ``init``'s exception, the evidence of an out-of-memory kill.
        certainty: ``"seen"`` if somebody saw it happen, ``"inferred"`` if it fits what was seen.
        never_had: Whether there was never a host for it, so that nothing of it can have run.
        cause: The exception behind it, where there is one. It takes no part in comparisons and
            does not travel with the death (``detail`` has its text); whoever sends one on sends
            it by ``rpc.exceptions``.
    """

    kind: DeathKind
    machine: str = ""
    exit_code: int | None = None
    signal: str | None = None
    output: tuple[str, ...] = ()
    stack: str = ""
    calls: tuple[str, ...] = ()
    peak_memory_bytes: int | None = None
    detail: str = ""
    certainty: Literal["seen", "inferred"] = "seen"
    never_had: bool = False
    cause: BaseException | None = dataclasses.field(default=None, compare=False, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        # Not __getstate__: frozen slotted dataclasses override it before Python 3.11.4.
        names = (field.name for field in dataclasses.fields(self) if field.name != "cause")
        return _rebuild_death, ({name: getattr(self, name) for name in names},)

    def with_cause(self, cause: BaseException) -> Self:
        """Return the same death with the exception behind it."""
        return dataclasses.replace(self, cause=cause)

    def __str__(self) -> str:
        sentences = [f"machine {self.machine}".rstrip() + f" {self._what_happened()}."]
        if self.certainty == "inferred":
            sentences.append("This is inferred; nobody saw it happen.")
        if self.calls:
            sentences.append(f"It was running {_count_calls(self.calls)}.")
        if self.peak_memory_bytes is not None:
            sentences.append(f"Its memory peaked at {_format_bytes(self.peak_memory_bytes)}.")
        if advice := self._advice():
            sentences.append(advice)
        blocks = [" ".join(sentences)]
        if self.stack:
            blocks.append("Its last Python stack:\n" + _indent(self.stack.splitlines()))
        if self.output:
            blocks.append("Its last output:\n" + _indent(self.output))
        return "\n".join(blocks)

    def _what_happened(self) -> str:
        """Return the predicate of the first sentence."""
        match self.kind:
            case DeathKind.EXIT:
                happened = f"ended by itself{self._status(' with ')}"
            case DeathKind.SIGNAL:
                happened = f"was killed by signal {self.signal or 'unknown'}"
            case DeathKind.OOM:
                happened = f"ran out of memory and was killed{self._status(' by ')}"
            case DeathKind.KEEPALIVE:
                happened = "no longer answered keepalives and was given up"
            case DeathKind.HOST if self.never_had:
                happened = "could not be had"
            case DeathKind.HOST:
                happened = "was lost together with its host"
            case DeathKind.INIT:
                return f"stopped because init of a service raised {self._reason()}"
            case DeathKind.BOOT if self.detail and not self._status(""):
                return f"never came up: {self.detail.rstrip('. ')}"
            case DeathKind.BOOT:
                happened = (
                    "never came up: its program ended before it reached bigmachine.start"
                    f"{self._status(', with ')}"
                )
            case DeathKind.CANCELED:
                happened = "was cancelled by the program"
            case DeathKind.SHUTDOWN:
                happened = "was shut down"
            case DeathKind.SPOT:
                happened = "was taken back by the provider, as spot capacity may be"
        return f"{happened}: {self.detail.rstrip('. ')}" if self.detail else happened

    def _status(self, before: str) -> str:
        """Return how the process ended, in words, or "" if that is not known."""
        if self.signal:
            return f"{before}signal {self.signal}"
        return "" if self.exit_code is None else f"{before}exit code {self.exit_code}"

    def _reason(self) -> str:
        """Return the text of init's exception."""
        if self.detail:
            return self.detail.rstrip(". ")
        if self.cause is not None:
            return f"{type(self.cause).__name__}: {self.cause}"
        return "an exception"

    def _advice(self) -> str:
        """Return what to do about it; "" where the rest of the text says that."""
        if self.kind is DeathKind.BOOT and not self._status(""):
            return ""  # it was not the program that failed
        if self.never_had:
            return ""  # the system has said what to do
        if self.kind is DeathKind.SIGNAL:
            return _SIGNAL_ADVICE.get(self.signal or "", "")
        return _ADVICE.get(self.kind, "")


_ADVICE: dict[DeathKind, str] = {
    DeathKind.EXIT: "Look for sys.exit or os._exit in its methods, threads and native code.",
    DeathKind.OOM: "Give each machine less work or more memory, or start fewer on one host.",
    DeathKind.KEEPALIVE: "Its host may be down, cut off or out of memory.",
    DeathKind.HOST: "The calls that it was running may have had effects.",
    DeathKind.INIT: "Mend init, or what it needs on the machine, and start it again.",
    DeathKind.BOOT: (
        "A machine runs the program from its top up to bigmachine.start, so that line must be"
        " reached there as well."
    ),
    DeathKind.SPOT: "Start another one, or ask for on-demand capacity.",
}

_CRASH = "That is a crash in native code: an extension module, ctypes or the interpreter."

_SIGNAL_ADVICE: dict[str, str] = {
    "SIGKILL": "Something outside killed it: a person, a script, a batch system or the system.",
    "SIGTERM": "Something outside asked it to end: a person, a batch system or the system.",
    "SIGABRT": "It gave itself up: a failed check in native code, or a fatal interpreter error.",
    "SIGXCPU": "It used up its limit of processor time (ulimit -t).",
    "SIGXFSZ": "It wrote a file beyond its limit (ulimit -f).",
    "SIGSEGV": _CRASH,
    "SIGBUS": _CRASH,
    "SIGILL": _CRASH,
    "SIGFPE": _CRASH,
}


def _rebuild_death(fields: dict[str, Any]) -> Death:
    """Make a death of its fields; what pickle calls."""
    return Death(**fields)


def _count_calls(calls: tuple[str, ...]) -> str:
    """Return the names of the methods, each with how many calls of it there were."""
    counts = Counter(calls).most_common()
    named = [
        name if count == 1 else f"{name} ({count} calls)"
        for name, count in counts[:MAX_NAMED_CALLS]
    ]
    if left := sum(count for _, count in counts[MAX_NAMED_CALLS:]):
        named.append(f"{left} more")
    return ", ".join(named)


def _format_bytes(size: int) -> str:
    """Return a size in the unit in which it has one to four digits before the point."""
    scaled = float(size)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if scaled < 1024:
            return f"{size} bytes" if unit == "bytes" else f"{scaled:.1f} {unit}"
        scaled /= 1024
    return f"{scaled:.1f} TiB"


def _indent(lines: list[str] | tuple[str, ...]) -> str:
    return "\n".join(f"  {line}" for line in lines)
