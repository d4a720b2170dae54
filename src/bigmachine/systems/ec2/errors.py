"""Foreign errors mapped once: what AWS and its library say, and what the user can do about it."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit

from bigmachine.errors import ProvisionError

_CAPACITY: Final = frozenset(
    {
        "InsufficientInstanceCapacity",
        "InsufficientHostCapacity",
        "InsufficientReservedInstanceCapacity",
        "InsufficientCapacity",
        "MaxSpotInstanceCountExceeded",
        "SpotMaxPriceTooLow",
        "UnfulfillableCapacity",
        "Unsupported",
    }
)
_THROTTLING: Final = frozenset(
    {"RequestLimitExceeded", "Throttling", "ThrottlingException", "TooManyRequestsException"}
)
_RENEW: Final = "renew the credentials (aws sso login, aws configure)"
_REMEDIES: Final = {
    "UnauthorizedOperation": "let the policy of these credentials allow the action",
    "AccessDenied": "let the policy of these credentials allow the action",
    "AccessDeniedException": "let the policy of these credentials allow the action",
    "AuthFailure": "renew the credentials (aws sso login, aws configure), or choose profile=",
    "AuthFailure.ServiceLinkedRoleCreationNotPermitted": (
        "have an administrator create the role for spot instances once (aws iam "
        "create-service-linked-role --aws-service-name spot.amazonaws.com), or use on_demand=True"
    ),
    "ExpiredToken": _RENEW,
    "ExpiredTokenException": _RENEW,
    "UnauthorizedSSOTokenError": _RENEW,
    "SSOTokenLoadError": _RENEW,
    "TokenRetrievalError": _RENEW,
    "CredentialRetrievalError": _RENEW,
    "PartialCredentialsError": "set up all of the credentials (aws configure), or profile=",
    "SignatureDoesNotMatch": (
        "renew the credentials (aws configure), and see whether this computer's clock is right"
    ),
    "RequestExpired": "renew the credentials, and see whether this computer's clock is right",
    "InvalidClientTokenId": "renew the credentials (aws configure), or choose another profile=",
    "OptInRequired": "accept the image's terms, or enable the region, in the AWS console",
    "VcpuLimitExceeded": "ask for fewer machines, other instance types, or a higher quota of AWS",
    "InstanceLimitExceeded": "ask for fewer machines, or a higher quota of AWS",
    "InvalidAMIID.NotFound": "name an image of this region with ami=, or leave it to flavor=",
    "InvalidAMIID.Malformed": "name an image of this region with ami=, or leave it to flavor=",
    "InvalidKeyPair.NotFound": "name a key pair of this region with key_name=, or none",
    "InvalidGroup.NotFound": "name a security group of this region with security_groups=",
    "InvalidGroupId.Malformed": "name a security group of this region with security_groups=",
    "InvalidSubnetID.NotFound": "name a subnet of this region with subnets=",
    "InvalidInstanceType": "name a type that this region has with instance_type=",
    "InsufficientFreeAddressesInSubnet": "name more subnets, or larger ones, with subnets=",
    "InvalidParameterValue": "see the option that AWS names",
    "ParameterNotFound": "this region has no such flavor: name an image of it with ami=",
    "VPCIdNotSpecified": "there is no default VPC here: name a subnet with subnets=",
    "DefaultVpcDoesNotExist": "there is no default VPC here: name a subnet with subnets=",
    "NoRegionError": "say region=, or set AWS_REGION",
    "NoCredentialsError": "set up credentials: aws configure, AWS_ACCESS_KEY_ID, or profile=",
    "ProfileNotFound": "name a profile of ~/.aws/config with profile=",
}
# Of the library, where no answer came, or none of AWS's.
_NO_ANSWER: Final = frozenset(
    {
        "ConnectTimeoutError",
        "ConnectionClosedError",
        "EndpointConnectionError",
        "ProxyConnectionError",
        "ReadTimeoutError",
        "SSLError",
    }
)
_AWS: Final = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws", ".api.amazonwebservices.com.cn")


class InstanceFailed(Exception):
    """An instance was made, and nothing came of it; the text says why.

    Args:
        text: What has become of it.
        remedy: What a user can do about it, where that is known.
        replaceable: Whether another one may do better.
    """

    def __init__(self, text: str, *, remedy: str = "", replaceable: bool = True) -> None:
        super().__init__(text)
        self.remedy = remedy
        self.replaceable = replaceable


def code_of(error: BaseException) -> str:
    """Return AWS's name for an error; the library's, if it never got so far."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):
        return str(response.get("Error", {}).get("Code", ""))
    return type(error).__name__


def is_capacity(code: str) -> bool:
    """Whether another type, zone or market may still give an instance."""
    return code in _CAPACITY


def is_throttling(code: str) -> bool:
    """Whether AWS wants to be asked less often."""
    return code in _THROTTLING


def is_not_found(code: str) -> bool:
    """Whether something is not there, perhaps not yet: EC2 is consistent in the end only."""
    return code.endswith(".NotFound")


def provision_error(
    what: str, error: BaseException, *, requested: int, started: int
) -> ProvisionError:
    """Return an error of ours for one of AWS's.

    Args:
        what: What was being done.
        error: What came of it.
        requested: How many machines were asked for; 0 where something else was.
        started: How many came up.
    """
    if isinstance(error, InstanceFailed):
        return ProvisionError(
            f"EC2: {error}",
            system="ec2",
            requested=requested,
            started=started,
            answer="",
            remedy=error.remedy,
            temporary=True,
        )
    code = code_of(error)
    response: Any = getattr(error, "response", None)
    message = str(error)
    if isinstance(response, dict):
        message = str(response.get("Error", {}).get("Message", "")) or message
    remedy = _REMEDIES.get(code, "")
    if is_capacity(code):
        remedy = "name more types with instance_type=[...], more zones, or try again later"
    elif is_throttling(code):
        remedy = "ask for fewer machines at a time, or try again later"
    elif code in _NO_ANSWER:
        remedy = _remedy_where_nothing_answers(error)
    return ProvisionError(
        f"EC2 could not {what}: {code}: {message.rstrip('.')}",
        system="ec2",
        requested=requested,
        started=started,
        answer="",
        remedy=remedy,
        temporary=is_capacity(code) or is_throttling(code),
    )


def _remedy_where_nothing_answers(error: BaseException) -> str:
    """Say what to look at: the address, where it is none of AWS's own."""
    url = str(getattr(error, "kwargs", {}).get("endpoint_url") or "")
    if url and not (urlsplit(url).hostname or "").endswith(_AWS):
        return (
            "see whether an API is at this address, which endpoint_url= or AWS_ENDPOINT_URL names; "
            "without it AWS is asked"
        )
    return "see whether this computer reaches AWS, and whether region= is one"
