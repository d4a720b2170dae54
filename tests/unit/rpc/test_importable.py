"""Which modules other processes cannot import."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from bigmachine.rpc.importable import not_importable


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory on ``sys.path`` with a package and a module."""
    (tmp_path / "onpath" / "deep").mkdir(parents=True)
    (tmp_path / "onpath" / "__init__.py").touch()
    (tmp_path / "onpath" / "deep" / "leaf.py").touch()
    (tmp_path / "single.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    return tmp_path


def load(name: str, file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_what_was_imported_can_be_imported(place: Path) -> None:
    for name in ("single", "onpath", "onpath.deep", "onpath.deep.leaf"):
        importlib.import_module(name)

    assert not {"single", "onpath", "onpath.deep", "onpath.deep.leaf"} & set(
        not_importable(sys.modules)
    )


def test_what_was_loaded_from_a_file_under_a_name_of_its_own_cannot(place: Path) -> None:
    (place / "elsewhere").mkdir()
    (place / "elsewhere" / "test_it.py").touch()
    load("suite.test_it", place / "elsewhere" / "test_it.py")
    load("other", place / "single.py")
    load("onpath.test_it", place / "elsewhere" / "test_it.py")
    before = {"suite.test_it", "other", "onpath.test_it"}

    assert before <= set(not_importable(sys.modules))


def test_modules_without_a_file_are_left_to_those_that_make_them(place: Path) -> None:
    sys.modules["made"] = ModuleType("made")
    sys.modules["odd"] = object()  # type: ignore[assignment]

    assert not {"made", "odd", "sys", "os", "__main__"} & set(not_importable(sys.modules))


def test_looking_loads_no_lazy_module(place: Path) -> None:
    spec = importlib.util.find_spec("single")
    assert spec is not None
    assert spec.loader is not None
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules["single"] = module
    spec.loader.exec_module(module)

    not_importable(sys.modules)

    assert "LazyModule" in type(module).__name__


class _SaysItIsAModule:
    """As cffi's libraries, which cryptography puts among the modules."""

    __slots__ = ()

    @property
    def __class__(self) -> type:  # type: ignore[override]
        return ModuleType


def test_what_only_says_that_it_is_a_module_is_left_alone() -> None:
    impostor = _SaysItIsAModule()
    assert isinstance(impostor, ModuleType)
    assert not_importable({"impostor": impostor}) == []  # type: ignore[dict-item]
