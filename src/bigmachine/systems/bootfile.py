"""What a system gives a host to run first: the boot file, with that host's configuration in it.

Two ways lead to a host. User-data is the whole of `source`, which any ``python3`` runs. SSH runs
`command`, a few words that read `payload` from standard input, so that no key ever stands in a
command line or a file; when that input ends before the supervisor runs, the host gives up. Either
way the host says on standard output, a line each, what it is and where it listens, or why it does
not (`read_line`).

What a system may add to the configuration it got from ``HostRequest.boot``: ``listen``, an IP
address ("" is any) and ``port`` (0 is any); ``directory``, where the cache is to be; ``at_end``, a
command (a text for the shell, or a list of words) that the host runs when it has ended, whatever
the reason; ``boot_seconds``, how long it has until the supervisor runs.
"""

from __future__ import annotations

import json
import os
import shlex
import zlib
from collections.abc import Mapping
from typing import Any, Final

MARK: Final = b"bigmachine-boot "
"""What lines of the boot file begin with."""
OLDEST_PYTHON: Final = (3, 8)

_FEED_SECONDS: Final = 60  # for the file to arrive; a limit of its own is in it

# Whatever Python 2.7 can parse, so that it can say that it is not enough. In one line without
# quotation marks of the other kind, since any shell may have to read it.
_CHECK: Final = """\
import sys
sys.path[:] = [each for each in sys.path if each]  # no modules of the working directory
try:
    if sys.version_info < {oldest}:
        raise ImportError("it is " + sys.version.split()[0])
    import ssl, zlib
except ImportError as error:
    print("bigmachine-boot " + "{{" + "\\"kind\\": \\"python\\", \\"error\\": \\"Python {words} or "
        "later is needed, with ssl and zlib: " + str(error).replace("\\"", " ") + "\\"}}")
    sys.exit(3)
"""
_FEED: Final = """\
import signal
signal.alarm({seconds})
data = sys.stdin.buffer
size = int.from_bytes(data.read(4), "big")
data = data.read(size)
if size == 0 or len(data) < size:
    sys.exit(4)
exec(zlib.decompress(data), dict(__name__="bigmachine_boot"))
"""
_SOURCE: Final = """\
#!/usr/bin/env python3
{check}
BOOT = r'''{boot}'''
CONFIG = {config}
names = dict(__name__="bigmachine_boot")
exec(compile(BOOT, "bigmachine/boot.py", "exec"), names)
import json
names["main"](json.loads(CONFIG))
"""


def source(config: Mapping[str, Any]) -> bytes:
    """Return the boot file for one host: a Python program, whole.

    Args:
        config: What ``HostRequest.boot`` gave, with the system's additions. The host's private key
            is in it, and so in the program.
    """
    text = _SOURCE.format(check=_check(), boot=_boot(), config=repr(json.dumps(dict(config))))
    return text.encode()


def payload(config: Mapping[str, Any]) -> bytes:
    """Return what `command` reads from standard input, which has to stay open afterwards."""
    data = zlib.compress(source({**config, "stdin": True}), 9)
    return len(data).to_bytes(4, "big") + data


def command(python: str = "python3") -> str:
    """Return the command line, for any shell, that runs what it is fed.

    Args:
        python: The interpreter, as a shell finds it.
    """
    program = _check() + _FEED.format(seconds=_FEED_SECONDS)
    escaped = program.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f"exec {shlex.quote(python)} -c 'exec(\"{escaped}\")'"


def read_line(line: bytes) -> dict[str, Any] | None:
    """Read a line of the host's standard output.

    Returns:
        What the boot file says: with ``port``, where it listens and what the host is; or with
        ``error`` and ``kind``, why it does not. None: the line is somebody else's, as the login
        shell's may be.
    """
    if not line.startswith(MARK):
        return None
    try:
        said = json.loads(line[len(MARK) :])
    except ValueError:
        return None
    return said if isinstance(said, dict) else None


def _check() -> str:
    words = ".".join(map(str, OLDEST_PYTHON))
    return _CHECK.format(oldest=OLDEST_PYTHON, words=words)


def _boot() -> str:
    import bigmachine

    path = os.path.join(os.path.dirname(os.path.abspath(bigmachine.__file__)), "boot.py")
    with open(path, encoding="utf-8") as file:
        return file.read()
