"""The order in which messages leave: kept within a key, fair between keys."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from joined import Pipe, drain, small

from bigmachine.wire import frames, landing
from bigmachine.wire.sender import Sender

CHUNK = frames.CHUNK_BYTES


def push(sender: Sender, key: tuple[int, int], *sizes: int, kind: int = frames.ITEM) -> None:
    parts = [(memoryview(bytes([key[0] % 256]) * size), landing.BYTES) for size in sizes]
    sender.push_message(kind, key, b"", parts)


def kinds(batch: list[bytes | memoryview]) -> list[tuple[int, int]]:
    """Return (kind, call) of each frame in a batch."""
    data, found = b"".join(batch), []
    while data:
        length, kind, _, _, call = frames.HEADER.unpack_from(data)
        found.append((kind, call))
        data = data[frames.HEADER_BYTES + length :]
    return found


def test_small_frames_are_joined_in_their_order() -> None:
    sender = Sender()
    for call in range(100):
        sender.push(small(frames.REPLY, call))
    assert [call for _, call in kinds(sender.take())] == list(range(100))
    assert not sender
    assert sender.take() == []


def test_small_frames_pass_between_the_chunks_of_a_large_message() -> None:
    sender = Sender()
    push(sender, (1, 0), 10 * CHUNK)
    assert kinds(sender.take()) == [(frames.ITEM, 1), (frames.DATA, 1)]
    sender.push(small(frames.REPLY, 2))
    assert kinds(sender.take())[0] == (frames.REPLY, 2)


def test_no_batch_has_more_than_one_chunk() -> None:
    sender = Sender()
    for call in range(5):
        push(sender, (call, 0), 3 * CHUNK + 5, 10, CHUNK - 1, 70_000, 0, 1)
    while batch := sender.take():
        assert sum(map(len, batch)) <= CHUNK + 2 * frames.MAX_FRAME_BYTES


def test_a_message_of_many_short_parts_leaves_in_several_turns() -> None:
    sender = Sender()
    push(sender, (1, 0), *[60_000] * 2000)
    while batch := sender.take():
        assert len(batch) <= 500  # the system takes 1,024 buffers at once
        assert sum(map(len, batch)) <= CHUNK + 2 * frames.MAX_FRAME_BYTES
    sender = Sender()
    push(sender, (1, 0), *[1] * 4000)
    while batch := sender.take():
        assert len(batch) <= 500


def test_large_messages_take_turns() -> None:
    sender = Sender()
    for call in (1, 2, 3):
        push(sender, (call, 0), 4 * CHUNK)
    turns = [kinds(sender.take())[-1][1] for _ in range(12)]
    assert turns == [1, 2, 3] * 4
    assert drain(sender) == b""


def test_a_keyed_frame_stays_behind_the_large_message_of_its_key() -> None:
    pipe = Pipe()
    push(pipe.sender, (1, 0), 3 * CHUNK)
    pipe.sender.push(small(frames.END, 1), (1, 0))
    pipe.sender.push(small(frames.END, 2), (2, 0))
    assert [(e.kind, e.call) for e in pipe.run()] == [
        (frames.END, 2),
        (frames.ITEM, 1),
        (frames.END, 1),
    ]


def test_a_thousand_large_messages_end_in_one_go() -> None:
    pipe = Pipe()
    for call in range(5000):
        push(pipe.sender, (call, 0), frames.INLINE_BYTES + 1)
    assert sorted(event.call for event in pipe.run()) == list(range(5000))


def test_no_more_messages_are_begun_at_once_than_the_other_side_takes() -> None:
    pipe = Pipe()
    body = memoryview(bytes(2 * CHUNK))
    for call in range(frames.MAX_OPEN_MESSAGES + 100):
        pipe.sender.push_message(frames.ITEM, (call, 0), b"", [(body, landing.BUFFER)])
    begun: set[int] = set()
    for _ in range(frames.MAX_OPEN_MESSAGES + 100):
        begun |= {call for _, call in kinds(pipe.sender.take())}
    assert len(begun) < frames.MAX_OPEN_MESSAGES


# One step of a program: a small frame, a keyed one, a large message, an abort, or a write.
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["small", "keyed", "large", "abort", "take"]),
        st.integers(0, 3),
        st.sampled_from([1, 70_000, CHUNK, CHUNK + 1, 2 * CHUNK + 3]),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_within_a_key_everything_arrives_in_order_whatever_happens(
    steps: list[tuple[str, int, int]],
) -> None:
    pipe = Pipe()
    sent: dict[int, list[bytes]] = {key: [] for key in range(4)}
    for number, (what, key, size) in enumerate(steps):
        label = number.to_bytes(4, "little")
        if what == "small":
            pipe.sender.push(small(frames.REPLY, 99, label))
        elif what == "keyed":
            pipe.sender.push(small(frames.ITEM, key, label), (key, 0))
            sent[key].append(label)
        elif what == "large":
            parts = [(memoryview(label), landing.BYTES), (memoryview(bytes(size)), landing.BUFFER)]
            pipe.sender.push_message(frames.ITEM, (key, 0), b"", parts)
            sent[key].append(label)
        elif what == "abort":
            pipe.sender.abort((key, 0))
        else:
            pipe.step()
    aborted = {key for what, key, _ in steps if what == "abort"}
    events = pipe.run()
    for key, labels in sent.items():
        arrived = [
            event.body if event.parts is None else bytes(event.parts[0])
            for event in events
            if event.call == key and event.kind == frames.ITEM
        ]
        if key in aborted:
            assert all(a < b for a, b in pairwise(arrived))
            assert set(arrived) <= set(labels)
        else:
            assert arrived == labels
    replies = [event.body for event in events if event.kind == frames.REPLY]
    assert len(replies) == sum(what == "small" for what, _, _ in steps)
    assert replies == sorted(replies)
    assert "0 in parts" in repr(pipe.receiver)


def test_an_abort_before_the_first_byte_leaves_no_trace() -> None:
    pipe = Pipe()
    push(pipe.sender, (1, 0), CHUNK)
    assert pipe.sender.abort((1, 0)) is False
    assert pipe.run() == []


def test_an_abort_in_the_middle_tells_the_other_side() -> None:
    pipe = Pipe()
    push(pipe.sender, (1, 0), 3 * CHUNK)
    pipe.step()
    assert pipe.sender.abort((1, 0)) is True
    assert [event.kind for event in pipe.run()] == [frames.ABORT]


def test_an_abort_drops_what_waits_behind() -> None:
    pipe = Pipe()
    push(pipe.sender, (1, 0), 3 * CHUNK)
    pipe.sender.push(small(frames.END, 1), (1, 0))
    push(pipe.sender, (1, 0), 3 * CHUNK)
    pipe.step()
    pipe.sender.abort((1, 0))
    assert [event.kind for event in pipe.run()] == [frames.ABORT]


def test_an_abort_after_the_last_byte_does_no_harm() -> None:
    pipe = Pipe()
    push(pipe.sender, (1, 0), CHUNK)
    assert [event.kind for event in pipe.step()] == [frames.ITEM]
    pipe.sender.abort((1, 0))
    assert [event.kind for event in pipe.run()] == [frames.ITEM]


def test_an_abort_of_a_key_that_sends_nothing_is_nothing() -> None:
    assert Sender().abort((1, 0)) is False


def test_a_key_can_be_used_again_after_an_abort() -> None:
    pipe = Pipe()
    push(pipe.sender, (1, 0), 3 * CHUNK)
    pipe.step()
    pipe.sender.abort((1, 0))
    push(pipe.sender, (1, 0), 2 * CHUNK)
    assert [event.kind for event in pipe.run()] == [frames.ABORT, frames.ITEM]
