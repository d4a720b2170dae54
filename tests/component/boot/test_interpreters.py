"""Which Python a supervisor runs on: the host's own, else the driver's, sent there."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from booting import LIMIT_SECONDS, Cluster, pythons, run

from bigmachine.driver import bootstrap as bootstrap_module
from bigmachine.errors import ProvisionError
from bigmachine.image.platforms import Platform
from bigmachine.testing.booted import BootedHost

OWN = "{}.{}".format(*sys.version_info)
OTHERS = [path for version, path in pythons() if version != OWN and version not in ("3.6", "3.7")]


def without_python(cluster: Cluster) -> BootedHost:
    """A host on which the driver's Python is not found, but another one."""
    if not OTHERS:
        pytest.skip("there is no other Python on this computer")
    host = cluster.host(python=OTHERS[0])
    empty = cluster.directory / "empty"
    empty.mkdir(exist_ok=True)
    host.environ["PATH"] = str(empty)
    return host


def libraries_of(pid: int) -> set[str]:
    """The shared libraries that a process has loaded."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {line.split()[-1] for line in lines if ".so" in line}


def test_the_drivers_interpreter_is_sent_where_there_is_none(cluster: Cluster) -> None:
    async def test() -> None:
        host = without_python(cluster)
        cache = str(cluster.directory / "cache")
        await host.start(cluster.config(host, directory=cache))
        ready = await cluster.bring_up(host, seconds=3 * LIMIT_SECONDS)
        executable = os.readlink(f"/proc/{ready.pid}/exe")
        assert executable.startswith(f"{cache}/layers/")
        assert executable.endswith(f"/bin/python{OWN}")
        strange = [each for each in libraries_of(ready.pid) if not each.startswith(cache)]
        assert all("/libc." in each or "/libm." in each or "/ld-" in each for each in strange)
        assert (await cluster.call(ready, "Host.keepalive", 20.0)).accepted == 20.0

    run(test())


def test_it_is_not_sent_where_it_does_not_run(
    cluster: Cluster, warm_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Newer(Platform):
        """The driver's computer has a C library that no host has yet."""

        @classmethod
        def here(cls) -> Platform:
            return Platform.of(
                system="Linux",
                machine=os.uname().machine,
                libc=("glibc", "9.99"),
                python=sys.version_info[:2],
            )

    from bigmachine.image import interpreter
    from bigmachine.image.runtime import runtime_layers

    monkeypatch.setattr(interpreter, "Platform", Newer)
    monkeypatch.setattr(bootstrap_module, "layers_for", lambda _: runtime_layers())

    async def test() -> None:
        host = without_python(cluster)
        await host.start(cluster.config(host, directory=str(warm_cache)))
        with pytest.raises(ProvisionError, match=f"it has no Python {OWN}, and the driver's") as c:
            await cluster.bring_up(host)
        assert f"install Python {OWN} there" in c.value.remedy
        assert OTHERS[0] in str(c.value)

    run(test())
