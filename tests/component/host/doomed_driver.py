"""A driver that is going to be killed: starts machines with descendants, one of them stuck."""

from __future__ import annotations

import asyncio
import sys

from hosting import BARE, hosting
from services_for_tests import Probe

from bigmachine.host.messages import TemplateSpec

LEAVE_DESCENDANTS = """
import os, subprocess, sys
subprocess.Popen(["sleep", "600"], start_new_session=True, env={})
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        import time
        time.sleep(600)
    os._exit(0)
"""


async def main() -> None:
    async with hosting(TemplateSpec(program=BARE)) as host:
        machines = await host.launch(4, {"Probe": Probe()})
        await host.wait_ready(*machines)
        for machine in machines:
            await host.call(machine, "Probe.evaluate", LEAVE_DESCENDANTS)
        host.client(machines[0]).call(
            "Probe.evaluate", ("import ctypes; ctypes.PyDLL(None).sleep(600)",)
        )
        print(host.process.pid, flush=True)
        if sys.argv[1:] == ["shutdown"]:
            await host.shutdown()
        await asyncio.sleep(600)


asyncio.run(main())
