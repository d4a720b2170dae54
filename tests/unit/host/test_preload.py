"""The modules that a pickle refers to."""

from __future__ import annotations

import collections
import decimal
import fractions
import json
import pickle
from collections.abc import Callable

import cloudpickle
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bigmachine.host.preload import import_all, modules_of, modules_of_services
from bigmachine.rpc import codec


def test_those_of_classes_and_functions_are_found() -> None:
    value = [decimal.Decimal(1), fractions.Fraction(1, 2), {"f": json.dumps}, decimal.Decimal(2)]
    assert modules_of(pickle.dumps(value, 5)) >= {"decimal", "fractions", "json"}
    assert "collections" in modules_of(pickle.dumps(collections.Counter("ab"), 5))


def test_those_that_a_function_sent_by_value_uses_are_found() -> None:
    def make() -> Callable[[], object]:
        return eval("lambda: (np.zeros(3), json)", {"np": np, "json": json})  # type: ignore[no-any-return]

    assert modules_of(cloudpickle.dumps(make())) >= {"numpy", "json"}


def test_mains_own_are_left_out() -> None:
    assert modules_of(pickle.dumps([print, len], 5)) == set()


@given(st.binary(max_size=300))
def test_anything_else_has_none_or_does_no_harm(data: bytes) -> None:
    assert isinstance(modules_of(data), set)


def test_those_of_all_services_are_found() -> None:
    services = {"A": codec.encode(decimal.Decimal(1)), "B": codec.encode(np.zeros(100_000))}
    found = modules_of_services(codec.encode(services))
    assert "decimal" in found
    small = {"A": codec.encode(decimal.Decimal(1)), "B": codec.encode(np.zeros(3))}
    assert any(name.startswith("numpy") for name in modules_of_services(codec.encode(small)))


def test_what_cannot_be_imported_is_left_alone() -> None:
    import_all(["nothing.of.the.kind", "json", "", ".relative"])
