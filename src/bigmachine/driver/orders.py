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

from bigmachine.host.messages import HostConfig, Program, TemplateSpec
from bigmachine.rpc import codec

if TYPE_CHECKING:
    from bigmachine.security.credentials import Credentials
    from bigmachine.systems.base import System


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What the machines of one `Cluster.start` are to be.

    Attributes:
        program: What they run.
        services: Their encoded services, one mapping of names to payloads.
        env: Changes to the driver's environment.
        args: Arguments in place of the driver's; None keeps those.
        environ: The driver's environment at the time.
        cwd: Its directory.
        sys_path: Its ``sys.path``.
    """

    program: Program
    services: codec.Payload = field(repr=False)
    env: Mapping[str, str | None] = field(repr=False)
    args: tuple[str, ...] | None
    environ: Mapping[str, str] = field(repr=False)
    cwd: str
    sys_path: tuple[str, ...]

    @classmethod
    def of(
        cls,
        program: Program,
        services: Mapping[str, object],
        env: Mapping[str, str | None],
        args: tuple[str, ...] | None,
    ) -> Orders:
        """Encode the services, and take down where the driver stands at this moment.

        Raises:
            PayloadError: A service cannot be pickled; ``path`` names the attribute.
        """
        if program.is_bare:
            codec.send_main_by_value()
            codec.send_local_modules_by_value()
        encoded = {
            name: codec.encode(service, f"service {name}") for name, service in services.items()
        }
        return cls(
            program=program,
            services=codec.encode(encoded),
            env=env,
            args=args,
            environ=dict(os.environ),
            cwd=os.getcwd(),
            sys_path=own_sys_path(),
        )


def host_config(
    cluster: str,
    system: System,
    program: Program,
    credentials: Credentials | None = None,
) -> Mapping[str, Any]:
    """Return what the supervisor of a host is to be given, as `HostRequest.boot` promises."""
    template = TemplateSpec(
        program=program,
        environ=dict(os.environ),
        start_method=getattr(system, "start_method", "auto"),
    )
    return HostConfig(
        cluster=cluster,
        directory="",
        transport=system.transport,
        credentials=None if credentials is None else asdict(credentials),
        sys_path=own_sys_path(),
        template=template,
    ).to_mapping()


def own_sys_path() -> tuple[str, ...]:
    """Return this process's ``sys.path``, as far as it is made of texts."""
    return tuple(entry for entry in sys.path if isinstance(entry, str))
