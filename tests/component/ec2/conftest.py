"""One cloud for each test."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import cloudpickle
import psutil
import pytest

import bigmachine
from bigmachine.image.build import Image, build
from bigmachine.image.index import Index

pytest.importorskip("moto")

from .cloud import Cloud, credentials


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with credentials(monkeypatch), Cloud(tmp_path) as cloud:
        yield cloud


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """As small an image as there can be: bigmachine, and what it needs on machines."""
    site = tmp_path_factory.mktemp("environment") / "site-packages"
    for package in (bigmachine, cloudpickle, psutil):
        source = Path(str(package.__file__)).parent
        shutil.copytree(source, site / source.name, ignore=shutil.ignore_patterns("tests"))
    index = Index([str(site)], directory=str(site.parent))
    return build(sys_path=[str(site)], index=index)
