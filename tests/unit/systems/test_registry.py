"""Finding systems by name, with a real installed package of systems."""

from __future__ import annotations

from pathlib import Path

import pytest

from bigmachine.errors import UsageError
from bigmachine.systems.registry import find_system, system_names


@pytest.mark.usefixtures("rack")
def test_an_installed_package_adds_its_systems_after_the_built_in_ones():
    names = system_names()
    assert names[:2] == ["local", "inprocess"]
    assert {"rack", "rack-strict"} < set(names)
    assert len(names) == len(set(names))


def test_a_system_is_found_by_its_entry_point(rack: Path):
    cls = find_system("rack", source="x")
    assert cls.name == "rack"


@pytest.mark.usefixtures("rack")
def test_an_unknown_system_is_refused_with_its_source_and_the_nearest_name():
    with pytest.raises(UsageError) as raised:
        find_system("rakc", source="BIGMACHINE_SYSTEM")
    text = str(raised.value)
    assert text.startswith("BIGMACHINE_SYSTEM: there is no system 'rakc'")
    assert "'local', 'inprocess'" in text
    assert "did you mean 'rack'?" in text


@pytest.mark.usefixtures("rack")
def test_a_system_that_cannot_be_imported_names_its_package_and_the_reason():
    with pytest.raises(UsageError, match=r"'broken' of rack-package.*AttributeError") as raised:
        find_system("broken", source="--system")
    assert isinstance(raised.value.__cause__, AttributeError)


@pytest.mark.usefixtures("rack")
def test_an_entry_point_that_is_no_system_is_refused():
    with pytest.raises(UsageError, match="no subclass"):
        find_system("number", source="--system")


@pytest.mark.usefixtures("rack")
def test_a_package_cannot_take_the_name_of_a_built_in_system():
    assert find_system("local", source="x").__module__ == "bigmachine.systems.local"
