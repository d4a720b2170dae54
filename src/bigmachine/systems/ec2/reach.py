"""Whether an instance that runs answers: waits for it, and says early why it most likely does not.

An instance that stays silent is either broken itself, then another one may do better, or nobody can
reach it, then no other one will. The difference is what the others do: once any has answered, one
that takes several times as long is replaced; while none has, all are waited for as long as they may
take, and only what EC2's own checks call impaired is replaced, once.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from bigmachine.errors import ProvisionError
from bigmachine.systems.ec2.advice import advise
from bigmachine.systems.ec2.errors import InstanceFailed

if TYPE_CHECKING:
    from bigmachine.systems.ec2.api import Api
    from bigmachine.systems.ec2.host import EC2Host

logger = logging.getLogger(__name__)

SILENT_SECONDS: Final = 60.0
"""After this long a silent instance is worth a word."""
PATIENCE: Final = 3.0
"""How many times as long as the slowest other one an instance may take."""
STATUS_SECONDS: Final = 30.0
"""How often EC2 is asked whether a silent instance is impaired."""
_FIRST_PAUSE_SECONDS: Final = 0.05
_LAST_PAUSE_SECONDS: Final = 0.2


class Reach:
    """What is known of how the instances of a system are reached.

    Args:
        api: Whom to ask why one is not.
        port: Where they listen.
        boot_seconds: How long an instance has until it answers.
    """

    def __init__(self, api: Api, *, port: int, boot_seconds: float) -> None:
        self._api = api
        self._port = port
        self._boot_seconds = boot_seconds
        self._slowest: float | None = None
        self._silent: dict[str, str] = {}
        self._told: float | None = None
        self._has_replaced = False

    def __repr__(self) -> str:
        return f"<Reach slowest={self._slowest} silent={len(self._silent)}>"

    async def wait(self, host: EC2Host, described: Mapping[str, Any]) -> None:
        """Wait until an instance answers at its port.

        Args:
            host: The instance.
            described: As the API describes it.

        Raises:
            InstanceFailed: It has ended, or there is no use in waiting for it any longer.
        """
        ended = asyncio.ensure_future(host.instance.ended.wait())
        try:
            await self._wait(host, described, ended)
        finally:
            ended.cancel()
            self._silent.pop(host.instance.id, None)

    async def _wait(
        self, host: EC2Host, described: Mapping[str, Any], ended: asyncio.Future[Any]
    ) -> None:
        clock = asyncio.get_running_loop().time
        begun, pause, asked_at = clock(), _FIRST_PAUSE_SECONDS, SILENT_SECONDS
        while True:
            error = await _try(host)
            silent = clock() - begun
            if error is None:
                self._slowest = max(self._slowest or 0.0, silent)
                return
            if ended.done():
                raise InstanceFailed(f"{host.instance.id} has ended: {host.instance.reason}")
            self._check_patience(host, silent)
            if silent >= self._boot_seconds:
                raise await self._too_late(host, described, error)
            if silent >= asked_at:
                asked_at = silent + STATUS_SECONDS
                await self._look_into(host, described, error)
            await asyncio.wait((ended,), timeout=pause)
            pause = min(2 * pause, _LAST_PAUSE_SECONDS)

    def _check_patience(self, host: EC2Host, silent: float) -> None:
        """Give a silent instance up where others have long answered."""
        if self._slowest is None:
            return
        limit = min(max(SILENT_SECONDS, PATIENCE * self._slowest), self._boot_seconds)
        if silent >= limit:
            raise InstanceFailed(
                f"{host.instance.id} did not answer within {limit:.0f} s, while others did within "
                f"{self._slowest:.0f} s"
            )

    async def _look_into(self, host: EC2Host, described: Mapping[str, Any], error: OSError) -> None:
        """Replace what is impaired; warn of the rest."""
        name = host.instance.id
        if not self._has_replaced and (impaired := await self._impairment(name)):
            self._has_replaced = True
            raise InstanceFailed(f"{name} does not answer, and EC2 finds {impaired}")
        if name in self._silent:
            return
        self._silent[name] = name
        now = asyncio.get_running_loop().time()
        if self._told is None or now - self._told >= SILENT_SECONDS:  # not once for each
            self._told = now
            logger.warning(
                "%s runs, but has not answered at %s for a minute (%s); %s",
                name,
                host.place,
                _reason(error),
                await self._advice(host, described, error),
            )

    async def _too_late(
        self, host: EC2Host, described: Mapping[str, Any], error: OSError
    ) -> InstanceFailed:
        return InstanceFailed(
            f"{host.instance.id} runs, but did not answer at {host.place} within "
            f"{self._boot_seconds:g} s, nor did any other instance; at last, {_reason(error)}",
            remedy=await self._advice(host, described, error),
            replaceable=False,
        )

    async def _advice(self, host: EC2Host, described: Mapping[str, Any], error: OSError) -> str:
        return advise(
            described,
            await self._groups(described),
            ip=host.ip,
            port=self._port,
            is_refused=isinstance(error, ConnectionRefusedError),
        )

    async def _groups(self, described: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
        ids = [each["GroupId"] for each in described.get("SecurityGroups", ())]
        try:
            answer = await self._api.call("describe_security_groups", GroupIds=ids)
        except Exception:  # these credentials may not ask, and the advice is still good without
            return None
        return list(answer["SecurityGroups"])

    async def _impairment(self, instance_id: str) -> str:
        """Return what EC2's checks find wrong with an instance, or ""."""
        try:
            answer = await self._api.call("describe_instance_status", InstanceIds=[instance_id])
        except Exception:  # likewise
            return ""
        for status in answer["InstanceStatuses"]:
            for part in ("SystemStatus", "InstanceStatus"):
                if status.get(part, {}).get("Status") == "impaired":
                    return f"its {part} impaired"
        return ""


async def _try(host: EC2Host) -> OSError | None:
    """Return why a host does not answer; None: it does."""
    try:
        (await host.connect()).close()
    except OSError as error:
        return error
    except ProvisionError as error:  # it has ended
        return OSError(str(error))
    return None


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "nothing came back"
    return os.strerror(error.errno).lower() if error.errno else str(error)
