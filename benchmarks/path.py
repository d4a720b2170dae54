"""Where the time of one small call goes: each step of its path alone, in one process.

``python -m benchmarks.path`` prints, for the driver's and the machine's side, what a step takes
with caches warm and nobody to wait for. What a call takes beyond their sum is the system's: waking
the other process, twice, and caches that have gone cold meanwhile.
"""

from __future__ import annotations

import asyncio
import select
import socket
import threading
import time
from collections.abc import Callable
from pickle import dumps
from typing import Any, Final

from bigmachine.rpc.client import Client
from bigmachine.rpc.server import Server
from bigmachine.rpc.timers import Timers
from bigmachine.version import VERSION
from bigmachine.wire import frames

TIMES: Final = 20_000
WAIT_SECONDS: Final = 5.0


class Echo:
    """The service."""

    async def echo(self, value: int) -> int:
        """Return what came."""
        return value


class Steps:
    """The times of steps, by name; the tenth percentile is what a step takes undisturbed."""

    def __init__(self) -> None:
        self._times: dict[str, list[int]] = {}

    def note(self, name: str, began: int) -> None:
        """Note a step that ends now and began at a time of `time.perf_counter_ns`."""
        self._times.setdefault(name, []).append(time.perf_counter_ns() - began)

    def time(self, name: str, step: Callable[[], Any]) -> Any:
        """Take one step, and note its time."""
        began = time.perf_counter_ns()
        result = step()
        self.note(name, began)
        return result

    def show(self) -> None:
        """Print them, in microseconds."""
        for name, times in self._times.items():
            times.sort()
            tenth, median = times[len(times) // 10] / 1000, times[len(times) // 2] / 1000
            print(f"{name:44} {tenth:6.1f} {median:6.1f}")


def system(steps: Steps) -> None:
    """Time the system calls that a call cannot do without: three on each side."""
    near, far = socket.socketpair()
    poll = select.poll()
    poll.register(far, select.POLLIN)
    room = bytearray(4096)
    with near, far:
        for _ in range(TIMES):
            steps.time("system: send", lambda: near.send(b"x" * 40))
            steps.time("system: poll", poll.poll)
            steps.time("system: recv", lambda: far.recv_into(room))


def machine(steps: Steps) -> None:
    """Time the machine's side: two turns of its loop, without a call and with one."""
    near, far = socket.socketpair()
    call = frames.call_head(b"Echo.echo", float("inf")) + dumps(((1,),), 5)

    async def two_turns(name: str) -> None:
        began = time.perf_counter_ns()
        await asyncio.sleep(0)  # what is to be read is found in the first, and read in the second
        await asyncio.sleep(0)
        steps.note(name, began)

    async def serve() -> None:
        server = Server(name="path", guard=False)
        server.register("Echo", Echo())
        server.adopt(far)
        near.send(frames.hello(VERSION))
        await asyncio.get_running_loop().sock_recv(near, 4096)  # its greeting
        for number in range(1, TIMES + 1):
            await two_turns("machine: two turns of the loop alone")
            near.send(frames.frame(frames.CALL, number, 0, call))
            await two_turns("machine: and with a call in them")
            if not near.recv(4096):
                raise EOFError("the server closed the connection")
        await server.close(0.1)

    with near:
        near.settimeout(WAIT_SECONDS)
        asyncio.run(serve())


def driver(steps: Steps) -> None:
    """Time the driver's side: making and sending a call, and waiting for a reply that is there."""
    near, far = socket.socketpair()
    near.settimeout(WAIT_SECONDS)
    far.setblocking(False)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def connect() -> socket.socket:
        return far

    async def make() -> Client:
        return Client(loop, connect, timers=Timers(loop), label="path")

    client = asyncio.run_coroutine_threadsafe(make(), loop).result(WAIT_SECONDS)
    near.send(frames.hello(VERSION))
    for number in range(1, TIMES + 1):
        future = steps.time(
            "driver: make a call and send it", lambda: client.call("Echo.echo", (1,))
        )
        near.recv(4096)
        near.send(frames.frame(frames.REPLY, number, 0, dumps(1, 5)))
        steps.time("driver: result() of a reply that is there", future.result)
    near.close()
    client.close()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def main() -> None:
    """Time every step, and print them."""
    steps = Steps()
    for part in (system, machine, driver):
        part(steps)
    print(f"{'µs':44} {'10 %':>6} {'50 %':>6}")
    steps.show()


if __name__ == "__main__":
    main()
