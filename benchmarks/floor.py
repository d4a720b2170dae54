"""The floor: what raw blocking sockets between two processes do.

Nothing that speaks over a socket can be faster than a process that blocks in ``recv`` answering one
that blocks in ``recv``, so every figure is given as a ratio to this, measured right beside it.
Where processes are started, the floor is an interpreter that imports asyncio and ends; where a
thousand calls are in flight, a bare model of that (`benchmarks.bare`).
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, cast

from benchmarks import bare
from benchmarks.payloads import PayloadKind, fresh_memory, make_payload
from benchmarks.timing import Outcome, quantile, round_trips, summary, throughput

Transport = Literal["unix", "tcp", "tls"]

MESSAGE = b"x" * 64
"""A small call is about this long on the wire."""

TLS_PIECE_BYTES = 1 << 20
IN_FLIGHT = 1000


def ping_pong(transport: Transport, duration: float) -> Outcome:
    """Send a small message to and fro; the value is the median round trip in microseconds."""
    with peer(transport, echo) as sock:

        def exchange(_: int) -> None:
            sock.sendall(MESSAGE)
            sock.recv(4096)

        return summary(round_trips(exchange, duration))


def bulk(transport: Transport, kind: PayloadKind, size_bytes: int, times: int) -> Outcome:
    """Send a payload into fresh memory of its kind at the other end; the value is in GB/s."""
    payload = make_payload(kind, size_bytes)

    def serve(sock: socket.socket) -> None:
        while receive(sock, kind, size_bytes) is not None:
            sock.sendall(b"!")

    with peer(transport, serve) as sock:

        def transfer() -> None:
            view = memoryview(payload)
            if transport == "tls":  # a single call would hold the lock and copy no faster
                for start in range(0, size_bytes, TLS_PIECE_BYTES):
                    sock.sendall(view[start : start + TLS_PIECE_BYTES])
            else:
                sock.sendall(view)
            sock.recv(1)

        return throughput(transfer, size_bytes, times)


def echo(sock: socket.socket) -> None:
    """Answer every message with itself."""
    while message := sock.recv(4096):
        sock.sendall(message)


def receive(sock: socket.socket, kind: PayloadKind, size_bytes: int) -> Any:
    """Receive a payload into fresh memory of its kind; None when the sender has left."""
    if kind == "bytes" and not isinstance(sock, ssl.SSLSocket):
        return sock.recv(size_bytes, socket.MSG_WAITALL) or None
    memory = fresh_memory(kind, size_bytes)
    view, got = memoryview(memory), 0
    while got < size_bytes:
        n = sock.recv_into(view[got:])
        if not n:
            return None
        got += n
    return bytes(memory) if kind == "bytes" else memory


@contextlib.contextmanager
def peer(transport: Transport, serve: Callable[[socket.socket], None]) -> Iterator[socket.socket]:
    """Run ``serve`` in a forked process with one end of a connection, and give the other end."""
    ours, theirs = socket_pair(transport)
    wrap_ours, wrap_theirs = tls_wrappers() if transport == "tls" else (plain, plain)
    pid = os.fork()
    if pid == 0:
        code = 1
        with contextlib.suppress(OSError):
            ours.close()
            with wrap_theirs(theirs) as sock:
                serve(sock)
            code = 0
        os._exit(code)
    theirs.close()
    try:
        with wrap_ours(ours) as sock:
            yield sock
    finally:
        os.waitpid(pid, 0)


def plain(sock: socket.socket) -> socket.socket:
    """The socket as it is."""
    return sock


def socket_pair(transport: Transport) -> tuple[socket.socket, socket.socket]:
    """Two connected sockets."""
    if transport == "unix":
        return socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    for sock in (ours, theirs):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return ours, theirs


Wrapper = Callable[[socket.socket], socket.socket]


def tls_wrappers() -> tuple[Wrapper, Wrapper]:
    """Wrap a socket as client and as server: TLS 1.3, both sides with a certificate."""
    pem = self_signed_pem()
    contexts = []
    for side in (ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER):
        context = ssl.SSLContext(side)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=pem.decode())
        with tempfile.NamedTemporaryFile() as file:
            file.write(pem)
            file.flush()
            context.load_cert_chain(file.name)
        contexts.append(context)
    client, server = contexts
    return (
        lambda sock: client.wrap_socket(sock, server_hostname="floor"),
        lambda sock: server.wrap_socket(sock, server_side=True),
    )


def self_signed_pem() -> bytes:
    """A key and its certificate for the name ``floor``."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "floor")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("floor")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    key_pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return key_pem + certificate.public_bytes(serialization.Encoding.PEM)


def interpreter(times: int) -> Outcome:
    """Start an interpreter that imports asyncio, and wait for its end; the value is in seconds."""
    import subprocess
    import sys

    taken = []
    for _ in range(times + 1):  # the first may read from the disk
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import asyncio"], check=True)
        taken.append(time.perf_counter() - start)
    return {"value": quantile(sorted(taken[1:]), 0.5)}


def run(case: str, params: dict[str, Any]) -> Outcome:
    """Measure one floor by its name: ``ping_pong``, ``bulk``, ``interpreter`` or ``bare_rate``."""
    if case == "interpreter":
        return interpreter(params["times"])
    if case == "bare_rate":
        return {"value": bare.rate(IN_FLIGHT, params["duration"])}
    if case == "ping_pong":
        return ping_pong(cast("Transport", params["transport"]), params["duration"])
    return bulk(params["transport"], params["kind"], params["size_bytes"], params["times"])
