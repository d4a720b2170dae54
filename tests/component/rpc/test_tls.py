"""The same over TLS and TCP."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from linking import LIMIT, Link, Peer, until

from bigmachine.errors import TransportError
from bigmachine.security.authority import Authority
from bigmachine.security.tls import client_context, server_context


class Echo:
    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)

    def echo(self, value: Any) -> Any:
        return value

    async def later(self, value: Any) -> Any:
        return value

    async def wait(self) -> None:
        self.entered.release()
        await asyncio.sleep(LIMIT)

    def many(self, number: int, size: int) -> Iterator[bytes]:
        for _ in range(number):
            yield bytes(size)

    def sizes(self, items: Iterator[bytes]) -> int:
        return sum(len(item) for item in items)


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, tuple[ssl.SSLContext, str]]:
    authority = Authority()
    host, driver = authority.issue("host-0.c"), authority.issue("driver.c")
    return server_context(host), (client_context(driver), "host-0.c")


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def link(echo: Echo, contexts: Any) -> Iterator[Link]:
    server, client = contexts
    link = Link({"E": echo}, server_tls=server, client_tls=client, tcp=True)
    yield link
    link.close()


@pytest.mark.parametrize("size", [0, 1, 16_384, 65_537, 1_048_577, 20_000_000])
@pytest.mark.parametrize("method", ["E.echo", "E.later"])
def test_calls_of_any_size(link: Link, method: str, size: int) -> None:
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    for _ in range(3):
        assert link.call(method, data) == data


def test_many_calls_at_once_from_threads_and_loops(link: Link) -> None:
    import concurrent.futures as cf

    def work(number: int) -> None:
        async def main() -> list[Any]:
            calls = [link.client.call("E.later", (bytes(n * 911),)) for n in range(100)]
            return [len(item) for item in await asyncio.gather(*calls)]

        if number % 2:
            assert asyncio.run(main()) == [n * 911 for n in range(100)]
        else:
            for n in range(100):
                assert len(link.call("E.echo", bytes(n * 1013))) == n * 1013

    with cf.ThreadPoolExecutor(8) as pool:
        for job in [pool.submit(work, number) for number in range(8)]:
            job.result(LIMIT * 2)
    assert link.dialled == 1


def test_streams_go_both_ways(link: Link) -> None:
    assert sum(map(len, link.client.stream("E.many", (100, 300_000)))) == 30_000_000
    assert link.call("E.sizes", (bytes(100_000) for _ in range(100))) == 10_000_000


def test_a_cut_is_noticed_on_both_sides(link: Link, echo: Echo) -> None:
    call = link.client.call("E.wait")
    assert echo.entered.acquire(timeout=LIMIT)
    link.cut()
    with pytest.raises(TransportError) as caught:
        call.result(LIMIT)
    assert caught.value.outcome == "maybe_ran"
    until(lambda: not link.server.connections)
    assert link.call("E.echo", 1) == 1


def test_a_peer_of_another_authority_is_refused(link: Link) -> None:
    link.client_tls = client_context(Authority().issue("driver.c")), "host-0.c"
    with pytest.raises(TransportError) as caught:
        link.another().call("E.echo", (1,)).result(LIMIT)
    assert caught.value.outcome == "not_sent"
    until(lambda: not link.server.connections)


def test_a_host_of_another_name_is_refused(link: Link) -> None:
    assert link.client_tls is not None
    link.client_tls = link.client_tls[0], "host-1.c"
    with pytest.raises(TransportError, match="host-1") as caught:
        link.another().call("E.echo", (1,)).result(LIMIT)
    assert caught.value.outcome == "not_sent"


@pytest.mark.parametrize("data", [b"", b"\x16", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 100_000])
def test_what_is_no_tls_is_refused(link: Link, data: bytes) -> None:
    mine, theirs = link.sockets()
    link.home.do(lambda: link.server.adopt(theirs, tls=link.server_tls))
    with mine:
        peer = Peer(mine)
        peer.send(data)
        with contextlib.suppress(OSError):  # it may have been refused already
            mine.shutdown(socket.SHUT_WR)
        peer.read_to_end()
    until(lambda: not link.home.do(lambda: link.server._tasks))
    assert link.server.connections == 0
    assert link.call("E.echo", 1) == 1


@pytest.mark.parametrize("begun", [True, False])
def test_closing_closes_a_connection_whose_handshake_is_not_over(link: Link, begun: bool) -> None:
    mine, theirs = link.sockets()

    async def close() -> None:
        link.server.adopt(theirs, tls=link.server_tls)
        if begun:
            await asyncio.sleep(0)
        await link.server.close(0.0)

    with mine:
        link.home.run(close())
        assert theirs.fileno() == -1
        assert Peer(mine).read_to_end() == b""


def test_bytes_changed_on_the_way_end_the_connection(link: Link, echo: Echo) -> None:
    inner = link.connect
    middle: list[socket.socket] = []

    async def through_the_middle() -> socket.socket:
        server_side = await inner()
        mine, client_side = socket.socketpair()
        middle.extend((client_side, server_side))
        for source, target in ((client_side, server_side), (server_side, client_side)):
            threading.Thread(target=_relay, args=(source, target)).start()
        return mine

    client = link.another(through_the_middle)
    assert client.call("E.echo", (1,)).result(LIMIT) == 1
    call = client.call("E.wait")
    assert echo.entered.acquire(timeout=LIMIT)
    middle[0].sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
    with pytest.raises(TransportError):
        call.result(LIMIT)
    client.close()
    for sock in middle:
        sock.close()


def _relay(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for sock, how in ((target, socket.SHUT_WR), (source, socket.SHUT_RD)):
        with contextlib.suppress(OSError):
            sock.shutdown(how)
