"""Why an instance that runs does not answer, most likely, and what to do. Pure.

EC2 says of an instance that it runs as soon as its power is on. Whether the driver reaches it is a
matter of its address, its security groups, its subnet and what its image does, which are asked
about here in this order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_EVERYBODY = frozenset({"0.0.0.0/0", "::/0"})


def advise(
    described: Mapping[str, Any],
    groups: Sequence[Mapping[str, Any]] | None,
    *,
    ip: str,
    port: int,
    is_refused: bool,
) -> str:
    """Return what to look at first.

    Args:
        described: The instance, as the API describes it.
        groups: Its security groups, likewise; None where these credentials may not see them.
        ip: The address at which it is tried.
        port: The port.
        is_refused: Whether something at that address says that nothing listens there.
    """
    if is_refused:
        return (
            "its network is all right, but nothing listens there: the image has to run user-data "
            "(cloud-init) and have a python3; what it did is shown by aws ec2 get-console-output "
            f"--latest --output text --instance-id {described['InstanceId']}"
        )
    parts = []
    if ip != described.get("PublicIpAddress"):
        parts.append(
            f"{ip} is a private address: run the program inside {described.get('VpcId', 'its VPC')}"
            " or connect to that, or have instances get public addresses with public_ip=True"
        )
    parts.append(_of_groups(described, groups, port))
    return "; ".join(parts)


def sources(groups: Sequence[Mapping[str, Any]], port: int) -> list[str]:
    """Return from where security groups let TCP connections in at a port: networks and groups."""
    found = [source for group in groups for source in _sources_of(group, port)]
    return list(dict.fromkeys(found))


def is_everybody(networks: Sequence[str]) -> bool:
    """Whether these are all there are."""
    return not _EVERYBODY.isdisjoint(networks)


def rule_for(group: str, port: int) -> str:
    """Return a command that has a security group let this computer in."""
    return (
        f"aws ec2 authorize-security-group-ingress --group-id {group} --protocol tcp "
        f"--port {port} --cidr YOUR-ADDRESS/32"
    )


def _of_groups(
    described: Mapping[str, Any], groups: Sequence[Mapping[str, Any]] | None, port: int
) -> str:
    subnet = described.get("SubnetId", "its subnet")
    ids = [str(each["GroupId"]) for each in described.get("SecurityGroups", ())]
    named = f"its security group {' or '.join(ids)}" if ids else "its security group"
    route = f"whether {subnet} has a route to an internet gateway and its network ACL lets TCP in"
    if groups is None or not ids:
        return f"see whether {named} lets this computer connect to TCP port {port}, and {route}"
    found = sources(groups, port)
    if is_everybody(found):
        return f"{named} lets everybody in at TCP port {port}: see {route}"
    who = f"lets TCP port {port} in from {', '.join(found)} alone" if found else "lets nobody in"
    return f"{named} {who}: let this computer in ({rule_for(ids[0], port)}), or see {route}"


def _sources_of(group: Mapping[str, Any], port: int) -> Iterator[str]:
    for rule in group.get("IpPermissions", ()):
        if not _is_for(rule, port):
            continue
        for ranges, name in (
            ("IpRanges", "CidrIp"),
            ("Ipv6Ranges", "CidrIpv6"),
            ("PrefixListIds", "PrefixListId"),
            ("UserIdGroupPairs", "GroupId"),
        ):
            yield from (str(each[name]) for each in rule.get(ranges, ()) if each.get(name))


def _is_for(rule: Mapping[str, Any], port: int) -> bool:
    protocol = str(rule.get("IpProtocol", ""))
    if protocol == "-1":  # all, whose ports are not said
        return True
    is_tcp = protocol in ("tcp", "6")
    return is_tcp and int(rule.get("FromPort", 0)) <= port <= int(rule.get("ToPort", 65535))
