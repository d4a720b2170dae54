"""Machines that this driver started: their supervisor tells what becomes of them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

from bigmachine.addresses import Address
from bigmachine.driver.handle import STOP_SECONDS, Handle
from bigmachine.driver.lifecycle import Happening, State
from bigmachine.errors import BigmachineError, TransportError, UsageError
from bigmachine.futures import Future

if TYPE_CHECKING:
    from bigmachine.driver.runtime import Runtime
    from bigmachine.image.build import Image
    from bigmachine.rpc.client import Client
    from bigmachine.rpc.dialer import Dialer

VERDICT_SECONDS: Final = 1.0
"""How long a broken connection waits to hear that the machine has died, before it is blamed on
the network."""
NEWS_SECONDS: Final = 0.25
"""After this its supervisor is asked whether it lives: as a rule that knows within milliseconds."""


class OwnedHandle(Handle):
    """A machine that this driver started."""

    owned = True

    def __init__(self, runtime: Runtime, dialer: Dialer, *, unique: str, index: int) -> None:
        self.id = unique
        self.index = index
        self.pid = 0
        self.control: Client | None = None
        self.image_digest = ""
        super().__init__(runtime, dialer, label=f"m{index}")

    def fetch_image(self) -> Future[Image]:
        """Fetch back the image that the machine runs in; see `Machine.image`."""
        if not self.image_digest or self.control is None:
            return super().fetch_image()
        from bigmachine.driver.images import fetch_image
        from bigmachine.image.store import Store, default_root

        store = Store(default_root())
        fetch = fetch_image(self.runtime, self.control, self.image_digest, store)
        return self.runtime.spawn(fetch, "fetch an image")

    def disown(self, error: UsageError) -> None:
        """As of every machine, and its supervisor."""
        super().disown(error)
        if self.control is not None:
            self.control.disown(error)

    def ready(self, addr: str, hostname: str, maxprocs: int) -> None:
        """It serves calls."""
        self.addr = addr
        self.hostname = hostname
        self.maxprocs = maxprocs
        self.advance(Happening.READY)

    def shutdown(self) -> Future[None]:
        """End the machine gracefully; resolves when it is gone."""
        if self.error is not None:
            return _resolved()
        return self.runtime.spawn(self._stop(), f"stop {self.label}")

    async def _stop(self) -> None:
        await self.wait(State.STARTING)
        stopped = asyncio.wrap_future(self.wait(State.STOPPED))
        while self.control is not None and self.state < State.STOPPED:
            try:
                await self.control.call("Host.stop", (self.id, STOP_SECONDS))
                break
            except TransportError:  # without its host it is stopped in a moment, or it comes back
                await asyncio.wait((stopped,), timeout=NEWS_SECONDS)
        await stopped

    def _give_up(self) -> None:
        """Have it killed as well, if its host has been asked to start it."""
        if self.control is not None and State.STARTING <= self.state < State.STOPPED:
            self.control.call("Host.kill", (self.id, "canceled"))
        super()._give_up()

    def _supervisor(self) -> tuple[Client, str]:
        assert self.control is not None
        return self.control, self.id

    async def _connect(self) -> Any:
        await self.wait(State.RUNNING)
        if self.error is not None:
            raise self.error
        return await self.dialer.connect(Address.parse(self.addr))

    async def _verdict(self) -> BaseException | None:
        """Wait for the news of its death, until its supervisor says that it lives."""
        stopped = self.wait(State.STOPPED)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(VERDICT_SECONDS):
                await asyncio.wait((asyncio.wrap_future(stopped),), timeout=NEWS_SECONDS)
                if not await self._is_said_to_live():
                    await stopped
        return self.error

    async def _is_said_to_live(self) -> bool:
        if self.control is None or self.error is not None:
            return False
        try:
            await self.control.call("Supervisor.Ping", (self.id,))
        except BigmachineError:  # it is dead, or its host is: the news of that are on their way
            return False
        return True


def _resolved() -> Future[None]:
    future: Future[None] = Future()
    future.resolve()
    return future
