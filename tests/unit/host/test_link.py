"""Messages and descriptors between two processes, here between two ends in one."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigmachine.host.link import Link


@pytest.fixture
def ends() -> Iterator[tuple[Link, Link]]:
    one, other = socket.socketpair()
    links = Link(one), Link(other)
    yield links
    for link in links:
        link.close()


def identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


@settings(max_examples=30)
@given(st.lists(st.tuples(st.binary(max_size=2000), st.integers(0, 4)), max_size=20))
def test_messages_and_their_descriptors_arrive_together_and_in_order(
    sent: list[tuple[bytes, int]],
) -> None:
    one, other = map(Link, socket.socketpair())
    expected = []
    for message, count in sent:
        fds = [os.memfd_create("test") for _ in range(count)]
        expected.append((message, [identity(fd) for fd in fds]))
        one.send(message, fds)
    for message, identities in expected:
        received, fds = other.next(5)
        assert received == message
        assert [identity(fd) for fd in fds] == identities
        for fd in fds:
            assert not os.get_inheritable(fd)
            os.close(fd)
    assert not other.waiting()
    one.close()
    other.close()


def test_what_is_larger_than_the_sockets_buffer_waits(ends: tuple[Link, Link]) -> None:
    one, other = ends
    large = os.urandom(3 << 20)
    fd = os.memfd_create("test")
    expected = identity(fd)
    one.send(large, [fd])
    one.send("second")
    assert one.backlog
    received = []
    while len(received) < 2:
        while other.waiting():
            received.append(other.next(1))
        with pytest.raises(TimeoutError):
            one.next(0.001)  # sends, while it waits
    assert received[0][0] == large
    assert received[1] == ("second", ())
    assert identity(received[0][1][0]) == expected
    os.close(received[0][1][0])


def test_the_other_sides_end_is_told_after_its_messages(ends: tuple[Link, Link]) -> None:
    one, other = ends
    one.send("last")
    one.close()
    assert other.next(1)[0] == "last"
    with pytest.raises(EOFError):
        other.next(1)
    other.send("into the void")


def test_descriptors_that_nobody_took_are_closed(ends: tuple[Link, Link]) -> None:
    one, other = ends
    read, write = os.pipe()
    one.send("here", [write])
    assert other.waiting()
    other.close()
    assert os.read(read, 1) == b""
    os.close(read)
