"""Which service and method a function means."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from bigmachine.errors import NoSuchMethodError, NoSuchServiceError, UsageError
from bigmachine.rpc.methods import Kind, Registry, kind_of
from bigmachine.service import ServiceTable


def passing(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


class Base:
    def sample(self) -> str:
        return "base"

    def other(self) -> str:
        return "other"

    @staticmethod
    def static() -> str:
        return "static"

    @classmethod
    def of_class(cls) -> str:
        return cls.__name__

    @passing
    def decorated(self) -> str:
        return "decorated"

    @functools.lru_cache  # noqa: B019
    def cached(self) -> str:
        return "cached"

    def many(self) -> Iterator[int]:
        yield 1

    async def many_later(self) -> AsyncIterator[int]:
        yield 1

    def _impl(self) -> str:
        return "impl"

    public = _impl


class Derived(Base):
    def sample(self) -> str:
        return "derived"


class Unrelated:
    def sample(self) -> str:
        return "unrelated"

    class Inner:
        def deep(self) -> str:
            return "deep"


def function() -> None: ...


@pytest.mark.parametrize("service", [Base(), Derived()])
@pytest.mark.parametrize(
    "name", ["sample", "other", "static", "of_class", "decorated", "cached", "many", "public"]
)
def test_a_function_is_found_in_the_one_service_that_has_it(service: Any, name: str) -> None:
    table = ServiceTable({"X": Unrelated(), "S": service})
    assert table.find(getattr(Base, name)) == f"S.{name}"
    assert table.find(getattr(Base, name)) == f"S.{name}"


def test_a_function_means_what_overrides_it() -> None:
    assert ServiceTable({"S": Derived()}).find(Base.sample) == "S.sample"
    assert ServiceTable({"S": Derived()}).find(Derived.sample) == "S.sample"
    with pytest.raises(NoSuchServiceError):
        ServiceTable({"S": Base()}).find(Derived.sample)


def test_a_bound_method_means_its_function() -> None:
    assert ServiceTable({"S": Derived()}).find(Base().sample) == "S.sample"


def test_a_function_of_several_services_is_a_usage_error_that_names_them() -> None:
    table = ServiceTable({"A": Base(), "B": Derived(), "C": Unrelated()})
    with pytest.raises(UsageError, match=r"A, B"):
        table.find(Base.sample)
    assert table.find(Derived.sample) == "B.sample"
    with pytest.raises(UsageError, match="several"):
        table.name_of(Base)
    assert table.name_of(Derived) == "B"


@pytest.mark.parametrize("wrong", [function, Unrelated.Inner.deep, len, str.upper])
def test_a_function_that_no_service_has_is_not_found(wrong: Any) -> None:
    with pytest.raises(NoSuchServiceError, match="S"):
        ServiceTable({"S": Base()}).find(wrong)


@pytest.mark.parametrize("wrong", [3, None, [1], {}])
def test_what_is_no_function_is_a_usage_error(wrong: Any) -> None:
    with pytest.raises(UsageError):
        ServiceTable({"S": Base()}).find(wrong)
    with pytest.raises(UsageError):
        ServiceTable.remote_name(wrong)


def test_generators_are_not_to_be_called() -> None:
    table = ServiceTable({"S": Derived()})
    for name in ("S.many", "S.many_later"):
        for _ in range(2):
            with pytest.raises(UsageError, match=r"stream\(\)"):
                table.check_no_stream(name)
    for name in ("S.sample", "S.missing", "Missing.x", "odd", ""):
        table.check_no_stream(name)


def test_a_machine_that_was_dialled_finds_the_function_itself() -> None:
    registry = Registry()
    registry.add("S", Derived())
    registry.add("I", Unrelated.Inner())
    for name in ("sample", "other", "static", "of_class", "decorated"):
        method = registry.find(ServiceTable.remote_name(getattr(Base, name)))
        assert method.function() == getattr(Derived(), name)()
    assert registry.find(ServiceTable.remote_name(Unrelated.Inner.deep)).function() == "deep"
    with pytest.raises(NoSuchServiceError):
        registry.find(ServiceTable.remote_name(Unrelated.sample))
    with pytest.raises(UsageError):
        ServiceTable.remote_name(function)
    registry.add("T", Base())
    with pytest.raises(UsageError, match="S, T"):
        registry.find(ServiceTable.remote_name(Base.many))


@pytest.mark.parametrize("name", ["", ".", "S", "S.", ".sample", "S.sample.x", "@", "@:", "@x:y.z"])
def test_no_name_finds_what_is_not_there(name: str) -> None:
    registry = Registry()
    registry.add("S", Base())
    with pytest.raises((NoSuchServiceError, NoSuchMethodError)):
        registry.find(name)


def test_names_of_services_have_no_dots_and_are_taken_once() -> None:
    registry = Registry()
    assert registry.add("S", Base()) is True
    assert registry.add("S", Unrelated()) is False
    assert registry.find("S.other").function() == "other"
    for name in ("", "a.b"):
        with pytest.raises(UsageError):
            registry.add(name, Base())


def test_kinds_are_told_apart() -> None:
    async def later() -> None: ...

    service = Base()
    assert kind_of(service.sample) is Kind.PLAIN
    assert kind_of(service.many) is Kind.GENERATOR
    assert kind_of(service.many_later) is Kind.ASYNC_GENERATOR
    assert kind_of(later) is Kind.ASYNC
    assert kind_of(functools.partial(later)) is Kind.ASYNC
