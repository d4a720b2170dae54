"""What a driver tells its hosts: the program, its services, and where they run.

Light on purpose: `Cluster.start` has the first host begin before it imports the runtime, so that
both take their time side by side.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from bigmachine import osdep
from bigmachine.host.messages import (
    HostConfig,
    LaunchSpec,
    MachineSpec,
    Program,
    StartMethod,
)
from bigmachine.rpc import codec

if TYPE_CHECKING:
    from bigmachine.image.build import Image
    from bigmachine.security.credentials import Credentials
    from bigmachine.systems.base import System


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What the machines of one `Cluster.start` are to be.

    Attributes:
        cluster: The cluster's name.
        program: What they run.
        services: Their encoded services, one mapping of names to payloads.
        env: Changes to the environment that they begin with.
        args: Arguments in place of the driver's; None keeps those.
        start_method: How they are started.
        environ: The environment that they begin with; None elsewhere than on the driver's computer,
            where they begin with what the host has.
        later_environ: What it is from ``bigmachine.start`` on; None leaves it. See `environments`.
        cwd: Where they work: the driver's directory.
        sys_path: The driver's ``sys.path``.
        image: Elsewhere: what the host is to have; None is the program's own environment.
        root: Elsewhere: the image's directory on the host, once it is there.
    """

    cluster: str
    program: Program
    services: codec.Payload = field(repr=False)
    env: Mapping[str, str | None] = field(repr=False)
    args: tuple[str, ...] | None
    start_method: StartMethod
    environ: Mapping[str, str] | None = field(repr=False)
    later_environ: Mapping[str, str] | None = field(default=None, repr=False)
    cwd: str
    sys_path: tuple[str, ...]
    image: Image | None = None
    root: str = ""

    @classmethod
    def of(
        cls,
        cluster: str,
        system: System,
        program: Program,
        services: Mapping[str, object],
        *,
        env: Mapping[str, str | None],
        args: tuple[str, ...] | None,
        image: Image | None = None,
    ) -> Orders:
        """Encode the services, and take down where the driver stands at this moment.

        Args:
            cluster: The cluster's name.
            system: Where the machines will be.
            program: What they run.
            services: Their services, by name.
            env: Changes to their environment.
            args: Arguments in place of the driver's; None keeps those.
            image: What hosts elsewhere are to have, where the user says so.

        Raises:
            PayloadError: A service cannot be pickled; ``path`` names the attribute.
        """
        if program.is_bare:
            codec.send_main_by_value()
            codec.send_local_modules_by_value()
        encoded = {
            name: codec.encode(service, f"service {name}") for name, service in services.items()
        }
        environ, later_environ = environments(program) if system.is_here else (None, None)
        return cls(
            cluster=cluster,
            program=program,
            services=codec.encode(encoded),
            env=env,
            args=args,
            start_method=getattr(system, "start_method", "auto"),
            environ=environ,
            later_environ=later_environ,
            cwd=os.getcwd(),
            sys_path=own_sys_path(),
            image=image,
        )

    def launch_spec(self, machines: tuple[MachineSpec, ...], *, maxprocs: int) -> LaunchSpec:
        """Return what a host is told about machines that it is to start.

        Args:
            machines: Which.
            maxprocs: How many processors each has to itself.
        """
        return LaunchSpec(
            machines=machines,
            cluster=self.cluster,
            program=self.program,
            services=self.services,
            args=self.args,
            environ=self.environ,
            later_environ=self.later_environ,
            env=self.env,
            start_method=self.start_method,
            maxprocs=maxprocs,
            sys_path=self.sys_path,
            cwd=self.cwd,
            image_root=self.root,
        )


def host_config(
    orders: Orders, system: System, credentials: Credentials | None = None
) -> Mapping[str, Any]:
    """Return what the supervisor of this computer is to be given, as `HostRequest.boot` promises.

    With the driver's whole environment: it stays on this computer.

    Args:
        orders: What it will be told to start first; the template of that begins at once.
        system: The system of this computer.
        credentials: With TLS: what it proves itself with.
    """
    template = orders.launch_spec((), maxprocs=1).template({})
    return HostConfig(
        cluster=orders.cluster,
        directory="",
        transport=system.transport,
        credentials=None if credentials is None else asdict(credentials),
        sys_path=orders.sys_path,
        template=template,
    ).to_mapping()


def environments(program: Program) -> tuple[dict[str, str], dict[str, str] | None]:
    """Return what the environment of machines on this computer is at first, and later.

    A program that is run again begins with what this process was started with: then its changes,
    as ``os.environ["PATH"] = "x:" + os.environ["PATH"]``, have the effect that they had here. Once
    it has reached ``bigmachine.start`` it gets the driver's environment of this moment. Machines
    without the program have that from the beginning.
    """
    present = dict(os.environ)
    if program.is_bare:
        return present, None
    first = osdep.first_environ()
    return present if first is None else first, present


def own_sys_path() -> tuple[str, ...]:
    """Return this process's ``sys.path``, as far as it is made of texts."""
    return tuple(entry for entry in sys.path if isinstance(entry, str))
