"""Streams larger than memory should ever be: both processes stay small."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from linking import LoopThread

from bigmachine.rpc.client import Client
from bigmachine.rpc.timers import Timers

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="a process tells its peak here"
)

MIB = 1024 * 1024
GROWTH = 64 * MIB
CHUNK = 256 * 1024

SERVER = """
import asyncio, socket, sys
from pathlib import Path
from bigmachine.rpc.server import Server

class Bulk:
    def make(self, chunks, size):
        for _ in range(chunks):
            yield bytes(size)

    def take(self, items):
        return sum(len(item) for item in items)

    def forget_peak(self):
        Path("/proc/self/clear_refs").write_text("5")

    def peak(self):
        return peak()

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024

async def main():
    server = Server(name="bulk")
    server.register("Bulk", Bulk())
    server.adopt(socket.socket(fileno=int(sys.argv[1])))
    while server.connections:
        await asyncio.sleep(0.05)
    await server.close(1)

asyncio.run(main())
"""


def peak() -> int:
    """Return the most memory that this process has had since `forget_peak`, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


@pytest.fixture
def client() -> Iterator[Client]:
    mine, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(theirs.fileno())], pass_fds=[theirs.fileno()]
        )
    thread = LoopThread("client")

    async def connect() -> socket.socket:
        return mine

    client = Client(thread.loop, connect, timers=Timers(thread.loop), label="bulk")
    yield client
    client.close()
    thread.stop()
    assert process.wait(10) == 0
    client.__dict__.clear()  # pytest still has it, and with it the loop


@pytest.mark.parametrize(
    "size", [128 * MIB, pytest.param(1024 * MIB, marks=pytest.mark.slow)], ids=["128M", "1G"]
)
def test_streams_both_ways_need_no_more_than_a_little_memory(client: Client, size: int) -> None:
    chunks = size // CHUNK
    client.call("Bulk.forget_peak").result(10)
    forget_peak()
    here, there = peak(), client.call("Bulk.peak").result(10)

    received = sum(map(len, client.stream("Bulk.make", (chunks, CHUNK))))
    assert received == size
    sent = client.call("Bulk.take", ((bytes(CHUNK) for _ in range(chunks)),)).result(60)
    assert sent == size

    assert peak() - here < GROWTH
    assert client.call("Bulk.peak").result(10) - there < GROWTH
