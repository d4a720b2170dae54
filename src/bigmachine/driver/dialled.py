"""Machines that somebody else started: what becomes of them is known by asking."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

from bigmachine.driver.handle import STOP_SECONDS, Handle
from bigmachine.driver.lifecycle import Happening, State
from bigmachine.errors import BigmachineError, Death, DeathKind, MachineStoppedError, UsageError
from bigmachine.futures import Future

if TYPE_CHECKING:
    from bigmachine.addresses import Address
    from bigmachine.driver.runtime import Runtime
    from bigmachine.rpc.client import Client
    from bigmachine.rpc.dialer import Dialer

PING_SECONDS: Final = 5.0
"""How often a dialled machine's supervisor is asked, once somebody wants to know."""

_VERDICT_PINGS: Final = 5
_VERDICT_PAUSE_SECONDS: Final = 0.05
_NOBODY_THERE: Final = (FileNotFoundError, ConnectionRefusedError)


class DialledHandle(Handle):
    """A machine that somebody else started: its state is known by asking its supervisor."""

    def __init__(
        self,
        runtime: Runtime,
        dialer: Dialer,
        address: Address,
        *,
        label: str,
        maxprocs: int,
        supervisor: Client,
    ) -> None:
        super().__init__(runtime, dialer, label=label)
        self._address = address
        self._host = supervisor
        self._watched = False
        self.addr = str(address)
        self.hostname = address.hostname
        self.maxprocs = maxprocs
        self._life.advance(Happening.PLACED)

    @property
    def state(self) -> State:
        """Its state, by ping: the first look begins to ask."""
        self._watch()
        return self._life.state

    def wait(self, state: State) -> Future[State]:
        """As of every machine; begins to ask."""
        self._watch()
        return super().wait(state)

    def disown(self, error: UsageError) -> None:
        """As of every machine; nobody asks any more."""
        self._watched = True
        super().disown(error)

    def _watch(self) -> None:
        if self._watched or self._life.state is State.STOPPED:
            return
        self._watched = True
        self.runtime.spawn(self._ping_on(), f"ping {self.label}")

    async def _ping_on(self) -> None:
        pause = PING_SECONDS
        while self._life.state is not State.STOPPED:
            error = await self._ping()
            if error is not None and self.error is None:
                pause = min(pause, 0.5)
            await asyncio.sleep(pause)

    async def _ping(self) -> BaseException | None:
        """Ask the supervisor; return what is wrong."""
        try:
            await self._host.call("Supervisor.Ping", (self._address.target, 0))
        except MachineStoppedError as error:
            self.advance(Happening.DIED, error.death)
            return error
        except BigmachineError as error:
            if self._address.kind == "unix" and isinstance(error.__cause__, _NOBODY_THERE):
                # A socket of one supervisor alone, which does not come back.
                detail = "nobody answers at the socket of its host any more"
                death = Death(kind=DeathKind.HOST, machine=self.label, detail=detail)
                self.advance(Happening.DIED, death)
            return error
        self.advance(Happening.READY)
        return None

    async def _ask(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return await self._host.call(method, (self._address.target, *args), kwargs)
        except MachineStoppedError as error:
            self.advance(Happening.DIED, error.death)
            raise

    def shutdown(self) -> Future[None]:
        """End the machine gracefully; resolves when it is gone."""
        return self.runtime.spawn(self._stop(), f"stop {self.label}")

    async def _stop(self) -> None:
        with contextlib.suppress(MachineStoppedError):
            await self._ask("Supervisor.Shutdown", (), {})
        async with asyncio.timeout(2 * STOP_SECONDS):
            while True:
                if await self._ping() is not None:  # it, or its host, has gone
                    return
                await asyncio.sleep(_VERDICT_PAUSE_SECONDS)

    def _supervisor(self) -> tuple[Client, str]:
        return self._host, self._address.target

    async def _connect(self) -> Any:
        return await self.dialer.connect(self._address)

    async def _verdict(self) -> BaseException | None:
        """Find out whether the machine died: its supervisor may see it a moment later than we."""
        for _ in range(_VERDICT_PINGS):
            await self._ping()
            if self.error is not None:
                return self.error
            await asyncio.sleep(_VERDICT_PAUSE_SECONDS)
        return None
