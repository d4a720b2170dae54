"""A driver that brings a host up by SSH, says so, and waits to be killed.

Its arguments are JSON: the parameters of `SSH`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict
from typing import Any

from bigmachine.security.authority import Authority
from bigmachine.systems.base import HostRequest
from bigmachine.systems.ssh import SSH


async def main() -> None:
    authority = Authority()

    def boot(host_id: str) -> dict[str, Any]:
        return {
            "cluster": "doomed",
            "id": host_id,
            "credentials": asdict(authority.issue(host_id)),
            "boot_seconds": 60.0,
            "lease_seconds": 60.0,
        }

    system = SSH(**json.loads(sys.argv[1]))
    async for host in system.launch(HostRequest(cluster="doomed", machines=1, boot=boot)):
        print(host.tunnel, flush=True)
        await asyncio.sleep(60.0)


asyncio.run(main())
