"""Watching instances: one who asks for all, so that a hundred cost hardly more than one.

EC2 tells nobody when an instance stops: it has to be asked. The watcher asks about all instances of
a cluster at once, often while some are about to start, every few seconds afterwards. A spot
instance's request tells two minutes ahead that AWS wants it back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from bigmachine.systems.ec2 import errors

if TYPE_CHECKING:
    from bigmachine.systems.ec2.api import Api

logger = logging.getLogger(__name__)

PENDING_SECONDS: Final = 0.5
"""How often it is asked while an instance is about to start."""
RUNNING_SECONDS: Final = 3.0
"""How often it is asked otherwise."""
UNKNOWN_SECONDS: Final = 60.0
"""How long EC2 may not know an instance that it has just made."""
_SLOWEST_SECONDS: Final = 15.0
_DESCRIBED_AT_ONCE: Final = 100

_ENDED: Final = frozenset({"shutting-down", "terminated", "stopping", "stopped"})
_NOTICES: Final = frozenset({"marked-for-termination", "marked-for-stop"})


@dataclass(eq=False)
class Instance:
    """What is known of one instance.

    Attributes:
        id: Its id.
        spot_request: The id of its spot request; "" when it is none.
        running: Resolves to its description when it runs; fails when it ends before.
        ended: Set when it has ended, or is about to.
        notice: Set when AWS has said that it will take it back.
        reason: Why it ended, as EC2 says.
        is_reclaimed: Whether it ended because AWS wanted it back.
    """

    id: str
    spot_request: str = ""
    running: asyncio.Future[Mapping[str, Any]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    notice: asyncio.Event = field(default_factory=asyncio.Event)
    reason: str = ""
    is_reclaimed: bool = False
    unknown_since: float | None = None

    def take(self, described: Mapping[str, Any]) -> None:
        """Note what EC2 says of it."""
        self.unknown_since = None
        self.spot_request = described.get("SpotInstanceRequestId") or self.spot_request
        state = described["State"]["Name"]
        if state == "running" and not self.running.done() and _has_address(described):
            self.running.set_result(described)
        if state in _ENDED:
            why = described.get("StateReason") or {}
            code = str(why.get("Code", ""))
            transition = described.get("StateTransitionReason") or ""
            self.is_reclaimed = self.is_reclaimed or "SpotInstance" in code
            self.end(f"EC2 says {state}: {why.get('Message') or code or transition or 'no reason'}")

    def end(self, reason: str) -> None:
        """Note that it has ended."""
        if self.ended.is_set():
            return
        self.reason = reason
        self.ended.set()
        if not self.running.done():
            self.running.set_exception(errors.InstanceFailed(f"{self.id} has ended: {reason}"))
            self.running.exception()  # nobody may be waiting for it


class Watcher:
    """Asks about instances, for as long as there are any.

    Args:
        api: Whom to ask.
        on_notice: Called with an instance that AWS will take back.
    """

    def __init__(self, api: Api, on_notice: Callable[[Instance], None]) -> None:
        self._api = api
        self._on_notice = on_notice
        self._instances: dict[str, Instance] = {}
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Watcher of {len(self._instances)} instances>"

    def add(self, instance_id: str) -> Instance:
        """Watch an instance from now on."""
        instance = self._instances[instance_id] = Instance(instance_id)
        self._wake.set()
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._watch())
        return instance

    def remove(self, instance_id: str) -> None:
        """Watch an instance no longer. Idempotent."""
        self._instances.pop(instance_id, None)

    def wake(self) -> None:
        """Ask now, not when it is time."""
        self._wake.set()

    def notice(self, instance: Instance) -> None:
        """Take note that AWS will take an instance back, once."""
        instance.is_reclaimed = True
        if not instance.notice.is_set():
            instance.notice.set()
            self._on_notice(instance)

    async def close(self) -> None:
        """Watch nothing any more."""
        self._instances.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _watch(self) -> None:
        failures = 0
        while self._instances:
            try:
                await self._ask()
                failures = 0
            except Exception as error:  # whatever it was, it may be better the next time
                failures += 1
                logger.warning("EC2 cannot be asked about instances: %s", error)
            pending = any(not each.running.done() for each in self._instances.values())
            pause = PENDING_SECONDS if pending else RUNNING_SECONDS
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(pause * 2**failures, _SLOWEST_SECONDS)):
                    await self._wake.wait()
            self._wake.clear()

    async def _ask(self) -> None:
        now = asyncio.get_running_loop().time()
        described = await describe(self._api, self._instances)
        for instance_id, instance in list(self._instances.items()):
            if instance_id in described:
                instance.take(described[instance_id])
                if instance.ended.is_set():
                    self.remove(instance_id)
            elif instance.unknown_since is None:
                instance.unknown_since = now
            elif now - instance.unknown_since > UNKNOWN_SECONDS:
                instance.end("EC2 does not know it")
        await self._ask_of_spot()

    async def _ask_of_spot(self) -> None:
        """See whether AWS wants instances back."""
        asked = {
            each.spot_request: each
            for each in self._instances.values()
            if each.spot_request and not each.notice.is_set() and each.running.done()
        }
        if not asked:
            return
        try:
            answer = await self._api.call(
                "describe_spot_instance_requests", SpotInstanceRequestIds=list(asked)
            )
        except Exception as error:
            if errors.is_not_found(errors.code_of(error)):
                return
            raise
        for request in answer["SpotInstanceRequests"]:
            code = (request.get("Status") or {}).get("Code", "")
            instance = asked.get(request["SpotInstanceRequestId"])
            if instance is not None and code in _NOTICES:
                self.notice(instance)


async def describe(api: Api, ids: Iterable[str]) -> dict[str, Mapping[str, Any]]:
    """Describe instances; those that EC2 does not know, perhaps not yet, are left out."""
    found: dict[str, Mapping[str, Any]] = {}
    wanted = list(ids)
    for at in range(0, len(wanted), _DESCRIBED_AT_ONCE):
        part = wanted[at : at + _DESCRIBED_AT_ONCE]
        # By a filter, since one unknown id would be an error for all.
        filters = [{"Name": "instance-id", "Values": part}]
        answer = await api.call("describe_instances", Filters=filters)
        for reservation in answer["Reservations"]:
            found.update((each["InstanceId"], each) for each in reservation["Instances"])
    return found


def _has_address(described: Mapping[str, Any]) -> bool:
    return bool(described.get("PublicIpAddress") or described.get("PrivateIpAddress"))
