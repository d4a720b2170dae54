"""What a user is told where AWS cannot even be asked."""

from __future__ import annotations

import asyncio
import traceback
from pathlib import Path

import pytest

import bigmachine as bm
from bigmachine.systems.base import HostRequest
from bigmachine.systems.ec2 import EC2

pytest.importorskip("moto")

from .cloud import credentials


@pytest.fixture(autouse=True)
def no_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that are good for nothing, and no region."""
    with credentials(monkeypatch):
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
        monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
        monkeypatch.delenv("AWS_REGION", raising=False)


def refusal(system: EC2) -> bm.ProvisionError:
    """Return what a launch raises."""

    async def launch() -> None:
        request = HostRequest(cluster="c", machines=1, boot=lambda host: {})
        async for _ in system.launch(request):
            raise AssertionError("there is a host")

    with pytest.raises(bm.ProvisionError) as raised:
        asyncio.run(launch())
    return raised.value


def test_an_error_is_told_without_the_frames_of_the_library_that_it_comes_from() -> None:
    error = refusal(EC2())
    assert "NoRegionError" in str(error)
    assert "say region=" in error.remedy
    assert "botocore" not in "".join(traceback.format_exception(error))
