"""Whoever else connects to a host that waits for its driver gets nowhere, and delays nobody."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from booting import LIMIT_SECONDS, Cluster, connected, run

from bigmachine.boot import MAX_PEERS, PREAMBLE_SECONDS
from bigmachine.errors import ProvisionError
from bigmachine.host.bootlink import BOOT_TARGET
from bigmachine.rpc.dialer import Dialer
from bigmachine.security.authority import Authority
from bigmachine.security.tls import client_context
from bigmachine.testing.booted import BootedHost
from bigmachine.wire import frames

PREAMBLE = frames.preamble(BOOT_TARGET)


def is_dropped(sock: socket.socket) -> bool:
    """Whether the other side closes a connection without having said anything."""
    sock.settimeout(LIMIT_SECONDS)
    try:
        return sock.recv(1) == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize(
    "words",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01" + bytes(600),
        frames.preamble("host"),
        frames.preamble("0-12345678"),
        PREAMBLE + b"GET / HTTP/1.1\r\n\r\n",
        PREAMBLE + bytes(4096),
        b"\xff" * 100_000,
    ],
    ids=["http", "tls at once", "the supervisor", "a machine", "then http", "then zeros", "noise"],
)
def test_garbage_is_dropped_at_once(cluster: Cluster, warm_cache: Path, words: bytes) -> None:
    async def test() -> None:
        host = await cluster.listening(directory=str(warm_cache))
        began = time.monotonic()
        with connected(host) as sock:
            with contextlib.suppress(ConnectionError):
                sock.sendall(words)
            if words.startswith(PREAMBLE):
                with contextlib.suppress(ConnectionError):
                    alert = sock.recv(100)  # in which TLS says that this is none
                    assert len(alert) < 20
            else:
                assert is_dropped(sock)
        assert time.monotonic() - began < PREAMBLE_SECONDS
        await cluster.bring_up(host)

    run(test())


def test_who_says_nothing_or_little_is_dropped_in_time(cluster: Cluster, warm_cache: Path) -> None:
    async def test() -> None:
        host = await cluster.listening(directory=str(warm_cache))
        began = time.monotonic()
        with connected(host) as silent, connected(host) as slow:
            slow.sendall(PREAMBLE[:20])
            assert is_dropped(silent)
            assert is_dropped(slow)
        assert PREAMBLE_SECONDS - 0.1 < time.monotonic() - began < PREAMBLE_SECONDS + 1.5
        await cluster.bring_up(host)

    run(test())


def test_silent_peers_do_not_delay_the_driver(cluster: Cluster, warm_cache: Path) -> None:
    async def test() -> None:
        host = await cluster.listening(directory=str(warm_cache))
        with contextlib.ExitStack() as stack:
            for number in range(3 * MAX_PEERS):
                sock = stack.enter_context(connected(host))
                if number % 2:
                    sock.sendall(PREAMBLE)
            began = time.monotonic()
            await cluster.bring_up(host)
            assert time.monotonic() - began < 2.0

    run(test())


@contextlib.contextmanager
def flooding(host: BootedHost, threads: int = 2) -> Iterator[None]:
    """Have connections made as fast as that goes, half of which get as far as the handshake."""
    over = threading.Event()

    def flood() -> None:
        open_ones: list[socket.socket] = []
        while not over.is_set():
            with contextlib.suppress(OSError):
                sock = socket.create_connection(("127.0.0.1", host.port), timeout=0.2)
                open_ones.append(sock)
                if len(open_ones) % 2:
                    sock.sendall(PREAMBLE)
            if len(open_ones) > 200:
                open_ones.pop(0).close()
        for sock in open_ones:
            sock.close()

    flooders = [threading.Thread(target=flood) for _ in range(threads)]
    for each in flooders:
        each.start()
    try:
        yield
    finally:
        over.set()
        for each in flooders:
            each.join()


def test_a_flood_does_not_keep_the_driver_out(cluster: Cluster, warm_cache: Path) -> None:
    async def test() -> None:
        host = await cluster.listening(directory=str(warm_cache))
        with flooding(host):
            began = time.monotonic()
            ready = await cluster.bring_up(host)
            assert ready.ok
            assert time.monotonic() - began < LIMIT_SECONDS / 2

    run(test())


def of_another_cluster(cluster: Cluster) -> ssl.SSLContext:
    return client_context(Authority().issue("driver-1a2b"))


def of_a_host(cluster: Cluster) -> ssl.SSLContext:
    return client_context(cluster.authority.issue("booted-7"))


def without_certificate(cluster: Cluster) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=cluster.authority.certificate)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def of_tls_1_2(cluster: Cluster) -> ssl.SSLContext:
    context = client_context(cluster.driver)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


@pytest.mark.parametrize(
    "make_context", [of_another_cluster, of_a_host, without_certificate, of_tls_1_2]
)
def test_who_is_not_the_driver_is_told_nothing(
    cluster: Cluster, warm_cache: Path, make_context: Callable[[Cluster], ssl.SSLContext]
) -> None:
    async def test() -> None:
        host = await cluster.listening(directory=str(warm_cache))
        context = make_context(cluster)
        with connected(host) as sock:
            sock.sendall(PREAMBLE)
            with (
                contextlib.suppress(ssl.SSLError, ConnectionError),
                context.wrap_socket(sock, server_hostname=host.id) as secured,
            ):
                assert secured.recv(1) == b""
        await cluster.bring_up(host)

    run(test())


def test_another_driver_hears_that_it_is_refused(cluster: Cluster, warm_cache: Path) -> None:
    stranger = cluster.authority.issue("somebody")

    async def test() -> None:
        host = await cluster.listening(directory=str(warm_cache))
        with pytest.raises(ProvisionError, match=r"did not come up"):
            await cluster.bring_up(host, tls=Dialer(stranger).context(), seconds=1.0)

    run(test())


def test_the_driver_does_not_talk_to_another_host(cluster: Cluster, warm_cache: Path) -> None:
    async def test() -> None:
        host = await cluster.listening(directory=str(warm_cache))
        with pytest.raises(ProvisionError, match="not the host that was launched") as caught:
            await cluster.bring_up(host, subject="booted-8")
        assert "another program" in caught.value.remedy

    run(test())
