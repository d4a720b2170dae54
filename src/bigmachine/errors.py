"""The error tree, and what a machine died of.

Everything the library raises on purpose is one of these::

    BigmachineError                    .retryable
    ├── UsageError (ValueError)        the caller broke a rule; says which and what to do
    ├── ProvisionError                 a system could not give hosts
    ├── MachineStoppedError            .machine  .death
    ├── CallError                      .machine  .method
    │   ├── TransportError             the network failed under a call; .outcome
    │   ├── CallTimeoutError (TimeoutError)
    │   ├── NoSuchServiceError, NoSuchMethodError (LookupError)
    │   ├── PayloadError (TypeError)   cannot be encoded or decoded; .path
    │   └── RemoteError                raised there, cannot be rebuilt here
    └── ProtocolError
        ├── LocalProtocolError         our own mistake on the wire
        └── RemoteProtocolError        the peer's

Errors cross machines, so each of them pickles with its attributes; what pickle loses of any
exception (causes, contexts, members of groups) travels by ``rpc/exceptions.py``. Whatever came
from another machine that way is marked, and ``is_remote`` tells: an error of the transport is
never the application's, a remote one always is.

This module is imported by nearly everything else, and imports nothing until somebody asks it for
``Death`` or ``DeathKind``, which live in ``death.py``.
"""

from __future__ import annotations

TYPE_CHECKING = False  # As checkers know it; typing costs more to import than all of this module.
if TYPE_CHECKING:
    from typing import Any, ClassVar, Literal

    from bigmachine.death import Death, DeathKind

__all__ = [
    "BigmachineError",
    "CallError",
    "CallTimeoutError",
    "Death",
    "DeathKind",
    "LocalProtocolError",
    "MachineStoppedError",
    "NoSuchMethodError",
    "NoSuchServiceError",
    "PayloadError",
    "ProtocolError",
    "ProvisionError",
    "RemoteError",
    "RemoteProtocolError",
    "TransportError",
    "UsageError",
    "is_remote",
    "mark_remote",
]

_REMOTE_MARK = "_bigmachine_remote"


def __getattr__(name: str) -> object:
    """Hand on the names of ``death.py``, which is imported only then."""
    if name in ("Death", "DeathKind"):
        from bigmachine import death

        return getattr(death, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class BigmachineError(Exception):
    """The base of every error that the library raises on purpose."""

    # The attributes that repr shows after the message, in this order.
    _shown: ClassVar[tuple[str, ...]] = ()

    @property
    def retryable(self) -> bool:
        """Whether the same request may be made again without harm, and may then succeed."""
        return False

    def __repr__(self) -> str:
        shown = [repr(arg) for arg in self.args]
        shown += [f"{name}={getattr(self, name)!r}" for name in self._shown]
        return f"{type(self).__name__}({', '.join(shown)})"

    def __reduce__(self) -> tuple[Any, ...]:
        # The constructors take keywords, which BaseException's own way to pickle knows nothing of.
        return _rebuild_error, (type(self), self.args, self.__dict__)


class UsageError(BigmachineError, ValueError):
    """The caller broke a rule. The message says which one, and what to do instead."""


class ProvisionError(BigmachineError):
    """A system could not give the hosts that were asked for.

    Attributes:
        system: The name of the system.
        requested: How many machines were asked for; 0 where something else was.
        started: How many of them came up all the same.
        answer: What the system answered, in its own words; "" if nothing.
        remedy: What to do about it; "" if unknown.
        temporary: Whether the cause is known to pass (a lack of capacity, a rate limit).
    """

    _shown: ClassVar[tuple[str, ...]] = (
        "system",
        "requested",
        "started",
        "answer",
        "remedy",
        "temporary",
    )

    def __init__(
        self,
        message: str,
        *,
        system: str,
        requested: int,
        started: int,
        answer: str = "",
        remedy: str = "",
        temporary: bool = False,
    ) -> None:
        super().__init__(message)
        self.system = system
        self.requested = requested
        self.started = started
        self.answer = answer
        self.remedy = remedy
        self.temporary = temporary

    @property
    def retryable(self) -> bool:
        """True for a cause that passes: asking again later may give the missing machines."""
        return self.temporary and not is_remote(self)

    def __str__(self) -> str:
        return f"{self.problem}; {self.remedy}" if self.remedy else self.problem

    @property
    def problem(self) -> str:
        """The text without the remedy."""
        text = str(self.args[0])
        if self.requested:
            text += f" ({self.started} of {self.requested} machines of {self.system!r})"
        return f"{text}; it answered: {self.answer}" if self.answer else text


class MachineStoppedError(BigmachineError):
    """The machine is gone, and with it the call: whether the method ran to its end is unknown.

    Never retryable as it is, since a machine does not come back; ``Machines.map`` gives the item
    to another machine. If ``init`` of a service raised, that exception is the ``__cause__``.

    Attributes:
        machine: The address of the machine.
        death: What it died of.
    """

    _shown: ClassVar[tuple[str, ...]] = ("machine", "death")

    def __init__(self, *, machine: str, death: Death) -> None:
        super().__init__()
        self.machine = machine
        self.death = death
        if death.cause is not None:
            self.__cause__ = death.cause

    def __str__(self) -> str:
        return str(self.death)


class CallError(BigmachineError):
    """A call failed, for a reason of its own and not because its machine stopped.

    Attributes:
        machine: The address of the machine that was called; "" while unknown.
        method: The method, as ``Service.method``; "" while unknown.
    """

    _shown: ClassVar[tuple[str, ...]] = ("machine", "method")

    def __init__(self, message: str, *, machine: str = "", method: str = "") -> None:
        super().__init__(message)
        self.machine = machine
        self.method = method

    def __str__(self) -> str:
        message = str(self.args[0]) if self.args else ""
        # Filled in late, by whoever knows; so the text is made when it is asked for.
        where = [
            f"{word} {name}"
            for word, name in (("calling", self.method), ("on machine", self.machine))
            if name and name not in message
        ]
        return f"{message} ({' '.join(where)})" if where else message


class TransportError(CallError):
    """The network failed under a call. It never comes from the application.

    Attributes:
        outcome: ``"not_sent"``: the machine never got the call. ``"maybe_ran"``: nobody knows.
    """

    _shown: ClassVar[tuple[str, ...]] = ("machine", "method", "outcome")

    def __init__(
        self,
        message: str,
        *,
        machine: str = "",
        method: str = "",
        outcome: Literal["not_sent", "maybe_ran"],
    ) -> None:
        super().__init__(message, machine=machine, method=method)
        self.outcome: Literal["not_sent", "maybe_ran"] = outcome

    @property
    def retryable(self) -> bool:
        """True if the call was not sent: a second try cannot run the method twice.

        One that a method met in a call of its own, and did not handle, is that method's result:
        the method has run, so it is not retryable.
        """
        return self.outcome == "not_sent" and not is_remote(self)


class CallTimeoutError(CallError, TimeoutError):
    """The deadline of a call passed. The method was told to stop; it may have run or not."""


class NoSuchServiceError(CallError, LookupError):
    """The machine has no service of that name, or none whose class has that function."""


class NoSuchMethodError(CallError, LookupError):
    """The service has no such method, or one whose name begins with an underscore."""


class PayloadError(CallError, TypeError):
    """A service, an argument or a reply cannot be encoded or decoded; never retried.

    Attributes:
        path: Which part it is, as ``service.model._lock`` or ``args[0]['f']``; "" if unknown.
    """

    _shown: ClassVar[tuple[str, ...]] = ("machine", "method", "path")

    def __init__(
        self, message: str, *, machine: str = "", method: str = "", path: str = ""
    ) -> None:
        super().__init__(message, machine=machine, method=method)
        self.path = path


class RemoteError(CallError):
    """A method raised something that cannot be rebuilt here, or must not be.

    Cannot: its class is unknown here or does not pickle. Must not: ``StopIteration``,
    ``SystemExit`` and their like would steer the caller instead of telling it something.

    Attributes:
        type_name: The class of the original, as ``package.module.Class``.
        message: The text of the original.
        traceback: The text of its traceback on the machine.
    """

    _shown: ClassVar[tuple[str, ...]] = ("machine", "method", "type_name")

    def __init__(
        self,
        message: str,
        *,
        machine: str = "",
        method: str = "",
        type_name: str,
        traceback: str,
    ) -> None:
        super().__init__(message, machine=machine, method=method)
        self.message = message
        self.type_name = type_name
        self.traceback = traceback

    def __str__(self) -> str:
        return f"{self.type_name}: {self.message}" if self.message else self.type_name


class ProtocolError(BigmachineError):
    """The rules of the wire were broken; the connection is closed."""


class LocalProtocolError(ProtocolError):
    """This side was about to break the rules of the wire: a fault in this program."""


class RemoteProtocolError(ProtocolError):
    """The peer broke the rules of the wire, or is no peer of ours."""


def is_remote(exc: BaseException) -> bool:
    """Return whether an exception was raised by a method on another machine.

    A group is remote if it was raised there, or if every one of its members was (``except*``
    hands out new groups with the old members).
    """
    if exc.__dict__.get(_REMOTE_MARK, False):
        return True
    if isinstance(exc, BaseExceptionGroup):
        return all(is_remote(member) for member in exc.exceptions)
    return False


def mark_remote(exc: BaseException) -> None:
    """Mark an exception as raised by a method on another machine, for ``is_remote``."""
    # Not setattr: the exceptions of users may be frozen dataclasses.
    exc.__dict__[_REMOTE_MARK] = True


def _rebuild_error(
    cls: type[BigmachineError], args: tuple[Any, ...], state: dict[str, Any]
) -> BigmachineError:
    """Make an error as it was, past its constructor; what pickle calls."""
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error
