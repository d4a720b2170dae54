"""What can be wrong with a host, and how the driver hears of it: the cause, and the remedy."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from booting import Cluster, clusters_in, processes_below, run, wait_end

from bigmachine.driver import bootstrap as bootstrap_module
from bigmachine.errors import ProvisionError
from bigmachine.image.files import FileLayer, Source, make_layer
from bigmachine.image.runtime import runtime_layers


@contextlib.contextmanager
def mounted(path: Path, options: str) -> Iterator[Path]:
    """A small file system in memory, where this user may mount one."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
    if os.getuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("it takes root to mount a file system")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def fail(cluster: Cluster, directory: Path, **options: Any) -> ProvisionError:
    """Try to bring up a host that cannot be; it has to say so, and to end."""

    async def test() -> ProvisionError:
        host = await cluster.listening(directory=str(directory))
        with pytest.raises(ProvisionError) as caught:
            await cluster.bring_up(host, **options)
        assert wait_end(host, 5.0) == 1
        assert host.id in str(caught.value)
        return caught.value

    error: ProvisionError = run(test())
    assert processes_below(cluster.directory) == []
    return error


def test_a_full_disk(cluster: Cluster) -> None:
    with mounted(cluster.directory / "disk", "size=256k") as disk:
        error = fail(cluster, disk / "cache")
        assert "is on a disk that is full" in str(error)
        assert "make room there" in error.remedy
        assert os.listdir(disk / "cache" / "layers") == []
        assert os.listdir(disk / "cache" / "tmp") == []


def test_a_cache_that_cannot_be_written(cluster: Cluster) -> None:
    with mounted(cluster.directory / "disk", "size=256k,ro") as disk:
        error = fail(cluster, disk / "cache")
        assert f"{disk}/cache cannot be written" in str(error)
        assert "directory=" in error.remedy


def test_a_cache_from_which_nothing_may_be_run(cluster: Cluster) -> None:
    with mounted(cluster.directory / "disk", "noexec") as disk:
        error = fail(cluster, disk / "cache")
        assert "is mounted noexec" in str(error)
        assert "directory=" in error.remedy


def test_a_cache_in_the_place_of_a_file(cluster: Cluster) -> None:
    path = cluster.directory / "file"
    path.write_text("")
    assert f"{path}/cache cannot be used" in str(fail(cluster, path / "cache"))


def test_a_cache_that_others_can_write(cluster: Cluster) -> None:
    path = cluster.directory / "cache"
    path.mkdir()
    path.chmod(0o777)
    assert "can be written by other users" in str(fail(cluster, path))


def test_no_python_of_the_version(cluster: Cluster, warm_cache: Path) -> None:
    async def test() -> None:
        host = await cluster.listening(directory=str(warm_cache))
        with pytest.raises(ProvisionError) as caught:
            await cluster.bring_up(host, python=(3, 99))
        assert "there is no python3.99 there" in str(caught.value)
        assert sys.executable in str(caught.value)  # as one that was found
        assert "install Python 3.99" in caught.value.remedy
        await cluster.bring_up(host)

    run(test())


class Damaged:
    """A layer whose contents are not what its listing says."""

    def __init__(self, layer: FileLayer) -> None:
        self.name, self.digest, self.listing = layer.name, layer.digest, layer.listing
        self._layer = layer

    def read_pack(self, number: int) -> bytes:
        return self._layer.read_pack(number)[::-1]


class Unreadable(Damaged):
    def read_pack(self, number: int) -> bytes:
        raise OSError(f"pack {number} of {self.name} is gone")


def test_a_layer_that_was_damaged_on_the_way(cluster: Cluster) -> None:
    own, *others = runtime_layers()
    error = fail(cluster, cluster.directory / "cache", layers=[Damaged(own), *others])
    assert "is damaged" in str(error)


def test_a_layer_that_the_driver_cannot_read(cluster: Cluster) -> None:
    own, *others = runtime_layers()

    async def test() -> None:
        host = await cluster.listening()
        with pytest.raises(ProvisionError, match="is gone"):
            await cluster.bring_up(host, layers=[Unreadable(own), *others])

    run(test())


@pytest.mark.parametrize("path", ["../outside", "a/../../outside", "/outside", "a//b", "."])
def test_a_layer_that_leads_out_of_its_place(cluster: Cluster, path: str) -> None:
    layer = make_layer("evil", "runtime", {"x" * len(path): Source("", data=b"out")})
    evil = Damaged(layer)
    evil.listing = layer.listing.replace(b"x" * len(path), path.encode())
    evil.digest = bootstrap_module_digest(evil.listing)
    error = fail(cluster, cluster.directory / "cache", layers=[*runtime_layers(), evil])
    assert "a layer has a file" in str(error)
    assert not (cluster.directory / "cache" / "outside").exists()


def bootstrap_module_digest(listing: bytes) -> str:
    from bigmachine.image.listing import digest_of

    return digest_of(listing)


def test_a_supervisor_that_does_not_come_up(cluster: Cluster) -> None:
    broken = make_layer("broken", "runtime", {"bigmachine/__init__.py": Source("", data=b"1 / 0")})
    error = fail(cluster, cluster.directory / "cache", layers=[broken])
    assert "the supervisor did not come up" in str(error)
    assert "ZeroDivisionError" in str(error)
    assert clusters_in(cluster.directory / "cache") == []


@pytest.mark.parametrize(("hours", "words"), [(-25, "25 hours behind"), (24 * 20, "20 days ahead")])
def test_a_clock_that_is_far_off(
    cluster: Cluster,
    warm_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    hours: int,
    words: str,
) -> None:
    import time as real

    class Clock:
        """Not the host's is moved, which is this computer's, but the driver's."""

        @staticmethod
        def time() -> float:
            return real.time() - hours * 3600

    monkeypatch.setattr(bootstrap_module, "time", Clock)

    async def test() -> None:
        host = await cluster.listening(directory=str(warm_cache))
        with pytest.raises(ProvisionError, match=words) as caught:
            await cluster.bring_up(host)
        assert "timedatectl" in caught.value.remedy

    run(test())


def test_a_host_that_nobody_listens_on(cluster: Cluster) -> None:
    async def test() -> None:
        host = await cluster.listening()
        host.port = 1
        with pytest.raises(ProvisionError, match="did not answer") as caught:
            await cluster.bring_up(host, seconds=0.3)
        assert "connection refused" in str(caught.value)
        assert "firewall" in caught.value.remedy
        assert caught.value.retryable

    run(test())


def test_a_host_that_has_ended(cluster: Cluster) -> None:
    async def test() -> None:
        host = await cluster.listening()
        host.kill()
        with pytest.raises(ProvisionError, match="it ended") as caught:
            await cluster.bring_up(host)
        assert caught.value.answer == "its guardian ended with exit code 1"

    run(test())


def test_a_port_that_is_in_use(cluster: Cluster) -> None:
    async def test() -> None:
        first = await cluster.listening()
        with pytest.raises(ProvisionError, match=rf"cannot listen on .*port {first.port}"):
            await cluster.listening(port=first.port)

    run(test())
