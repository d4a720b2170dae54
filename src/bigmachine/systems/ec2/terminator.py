"""Ends instances: many in one call, and also those that EC2 does not know yet."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING, Final

from bigmachine.systems.ec2 import errors

if TYPE_CHECKING:
    from bigmachine.systems.ec2.api import Api

logger = logging.getLogger(__name__)

GATHER_SECONDS: Final = 0.05
"""How long terminations wait for others, to go in one call."""
UNKNOWN_PAUSES: Final = (0.5, 1.0, 2.0, 4.0)
"""When EC2 is told again to terminate an instance that it does not know yet."""
LAST_SECONDS: Final = 2.0
"""How long the end of a program waits for a termination to be heard, of those that nobody heard."""


class Terminator:
    """Ends instances.

    Args:
        api: Whom to tell.
    """

    def __init__(self, api: Api) -> None:
        self._api = api
        self._ending: set[str] = set()
        self._task: asyncio.Task[None] | None = None
        self._is_heard = True

    def __repr__(self) -> str:
        return f"<Terminator of {len(self._ending)} instances>"

    def end(self, instance_id: str) -> None:
        """Have an instance terminated, in one call with others that end now. On the loop."""
        self._ending.add(instance_id)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._end_soon())

    def end_now(self, instance_id: str) -> None:
        """Have an instance terminated; from any thread, and without waiting but at the very end."""
        said = self._api.submit("terminate_instances", InstanceIds=[instance_id])
        if self._is_heard and not threading.main_thread().is_alive():
            # The program ends, and its threads with it.
            try:
                said.result(LAST_SECONDS)
            except TimeoutError:
                self._is_heard = False
            except Exception as error:
                logger.debug("EC2 was not told to terminate %s: %s", instance_id, error)

    async def wait(self) -> None:
        """Wait until what `end` was told has been said to EC2."""
        if self._task is not None:
            await asyncio.wait((self._task,))

    async def _end_soon(self) -> None:
        while self._ending:
            await asyncio.sleep(GATHER_SECONDS)
            ids = sorted(self._ending)
            self._ending.clear()
            try:
                await self._api.call("terminate_instances", InstanceIds=ids)
            except Exception:  # one that EC2 does not know spoils the call for all
                await asyncio.gather(*(self._terminate(each) for each in ids))

    async def _terminate(self, instance_id: str) -> None:
        """Have one instance terminated, also if EC2 does not know it yet."""
        pauses = iter(UNKNOWN_PAUSES)
        while True:
            try:
                await self._api.call("terminate_instances", InstanceIds=[instance_id])
                return
            except Exception as error:
                pause = next(pauses, None)
                if pause is None or not errors.is_not_found(errors.code_of(error)):
                    logger.warning(
                        "EC2 was not told to terminate %s, which ends by itself: %s",
                        instance_id,
                        error,
                    )
                    return
            await asyncio.sleep(pause)
