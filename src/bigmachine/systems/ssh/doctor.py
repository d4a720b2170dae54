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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from bigmachine.systems.bootfile import OLDEST_PYTHON
from bigmachine.systems.ssh import errors
from bigmachine.systems.ssh.connect import Connected, Jumps, connect
from bigmachine.systems.ssh.errors import HostError
from bigmachine.systems.ssh.line import LOOPBACK

if TYPE_CHECKING:
    from bigmachine.systems.ssh.hosts import HostName
    from bigmachine.systems.ssh.system import SSH

__all__ = ["Finding", "diagnose"]

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: The host.
        check: What was looked at: ``"login"``, ``"python"``, ``"disk"``, ``"clock"``, ``"ways"``.
        ok: Whether it is as it has to be; None: it works, and could be better.
        text: What was found.
        remedy: What to do about it; "" where there is no need.
    """

    subject: str
    check: str
    ok: bool | None
    text: str
    remedy: str = ""


async def diagnose(system: SSH) -> AsyncIterator[Finding]:
    """Look at all hosts of a system, side by side, and yield what is found in their order."""
    jumps = Jumps()
    turns = asyncio.Semaphore(AT_ONCE)

    async def look(name: HostName) -> list[Finding]:
        async with turns:
            return await _look_at(system, name, jumps)

    tasks = [asyncio.ensure_future(look(name)) for name in system.hosts]
    try:
        for task in tasks:
            for finding in await task:
                yield finding
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        jumps.close()


async def _look_at(system: SSH, name: HostName, jumps: Jumps) -> list[Finding]:
    begun = time.monotonic()
    try:
        connected = await connect(name, system.settings, jumps)
    except HostError as error:
        return [_of(name, "login", error)]
    user = connected.ssh.get_extra_info("username")
    seconds = time.monotonic() - begun
    login = Finding(
        subject=name.text, check="login", ok=True, text=f"as {user}, in {seconds:.2f} s"
    )
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            inside = await _look_inside(system, name, connected)
    except HostError as error:
        inside = [_of(name, "python", error)]
    except TimeoutError:
        late = HostError(errors.of_slow_boot(name.text, LOOK_SECONDS, ""))
        inside = [_of(name, "python", late)]
    finally:
        connected.ssh.close()
        await connected.ssh.wait_closed()
    return [login, *inside]


async def _look_inside(system: SSH, name: HostName, connected: Connected) -> list[Finding]:
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
        raise HostError(errors.of_shell(name.text, system.python, status, "", said))
    seen = json.loads(line.removeprefix(_MARK))
    ahead = seen["time"] - (sent + time.time()) / 2
    return [
        _python(system, name, seen, same),
        _disk(name, seen),
        _clock(name, ahead),
        await _ways(system, name, connected, seen["port"]),
    ]


def _of(name: HostName, check: str, error: HostError) -> Finding:
    problem = error.problem
    answer = f" ({problem.answer})" if problem.answer else ""
    return Finding(
        subject=name.text, check=check, ok=False, text=problem.what + answer, remedy=problem.remedy
    )


def _python(system: SSH, name: HostName, seen: Mapping[str, Any], same: str) -> Finding:
    version = ".".join(map(str, seen["python"]))
    text = f"{system.python} is Python {version}, {seen['cpus']} processors"
    if tuple(seen["python"][:2]) < OLDEST_PYTHON:
        return Finding(
            subject=name.text,
            check="python",
            ok=False,
            text=text,
            remedy=f"Python {errors.OLDEST} or newer is needed: python=/path/to/python3",
        )
    if seen["same"] or seen["python"][:2] == list(sys.version_info[:2]):
        return Finding(subject=name.text, check="python", ok=True, text=text)
    return Finding(
        subject=name.text,
        check="python",
        ok=None,
        text=f"{text}; there is no {same} in its PATH, as the program runs with",
        remedy=f"install {same} there, else this one's interpreter has to fit and be sent",
    )


def _disk(name: HostName, seen: Mapping[str, Any]) -> Finding:
    free = f"{seen['free'] / 1e9:.1f} GB free in {seen['base']}"
    faults = [
        text
        for text, there in (
            ("it cannot be written", not seen["writable"]),
            ("noexec", seen["noexec"]),
        )
        if there
    ]
    little = seen["free"] < _LITTLE_BYTES
    return Finding(
        subject=name.text,
        check="disk",
        ok=False if faults else None if little else True,
        text=", ".join((free, *faults)),
        remedy="name another directory with directory=" if faults or little else "",
    )


def _clock(name: HostName, ahead: float) -> Finding:
    off = abs(ahead)
    if off < _NOTABLE_CLOCK_SECONDS:
        return Finding(subject=name.text, check="clock", ok=True, text=f"right to {off:.1f} s")
    return Finding(
        subject=name.text,
        check="clock",
        ok=None if off < _WRONG_CLOCK_SECONDS else False,
        text=f"{off:.0f} s {'ahead' if ahead > 0 else 'behind'}",
        remedy="set it: timedatectl set-ntp true",
    )


async def _ways(system: SSH, name: HostName, connected: Connected, port: int) -> Finding:
    """Try to reach a port of the host directly, and through the connection, both ways."""
    direct = "" if connected.peer else "it is behind another host"
    if not direct:
        direct = await _try_directly(connected.peer, port)
    tunnel = await _try_tunnel(connected, port)
    text = "directly" if not direct else f"not directly ({direct})"
    text += ", by tunnel" if not tunnel else f", not by tunnel ({tunnel})"
    wanted = {"auto": not direct or not tunnel, "always": not tunnel, "never": not direct}
    return Finding(
        subject=name.text,
        check="ways",
        ok=(True if not tunnel or system.tunnel == "never" else None)
        if wanted[system.tunnel]
        else False,
        text=f"reached {text}",
        remedy=""
        if not tunnel
        else "set AllowTcpForwarding yes in its sshd_config, so that hosts which do not reach each "
        "other directly can do it through this computer",
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
