"""The names that users find: they are there, and nothing else shows up beside them."""

from __future__ import annotations

import types

import pytest

import bigmachine as bm

LAZY = [bm, bm.systems]


@pytest.mark.parametrize("module", LAZY, ids=lambda module: module.__name__)
def test_every_public_name_is_there(module: types.ModuleType) -> None:
    assert all(getattr(module, name) is not None for name in module.__all__)


def test_the_systems_of_the_library_are_named_in_one_place() -> None:
    assert {"Local", "SSH", "EC2"} < set(bm.systems.__all__)


@pytest.mark.parametrize("module", LAZY, ids=lambda module: module.__name__)
def test_no_other_names_are_listed(module: types.ModuleType) -> None:
    listed = {name for name in dir(module) if not (name.startswith("__") and name.endswith("__"))}
    assert listed == {name for name in module.__all__ if name != "__version__"}
