"""What AWS says, and what a user is told."""

from __future__ import annotations

import pytest

from bigmachine.systems.ec2 import errors


class Refused(Exception):
    """As botocore's ClientError."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"An error occurred ({code}) when calling it: {message}")
        self.response = {"Error": {"Code": code, "Message": message}}


class NoCredentialsError(Exception):
    """As botocore's, which never got to AWS."""


class EndpointConnectionError(Exception):
    """As botocore's."""

    def __init__(self, url: str) -> None:
        super().__init__(f'Could not connect to the endpoint URL: "{url}"')
        self.kwargs = {"endpoint_url": url}


def mapped(error: BaseException):
    return errors.provision_error("give an instance", error, requested=4, started=1)


def test_it_says_what_was_done_how_far_it_came_and_what_aws_says() -> None:
    made = mapped(Refused("UnauthorizedOperation", "You are not allowed"))
    assert "EC2 could not give an instance: UnauthorizedOperation: You are not allowed" in str(made)
    assert (made.system, made.requested, made.started) == ("ec2", 4, 1)
    assert "policy" in made.remedy
    assert not made.temporary


@pytest.mark.parametrize(
    "code",
    ["InsufficientInstanceCapacity", "MaxSpotInstanceCountExceeded", "UnfulfillableCapacity"],
)
def test_capacity_is_a_matter_of_time_and_types(code: str) -> None:
    made = mapped(Refused(code, "none"))
    assert made.temporary
    assert "instance_type=" in made.remedy


@pytest.mark.parametrize("code", ["RequestLimitExceeded", "Throttling"])
def test_so_is_being_asked_too_often(code: str) -> None:
    made = mapped(Refused(code, "slower"))
    assert made.temporary
    assert "later" in made.remedy


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("VcpuLimitExceeded", "quota"),
        ("ExpiredToken", "aws sso login"),
        ("InvalidAMIID.NotFound", "ami="),
        ("InvalidSubnetID.NotFound", "subnets="),
        ("InvalidGroup.NotFound", "security_groups="),
        ("InvalidKeyPair.NotFound", "key_name="),
        ("OptInRequired", "terms"),
        ("AuthFailure.ServiceLinkedRoleCreationNotPermitted", "create-service-linked-role"),
        ("InsufficientFreeAddressesInSubnet", "more subnets"),
        ("ParameterNotFound", "ami="),
    ],
)
def test_a_remedy_names_what_to_change(code: str, words: str) -> None:
    made = mapped(Refused(code, "no"))
    assert words in made.remedy
    assert not made.temporary


def test_an_error_of_the_library_is_known_by_its_type() -> None:
    made = mapped(NoCredentialsError("Unable to locate credentials"))
    assert "Unable to locate credentials" in str(made)
    assert "aws configure" in made.remedy


def test_what_nobody_knows_is_said_as_it_is() -> None:
    made = mapped(Refused("SomethingNew", "that"))
    assert "SomethingNew: that" in str(made)
    assert made.remedy == ""


def test_what_is_not_there_may_come() -> None:
    assert errors.is_not_found("InvalidInstanceID.NotFound")
    assert not errors.is_not_found("InvalidAMIID.Malformed")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://ec2.eu-nowhere-1.amazonaws.com/", "region="),
        ("https://ec2.cn-north-1.amazonaws.com.cn/", "region="),
        ("http://localhost:4566/", "endpoint_url="),
    ],
)
def test_where_nothing_answers_it_is_said_who_chose_the_address(url: str, words: str) -> None:
    assert words in mapped(EndpointConnectionError(url)).remedy
