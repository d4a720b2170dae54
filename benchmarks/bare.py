"""A bare model of many calls in flight: what Python and a socket allow, with nothing of a library.

One process calls, another answers. Callers, on a loop of their own, append to a deque and wake the
loop that has the connection once for all of them; frames are joined into one write; what one read
brings is answered in one write, and handed to the callers' loop in one wake-up. There are no
errors, streams, limits, deadlines or tasks for the methods, and there is one connection.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

HEADER = struct.Struct("<II")
"""A frame's length without this, and the call it belongs to."""
BUFFER_BYTES = 1 << 20
METHOD = b"Echo.ping"


class Echo:
    """The service."""

    async def ping(self, value: int) -> int:
        """Return what came."""
        return value


Frame = tuple[int, bytes]
"""A call's number, and what is sent for it."""


class Connection:
    """Frames on a socket, for a loop: read together, written together."""

    def __init__(self, sock: socket.socket, take: Callable[[list[Frame]], None]) -> None:
        self.loop = asyncio.get_running_loop()
        self.closed = self.loop.create_future()
        self.unsent: deque[bytes] = deque()
        self._sock = sock
        self._take = take
        self._buffer = bytearray(BUFFER_BYTES)
        self._rest = b""
        sock.setblocking(False)
        self.loop.add_reader(sock, self._on_readable)

    def flush(self) -> None:
        """Send what waits."""
        frames = []
        while self.unsent:  # whoever appends meanwhile looks whether anything was there
            frames.append(self.unsent.popleft())
        data = b"".join(frames)
        if self._sock.send(data) != len(data):
            raise BufferError("a thousand small frames fit a socket's buffer")

    def close(self) -> None:
        """Stop reading."""
        self.loop.remove_reader(self._sock)
        self.closed.set_result(None)

    def _on_readable(self) -> None:
        count = self._sock.recv_into(self._buffer)
        if count:
            self._take(self._frames(self._rest + memoryview(self._buffer)[:count]))
        else:
            self.close()

    def _frames(self, data: bytes) -> list[Frame]:
        found: list[Frame] = []
        start, end = 0, len(data)
        while end - start >= HEADER.size:
            length, call = HEADER.unpack_from(data, start)
            stop = start + HEADER.size + length
            if stop > end:
                break
            found.append((call, data[start + HEADER.size : stop]))
            start = stop
        self._rest = data[start:]
        return found


async def answer(sock: socket.socket) -> None:
    """Answer calls until the other side leaves."""
    methods: dict[bytes, Any] = {METHOD: Echo().ping}

    def take(calls: list[Frame]) -> None:
        for number, body in calls:
            (args,) = pickle.loads(body[len(METHOD) :])
            coroutine = methods[body[: len(METHOD)]](*args)
            try:
                coroutine.send(None)
            except StopIteration as end:
                connection.unsent.append(frame(number, pickle.dumps(end.value, 5)))
        connection.flush()

    connection = Connection(sock, take)
    await connection.closed


class Caller:
    """Makes the calls of a loop, over a connection that another thread's loop has."""

    def __init__(self, sock: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._begun = 0
        ready = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._run(sock, ready),))
        self._thread.start()
        ready.wait()

    def call(self, *args: Any) -> asyncio.Future[Any]:
        """Call the method."""
        self._begun += 1
        future = self._pending[self._begun] = self._loop.create_future()
        unsent = self._connection.unsent
        unsent.append(frame(self._begun, METHOD + pickle.dumps((args,), 5)))
        if len(unsent) == 1:
            self._connection.loop.call_soon_threadsafe(self._connection.flush)
        return future

    def close(self) -> None:
        """End the other thread."""
        self._connection.loop.call_soon_threadsafe(self._connection.close)
        self._thread.join()

    async def _run(self, sock: socket.socket, ready: threading.Event) -> None:
        def take(answers: list[Frame]) -> None:
            self._loop.call_soon_threadsafe(self._hand_out, answers)

        self._connection = Connection(sock, take)
        ready.set()
        await self._connection.closed

    def _hand_out(self, answers: list[Frame]) -> None:
        for number, body in answers:
            self._pending.pop(number).set_result(pickle.loads(body))


def frame(call: int, body: bytes) -> bytes:
    """Return a frame."""
    return HEADER.pack(len(body), call) + body


async def call_often(sock: socket.socket, in_flight: int, duration: float) -> float:
    """Call for some seconds, and return how many calls that were per second."""
    caller, done = Caller(sock), 0

    async def call(end: float) -> None:
        nonlocal done
        while time.perf_counter() < end:
            await caller.call(done)
            done += 1

    for seconds in (duration / 4, duration):  # the first is for warming up
        done, began = 0, time.perf_counter()
        await asyncio.gather(*(call(began + seconds) for _ in range(in_flight)))
        rate = done / (time.perf_counter() - began)
    caller.close()
    return rate


def rate(in_flight: int, duration: float) -> float:
    """Return how many calls one process makes of another, per second."""
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            ours.close()
            asyncio.run(answer(theirs))
            code = 0
        finally:
            os._exit(code)
    theirs.close()
    try:
        with ours:
            return asyncio.run(call_often(ours, in_flight, duration))
    finally:
        os.waitpid(pid, 0)
