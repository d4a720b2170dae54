"""Hosts for tests: ``hosts(3)`` starts hosts that the test uses up, ``lab`` is their network."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from . import roots, tools
from .drivers import Drivers, Environment
from .host import HostOptions, LabHost
from .lab import Lab

StartHosts = Callable[..., list[LabHost]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything here, and skip it where there can be no hosts."""
    reason = tools.why_not()
    for item in _ours(items):
        item.add_marker(pytest.mark.hosts)
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Make the root file systems before the tests' limits of time begin to count."""
    wanted = _ours(session.items)
    if wanted and not tools.why_not() and not session.config.option.collectonly:
        roots.get(roots.bare())
        if any(item.get_closest_marker("cloud") for item in wanted):
            roots.get(roots.CLOUD)


def _ours(items: Iterable[pytest.Item]) -> list[pytest.Item]:
    here = Path(__file__).parent
    return [item for item in items if here in item.path.parents]


@pytest.fixture(scope="session")
def network_lab() -> Iterator[Lab]:
    """The network of the whole run; its hosts are each test's own."""
    with Lab() as lab:
        yield lab


@pytest.fixture
def lab(network_lab: Lab) -> Iterator[Lab]:
    """A network with no hosts yet; those that the test starts end with it."""
    yield network_lab
    network_lab.end_hosts()


@pytest.fixture
def hosts(lab: Lab) -> StartHosts:
    """Start hosts: ``hosts(3)``, or ``hosts([HostOptions(clock=3600.0)])``."""

    def start(options: int | Sequence[HostOptions] = 1, **kwargs: object) -> list[LabHost]:
        return lab.start(options, **kwargs)  # type: ignore[arg-type]

    return start


@pytest.fixture
def old_python() -> Callable[[str], str]:
    """Find the folder of an older Python of this computer; the test is skipped without one."""

    def find(version: str) -> str:
        versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
        found = sorted(versions.glob(f"{version}.*/bin/python3"))
        if not found:
            pytest.skip(f"pyenv has no Python {version} here")
        return str(found[-1].parent.parent)

    return find


MakeDrivers = Callable[..., Drivers]


@pytest.fixture
def make_drivers(lab: Lab, tmp_path: Path) -> MakeDrivers:
    """Make an environment with bigmachine and what is named, to run programs in."""

    def make(*names: str) -> Drivers:
        directory = tmp_path / "driver"
        directory.mkdir()
        return Drivers(lab, Environment(directory / "venv", names), directory)

    return make


@pytest.fixture
def drivers(make_drivers: MakeDrivers) -> Drivers:
    """An environment with bigmachine and nothing else."""
    return make_drivers()
