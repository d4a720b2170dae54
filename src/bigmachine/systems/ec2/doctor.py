"""Whether EC2 can be used: what ``bigmachine doctor ec2`` looks at. Nothing is launched."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from bigmachine.systems.checks import Check
from bigmachine.systems.ec2 import advice, errors, request
from bigmachine.systems.ec2.tags import TAG

if TYPE_CHECKING:
    from bigmachine.systems.ec2.api import Api
    from bigmachine.systems.ec2.plan import Plan
    from bigmachine.systems.ec2.request import Wishes
    from bigmachine.systems.ec2.system import EC2

_TEMPLATE: Final = "bigmachine-doctor"
# EC2 says DryRunOperation where a call would have been allowed. A fleet needs a launch template,
# which is not made for this: that there is none is said to whoever may ask for a fleet.
_MAY: Final = ("DryRunOperation", "InvalidLaunchTemplateName.NotFoundException")


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
    yield await _port(api, plan.wishes, system.port)


def _calls(plan: Plan) -> list[tuple[str, str, dict[str, Any]]]:
    # With tags, since to make them is a permission of its own.
    wishes = replace(plan.wishes, tags={f"{TAG}:cluster": "doctor"})
    run = request.run_instances(wishes, plan.kinds[0], b"#cloud-config", "doctor")
    fleet = request.fleet(wishes, plan.kinds, template=_TEMPLATE, market="spot", token="doctor")
    for parameters in (run, fleet):
        parameters.pop("ClientToken")
    return [
        ("RunInstances", "run_instances", run),
        (
            "CreateLaunchTemplate",
            "create_launch_template",
            request.launch_template(wishes, b"#cloud-config", _TEMPLATE),
        ),
        ("CreateFleet", "create_fleet", fleet),
    ]


async def _permission(api: Api, name: str, method: str, parameters: dict[str, Any]) -> Check:
    """Ask whether a call would be allowed."""
    try:
        await api.call(method, DryRun=True, **parameters)
    except Exception as error:
        if errors.code_of(error) not in _MAY:
            return _failed(name, error)
    return Check.ok(name, "allowed")


async def _port(api: Api, wishes: Wishes, port: int) -> Check:
    """See whom the security groups let in at the port."""
    name = f"port {port}"
    try:
        groups = await _groups(api, wishes)
    except Exception as error:
        what = f"see yourself whether they let this computer connect to TCP port {port}"
        return Check.warn(name, f"the security groups cannot be seen: {error}", what)
    if not groups:
        return Check.warn(name, "there is no such security group", "name one, security_groups=")
    ids = [str(group["GroupId"]) for group in groups]
    who = advice.sources(groups, port)
    remedy = f"let this computer in: {advice.rule_for(ids[0], port)}"
    if not who:
        return Check.fail(name, f"{', '.join(ids)} lets nobody in", remedy)
    seen = f"{', '.join(ids)} lets in {', '.join(who)}"
    if any("/" in each or each.startswith("pl-") for each in who):  # else instances alone
        return Check.ok(name, seen)
    return Check.warn(name, seen, f"unless it is an instance with that group, {remedy}")


async def _groups(api: Api, wishes: Wishes) -> list[Mapping[str, Any]]:
    """Describe the security groups that instances will have."""
    if wishes.security_groups:
        answer = await api.call("describe_security_groups", GroupIds=list(wishes.security_groups))
        return list(answer["SecurityGroups"])
    if wishes.subnets:
        answer = await api.call("describe_subnets", SubnetIds=list(wishes.subnets[:1]))
        vpc = answer["Subnets"][0]["VpcId"]
    else:
        default = [{"Name": "is-default", "Values": ["true"]}]
        answer = await api.call("describe_vpcs", Filters=default)
        vpc = answer["Vpcs"][0]["VpcId"]
    filters = [
        {"Name": "vpc-id", "Values": [vpc]},
        {"Name": "group-name", "Values": ["default"]},
    ]
    answer = await api.call("describe_security_groups", Filters=filters)
    return list(answer["SecurityGroups"])


def _failed(name: str, error: BaseException) -> Check:
    mapped = errors.provision_error("do that", error, requested=0, started=0)
    return Check.fail(name, str(error), mapped.remedy or "see what AWS says above")
