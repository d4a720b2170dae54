"""Bytes in, events out: in any pieces, and whatever the bytes are."""

from __future__ import annotations

from itertools import cycle, repeat

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from joined import drain, feed, message, plain, small

from bigmachine.errors import RemoteProtocolError
from bigmachine.wire import frames, landing
from bigmachine.wire.receiver import SCRATCH_BYTES, Receiver
from bigmachine.wire.sender import Sender

MIB = 1024 * 1024


def in_parts(
    kind: int, call: int, table: list[tuple[int, int]], head: bytes = b"", *, count: int = -1
) -> bytes:
    """Return the first frame of a message in parts."""
    body = frames.COUNT.pack(len(table) if count < 0 else count)
    body += b"".join(frames.PART.pack(size, memory) for size, memory in table) + head
    return frames.frame(kind, call, 0, body, frames.FLAG_PARTS)


def data(call: int, body: bytes, sub: int = 0) -> bytes:
    return frames.frame(frames.DATA, call, sub, body)


MESSAGES = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from([frames.REPLY, frames.END, frames.CALL, frames.WINDOW, 77]),
            st.integers(0, 5),
            st.binary(max_size=30) | st.just(bytes(frames.MAX_FRAME_BYTES)),
        ),
        st.tuples(
            st.sampled_from(sorted(frames.MESSAGES)),
            st.integers(0, 5),
            st.lists(
                st.tuples(
                    st.sampled_from([0, 1, 100, 70_000, MIB, MIB + 1]),
                    st.sampled_from(sorted(landing.KINDS)),
                ),
                min_size=1,
                max_size=4,
            ),
        ),
    ),
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(MESSAGES, st.lists(st.sampled_from([1, 2, 11, 12, 13, 4096, 100_000, 300_000]), min_size=1))
def test_any_chopping_of_any_messages_gives_the_same_events(
    messages: list[tuple[int, int, object]], sizes: list[int]
) -> None:
    sender = Sender()
    expected = []
    for kind, call, content in messages:
        if isinstance(content, bytes):
            sender.push(small(kind, call, content), (call, 0))
            expected.append((call, kind, content, None))
        else:
            assert isinstance(content, list)
            parts = [bytes([call + 1]) * size for size, _ in content]
            views = [
                (memoryview(part), memory) for part, (_, memory) in zip(parts, content, strict=True)
            ]
            sender.push_message(kind, (call, 0), b"head", views)
            expected.append((call, kind, b"head", parts))
    stream = drain(sender)
    if len(stream) > 300_000:
        sizes = [max(size, 100) for size in sizes]
    whole = plain(feed(Receiver(), stream))
    chopped = plain(feed(Receiver(), stream, cycle(sizes)))
    assert whole == chopped
    for call in range(6):
        assert [(e[0], e[4], e[5]) for e in whole if e[3] == call] == [
            entry[1:] for entry in expected if entry[0] == call
        ]


def test_a_byte_at_a_time_is_enough() -> None:
    stream = (
        small(frames.REPLY, 1, b"one")
        + message(frames.ITEM, (2, 3), [(b"x" * 700, 1), (b"", 2), (b"y" * 90, 0)], b"head")
        + small(frames.END, 2)
    )
    assert plain(feed(Receiver(), stream, repeat(1))) == [
        (frames.REPLY, 0, 0, 1, b"one", None),
        (frames.ITEM, 1, 3, 2, b"head", [b"x" * 700, b"", b"y" * 90]),
        (frames.END, 0, 0, 2, b"", None),
    ]


def test_large_parts_land_in_the_kind_of_memory_they_left() -> None:
    parts = [(b"a" * MIB, landing.BYTES), (b"b" * MIB, landing.BYTEARRAY), (b"c" * MIB, 0)]
    (event,) = feed(Receiver(), message(frames.REPLY, (1, 0), parts))
    assert event.parts is not None
    assert [type(part) for part in event.parts[:2]] == [bytes, bytearray]
    assert not memoryview(event.parts[2]).readonly


def test_the_bytes_of_a_large_part_are_read_where_they_stay() -> None:
    receiver = Receiver()
    feed(receiver, in_parts(frames.REPLY, 1, [(4 * MIB, landing.BUFFER)]))
    feed(receiver, frames.HEADER.pack(MIB, frames.DATA, 0, 0, 1))
    assert len(receiver.buffer()) == MIB > SCRATCH_BYTES


def test_other_frames_pass_between_the_chunks_of_a_message() -> None:
    stream = (
        in_parts(frames.REPLY, 1, [(6, landing.BYTES)])
        + data(1, b"abc")
        + small(frames.REPLY, 2)
        + data(1, b"def")
    )
    events = feed(Receiver(), stream, repeat(1))
    assert [event.call for event in events] == [2, 1]
    assert events[1].parts == [b"abcdef"]


def test_an_abort_ends_the_message_and_is_an_event_only_then() -> None:
    stream = (
        small(frames.ABORT, 1)
        + in_parts(frames.REPLY, 1, [(6, landing.BYTES)])
        + data(1, b"abc")
        + small(frames.ABORT, 1)
        + small(frames.ABORT, 1)
        + in_parts(frames.REPLY, 1, [(1, landing.BYTES)])
        + data(1, b"z")
    )
    events = feed(Receiver(), stream, repeat(1))
    assert [(event.kind, event.parts) for event in events] == [
        (frames.ABORT, None),
        (frames.REPLY, [b"z"]),
    ]


BROKEN = {
    "a frame too long": frames.HEADER.pack(frames.MAX_FRAME_BYTES + 1, frames.CALL, 0, 0, 1),
    "a frame of 4 GiB": frames.HEADER.pack(2**32 - 1, frames.CALL, 0, 0, 1),
    "a chunk too long": in_parts(frames.REPLY, 1, [(2**30, 0)])
    + frames.HEADER.pack(frames.MAX_CHUNK_BYTES + 1, frames.DATA, 0, 0, 1),
    "data for an unknown call": data(7, b"x"),
    "data for another stream of the call": in_parts(frames.REPLY, 1, [(5, 0)])
    + data(1, b"x", sub=1),
    "data after the end of its message": in_parts(frames.REPLY, 1, [(1, 0)])
    + data(1, b"x")
    + data(1, b"y"),
    "an empty chunk": in_parts(frames.REPLY, 1, [(5, 0)]) + data(1, b""),
    "a chunk longer than its part": in_parts(frames.REPLY, 1, [(5, 0), (9, 0)])
    + data(1, b"123456"),
    "no parts": in_parts(frames.REPLY, 1, []),
    "too many parts": in_parts(frames.REPLY, 1, [(1, 0)] * (frames.MAX_PARTS + 1)),
    "more parts announced than listed": in_parts(frames.REPLY, 1, [(1, 0)], count=2),
    "65,535 parts announced": in_parts(frames.REPLY, 1, [(1, 0)], count=65_535),
    "no table at all": frames.frame(frames.REPLY, 1, 0, b"", frames.FLAG_PARTS),
    "half a table": frames.frame(frames.REPLY, 1, 0, b"\1\0" + bytes(5), frames.FLAG_PARTS),
    "a part of an unknown kind": in_parts(frames.REPLY, 1, [(1, 9)]),
    "a part of 2**64 bytes": in_parts(frames.REPLY, 1, [(2**64 - 1, 0)]),
    "parts of 64 GiB together": in_parts(frames.REPLY, 1, [(2**35, 0), (2**35, 1), (1, 0)]),
    "a second message before the end of the first": in_parts(frames.REPLY, 1, [(5, 0)]) * 2,
    "parts in a frame that cannot have them": in_parts(frames.END, 1, [(1, 0)]),
    "parts in an unknown frame": in_parts(200, 1, [(1, 0)]),
    "too many messages at once": b"".join(
        in_parts(frames.REPLY, call, [(9, 0)]) for call in range(frames.MAX_OPEN_MESSAGES + 1)
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_input_ends_in_a_protocol_error(what: str) -> None:
    with pytest.raises(RemoteProtocolError):
        feed(Receiver(), BROKEN[what])
    with pytest.raises(RemoteProtocolError):
        feed(Receiver(), BROKEN[what], cycle([13, 1, 7]))


@pytest.mark.parametrize("what", BROKEN)
def test_after_an_error_nothing_more_is_accepted(what: str) -> None:
    receiver = Receiver()
    with pytest.raises(RemoteProtocolError):
        feed(receiver, BROKEN[what])
    for _ in range(3):
        with pytest.raises(RemoteProtocolError):
            feed(receiver, small(frames.REPLY, 3))


@pytest.mark.parametrize("memory", sorted(landing.KINDS))
def test_a_message_for_which_there_is_no_memory_ends_the_connection_alone(memory: int) -> None:
    receiver = Receiver(max_message_bytes=2**63)
    with pytest.raises(RemoteProtocolError, match="no room"):
        feed(receiver, in_parts(frames.REPLY, 1, [(2**62, memory)]))
    receiver = Receiver(max_message_bytes=2**63)
    with pytest.raises(RemoteProtocolError, match="no room"):
        feed(receiver, in_parts(frames.REPLY, 1, [(1, 0), (2**62, memory)]) + data(1, b"x"))


def test_limits_are_on_all_open_messages_together() -> None:
    receiver = Receiver(max_message_bytes=100)
    feed(receiver, in_parts(frames.REPLY, 1, [(60, 0)]))
    feed(receiver, small(frames.ABORT, 1))
    feed(receiver, in_parts(frames.REPLY, 2, [(60, 0)]) + data(2, bytes(60)))
    feed(receiver, in_parts(frames.REPLY, 3, [(60, 0)]))
    with pytest.raises(RemoteProtocolError):
        feed(receiver, in_parts(frames.REPLY, 4, [(60, 0)]))


# Frames that are nearly right reach further into the code than noise does.
NEARLY = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.builds(
            lambda length, kind, flags, sub, call, body: (
                frames.HEADER.pack(length, kind, flags, sub, call) + body
            ),
            st.integers(0, 60) | st.sampled_from([2**32 - 1, frames.MAX_FRAME_BYTES, 2**22]),
            st.integers(0, 12) | st.integers(0, 255),
            st.integers(0, 3),
            st.integers(0, 2),
            st.integers(0, 2),
            st.binary(max_size=60),
        ),
        st.builds(
            lambda kind, call, table, head: in_parts(kind, call, table, head),
            st.sampled_from(sorted(frames.MESSAGES)),
            st.integers(0, 2),
            st.lists(
                st.tuples(st.integers(0, 9) | st.just(2**64 - 1), st.integers(0, 3)), max_size=4
            ),
            st.binary(max_size=8),
        ),
        st.builds(data, st.integers(0, 2), st.binary(max_size=9)),
        st.builds(lambda call: small(frames.ABORT, call), st.integers(0, 2)),
    ),
    max_size=12,
).map(b"".join)


@settings(max_examples=400, deadline=None)
@given(NEARLY, st.lists(st.integers(1, 50), min_size=1, max_size=5))
@example(b"", [1])
def test_whatever_arrives_is_an_event_or_a_protocol_error(stream: bytes, sizes: list[int]) -> None:
    outcomes = []
    for pieces in (None, repeat(1), cycle(sizes)):
        receiver = Receiver(max_message_bytes=2**20)
        events = []
        rest = stream
        failed = False
        while rest:
            size = len(rest) if pieces is None else next(pieces)
            piece, rest = rest[:size], rest[size:]
            try:
                events += feed(receiver, piece)
            except RemoteProtocolError:
                failed = True
                break
        outcomes.append((failed, plain(events)))
    assert outcomes[1] == outcomes[2] or outcomes[1][0]
    assert len({failed for failed, _ in outcomes}) == 1
    if not outcomes[0][0]:
        assert outcomes[0] == outcomes[1] == outcomes[2]
