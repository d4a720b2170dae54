"""Hosts that are reached through a gateway, where they are not reached directly."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from bigmachine.addresses import Address
from bigmachine.rpc import dialer as dialer_module
from bigmachine.rpc.dialer import Dialer
from bigmachine.security.authority import Authority
from bigmachine.wire import frames


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an asynchronous test in a loop of its own."""

    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        asyncio.run(test(**fixtures))

    return run


class Gateway:
    """Says yes to everybody and echoes, or no; remembers what it was asked for."""

    def __init__(self, refusal: str = "") -> None:
        self.asked: list[str] = []
        self._refusal = refusal

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append(frames.split_preamble(await reader.readexactly(64)))
        if self._refusal:
            writer.write(b"\0" + self._refusal.encode())
        else:
            writer.write(b"\1")
            writer.write(await reader.readexactly(64))
        await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def listening(gateway: Gateway, path: str) -> AsyncIterator[str]:
    async with await asyncio.start_unix_server(gateway.serve, path):
        yield f"unix:{path}"


def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def address_of(subject: str, port: int, *, tunnelled: bool = False) -> Address:
    return Address(
        kind="tls", host="127.0.0.1", port=port, target="3-f", subject=subject, tunnelled=tunnelled
    )


async def target_through(dialer: Dialer, address: Address) -> str:
    """Connect, and return the target that arrived behind the gateway."""
    loop = asyncio.get_running_loop()
    with await dialer.connect(address) as sock:
        data = b""
        while len(data) < 64:
            data += await loop.sock_recv(sock, 64)
        return frames.split_preamble(data)


def is_accepted(listener: socket.socket, sock: socket.socket) -> bool:
    """Whether a connection has arrived at this very listener."""
    listener.settimeout(10.0)
    accepted, peer = listener.accept()
    with accepted:
        return bool(peer == sock.getsockname())


@in_loop
async def test_a_host_that_refuses_is_reached_through_the_gateway(tmp_path):
    gateway = Gateway()
    async with listening(gateway, str(tmp_path / "g")) as place:
        dialer = Dialer(gateway=place)
        assert await target_through(dialer, address_of("h1", closed_port())) == "3-f"
        assert gateway.asked == ["via h1"]


@in_loop
async def test_a_host_that_does_not_answer_is_not_tried_directly_again(tmp_path, monkeypatch):
    monkeypatch.setattr(dialer_module, "DIRECT_SECONDS", 0.05)
    gateway = Gateway()
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):  # its queue is full now
            async with listening(gateway, str(tmp_path / "g")) as place:
                dialer = Dialer(gateway=place)
                await target_through(dialer, address_of("h1", port))
                monkeypatch.setattr(dialer_module, "DIRECT_SECONDS", 60.0)
                before = loop.time()
                await target_through(dialer, address_of("h1", port))
                assert loop.time() - before < 30.0
    assert gateway.asked == ["via h1", "via h1"]


@in_loop
async def test_a_tunnelled_host_is_never_tried_directly(tmp_path):
    gateway = Gateway()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        port = listener.getsockname()[1]
        async with listening(gateway, str(tmp_path / "g")) as place:
            dialer = Dialer(gateway=place)
            await target_through(dialer, address_of("h1", port, tunnelled=True))
        with pytest.raises(BlockingIOError):
            listener.accept()


@in_loop
async def test_a_host_finds_itself_without_a_gateway(tmp_path):
    credentials = Authority().issue("h1")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        dialer = Dialer(credentials, gateway=f"unix:{tmp_path}/nothing")
        with await dialer.connect(address_of("h1", port, tunnelled=True)) as sock:
            assert is_accepted(listener, sock)


@in_loop
async def test_a_host_that_is_reached_directly_needs_no_gateway(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        dialer = Dialer()
        dialer.use_gateway("h1", f"unix:{tmp_path}/nothing", direct=True)
        with await dialer.connect(address_of("h1", listener.getsockname()[1])) as sock:
            assert is_accepted(listener, sock)


@in_loop
async def test_each_host_may_have_a_gateway_of_its_own(tmp_path):
    gateway = Gateway()
    async with listening(gateway, str(tmp_path / "g")) as place:
        dialer = Dialer()
        dialer.use_gateway("h1", place, direct=False)
        assert await target_through(dialer, address_of("h1", 1)) == "3-f"
        with pytest.raises(OSError):
            await dialer.connect(address_of("h2", closed_port()))
        dialer.forget_gateway("h1")
        with pytest.raises(OSError):
            await dialer.connect(address_of("h1", closed_port()))
    assert gateway.asked == ["via h1"]


@in_loop
async def test_what_the_gateway_says_is_the_error(tmp_path):
    async with listening(Gateway("the host is down"), str(tmp_path / "g")) as place:
        dialer = Dialer()
        dialer.use_gateway("h1", place, direct=False)
        with pytest.raises(ConnectionRefusedError, match="h1 through the gateway: the host is"):
            await dialer.connect(address_of("h1", 1))
