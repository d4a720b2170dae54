"""Makes the module beside the tests importable, and has nothing left behind."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

from booting import Cluster, processes_below


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Who a driver of hosts is; what it has started must have ended by itself or by its hand."""
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.close()
    assert processes_below(tmp_path) == []


@pytest.fixture(scope="session")
def warm_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that the first test fills, for tests of other things than filling it."""
    return tmp_path_factory.mktemp("warm") / "cache"
