"""What a system is: something that provides hosts, and the guide to writing one.

A *system* launches hosts (this computer, one reached by SSH, a rented instance) with bigmachine's
supervisor running on each, and ends them. It knows nothing of clusters, machines or services: the
driver speaks to the supervisors itself, over a socket that each host hands out. So a system is
small::

    class Rack(System):
        name = "rack"

        def __init__(self, *, hosts: list[str], user: str = "root") -> None:
            self._hosts = hosts
            self._user = user

        async def launch(self, request: HostRequest) -> AsyncIterator[Host]:
            for address in self._hosts[: request.machines]:
                yield await RackHost.boot(address, self._user, request.boot(address))

with a ``RackHost(Host)`` that has ``connect``, ``stop`` and ``kill``. Name the class in an entry
point of your package, and every program can be run on it unchanged, with
``bigmachine run --system rack``, ``BIGMACHINE_SYSTEM=rack`` or a profile in ``bigmachine.toml``::

    [project.entry-points."bigmachine.systems"]
    rack = "rack_system:Rack"

The keyword parameters of ``__init__`` are the system's options: their annotations say how a text
(``BIGMACHINE_RACK_USER=ops``) becomes a value, their defaults what holds otherwise.

What always holds: the driver calls the coroutines on its own event loop, never from two tasks for
the same host at once; ``kill`` alone is called from any thread. A host that is never connected to
has to end by itself, since the driver may be gone at any moment: the supervisor sees to that from
its first second on, so hand it ``request.boot`` and leave the rest to it.
"""

from __future__ import annotations

import json
import logging
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, Literal

from bigmachine.errors import UsageError

if TYPE_CHECKING:
    import asyncio
    import inspect
    import socket
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from bigmachine.death import DeathKind
    from bigmachine.systems.checks import Check, Leftover

__all__ = ["MISSING", "Host", "HostRequest", "Keepalive", "Option", "System"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Keepalive:
    """How often the driver shows a host that it lives, and when either gives the other up.

    Attributes:
        period: Between two keepalives, in seconds.
        timeout: Without an answer for this long the host is lost, in seconds. The supervisor's
            lease is as long: without a keepalive for this long it ends its machines and itself.
        rpc_timeout: How long one keepalive waits for its answer, in seconds.

    Raises:
        UsageError: One of these is no such time, or the period is longer than the time-out.
    """

    period: float = 60.0
    timeout: float = 120.0
    rpc_timeout: float = 10.0

    def __post_init__(self) -> None:
        for name in ("period", "timeout", "rpc_timeout"):
            if not _is_time(value := getattr(self, name)):
                raise UsageError(f"keepalive: {name} is a number of seconds above 0, not {value!r}")
        if self.period > self.timeout:
            raise UsageError(
                f"keepalive: period, {self.period!r} s, is above timeout, {self.timeout!r} s: "
                "a host would be given up before it is asked again"
            )

    @classmethod
    def every(cls, period: float) -> Keepalive:
        """Return a keepalive of this period, in seconds, that may miss one beat.

        Raises:
            UsageError: It is no such time.
        """
        if not _is_time(period):
            raise UsageError(f"keepalive is a number of seconds above 0, not {period!r}")
        return cls(period=period, timeout=2 * period, rpc_timeout=min(10.0, period))


def _is_time(seconds: float) -> bool:
    return 0 < seconds < math.inf  # which is false of nan


@dataclass(slots=True, kw_only=True)
class HostRequest:
    """What the driver asks a system for.

    Attributes:
        cluster: The cluster's name, for tags and directories.
        machines: How many machines the hosts together should hold. It may become more while the
            system launches, where its `System.requests_grow` says that it looks.
        boot: Returns what the host with a given id is to be given, a mapping that fits into JSON:
            for `systems.bootfile`, or where the system's hosts are this computer for the
            supervisor itself. A system may add entries that it alone knows (a directory, where
            to listen) and is to take none away. It may hold a private key, this host's: it belongs
            neither in a log nor in a file that others can read.
    """

    cluster: str
    machines: int
    boot: Callable[[str], Mapping[str, Any]] = field(repr=False)
    _changed: asyncio.Future[None] | None = field(default=None, init=False, repr=False)

    def grow(self, machines: int) -> None:
        """Ask for so many machines more. On the driver's loop."""
        self.machines += machines
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    async def more_than(self, machines: int) -> None:
        """Wait until it asks for more machines than so many. One may wait at a time."""
        import asyncio

        while self.machines <= machines:
            self._changed = asyncio.get_running_loop().create_future()
            await self._changed


class Host(ABC):
    """One launched host, with a supervisor that runs or is about to.

    Attributes:
        id: Names this host and no later one, for logs and errors.
        address: Where other hosts reach its supervisor; None while that is not known.
        capacity: How many machines it holds.
        maxprocs: How many processors each of these machines has to itself.
        gateway: Where the host and its machines ask for other hosts that they do not reach
            directly, ``HOST:PORT`` (`rpc.dialer`); None: nowhere.
        tunnel: Where the driver asks for this host, ``unix:PATH``; None: nowhere.
        direct: Whether the driver reaches it at its address, without the tunnel.
        metadata: Where the host itself learns that its provider takes it back, ``HOST:PORT``, as
            EC2's metadata service tells; None: nowhere.
        boot_seconds: How long the host may take until its supervisor runs.
        cause_seconds: How long the system may take to see how a host ended whose connection has
            broken; its machines' calls wait for that.
    """

    id: str
    address: str | None = None
    capacity: int = 1
    maxprocs: int = 1
    gateway: str | None = None
    tunnel: str | None = None
    direct: bool = True
    metadata: str | None = None
    boot_seconds: float = 60.0
    cause_seconds: float = 0.05

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} capacity={self.capacity} at {self.address}>"

    @abstractmethod
    async def connect(self) -> socket.socket:
        """Return a connected, non-blocking socket to the host's endpoint, before any preamble.

        Elsewhere than on this computer the boot file answers first, later the supervisor. On this
        computer the socket is one that the supervisor has taken already.

        Raises:
            OSError: The supervisor cannot be reached, now. The driver tries again with backoff.
            ProvisionError: It never will be.
        """

    async def rejoin(self) -> bool:
        """Wait, where its connections have broken and it may live on, until it is reached again.

        Returns:
            Whether it is reached. False, the default: a broken connection is the host's end.
        """
        return False

    @abstractmethod
    async def stop(self, timeout: float) -> None:
        """End the host and everything on it, at the latest after ``timeout`` seconds.

        Idempotent, also after ``kill`` and when the host ended by itself.
        """

    @abstractmethod
    def kill(self) -> None:
        """End the host at once, as well as that can be done without waiting.

        Called from any thread, and at the interpreter's exit when no event loop runs any more.
        Never raises because the host is gone already.
        """

    async def wait_closed(self) -> None:
        """Return when the host has ended, where the system can see that.

        The driver sees the control connection break in any case; a system that knows better or
        earlier (an exit status, the provider's word) overrides this. The default waits until it
        is cancelled.
        """
        import asyncio

        await asyncio.get_running_loop().create_future()

    def reap(self, pids: Sequence[int]) -> None:  # noqa: B027  most hosts have nothing to do
        """End what a supervisor that is gone has left: the machines with these process ids.

        For hosts that share this computer's processes; the default does nothing, since
        everything on another host ends with its lease.
        """

    def cause(self) -> str:
        """Return why the host ended, where the system knows, or an empty text."""
        return ""

    def take_notice(self, notice: str) -> None:  # noqa: B027  most providers give none
        """Learn from the host itself that its provider will take it back.

        Args:
            notice: What a person is to know of it.
        """

    def death_kind(self) -> DeathKind | None:
        """Return what machines died of that ended with the host, where it is no plain ``host``."""
        return None


class _Missing:
    """The type of ``MISSING``, the default of an option that has none."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING = _Missing()


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option of a system: a keyword parameter of its ``__init__``.

    Attributes:
        name: The parameter's name.
        type: Its annotation, evaluated; where there is none, the type of its default; ``Any``
            when neither tells.
        default: Its default, ``MISSING`` when it has to be given.
    """

    name: str
    type: Any
    default: Any = MISSING

    @property
    def required(self) -> bool:
        """Whether the system cannot be made without it."""
        return self.default is MISSING


class System(ABC):
    """Provides hosts. Only ``name`` and ``launch`` have to be written; see the module's guide.

    Attributes:
        name: What the system is called in settings, in errors and in logs.
        is_here: Whether its hosts are this computer: they share its disk, its interpreter and its
            environment. Hosts elsewhere start with the boot file (`systems.bootfile`) and are sent
            the program's image.
        transport: How its hosts are spoken to: by mutual TLS, or, when they are this host, by Unix
            sockets that its user alone can open.
        keepalive: How hosts of this system are kept alive; an instance may set its own.
        requests_grow: Whether a launch looks at ``request.machines`` as long as it goes on, and
            awaits ``request.more_than()`` beside its hosts. Worth it where hosts take long: then
            machines that are started meanwhile do not wait for the first ones' hosts.
    """

    name: ClassVar[str]
    is_here: ClassVar[bool] = False
    transport: Literal["unix", "tls"] = "tls"
    keepalive: Keepalive = Keepalive()
    requests_grow: ClassVar[bool] = False

    def __repr__(self) -> str:
        return f"<system {self.name}>"

    @abstractmethod
    def launch(self, request: HostRequest) -> AsyncIterator[Host]:
        """Launch hosts for ``request.machines`` machines and yield each as it comes up.

        Write it as an asynchronous generator. Hosts that were yielded are the driver's, which
        stops them; what was launched and not yielded when the generator is closed or cancelled
        is the system's to end.

        Raises:
            ProvisionError: Not all could be had. Those already yielded stay in use.
        """

    def begin(  # noqa: B027  few have anything
        self, cluster: str, boot: Mapping[str, Any] | None
    ) -> None:
        """Begin to launch the first host, while the driver still imports what talks to it.

        Called in the program's own thread, right before the first `launch` for the cluster; must
        not block nor raise what `launch` will raise. The default does nothing.

        Args:
            cluster: The cluster's name, as `HostRequest.cluster` will have it.
            boot: What the supervisor is to be given, as `HostRequest.boot` will return it; None
                where ``transport`` is ``"tls"``, for there are no credentials yet.
        """

    def abandon(self, cluster: str) -> None:  # noqa: B027  few have anything to end
        """End what `begin` has begun for a cluster and no `launch` has taken up. Never blocks long.

        Called when the cluster ends, from any thread; idempotent.
        """

    async def shutdown(self) -> None:
        """Release what the system holds beside its hosts, when a cluster has ended.

        Called after the cluster's hosts have been stopped; idempotent.
        """
        self.event("shutdown")

    def event(self, kind: str, **fields: object) -> None:
        """Take note of an event, for analytics: ``event("launch", host="i-07", seconds=12.5)``.

        The default logs one line at DEBUG, ``system=rack event=launch host=i-07 seconds=12.5``,
        in the order of the fields; a text that has spaces, quotes or ``=`` in it is written as
        JSON. Override it to send events elsewhere. May be called from any thread.
        """
        if logger.isEnabledFor(logging.DEBUG):
            words = {"system": self.name, "event": kind, **fields}
            logger.debug("%s", " ".join(f"{key}={_word(value)}" for key, value in words.items()))

    async def keepalive_failed(self, host: Host) -> None:
        """Learn that a host no longer answers, before the driver gives it up and stops it.

        A system may look what became of it, so that ``host.cause()`` can say.
        """
        self.event("keepaliveFailed", host=host.id)

    async def tail(self, host: Host) -> AsyncIterator[bytes] | None:
        """Follow the host's own log, where the system has a way that outlives the supervisor.

        None, the default, says that there is none: ask the supervisor.
        """
        del host
        return None

    async def read(self, host: Host, path: str) -> BinaryIO | None:
        """Open a file of the host, where the system has a way that outlives the supervisor.

        None, the default, says that there is none: ask the supervisor.

        Raises:
            OSError: There is such a way, and the file cannot be read.
        """
        del host, path
        return None

    async def doctor(self) -> AsyncIterator[Check]:
        """Look whether the system can do what it is for, and yield each thing that was looked at.

        ``bigmachine doctor`` prints it (`systems.checks`). Nothing is launched for it, nor left.
        What it raises is printed as a check that failed. The default looks at nothing.
        """
        nothing: tuple[Check, ...] = ()
        for check in nothing:
            yield check

    async def gc(self, *, dry_run: bool) -> AsyncIterator[Leftover]:
        """Find what drivers have left that are gone, end it, and yield each thing that was found.

        Only what this user's drivers have left on this computer, or what they have launched from
        it: write `systems.origin.Origin.here` on whatever is launched, and touch nothing whose
        origin is not ``GONE``. The default finds nothing.

        Args:
            dry_run: Only find it.
        """
        del dry_run
        nothing: tuple[Leftover, ...] = ()
        for leftover in nothing:
            yield leftover

    def recorded(self) -> Mapping[str, Any] | None:
        """Return those options with which a later ``bigmachine gc`` finds what is left of this one.

        The driver keeps them in a file of this user's while its cluster is open: where to look (a
        region), never a secret. They fit into JSON, and ``gc`` makes a system with them. None for
        a system whose clusters nobody else need know of: ``bigmachine ps`` does not list them.
        """
        return {}

    @classmethod
    def options(cls) -> Mapping[str, Option]:
        """Return the options that settings may give, by name: the parameters of ``__init__``.

        Override it only where ``__init__`` does not tell, say when it takes ``**kwargs``.
        """
        import inspect

        if cls.__init__ is object.__init__:
            return MappingProxyType({})
        namespace = getattr(inspect.unwrap(cls.__init__), "__globals__", {})
        by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        _, *parameters = inspect.signature(cls.__init__).parameters.values()
        return MappingProxyType(
            {
                parameter.name: Option(
                    name=parameter.name,
                    type=_type(parameter, namespace),
                    default=MISSING if parameter.default is parameter.empty else parameter.default,
                )
                for parameter in parameters
                if parameter.kind in by_name
            }
        )


def _type(parameter: inspect.Parameter, namespace: dict[str, Any]) -> Any:
    """Return the type of a parameter, ``Any`` where that cannot be known.

    One at a time, unlike ``typing.get_type_hints``, which fails for all parameters when one is
    annotated with a name that only a type checker imports. Such a name becomes a type variable.
    """
    annotation = parameter.annotation
    if annotation is parameter.empty:
        return Any if parameter.default in (parameter.empty, None) else type(parameter.default)
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, {}, _Names(namespace))
    except (NameError, AttributeError, TypeError):
        return Any


class _Names(dict[str, Any]):
    """The names of a module; what only type checkers see there is made up for."""

    def __missing__(self, name: str) -> Any:
        import builtins
        import collections.abc
        import typing
        from pathlib import Path

        for module in (builtins, collections.abc, typing):
            if hasattr(module, name):
                return getattr(module, name)
        unknown: Any = typing.TypeVar  # of which checkers want names that are written out
        return Path if name == "Path" else unknown(name)


def _word(value: object) -> str:
    """Return a value as one word of an event's line."""
    text = str(value)
    plain = bool(text) and not any(char.isspace() or char in "\"'=\\" for char in text)
    return text if plain else json.dumps(text)
