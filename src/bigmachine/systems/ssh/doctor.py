"""What ``bigmachine doctor ssh`` looks at: each host, from the login to the ways to its ports.

Nothing is left on a host: a few lines of Python run there for some seconds, and say what they see.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import sys
import time
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from bigmachine.systems.bootfile import OLDEST_PYTHON
from bigmachine.systems.checks import Check, Verdict
from bigmachine.systems.ssh import host_problems
from bigmachine.systems.ssh.connect import Connected, Jumps, connect
from bigmachine.systems.ssh.order import LOOPBACK
from bigmachine.systems.ssh.problems import HostError

if TYPE_CHECKING:
    from bigmachine.systems.ssh.hosts import HostName
    from bigmachine.systems.ssh.system import SSH

__all__ = ["diagnose"]

AT_ONCE: Final = 16
LOOK_SECONDS: Final = 15.0
DIRECT_SECONDS: Final = 1.5

_LITTLE_BYTES: Final = 1 << 30
_NOTABLE_CLOCK_SECONDS: Final = 60.0
_WRONG_CLOCK_SECONDS: Final = 23 * 3600.0
# For any Python 3. It listens until its input ends, so that the ways to it can be tried.
_LOOK: Final = """\
import json, os, shutil, socket, sys, time
base = os.path.expanduser({directory!r} or os.environ.get("XDG_CACHE_HOME") or "~/.cache")
while not os.path.isdir(base) and base != os.path.dirname(base):
    base = os.path.dirname(base)
disk = os.statvfs(base)
server = socket.socket()
server.bind(("", 0))
server.listen(5)
print("bigmachine-doctor " + json.dumps(dict(
    python=list(sys.version_info[:3]),
    same=shutil.which({same!r}),
    cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    base=base,
    writable=os.access(base, os.W_OK | os.X_OK),
    noexec=bool(disk.f_flag & getattr(os, "ST_NOEXEC", 0)),
    free=disk.f_bavail * disk.f_frsize,
    time=time.time(),
    port=server.getsockname()[1],
)))
sys.stdout.flush()
sys.stdin.read()
"""
_MARK: Final = "bigmachine-doctor "


async def diagnose(system: SSH) -> AsyncIterator[Check]:
    """Look at all hosts of a system, side by side, and yield what is seen in their order."""
    jumps = Jumps()
    turns = asyncio.Semaphore(AT_ONCE)

    async def look(name: HostName) -> list[Check]:
        async with turns:
            return await _look_at(system, name, jumps)

    tasks = [asyncio.ensure_future(look(name)) for name in system.hosts]
    try:
        for task in tasks:
            for check in await task:
                yield check
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        jumps.close()


async def _look_at(system: SSH, name: HostName, jumps: Jumps) -> list[Check]:
    begun = time.monotonic()
    try:
        connected = await connect(name, system.settings, jumps)
    except HostError as error:
        return [_of(name, "login", error)]
    user = connected.ssh.get_extra_info("username")
    seconds = time.monotonic() - begun
    login = Check.ok("login", f"as {user}, in {seconds:.2f} s", subject=name.text)
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            inside = await _look_inside(system, name, connected)
    except HostError as error:
        inside = [_of(name, "python", error)]
    except TimeoutError:
        late = HostError(host_problems.SLOW.of(name.text, seconds=LOOK_SECONDS))
        inside = [_of(name, "python", late)]
    finally:
        connected.ssh.close()
        await connected.ssh.wait_closed()
    return [login, *inside]


async def _look_inside(system: SSH, name: HostName, connected: Connected) -> list[Check]:
    same = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    program = _LOOK.format(directory=system.directory or "", same=same)
    command = f"exec {shlex.quote(system.python)} -c {shlex.quote(f'exec({program!r})')}"
    sent = time.time()
    process = await connected.ssh.create_process(command)
    said = ""
    while line := await process.stdout.readline():
        if line.startswith(_MARK):
            break
        said += line
    else:
        said += await process.stderr.read()
        await process.wait_closed()
        status = process.exit_status
        raise HostError(host_problems.of_shell(name.text, system.python, status, "", said))
    seen = json.loads(line.removeprefix(_MARK))
    ahead = seen["time"] - (sent + time.time()) / 2
    return [
        _python(system, name, seen, same),
        _disk(name, seen),
        _clock(name, ahead),
        await _ways(system, name, connected, seen["port"]),
    ]


def _of(name: HostName, check: str, error: HostError) -> Check:
    problem = error.problem
    answer = f" ({problem.answer})" if problem.answer else ""
    return Check.fail(check, problem.what + answer, problem.remedy, subject=name.text)


def _python(system: SSH, name: HostName, seen: Mapping[str, Any], same: str) -> Check:
    version = ".".join(map(str, seen["python"]))
    text = f"{system.python} is Python {version}, {seen['cpus']} processors"
    if tuple(seen["python"][:2]) < OLDEST_PYTHON:
        remedy = f"Python {host_problems.OLDEST} or newer is needed: python=/path/to/python3"
        return Check.fail("python", text, remedy, subject=name.text)
    if seen["same"] or seen["python"][:2] == list(sys.version_info[:2]):
        return Check.ok("python", text, subject=name.text)
    return Check.warn(
        "python",
        f"{text}; there is no {same} in its PATH, as the program runs with",
        f"install {same} there, else this one's interpreter has to fit and be sent",
        subject=name.text,
    )


def _disk(name: HostName, seen: Mapping[str, Any]) -> Check:
    free = f"{seen['free'] / 1e9:.1f} GB free in {seen['base']}"
    faults = [
        text
        for text, there in (
            ("it cannot be written", not seen["writable"]),
            ("noexec", seen["noexec"]),
        )
        if there
    ]
    text = ", ".join((free, *faults))
    if not faults and seen["free"] >= _LITTLE_BYTES:
        return Check.ok("disk", text, subject=name.text)
    verdict = Verdict.FAIL if faults else Verdict.WARN
    remedy = "make room there, or name another directory with directory="
    return Check(name="disk", verdict=verdict, seen=text, remedy=remedy, subject=name.text)


def _clock(name: HostName, ahead: float) -> Check:
    off = abs(ahead)
    if off < _NOTABLE_CLOCK_SECONDS:
        return Check.ok("clock", f"right to {off:.1f} s", subject=name.text)
    return Check(
        name="clock",
        verdict=Verdict.WARN if off < _WRONG_CLOCK_SECONDS else Verdict.FAIL,
        seen=f"{off:.0f} s {'ahead' if ahead > 0 else 'behind'}",
        remedy="set it: timedatectl set-ntp true",
        subject=name.text,
    )


async def _ways(system: SSH, name: HostName, connected: Connected, port: int) -> Check:
    """Try to reach a port of the host directly, and through the connection, both ways."""
    direct = "" if connected.peer else "it is behind another host"
    if not direct:
        direct = await _try_directly(connected.peer, port)
    tunnel = await _try_tunnel(connected, port)
    text = "directly" if not direct else f"not directly ({direct})"
    text += ", by tunnel" if not tunnel else f", not by tunnel ({tunnel})"
    enough = {"auto": not direct or not tunnel, "always": not tunnel, "never": not direct}
    if not enough[system.tunnel]:
        verdict = Verdict.FAIL
    else:
        verdict = Verdict.WARN if tunnel and system.tunnel != "never" else Verdict.OK
    remedy = (
        "set AllowTcpForwarding yes in its sshd_config: hosts that do not reach each other "
        "directly do it through this computer"
        if tunnel
        else "open the ports to this computer, or let tunnel= be 'auto'"
    )
    return Check(
        name="ways",
        verdict=verdict,
        seen=f"reached {text}",
        remedy="" if verdict is Verdict.OK else remedy,
        subject=name.text,
    )


async def _try_directly(host: str, port: int) -> str:
    try:
        async with asyncio.timeout(DIRECT_SECONDS):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        return "no answer"
    except OSError as error:
        return os.strerror(error.errno) if error.errno else str(error)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return ""


async def _try_tunnel(connected: Connected, port: int) -> str:
    import asyncssh

    try:
        _, writer = await connected.ssh.open_connection(LOOPBACK, port, encoding=None)
        writer.close()
        listener = await connected.ssh.start_server(lambda *_: None, LOOPBACK, 0)
        listener.close()
        await listener.wait_closed()
    except (asyncssh.ChannelOpenError, asyncssh.ChannelListenError, asyncssh.Error) as error:
        return getattr(error, "reason", "") or str(error)
    return ""
