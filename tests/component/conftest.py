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


@pytest.fixture(scope="session")
def small_image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """As small an image as there can be: bigmachine, and what it needs on machines."""
    site = tmp_path_factory.mktemp("environment") / "site-packages"
    for package in (bigmachine, cloudpickle, psutil):
        source = Path(str(package.__file__)).parent
        shutil.copytree(source, site / source.name, ignore=shutil.ignore_patterns("tests"))
    index = Index([str(site)], directory=str(site.parent))
    return build(sys_path=[str(site)], index=index)
