"""Whether EC2 can be used: what ``bigmachine doctor ec2`` looks at. Nothing is launched."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from bigmachine.systems.checks import Check
from bigmachine.systems.ec2 import errors, request
from bigmachine.systems.ec2.tags import TAG

if TYPE_CHECKING:
    from bigmachine.systems.ec2.api import Api
    from bigmachine.systems.ec2.plan import Plan
    from bigmachine.systems.ec2.system import EC2

# EC2 says DryRunOperation where a call would have been allowed.
_MAY: Final = "DryRunOperation"


async def examine(system: EC2) -> AsyncIterator[Check]:
    """Look at one thing after the other; stop where the next make no sense."""
    api = system.api
    try:
        who = await api.call("get_caller_identity", service="sts")
    except Exception as error:
        yield _failed("credentials", error)
        return
    region = api.client("ec2").meta.region_name
    yield Check.ok("credentials", f"{who.get('Arn', who.get('Account'))}, region {region}")
    try:
        plan = await system.plan()
    except Exception as error:
        yield _failed("types", error)
        return
    names = ", ".join(f"{kind.name} ({kind.cpus} cpus)" for kind in plan.kinds)
    yield Check.ok("types", names)
    yield Check.ok("image", plan.wishes.ami)
    for name, method, parameters in _calls(plan):
        yield await _permission(api, name, method, parameters)


def _calls(plan: Plan) -> list[tuple[str, str, dict[str, Any]]]:
    # With tags, since to make them is a permission of its own.
    wishes = replace(plan.wishes, tags={f"{TAG}:cluster": "doctor"})
    run = request.run_instances(wishes, plan.kinds[0], b"#cloud-config", "doctor")
    run.pop("ClientToken")
    return [
        ("RunInstances", "run_instances", run),
        (
            "CreateLaunchTemplate",
            "create_launch_template",
            request.launch_template(wishes, b"#cloud-config", "bigmachine-doctor"),
        ),
    ]


async def _permission(api: Api, name: str, method: str, parameters: dict[str, Any]) -> Check:
    """Ask whether a call would be allowed."""
    try:
        await api.call(method, DryRun=True, **parameters)
    except Exception as error:
        if errors.code_of(error) != _MAY:
            return _failed(name, error)
    return Check.ok(name, "allowed")


def _failed(name: str, error: BaseException) -> Check:
    mapped = errors.provision_error("do that", error, requested=0, started=0)
    return Check.fail(name, str(error), mapped.remedy or "see what AWS says above")
