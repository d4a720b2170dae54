"""Makes instances, each by calls of its own (``docs/decisions/ec2-launch.md``)."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from bigmachine.systems.ec2 import errors, request, userdata
from bigmachine.systems.ec2.tags import tags_of_host

if TYPE_CHECKING:
    from bigmachine.systems.ec2.api import Api
    from bigmachine.systems.ec2.plan import Plan
    from bigmachine.systems.ec2.request import Wishes
    from bigmachine.systems.ec2.terminator import Terminator

WAIT_SECONDS: Final = 10.0
"""How long a cluster's end waits for instances that are about to be made, to terminate them."""


class Maker:
    """Makes instances.

    Args:
        api: Whom to ask for them.
        terminator: Ends those that nobody waits for any more.
        event: Takes note of an event, as `System.event`.
    """

    def __init__(self, api: Api, terminator: Terminator, event: Callable[..., None]) -> None:
        self._api = api
        self._terminator = terminator
        self._event = event
        self._making: set[asyncio.Task[str]] = set()

    def __repr__(self) -> str:
        return f"<Maker of {len(self._making)} instances>"

    async def make(self, plan: Plan, cluster: str, host_id: str, boot: Mapping[str, Any]) -> str:
        """Have one instance made and return its id; end it when this is cancelled meanwhile.

        Args:
            plan: What it is to be.
            cluster: Whose it is.
            host_id: What the cluster calls it.
            boot: What its boot file is given.
        """
        # By a task for which `wait` waits, since EC2 cannot be stopped.
        task = asyncio.get_running_loop().create_task(self.ask(plan, cluster, host_id, boot))
        self._making.add(task)
        task.add_done_callback(self._making.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(self._end)
            raise

    async def wait(self) -> None:
        """Wait until what is being made is made, or was made for nothing."""
        if self._making:
            await asyncio.wait(self._making, timeout=WAIT_SECONDS)

    def _end(self, task: asyncio.Task[str]) -> None:
        if not task.cancelled() and task.exception() is None:
            self._terminator.end(task.result())

    async def ask(self, plan: Plan, cluster: str, host_id: str, boot: Mapping[str, Any]) -> str:
        """Ask for one instance in the market that has one; return its id."""
        marks = {**plan.wishes.tags, **tags_of_host(cluster, host_id)}
        wishes = replace(plan.wishes, tags=marks)
        data = userdata.make(boot, plan.extras)
        if plan.is_one_call:
            parameters = request.run_instances(wishes, plan.kinds[0], data, host_id)
            answer = await self._api.call("run_instances", **parameters)
            return str(answer["Instances"][0]["InstanceId"])
        name = f"bigmachine-{host_id}"
        template = request.launch_template(wishes, data, name)
        await self._api.call("create_launch_template", **template)
        try:
            return await self._from_fleet(plan, wishes, name)
        finally:
            with contextlib.suppress(Exception):
                await self._api.call("delete_launch_template", LaunchTemplateName=name)

    async def _from_fleet(self, plan: Plan, wishes: Wishes, template: str) -> str:
        problem: BaseException = RuntimeError("no market was tried")
        for market in plan.markets:
            try:
                return await self._ask_fleet(plan, wishes, template, market)
            except Exception as error:
                code = errors.code_of(error)
                if not errors.is_capacity(code):
                    raise
                self._event("noCapacity", market=market, code=code)
                problem = error
        raise problem

    async def _ask_fleet(self, plan: Plan, wishes: Wishes, template: str, market: str) -> str:
        parameters = request.fleet(
            wishes, plan.kinds, template=template, market=market, token=secrets.token_hex(16)
        )
        answer = await self._api.call("create_fleet", **parameters)
        ids = [each for part in answer.get("Instances", ()) for each in part["InstanceIds"]]
        if not ids:
            raise FleetError(answer.get("Errors", ()))
        return str(ids[0])


class FleetError(Exception):
    """A fleet was made, and no instance."""

    def __init__(self, listed: Sequence[Mapping[str, Any]]) -> None:
        first = listed[0] if listed else {}
        code = first.get("ErrorCode", "InsufficientCapacity")
        message = first.get("ErrorMessage", "the fleet has no instance, and no reason")
        super().__init__(message)
        self.response = {"Error": {"Code": code, "Message": message}}
