"""Delays packets, where the kernel has no netem: a program between a host and the bridge.

    relay.py INTERFACE BRIDGE PID

makes two TAP devices: one is the eth0 of the process's network, the other, INTERFACE, is on the
bridge. Frames that arrive at one leave by the other after a delay, which is read from standard
input as lines ``SECONDS JITTER`` and
answered. The devices end with this program. Standard library alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import sys
import time
from typing import Final

TUNSETIFF: Final = 0x400454CA
IFF_TAP: Final = 0x0002
IFF_NO_PI: Final = 0x1000

FRAMES: Final = 64
"""How many frames are read before the other side has its turn."""


def open_tap(name: str) -> int:
    """Make a TAP device; return the descriptor of its frames."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH14x", name.encode(), IFF_TAP | IFF_NO_PI))
    return descriptor


class Relay:
    """Frames on their way, each until its time has come."""

    def __init__(self, one: int, other: int) -> None:
        self._peers = {one: other, other: one}
        self._waiting: list[tuple[float, int, int, bytes]] = []
        self._count = 0
        self.delay = 0.0
        self.jitter = 0.0

    def take(self, source: int) -> None:
        """Read what has arrived at one side."""
        for _ in range(FRAMES):
            try:
                frame = os.read(source, 65536)
            except BlockingIOError:
                return
            due = time.monotonic() + max(0.0, random.gauss(self.delay, self.jitter))
            self._count += 1
            heapq.heappush(self._waiting, (due, self._count, self._peers[source], frame))

    def pass_on(self) -> float | None:
        """Write what is due; return how long until the next is, in seconds."""
        while self._waiting and self._waiting[0][0] <= time.monotonic():
            _, _, target, frame = heapq.heappop(self._waiting)
            with contextlib.suppress(OSError):  # a device that is down takes none
                os.write(target, frame)
        return max(0.0, self._waiting[0][0] - time.monotonic()) if self._waiting else None


def main(interface: str, bridge: str, pid: str) -> None:
    """Relay until standard input ends."""
    inner, outer = open_tap(f"{interface}i"), open_tap(interface)
    commands = [
        f"link set {interface}i netns {pid} name eth0",
        f"link set {interface} master {bridge} up",
    ]
    subprocess.run(["ip", "-batch", "-"], input="\n".join(commands), text=True, check=True)
    print("ready", flush=True)
    relay = Relay(inner, outer)
    while True:
        ready, _, _ = select.select([inner, outer, sys.stdin], [], [], relay.pass_on())
        for source in ready:
            if source is not sys.stdin:
                relay.take(source)
            elif line := sys.stdin.readline():
                relay.delay, relay.jitter = map(float, line.split())
                print("done", flush=True)
            else:
                return


if __name__ == "__main__":
    main(*sys.argv[1:])
