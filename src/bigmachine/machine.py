"""A machine, as a program holds it.

A `Machine` is a handle: cheap, thread-safe, and equal in the driver and on machines. Calls go
straight to the machine's process; questions about it go to its host's supervisor, which answers
even while the machine cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, Concatenate, ParamSpec, TypeVar, cast, overload

from bigmachine.driver.lifecycle import State
from bigmachine.errors import (
    CallTimeoutError,
    MachineStoppedError,
    TransportError,
    UsageError,
)
from bigmachine.futures import Future
from bigmachine.rpc.codec import NotReadyError
from bigmachine.service import ServiceTable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bigmachine.driver.handle import Handle
    from bigmachine.image.build import Image
    from bigmachine.info import DiskInfo, Info, LoadInfo, MemInfo
    from bigmachine.rpc.streams import Stream

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

__all__ = ["Machine", "State"]


class Machine:
    """One machine: a process somewhere that serves services.

    A machine is made by `Cluster.start` or `Cluster.dial`. It may be passed as an argument or kept
    in a service: it arrives dialled.
    """

    def __init__(self, handle: Handle, services: ServiceTable | None) -> None:
        self._handle = handle
        self._services = services
        self._names: dict[Any, str] = {} if services is None else services.names
        self._client = handle.client

    def __repr__(self) -> str:
        handle = self._handle
        return (
            f"<bigmachine.Machine {handle.label} {self.state.name} {handle.addr or 'no address'}>"
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Machine) and other._handle is self._handle

    def __hash__(self) -> int:
        return hash(id(self._handle))

    def __reduce__(self) -> tuple[Any, ...]:
        from bigmachine.cluster import redial

        handle = self._handle
        if not handle.addr:
            raise NotReadyError(self)
        return redial, (handle.addr, handle.label, handle.maxprocs)

    # What it is.

    @property
    def addr(self) -> str:
        """What `Cluster.dial` takes, from anywhere in the cluster; "" until a host has it.

        It names this very instance: a later machine at the same place has another.
        """
        return self._handle.addr

    @property
    def maxprocs(self) -> int:
        """How many processors the machine has to itself."""
        return self._handle.maxprocs

    @property
    def owned(self) -> bool:
        """Whether this cluster started the machine, keeps it alive and ends it."""
        return self._handle.owned

    @property
    def hostname(self) -> str:
        """Its host's name; "" until it is known."""
        return self._handle.hostname

    @property
    def state(self) -> State:
        """Its state, which only rises."""
        return self._handle.state

    @property
    def err(self) -> MachineStoppedError | None:
        """None, or the error that calls to the stopped machine raise."""
        return self._handle.error

    @property
    def keepalive_reply_times(self) -> tuple[float, ...]:
        """How long its host took to answer the last ten keepalives, in seconds, newest first."""
        return self._handle.keepalive_reply_times

    @property
    def next_keepalive(self) -> float | None:
        """When its host's next keepalive is due (`time.time`, seconds); None when none is."""
        return self._handle.next_keepalive

    def wait(self, state: State = State.RUNNING) -> Future[State]:
        """Return a future of the state that it has once it has this one or a later one."""
        return self._handle.wait(State(state))

    # Calls.

    @overload
    def call(
        self,
        method: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Future[R]: ...

    @overload
    def call(
        self, method: Callable[Concatenate[Any, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[R]: ...

    @overload
    def call(self, method: str, /, *args: Any, **kwargs: Any) -> Future[Any]: ...

    def call(self, method: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call a method of a service of this machine, at most once.

        Never blocks. The call waits until the machine is RUNNING, and fails fast when it is
        STOPPED. Arguments are encoded here and now, but for the content of large buffers, which
        must not change before the call has ended.

        Args:
            method: ``"Service.method"``, or the function, as ``CirclePI.sample``: then the one
                service of the machine whose class has or overrides it.
            *args: Arguments; an iterator or a binary file is streamed to the method.
            **kwargs: Likewise.

        Returns:
            A future of what the method returns. It raises what the method raises,
            `MachineStoppedError` if the machine stops first, or another `CallError`.

        Raises:
            UsageError: The method brings many items (use `stream`), or several services have it.
            NoSuchServiceError: No service of this machine has the function.
        """
        try:
            name = self._names[method]
        except (KeyError, TypeError):  # the first time, or what cannot be a method at all
            name = method if type(method) is str else self._find(method)
            if name.startswith("Supervisor."):
                return self._handle.ask(name, *args, **kwargs)
            if self._services is not None:
                self._services.check_no_stream(name)
            self._names[method] = name
        try:
            return self._client.call(name, args, kwargs)
        except NotReadyError as error:  # an argument holds a machine that is still starting
            return self._handle.call_when(error.machine, name, args, kwargs)

    @overload
    def retry_call(
        self,
        method: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Future[R]: ...

    @overload
    def retry_call(
        self, method: Callable[Concatenate[Any, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[R]: ...

    @overload
    def retry_call(self, method: str, /, *args: Any, **kwargs: Any) -> Future[Any]: ...

    def retry_call(self, method: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call a method as `call` does, and again after a failure of the network.

        The method may so run more than once. It is not tried again after an error of its own, nor
        when the machine has stopped; it is until the deadline (`timeout`), with pauses that grow
        from 50 ms to 5 s.
        """
        return self._handle.runtime.spawn(self._retry(method, args, kwargs), "retry_call")

    @overload
    def stream(
        self,
        method: Callable[Concatenate[Any, P], Iterator[T]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Stream[T]: ...

    @overload
    def stream(
        self,
        method: Callable[Concatenate[Any, P], AsyncIterator[T]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Stream[T]: ...

    @overload
    def stream(
        self,
        method: Callable[Concatenate[Any, P], BinaryIO],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Stream[bytes]: ...

    @overload
    def stream(self, method: str, /, *args: Any, **kwargs: Any) -> Stream[Any]: ...

    def stream(self, method: Any, /, *args: Any, **kwargs: Any) -> Stream[Any]:
        """Call a generator method, or one that returns a binary file, and stream what it brings.

        Never blocks. What goes wrong is raised by the stream, after the items before it.
        """
        name = method if type(method) is str else self._find(method)
        return self._client.stream(name, args, kwargs)

    def service(self, service: type[Any] | str) -> Any:
        """Return a proxy: ``proxy.method(*args)`` is ``m.call("Service.method", *args)``.

        Raises:
            NoSuchServiceError: The machine has no service of that class.
            UsageError: It has several.
        """
        if isinstance(service, str):
            return Proxy(self, service)
        if self._services is None:
            return Proxy(self, f"@{service.__module__}:{service.__qualname__}")
        return Proxy(self, self._services.name_of(service))

    def register(self, name: str, service: object) -> Future[None]:
        """Add a service to the running machine; its ``init`` runs before the future resolves.

        One under a name that is taken is refused: the machine says so in its output, and the future
        raises `UsageError`. What ``init`` raises, the future raises too; then it is not added.

        Raises:
            PayloadError: The service cannot be pickled.
        """
        from bigmachine.rpc import codec

        payload = codec.encode(service, f"service {name}")
        return self._handle.runtime.spawn(self._register(name, payload), "register")

    # What it and its host are doing.

    def mem_info(self, runtime: bool = False) -> Future[MemInfo]:
        """Return the memory of the machine and its host, and with ``runtime`` Python's own."""
        return self._handle.ask("Supervisor.MemInfo", runtime)

    def disk_info(self) -> Future[DiskInfo]:
        """Return how full the disk of its host's temporary directory is."""
        return self._handle.ask("Supervisor.DiskInfo")

    def load_info(self) -> Future[LoadInfo]:
        """Return the load of its host."""
        return self._handle.ask("Supervisor.LoadInfo")

    def info(self) -> Future[Info]:
        """Return what kind of machine it is."""
        return self._handle.ask("Supervisor.Info")

    def image(self) -> Future[Image]:
        """Fetch back the image that it runs in, to be given to `Cluster.start`.

        Layers that this computer does not have yet are kept in its cache (``bigmachine cache``).
        The future fails with `UsageError` on a machine of this host, which has none, and for one
        that somebody else started.
        """
        return self._handle.fetch_image()

    def tail(self) -> Stream[str]:
        """Follow the lines of its output, both streams, from now on."""
        return self._handle.tail()

    def read(self, path: str) -> BinaryIO:
        """Open a file of its host for reading. Blocks while reading."""
        return cast("BinaryIO", self._handle.read(path))

    # Its end.

    def cancel(self) -> None:
        """Give the machine up at once: calls fail, state STOPPED, err of kind ``canceled``."""
        self._handle.cancel()

    def shutdown(self) -> Future[None]:
        """End the machine gracefully: its output arrives, the services' ``close`` runs."""
        return self._handle.shutdown()

    # The machinery.

    async def _register(self, name: str, payload: Any) -> None:
        if not await self._handle.ask("Supervisor.Register", name, payload):
            raise UsageError(f"{self!r} has a service {name!r} already; the new one is refused")

    def _find(self, function: Any) -> str:
        if self._services is not None:
            return self._services.find(function)
        return ServiceTable.remote_name(function)

    async def _retry(self, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        import asyncio

        from bigmachine import deadlines

        pause = 0.05
        while True:
            try:
                return await self.call(method, *args, **kwargs)
            except TransportError as error:
                left = deadlines.remaining()
                if left is not None and left <= pause:
                    raise CallTimeoutError(
                        f"no answer within the time given, in spite of retrying: {error}",
                        machine=error.machine,
                        method=error.method,
                    ) from error
            await asyncio.sleep(pause)
            pause = min(pause * 2, 5.0)


class Proxy:
    """A service of one machine: its methods are called like an object's, and return futures."""

    def __init__(self, machine: Machine, name: str) -> None:
        self._machine = machine
        self._name = name

    def __repr__(self) -> str:
        return f"<bigmachine.Proxy of {self._name} on {self._machine!r}>"

    def __getattr__(self, method: str) -> Callable[..., Future[Any]]:
        if method.startswith("_"):
            raise AttributeError(f"{method}: names that begin with _ cannot be called")
        name = f"{self._name}.{method}"
        machine = self._machine

        def call(*args: Any, **kwargs: Any) -> Future[Any]:
            return machine.call(name, *args, **kwargs)

        call.__name__ = method
        return call
