"""A server and its clients in one process, each side with a loop in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from bigmachine.futures import allow_blocking, forbid_blocking
from bigmachine.rpc.client import Client
from bigmachine.rpc.opening import Connector
from bigmachine.rpc.server import Server
from bigmachine.rpc.timers import Timers

T = TypeVar("T")

LIMIT = 10.0
"""No wait in these tests takes longer, in seconds."""


class LoopThread:
    """An event loop that runs in a thread."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.errors: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.errors.append(context))
        # A test that fails leaves it running: it must not keep the interpreter from ending.
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        forbid_blocking(threading.get_ident())
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            allow_blocking(threading.get_ident())
            self.loop.close()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(LIMIT)

    def do(self, action: Callable[[], T]) -> T:
        """Call something there and return what it returns."""

        async def act() -> T:
            return action()

        return self.run(act())

    def stop(self) -> None:
        """End it; no task may be left."""

        async def tasks_left() -> list[str]:
            me = asyncio.current_task()
            for _ in range(200):
                left = [task for task in asyncio.all_tasks() if task is not me]
                if not left:
                    return []
                await asyncio.wait(left, timeout=0.02)
            return [repr(task) for task in left]

        left = self.run(tasks_left())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(LIMIT)
        assert not left, f"tasks left behind: {left}"
        assert not self.errors, f"the loop had to handle: {self.errors}"


class Link:
    """A server with some services, and one client of it."""

    def __init__(
        self,
        services: dict[str, Any],
        *,
        server_tls: ssl.SSLContext | None = None,
        client_tls: tuple[ssl.SSLContext, str] | None = None,
        tcp: bool = False,
    ) -> None:
        self.home = LoopThread("server")
        self.away = LoopThread("client")
        self.server = self.home.do(lambda: Server(name="m0"))
        for name, service in services.items():
            assert self.home.do(lambda n=name, s=service: self.server.register(n, s))
        self.server_tls, self.client_tls, self.tcp = server_tls, client_tls, tcp
        self.timers = Timers(self.away.loop)
        self.dialled = 0
        self.client = self.another()

    def another(self, connector: Connector | None = None, **options: Any) -> Client:
        """Return another client of the same server, which may have another way to it."""
        tls = self.client_tls
        return Client(
            self.away.loop,
            connector or self.connect,
            timers=self.timers,
            label="m0",
            tls=None if tls is None else lambda: tls,
            **options,
        )

    async def connect(self) -> socket.socket:
        """Return a socket whose other end is the server's."""
        self.dialled += 1
        mine, theirs = self.sockets()
        self.home.loop.call_soon_threadsafe(lambda: self.server.adopt(theirs, tls=self.server_tls))
        return mine

    def sockets(self) -> tuple[socket.socket, socket.socket]:
        """Return two sockets that are connected to each other."""
        if not self.tcp:
            return socket.socketpair()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            mine = socket.create_connection(listener.getsockname())
            theirs, _ = listener.accept()
        return mine, theirs

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call and wait for the result."""
        return self.client.call(method, args, kwargs).result(LIMIT)

    def cut(self) -> None:
        """Cut every connection, as a network would."""

        def act() -> None:
            for session in list(self.server._sessions):
                with contextlib.suppress(OSError):  # it is closed, but its calls still run
                    session.channel._sock.shutdown(socket.SHUT_RDWR)

        self.home.do(act)

    def idle(self) -> bool:
        """Whether nothing runs on the server and nothing is pending at the client."""
        return not self.home.do(self.server.running) and not self.client.pending

    def close(self) -> None:
        """End both sides."""
        self.client.close()
        self.home.run(self.server.close(1.0))
        self.away.stop()
        self.home.stop()
        self.__dict__.clear()  # whoever still has the link does not keep the loops


@contextmanager
def linked(**services: Any) -> Iterator[Link]:
    """Serve services and return a link to them."""
    link = Link(services)
    try:
        yield link
    finally:
        link.close()


class Peer:
    """The raw end of a connection: for what no client or server would send."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(LIMIT)

    def send(self, data: bytes) -> None:
        """Send bytes; the other side may be gone."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.sock.sendall(data)

    def read_to_end(self) -> bytes:
        """Read until the other side closes."""
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := self.sock.recv(65536):
                data += piece
        return data


def until(condition: Callable[[], bool]) -> None:
    """Wait until something has become true."""
    gate = threading.Event()
    for _ in range(int(LIMIT / 0.002)):
        if condition():
            return
        gate.wait(0.002)
    raise AssertionError("it did not become true in time")
