"""What a user is told where AWS cannot even be asked."""

from __future__ import annotations

import asyncio
import socket
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

import bigmachine as bm
from bigmachine.cli import main
from bigmachine.systems.base import HostRequest
from bigmachine.systems.ec2 import EC2, api

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


def test_what_is_left_cannot_be_looked_for_without_a_region_and_that_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["gc", "ec2", "--dry-run"]) == 1
    assert capsys.readouterr().err == (
        "bigmachine gc: EC2 could not be asked what is left: NoRegionError: You must specify a "
        "region; say region=, or set AWS_REGION\n"
    )


class Silent:
    """A server that takes connections, counts them, and answers nothing."""

    def __init__(self) -> None:
        self.count = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            with connection:
                if not connection.recv(1):
                    return
            self.count += 1

    def close(self) -> None:
        socket.create_connection(self._socket.getsockname()).close()
        self._thread.join()
        self._socket.close()


@pytest.fixture
def silent() -> Iterator[Silent]:
    server = Silent()
    yield server
    server.close()


def test_an_address_where_nothing_ever_answers_is_given_up_soon(silent: Silent) -> None:
    error = refusal(EC2(region="us-east-1", endpoint_url=silent.url))
    assert silent.count == api.FIRST_ATTEMPTS
    assert "endpoint_url=" in error.remedy


def test_of_an_address_where_nothing_listens_the_remedy_names_who_said_it() -> None:
    error = refusal(EC2(region="us-east-1", endpoint_url="http://127.0.0.1:1"))
    assert "http://127.0.0.1:1" in str(error)
    assert "endpoint_url=" in error.remedy
    assert "region" not in error.remedy
