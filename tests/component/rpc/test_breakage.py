"""Connections that break, and peers that do not keep the protocol: each side of the link."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from linking import LIMIT, Link, Peer, linked, until

from bigmachine.errors import PayloadError, RemoteProtocolError, TransportError
from bigmachine.rpc import codec
from bigmachine.rpc.client import Client
from bigmachine.rpc.feeds import Placeholder
from bigmachine.version import VERSION
from bigmachine.wire import frames

HELLO = frames.hello(VERSION)


class Echo:
    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.cancelled = 0

    def echo(self, value: Any) -> Any:
        return value

    async def wait(self) -> None:
        self.entered.release()
        try:
            await asyncio.sleep(LIMIT)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    def total(self, items: Iterator[int]) -> int:
        return sum(items)

    async def stuck(self, items: Iterator[int]) -> None:
        """Take none of the items."""
        await asyncio.sleep(LIMIT)


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def link(echo: Echo) -> Iterator[Link]:
    with linked(E=echo) as link:
        yield link


def call_frame(number: int, method: str, *args: Any, flags: int = 0) -> bytes:
    body = frames.call_head(method.encode(), float("inf")) + codec.encode((args,)).body
    return frames.frame(frames.CALL, number, 0, bytes(body), flags)


def parts(kind: int, number: int, *sizes: int, sub: int = 0, head: bytes = b"") -> bytes:
    body = frames.COUNT.pack(len(sizes)) + b"".join(frames.PART.pack(s, 0) for s in sizes) + head
    return frames.frame(kind, number, sub, body, frames.FLAG_PARTS)


GARBAGE = {
    "noise": b"\xff" * 64,
    "http": b"GET / HTTP/1.1\r\nHost: example\r\n\r\n",
    "no greeting": frames.frame(frames.CANCEL, 1),
    "another protocol": frames.frame(
        frames.HELLO, body=json.dumps({"protocol": 99, "version": "9.9"}).encode()
    ),
    "two greetings": HELLO + HELLO,
    "an unknown kind": HELLO + frames.frame(99),
    "a frame too long": HELLO + frames.HEADER.pack(2**31, frames.CALL, 0, 0, 1),
    "data without a message": HELLO + frames.frame(frames.DATA, 1, 0, b"x"),
    "a message larger than memory": HELLO + parts(frames.REPLY, 1, 2**62),
}
FROM_A_CALLER = {
    "a window cut short": HELLO + frames.frame(frames.WINDOW, 1, 0, b"x"),
    "a call with a broken head": HELLO + frames.frame(frames.CALL, 1, 0, b"x"),
    "a call without a number for its deadline": HELLO
    + frames.frame(frames.CALL, 1, 0, frames.CALL_META.pack(float("nan"), 1) + b"x"),
    "a call twice": HELLO + call_frame(1, "E.wait") + call_frame(1, "E.wait"),
    "a reply from a caller": HELLO + frames.frame(frames.REPLY, 1),
    "an item for a call without streams": HELLO
    + call_frame(1, "E.wait")
    + frames.frame(frames.ITEM, 1, 1, b"x"),
    "more items than it has credit for": HELLO
    + call_frame(1, "E.stuck", Placeholder(1, False), flags=frames.FLAG_FEEDS)
    + frames.frame(frames.ITEM, 1, 1, b"x") * (frames.WINDOW_ITEMS + 1),
    "more bytes than it has credit for": HELLO
    + call_frame(1, "E.stuck", Placeholder(1, False), flags=frames.FLAG_FEEDS)
    + frames.frame(frames.ITEM, 1, 1, bytes(60_000)) * (frames.WINDOW_BYTES // 60_000 + 2),
    "more streams than a call may have": HELLO
    + call_frame(1, "E.wait", flags=frames.FLAG_FEEDS)
    + b"".join(frames.frame(frames.END, 1, sub) for sub in range(1, 3000)),
}


@pytest.mark.parametrize("what", [*GARBAGE, *FROM_A_CALLER])
def test_a_caller_that_breaks_the_protocol_loses_its_connection_alone(
    link: Link, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    mine = link.client.call("E.wait")
    sock, theirs = socket.socketpair()
    link.home.do(lambda: link.server.adopt(theirs))
    with sock:
        peer = Peer(sock)
        peer.send((GARBAGE | FROM_A_CALLER)[what])
        assert peer.read_to_end().startswith(HELLO)
    until(lambda: link.server.connections == 1)
    assert not mine.done()
    assert link.call("E.echo", 1) == 1
    mine.cancel()
    until(link.idle)
    assert "closed a connection" in caplog.text


def test_a_caller_may_vanish_at_any_byte(link: Link, echo: Echo) -> None:
    whole = HELLO + call_frame(1, "E.wait") + parts(frames.CALL, 2, 100) + b"\x40\0\0\0\x09\0"
    for length in range(0, len(whole), 3):
        sock, theirs = socket.socketpair()
        link.home.do(lambda theirs=theirs: link.server.adopt(theirs))
        sock.sendall(whole[:length])
        sock.close()
    until(lambda: link.server.connections == 0)
    assert link.home.do(link.server.running) == []
    assert link.call("E.echo", 1) == 1


def test_a_server_survives_random_frames(link: Link) -> None:
    choice = random.Random(1)
    kinds = [*frames.KIND_NAMES, 0, 99]
    for _ in range(150):
        sock, theirs = socket.socketpair()
        link.home.do(lambda theirs=theirs: link.server.adopt(theirs))
        data = HELLO
        for _ in range(choice.randrange(1, 8)):
            body = choice.choice(
                [
                    b"",
                    choice.randbytes(choice.randrange(40)),
                    frames.WINDOW_BODY.pack(2**32 - 1, 2**32 - 1),
                    frames.call_head(b"E.total", choice.choice([0.0, 1.0, -5.0, 1e300])),
                    frames.call_head(b"E.echo", float("inf")) + bytes(codec.encode(((1,),)).body),
                    frames.call_head(b"@x:", 1.0),
                    frames.call_head(b"\xff", 1.0),
                    frames.COUNT.pack(1) + frames.PART.pack(3, 1),
                ]
            )
            data += frames.frame(
                choice.choice(kinds),
                choice.randrange(3),
                choice.randrange(3),
                body,
                choice.choice([0, 0, 0, 1, 2, 4, 6, 255]),
            )
        with sock:
            Peer(sock).send(data)
    until(lambda: link.server.connections == 0)
    assert link.call("E.echo", 1) == 1


class FakeServer:
    """A peer that answers a client with given bytes, after its first call."""

    def __init__(self, link: Link, answer: bytes, *, close: bool = False) -> None:
        self.link, self.answer, self.close = link, answer, close
        self.dialled = 0
        self.client = Client(link.away.loop, self.connect, timers=link.timers, label="m9")
        self.threads: list[threading.Thread] = []

    async def connect(self) -> socket.socket:
        self.dialled += 1
        mine, theirs = socket.socketpair()
        thread = threading.Thread(target=self.serve, args=(theirs,))
        self.threads.append(thread)
        thread.start()
        return mine

    def serve(self, sock: socket.socket) -> None:
        with sock:
            sock.settimeout(LIMIT)
            greeted = b""
            while len(greeted) < len(HELLO) + 1:  # until the first bytes of the call
                piece = sock.recv(65536)
                if not piece:
                    return
                greeted += piece
            peer = Peer(sock)
            peer.send(self.answer)
            if not self.close:
                peer.read_to_end()

    def end(self) -> None:
        self.client.close()
        for thread in self.threads:
            thread.join(LIMIT)
        self.__dict__.clear()


FROM_A_SERVER = {
    "a call from a server": HELLO + frames.frame(frames.CALL, 1, 0, b"x"),
    "data for a call that is unknown": HELLO + frames.frame(frames.DATA, 77, 0, b"x"),
}


@pytest.mark.parametrize("awaited", [False, True])
@pytest.mark.parametrize("what", [*GARBAGE, *FROM_A_SERVER])
def test_a_server_that_breaks_the_protocol_fails_its_calls(
    link: Link, what: str, awaited: bool
) -> None:
    fake = FakeServer(link, (GARBAGE | FROM_A_SERVER)[what])
    calls = [fake.client.call("E.echo", (n,)) for n in range(3)]
    stream = fake.client.stream("E.many")
    wait = (lambda: asyncio.run(_await(calls[0]))) if awaited else calls[0].result
    with pytest.raises(TransportError) as caught:
        wait()
    assert not caught.value.retryable
    for call in calls:
        assert isinstance(call.exception(LIMIT), TransportError)
    with pytest.raises(TransportError):
        next(stream)
    if what == "another protocol":
        assert "9.9" in str(caught.value)
        assert VERSION in str(caught.value)
        assert "install the same version" in str(caught.value)
        assert isinstance(caught.value.__cause__, RemoteProtocolError)
    fake.end()


async def _await(future: Any) -> Any:
    return await future


@pytest.mark.parametrize(
    ("size", "count"), [(0, frames.WINDOW_ITEMS), (60_000, frames.WINDOW_BYTES // 60_000 + 1)]
)
def test_a_producer_is_held_to_its_credit(link: Link, size: int, count: int) -> None:
    body = codec.encode(bytes(size)).body
    item = frames.frame(frames.ITEM, 1, 0, bytes(body))
    for more in (0, 1):
        end = frames.frame(frames.END, 1)
        fake = FakeServer(link, HELLO + item * (count + more) + end)
        stream = fake.client.stream("E.many")
        until(lambda stream=stream: stream._inlet.ended)
        got = [next(stream) for _ in range(count)]
        assert set(map(len, got)) == {size}
        with pytest.raises(TransportError if more else StopIteration):
            next(stream)
        fake.end()


def test_what_was_answered_before_the_garbage_stays_answered(link: Link) -> None:
    reply = frames.frame(frames.REPLY, 1, 0, bytes(codec.encode("fine").body))
    fake = FakeServer(link, HELLO + reply + frames.frame(99))

    async def main() -> None:
        first = fake.client.call("E.echo")
        second = fake.client.call("E.echo")
        async with asyncio.timeout(LIMIT):
            assert await first == "fine"
            with pytest.raises(TransportError):
                await second

    asyncio.run(main())
    fake.end()


@pytest.mark.parametrize(
    "answer",
    [
        frames.frame(frames.END, 1),
        parts(frames.REPLY, 1, 100) + frames.frame(frames.ABORT, 1),
    ],
    ids=["end", "abort"],
)
def test_an_end_without_an_answer_is_an_error_of_the_call(link: Link, answer: bytes) -> None:
    fake = FakeServer(link, HELLO + answer)
    with pytest.raises(TransportError):
        fake.client.call("E.echo").result(LIMIT)
    fake.end()


def test_an_answer_that_is_no_pickle_is_a_payload_error(link: Link) -> None:
    fake = FakeServer(link, HELLO + frames.frame(frames.REPLY, 1, 0, b"\x80\x05garbage"))
    with pytest.raises(PayloadError):
        fake.client.call("E.echo").result(LIMIT)
    fake.end()


def test_an_error_that_makes_no_sense_is_an_error_all_the_same(link: Link) -> None:
    fake = FakeServer(link, HELLO + frames.frame(frames.ERROR, 1, 0, b"garbage"))
    with pytest.raises(RemoteProtocolError):
        fake.client.call("E.echo").result(LIMIT)
    fake.end()


def test_answers_to_calls_that_nobody_made_are_ignored(link: Link) -> None:
    strays = b"".join(
        frames.frame(kind, number, sub, body)
        for number in (5, 0, 2**32 - 1)
        for sub in (0, 1, 65535)
        for kind, body in [
            (frames.REPLY, b""),
            (frames.ERROR, b""),
            (frames.ITEM, b""),
            (frames.END, b""),
            (frames.CANCEL, b""),
            (frames.WINDOW, bytes(8)),
            (frames.ABORT, b""),
            (frames.GOODBYE, b""),
        ]
    )
    reply = frames.frame(frames.REPLY, 1, 0, bytes(codec.encode("fine").body))
    fake = FakeServer(link, HELLO + strays + reply)
    assert fake.client.call("E.echo").result(LIMIT) == "fine"
    fake.end()


@pytest.mark.parametrize("length", [0, 1, 11, 12, 20, 40, 100_050])
def test_a_connection_that_is_cut_in_mid_message_fails_its_calls(link: Link, length: int) -> None:
    message = parts(frames.REPLY, 1, 200_000) + frames.HEADER.pack(200_000, frames.DATA, 0, 0, 1)
    fake = FakeServer(link, HELLO + (message + bytes(200_000))[:length], close=True)
    call = fake.client.call("E.echo")
    with pytest.raises(TransportError) as caught:
        call.result(LIMIT)
    assert caught.value.outcome == "maybe_ran"
    fake.end()


def test_a_cut_fails_what_was_pending_and_the_next_call_connects_again(
    link: Link, echo: Echo
) -> None:
    calls = [link.client.call("E.wait") for _ in range(5)]
    for _ in calls:
        assert echo.entered.acquire(timeout=LIMIT)
    link.cut()
    for call in calls:
        with pytest.raises(TransportError) as caught:
            call.result(LIMIT)
        assert caught.value.outcome == "maybe_ran"
        assert caught.value.method == "E.wait"
    until(lambda: echo.cancelled == 5)
    assert link.call("E.echo", 1) == 1
    assert link.dialled == 2


def test_a_connection_cut_while_nothing_is_pending_is_opened_again(link: Link) -> None:
    assert link.call("E.echo", 1) == 1
    link.cut()
    until(lambda: link.server.connections == 0)
    error = link.client.call("E.echo", (2,)).exception(LIMIT)
    if error is not None:  # the client could not know yet
        assert isinstance(error, TransportError)
        assert error.outcome == "maybe_ran"
    assert link.call("E.echo", 2) == 2
    assert link.dialled == 2


def test_a_peer_that_cannot_be_reached_is_said_to_be_so_and_nothing_was_sent(link: Link) -> None:
    async def refuse() -> socket.socket:
        raise ConnectionRefusedError("nobody home")

    client = Client(link.away.loop, refuse, timers=link.timers, label="m9")
    for _ in range(2):
        call = client.call("E.echo", (1,))
        with pytest.raises(TransportError, match="nobody home") as caught:
            call.result(LIMIT)
        assert caught.value.outcome == "not_sent"
        assert caught.value.retryable
    with pytest.raises(TransportError):
        next(client.stream("E.echo", (1,)))
    client.close()


def test_a_connector_with_a_fault_hangs_nobody(link: Link) -> None:
    async def broken() -> socket.socket:
        raise RuntimeError("a bug")

    client = Client(link.away.loop, broken, timers=link.timers, label="m9")
    for _ in range(2):
        with pytest.raises(TransportError, match="a bug"):
            client.call("E.echo", (1,)).result(LIMIT)
    client.close()


def test_a_client_closed_while_it_connects_fails_its_calls(link: Link) -> None:
    async def never() -> socket.socket:
        await asyncio.Event().wait()
        raise AssertionError

    client = Client(link.away.loop, never, timers=link.timers, label="m9")
    calls = [client.call("E.echo", (1,)) for _ in range(3)]
    client.close()
    for call in calls:
        with pytest.raises(TransportError):
            call.result(LIMIT)
    with pytest.raises(TransportError):
        client.call("E.echo", (1,)).result(LIMIT)


def test_the_verdict_on_the_peer_is_what_calls_raise(link: Link, echo: Echo) -> None:
    async def verdict() -> BaseException | None:
        return LookupError("it is dead")

    client = link.another(verdict=verdict)
    call = client.call("E.wait")
    assert echo.entered.acquire(timeout=LIMIT)
    link.cut()
    with pytest.raises(LookupError, match="dead"):
        call.result(LIMIT)
    client.close()


def test_a_verdict_that_fails_leaves_no_call_without_an_end(link: Link, echo: Echo) -> None:
    async def verdict() -> BaseException | None:
        raise OSError("no idea")

    client = link.another(verdict=verdict)
    call = client.call("E.wait")
    assert echo.entered.acquire(timeout=LIMIT)
    link.cut()
    with pytest.raises(TransportError):
        call.result(LIMIT)
    client.close()


def test_a_connection_that_is_forgotten_by_a_thread_is_no_trouble_to_who_asks(link: Link) -> None:
    class Runs(dict[int, Any]):
        def values(self) -> Any:
            for session in sessions[1:]:  # as a thread does that has answered its last call
                link.server.forget(session)
            return super().values()

    other = link.another()
    for client in (link.client, other):
        assert client.call("E.echo", (1,)).result(LIMIT) == 1
    sessions = list(link.server._sessions)
    assert len(sessions) == 2
    for session in sessions:
        session.runs = Runs()
    assert link.home.do(link.server.running) == []
    other.close()


def test_a_call_given_to_a_closed_connection_is_failed_though_the_loop_stands_still(
    link: Link,
) -> None:
    link.client.call("E.echo", (1,)).result(LIMIT)
    channel = link.client._channel
    assert channel is not None
    gate = threading.Event()
    link.away.loop.call_soon_threadsafe(gate.wait)
    channel.closed = True  # the loop is about to say so
    call = link.client.call("E.wait")
    link.client.fail(LookupError("it is dead"))
    channel.closed = False
    ended = call.ended()
    gate.set()
    assert ended
    assert isinstance(call.exception(), LookupError)


def test_clients_that_come_and_go_under_fire(link: Link, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    stop = threading.Event()
    failures: list[BaseException] = []
    answered = 0

    def work() -> None:
        nonlocal answered
        while not stop.is_set():
            try:
                data = bytes(100_000)
                if link.client.call("E.echo", (data,)).result(LIMIT) == data:
                    answered += 1
            except TransportError:
                continue
            except BaseException as error:
                failures.append(error)
                return

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for _ in range(40):
        before = answered
        until(lambda before=before: answered > before or bool(failures))
        link.cut()
    stop.set()
    for thread in threads:
        thread.join(LIMIT)
        assert not thread.is_alive()
    assert not failures
    until(link.idle)
