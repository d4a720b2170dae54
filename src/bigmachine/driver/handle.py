"""What stands behind a `Machine`: its state, its connection, and whom to ask about it.

`Handle` is the part that all machines share: those that this driver started (`driver.owned`) and
those that somebody else did (`driver.dialled`). States change on the runtime's loop alone, in
`Handle.advance`; anybody may read them or wait for them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from _thread import allocate_lock
from abc import ABC, abstractmethod
from asyncio import _get_running_loop
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from bigmachine.addresses import Address
from bigmachine.driver.lifecycle import Happening, Lifecycle, State
from bigmachine.errors import Death, DeathKind, MachineStoppedError, TransportError, UsageError
from bigmachine.futures import Future
from bigmachine.rpc.client import Client

if TYPE_CHECKING:
    import io

    from bigmachine.driver.runtime import Runtime
    from bigmachine.image.build import Image
    from bigmachine.rpc.dialer import Dialer
    from bigmachine.rpc.streams import Stream

_GIVE_UP_SECONDS: Final = 5.0  # for a loop that is busy, or ends just then
STOP_SECONDS: Final = 5.0
"""How long a machine has for its graceful end."""


class Handle(ABC):
    """One machine as this process knows it."""

    owned = False

    def __init__(self, runtime: Runtime, dialer: Dialer, *, label: str) -> None:
        self.runtime = runtime
        self.dialer = dialer
        self.label = label
        self.addr = ""
        self.hostname = ""
        self.maxprocs = 1
        self.error: MachineStoppedError | None = None
        self.keepalive_reply_times: tuple[float, ...] = ()
        self.next_keepalive: float | None = None
        self._life = Lifecycle()
        self._disowned: UsageError | None = None
        self._lock = allocate_lock()
        self._waiting: list[tuple[State, Future[State]]] = []
        self.on_change: Callable[[Handle], None] | None = None
        self.client = Client(
            runtime.loop,
            self._connect,
            timers=runtime.timers,
            label=label,
            verdict=self._verdict,
            tls=self._tls,
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.label} {self._life.state.name}>"

    @property
    def state(self) -> State:
        """The machine's state."""
        return self._life.state

    def wait(self, state: State) -> Future[State]:
        """Return a future of the state once it is this or a later one."""
        if self._disowned is not None:
            return _failed(self._disowned)
        future: Future[State] = Future()
        with self._lock:
            if self._life.state < state:
                entry = (state, future)
                self._waiting.append(entry)
                future._on_cancel = lambda: self._forget(entry)
                return future
        future.resolve(self._life.state)
        return future

    def _forget(self, entry: tuple[State, Future[State]]) -> None:
        with self._lock:
            if entry in self._waiting:
                self._waiting.remove(entry)

    def advance(
        self,
        happening: Happening,
        death: Death | None = None,
        *,
        cause: BaseException | None = None,
    ) -> None:
        """Note what happened to the machine: the one place where its state changes."""
        if happening is Happening.DIED and death is not None and self.state < State.STOPPED:
            # Before it was running, calls waited for it; it had none.
            calls = self.client.pending if self._life.state is State.RUNNING else ()
            death = dataclasses.replace(death, calls=death.calls or calls, machine=self.label)
            if cause is not None:
                death = death.with_cause(cause)
        with self._lock:
            if not self._life.advance(happening, death):
                return
            state = self._life.state
            if self._life.death is not None:
                self.error = MachineStoppedError(
                    machine=self.addr or self.label, death=self._life.death
                )
            ready = [future for least, future in self._waiting if least <= state]
            self._waiting = [entry for entry in self._waiting if entry[0] > state]
        if self.error is not None:
            self.client.fail(self.error)
        for future in ready:
            future.resolve(state)
        if self.on_change is not None:
            self.on_change(self)

    def disown(self, error: UsageError) -> None:
        """Refuse everything, in a process that was forked from the handle's own."""
        self._disowned = error
        self._lock = allocate_lock()
        for _, future in self._waiting:
            future.disown(error)
        self._waiting.clear()
        self.client.disown(error)

    # Whom to ask.

    def fetch_image(self) -> Future[Image]:
        """Fetch back the image that the machine runs in; see `Machine.image`."""
        return _failed(UsageError(f"{self.label} runs in no image of this cluster's"))

    def ask(self, method: str, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call a method of the machine's supervisor."""
        if self.error is not None:
            return _failed(self.error)
        return self.runtime.spawn(self._ask(method, args, kwargs), method)

    async def _ask(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        await self.wait(State.RUNNING)
        if self.error is not None:
            raise self.error
        supervisor, target = self._supervisor()
        try:
            return await supervisor.call(method, (target, *args), kwargs)
        except (TransportError, MachineStoppedError):
            stopped = await self._verdict()
            if stopped is not None:
                raise stopped from None
            raise

    def tail(self) -> Stream[str]:
        """Follow the machine's output."""
        supervisor, target = self._supervisor()
        return supervisor.stream("Host.tail", (target,))

    def read(self, path: str) -> io.BufferedReader:
        """Open a file of the machine's host."""
        supervisor, _ = self._supervisor()
        return supervisor.stream("Host.read", (path,)).reader()

    def shutdown(self) -> Future[None]:
        """End the machine gracefully."""
        return self.ask("Supervisor.Shutdown")

    def cancel(self) -> None:
        """Give the machine up: when this returns, it takes no more calls."""
        if self._disowned is not None:
            raise UsageError(str(self._disowned))
        if _get_running_loop() is self.runtime.loop:
            self._give_up()
            return
        given_up = threading.Event()

        def give_up() -> None:
            self._give_up()
            given_up.set()

        with contextlib.suppress(RuntimeError):  # the loop has ended, and the machine with it
            self.runtime.loop.call_soon_threadsafe(give_up)
            given_up.wait(_GIVE_UP_SECONDS)

    def _give_up(self) -> None:
        self.advance(Happening.DIED, Death(kind=DeathKind.CANCELED, machine=self.label))

    def call_when(
        self, other: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Future[Any]:
        """Make a call once another machine, which is among its arguments, has its address."""

        async def later() -> Any:
            await other.wait(State.STARTING if other.addr else State.RUNNING)
            if other.err is not None:
                raise other.err
            return await self.client.call(name, args, kwargs)

        return self.runtime.spawn(later(), f"{name} later")

    @abstractmethod
    def _supervisor(self) -> tuple[Client, str]:
        """Return the connection to the machine's supervisor, and the machine's name there."""

    @abstractmethod
    async def _connect(self) -> Any:
        """Open a connection to the machine."""

    @abstractmethod
    async def _verdict(self) -> BaseException | None:
        """Return what became of the machine whose connection broke; None: it lives."""

    def _tls(self) -> tuple[Any, str | None]:
        address = Address.parse(self.addr)
        return self.dialer.tls(address), address.subject or None


def _failed(error: BaseException) -> Future[Any]:
    future: Future[Any] = Future()
    future.resolve(None, error)
    return future
