"""The error tree: what each class is, says and keeps when it crosses machines."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest

from bigmachine import errors
from bigmachine.errors import (
    BigmachineError,
    CallError,
    CallTimeoutError,
    Death,
    DeathKind,
    LocalProtocolError,
    MachineStoppedError,
    NoSuchMethodError,
    NoSuchServiceError,
    PayloadError,
    ProtocolError,
    ProvisionError,
    RemoteError,
    RemoteProtocolError,
    TransportError,
    UsageError,
    is_remote,
    mark_remote,
)

WHERE = {"machine": "3-9f3a01c2", "method": "PI.sample"}

ERRORS: list[BigmachineError] = [
    BigmachineError("something"),
    UsageError("no services; give at least one"),
    ProvisionError(
        "no capacity",
        system="ec2",
        requested=8,
        started=3,
        answer="InsufficientInstanceCapacity",
        remedy="ask for another instance type",
        temporary=True,
    ),
    MachineStoppedError(
        machine="3-9f3a01c2",
        death=Death(kind=DeathKind.SIGNAL, machine="m3", signal="SIGKILL", output=("a", "b")),
    ),
    CallError("failed", **WHERE),
    TransportError("connection reset", **WHERE, outcome="maybe_ran"),
    CallTimeoutError("the deadline passed", **WHERE),
    NoSuchServiceError("no service PI", **WHERE),
    NoSuchMethodError("no method sample", **WHERE),
    PayloadError("cannot be sent", **WHERE, path="args[0]['f']"),
    RemoteError("bad", **WHERE, type_name="app.Odd", traceback="Traceback ..."),
    ProtocolError("broken"),
    LocalProtocolError("a frame out of order"),
    RemoteProtocolError("not a frame"),
]


def class_name(error: object) -> str:
    return type(error).__name__


def test_every_class_of_the_tree_is_tried_here() -> None:
    named = {getattr(errors, name) for name in errors.__all__}
    classes = {each for each in named if isinstance(each, type) and issubclass(each, Exception)}

    assert {type(error) for error in ERRORS} == classes


@pytest.mark.parametrize("error", ERRORS, ids=class_name)
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_pickles_with_its_attributes(error: BigmachineError, protocol: int) -> None:
    error.add_note("seen in the morning")

    twin = pickle.loads(pickle.dumps(error, protocol))

    assert type(twin) is type(error)
    assert repr(twin) == repr(error)
    assert str(twin) == str(error)
    assert twin.args == error.args
    assert vars(twin) == vars(error)


@pytest.mark.parametrize("error", ERRORS, ids=class_name)
def test_an_error_can_be_copied(error: BigmachineError) -> None:
    assert repr(copy.copy(error)) == repr(error)


@pytest.mark.parametrize(
    ("cls", "also"),
    [
        (UsageError, ValueError),
        (CallTimeoutError, TimeoutError),
        (NoSuchServiceError, LookupError),
        (NoSuchMethodError, LookupError),
        (PayloadError, TypeError),
        (RemoteProtocolError, ProtocolError),
        (TransportError, CallError),
        (RemoteError, CallError),
    ],
)
def test_an_error_can_be_caught_as_its_builtin_kind(cls: type, also: type) -> None:
    assert issubclass(cls, also)
    assert issubclass(cls, BigmachineError)


def test_an_error_of_a_user_below_ours_pickles_past_its_constructor() -> None:
    twin = pickle.loads(pickle.dumps(QuotaError("cpu", 3)))

    assert (str(twin), twin.what, twin.limit) == ("cpu is limited to 3", "cpu", 3)


class QuotaError(BigmachineError):
    def __init__(self, what: str, limit: int) -> None:
        super().__init__(f"{what} is limited to {limit}")
        self.what = what
        self.limit = limit


def test_only_what_cannot_have_run_is_retryable() -> None:
    assert TransportError("refused", **WHERE, outcome="not_sent").retryable
    assert not TransportError("reset", **WHERE, outcome="maybe_ran").retryable
    retryable = [class_name(error) for error in ERRORS if error.retryable]
    assert retryable == ["ProvisionError"]


def test_a_lasting_lack_of_hosts_is_not_retryable() -> None:
    assert not ProvisionError("no key", system="ec2", requested=1, started=0).retryable


def test_an_error_that_a_method_met_in_its_own_call_is_not_retryable() -> None:
    error = TransportError("refused", **WHERE, outcome="not_sent")

    mark_remote(error)

    assert is_remote(error)
    assert not error.retryable


def test_a_call_error_says_which_call_as_soon_as_that_is_known() -> None:
    error = CallTimeoutError("the deadline passed")
    assert str(error) == "the deadline passed"

    error.machine, error.method = "m3", "PI.sample"

    assert str(error) == "the deadline passed (calling PI.sample on machine m3)"


def test_a_call_error_does_not_repeat_what_its_message_says() -> None:
    assert str(NoSuchMethodError("m3 has no PI.sample", machine="m3", method="PI.sample")) == (
        "m3 has no PI.sample"
    )


def test_a_remote_error_says_the_type_and_the_text() -> None:
    assert str(RemoteError("bad", type_name="app.Odd", traceback="")) == "app.Odd: bad"
    assert str(RemoteError("", type_name="app.Odd", traceback="")) == "app.Odd"


def test_a_provision_error_says_how_many_what_was_answered_and_what_to_do() -> None:
    error = next(error for error in ERRORS if isinstance(error, ProvisionError))

    assert str(error) == (
        "no capacity (3 of 8 machines of 'ec2'); it answered: InsufficientInstanceCapacity;"
        " ask for another instance type"
    )
    assert error.problem == str(error).removesuffix("; ask for another instance type")


def test_a_provision_error_that_is_not_about_machines_counts_none() -> None:
    error = ProvisionError("no answer", system="ec2", requested=0, started=0, remedy="ask again")
    assert str(error) == "no answer; ask again"


def test_a_stopped_machine_error_says_the_death_and_has_its_exception_as_cause() -> None:
    cause = ValueError("no model")
    death = Death(kind=DeathKind.INIT, machine="m3", detail="ValueError: no model")

    error = MachineStoppedError(machine="3-9f3a01c2", death=death.with_cause(cause))

    assert error.__cause__ is cause
    assert str(error) == str(death)


def test_an_exception_is_remote_when_marked_even_if_it_refuses_attributes() -> None:
    class Sealed(Exception):
        def __setattr__(self, name: str, value: object) -> None:
            raise AttributeError(name)

    error = Sealed()
    assert not is_remote(error)

    mark_remote(error)

    assert is_remote(error)


def test_a_group_is_remote_when_all_its_members_are() -> None:
    first, second = ValueError(1), ExceptionGroup("inner", [KeyError(2)])
    group = ExceptionGroup("outer", [first, second])
    mark_remote(first)
    assert not is_remote(group)

    mark_remote(second.exceptions[0])

    assert is_remote(group)


def test_importing_the_errors_imports_nothing_that_takes_time() -> None:
    program = (
        "import sys; before = set(sys.modules); import bigmachine.errors;"
        "print(*sorted(set(sys.modules) - before))"
    )
    loaded = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, timeout=60
    )

    modules = set(loaded.stdout.split())
    assert "bigmachine.errors" in modules, loaded.stderr
    assert not modules & {"typing", "enum", "dataclasses", "re", "asyncio", "bigmachine.death"}


def test_a_name_that_the_errors_do_not_have_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Dearth"):
        errors.Dearth  # noqa: B018
