"""A package with a system in it, installed as far as the interpreter can tell."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

RACK = '''
from __future__ import annotations
from collections.abc import AsyncIterator
from typing import Literal
from bigmachine.systems.base import Host, HostRequest, System

class Rack(System):
    """Hosts in the rack next door.

    They are loud.
    """
    name = "rack"

    def __init__(
        self,
        *,
        rows: int = 1,
        power: Literal["high", "low"] = "low",
        hosts: list[str] | None = None,
        load: float = 0.5,
    ) -> None:
        if rows < 1:
            raise ValueError("rows must be positive")
        self.rows, self.power, self.hosts, self.load = rows, power, hosts, load

    async def launch(self, request: HostRequest) -> AsyncIterator[Host]:
        return
        yield

class Strict(Rack):
    name = "rack-strict"

    def __init__(self, *, key: str) -> None:
        self.key = key

NOT_A_SYSTEM = 3
'''
ENTRY_POINTS = """
[bigmachine.systems]
rack = rack_package:Rack
rack-strict = rack_package:Strict
broken = rack_package:Missing
number = rack_package:NOT_A_SYSTEM
local = rack_package:Rack
"""


def install_rack(directory: Path) -> None:
    """Put the package ``rack-package`` into a directory that will be on ``sys.path``."""
    metadata = directory / "rack_package-1.0.dist-info"
    metadata.mkdir(parents=True)
    (directory / "rack_package.py").write_text(RACK, "utf-8")
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: rack-package\nVersion: 1.0\n", "utf-8"
    )
    (metadata / "entry_points.txt").write_text(textwrap.dedent(ENTRY_POINTS), "utf-8")


@pytest.fixture
def rack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of an installed package that offers the systems rack and rack-strict."""
    directory = tmp_path / "site"
    install_rack(directory)
    monkeypatch.syspath_prepend(str(directory))
    return directory
