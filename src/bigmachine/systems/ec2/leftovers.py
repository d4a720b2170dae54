"""What drivers that are gone have left on EC2, for ``bigmachine gc``: instances and templates.

An instance ends by itself when its driver does; what is found here is what has not come so far yet,
or what booted an image in which nothing works. Only what a driver of this computer has launched, as
the tags say, is touched, and only if that driver is gone.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from bigmachine.systems.checks import Leftover
from bigmachine.systems.ec2.tags import TAG, tags_in
from bigmachine.systems.origin import Origin, Whereabouts

if TYPE_CHECKING:
    from bigmachine.systems.ec2.api import Api


async def collect(api: Api, *, dry_run: bool) -> AsyncIterator[Leftover]:
    """Find and end what was left.

    Args:
        api: The account and region.
        dry_run: Only find it.
    """
    for instance in await _instances(api):
        if is_left(tags_in(instance)):
            state = instance["State"]["Name"]
            detail = (
                f"{instance.get('InstanceType', '')} {state} since {instance.get('LaunchTime')}"
            )
            problem = (
                ""
                if dry_run
                else await _end(api, "terminate_instances", InstanceIds=[instance["InstanceId"]])
            )
            yield _leftover("instance", instance["InstanceId"], instance, detail, problem, dry_run)
    filters = [{"Name": "tag-key", "Values": [f"{TAG}:cluster"]}]
    answer = await api.call("describe_launch_templates", Filters=filters)
    for template in answer["LaunchTemplates"]:
        if is_left(tags_in(template)):
            name = template["LaunchTemplateName"]
            problem = (
                ""
                if dry_run
                else await _end(api, "delete_launch_template", LaunchTemplateName=name)
            )
            yield _leftover("launch template", name, template, "", problem, dry_run)


def is_left(tags: Mapping[str, str]) -> bool:
    """Whether something with these tags was left by a driver of this computer that is gone."""
    try:
        origin = Origin.parse(tags.get(f"{TAG}:driver", ""))
    except ValueError:
        return False
    return origin.whereabouts is Whereabouts.GONE


async def _instances(api: Api) -> list[Mapping[str, Any]]:
    """Describe the instances that live and have our tag."""
    filters = [
        {"Name": "tag-key", "Values": [f"{TAG}:cluster"]},
        {"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]},
    ]

    def pages() -> list[Any]:
        paginator = api.client("ec2").get_paginator("describe_instances")
        return list(paginator.paginate(Filters=filters))

    return [
        each
        for page in await api.run(pages)
        for reservation in page["Reservations"]
        for each in reservation["Instances"]
    ]


async def _end(api: Api, method: str, **parameters: Any) -> str:
    """End something; return why that failed, or ""."""
    try:
        await api.call(method, **parameters)
    except Exception as error:  # the others are still to be ended
        return str(error)
    return ""


def _leftover(
    kind: str, name: str, found: Mapping[str, Any], detail: str, problem: str, dry_run: bool
) -> Leftover:
    return Leftover(
        kind=kind,
        name=name,
        cluster=tags_in(found).get(f"{TAG}:cluster", ""),
        detail=detail,
        ended=not dry_run and not problem,
        problem=problem,
    )
