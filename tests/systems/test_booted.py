"""Hosts that are booted pass the suite as all others do: the image and the runtime travel."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import pytest

from bigmachine.systems import System
from bigmachine.testing.booted import Booted
from bigmachine.testing.conformance import SystemConformance


@pytest.mark.slow
class TestBooted(SystemConformance):
    limit_seconds = 120.0  # the first of them waits for the whole environment to travel
    directory = ""

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def cache(cls) -> Iterator[None]:
        """One cache for all of them, so that the program's environment travels once."""
        with tempfile.TemporaryDirectory() as cls.directory:
            yield

    def make_system(self) -> System:
        return Booted(n_hosts=2, directory=self.directory)
