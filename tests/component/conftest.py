"""What tests of several parts use."""

from __future__ import annotations

import shutil
from pathlib import Path

import cloudpickle
import psutil
import pytest

import bigmachine
from bigmachine.image.build import Image, build
from bigmachine.image.index import Index

HERE = Path(__file__).parent
LONG = (
    "ec2/",
    "boot/test_ends",
    "boot/test_failures",
    "boot/test_interpreters",
    "boot/test_strangers",
)
"""What takes minutes and hardly depends on the Python: it runs on the first one only."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is long as slow."""
    for item in items:
        is_here = item.path.is_relative_to(HERE)
        if is_here and str(item.path.relative_to(HERE)).startswith(LONG):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def small_image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """As small an image as there can be: bigmachine, and what it needs on machines."""
    site = tmp_path_factory.mktemp("environment") / "site-packages"
    for package in (bigmachine, cloudpickle, psutil):
        source = Path(str(package.__file__)).parent
        shutil.copytree(source, site / source.name, ignore=shutil.ignore_patterns("tests"))
    index = Index([str(site)], directory=str(site.parent))
    return build(sys_path=[str(site)], index=index)
