"""Packs as they travel."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigmachine.image import transit
from bigmachine.image.transit import (
    BEAT,
    PIECE_BYTES,
    Joiner,
    Recent,
    compress,
    decompress,
    pieces,
)


@given(st.lists(st.integers(0, 3 * PIECE_BYTES), max_size=4))
def test_packs_arrive_as_they_were_cut_with_beats_between(sizes: list[int]) -> None:
    frames = [bytes([number]) * size for number, size in enumerate(sizes)]
    joiner, arrived = Joiner(3 * PIECE_BYTES), []
    for number, frame in enumerate(frames):
        for piece in pieces(number, frame):
            assert joiner.feed((BEAT, True, b"")) is None
            assert len(piece[2]) <= PIECE_BYTES
            whole = joiner.feed(piece)
            if whole is not None:
                arrived.append(whole)
    assert arrived == list(enumerate(frames))


def test_pieces_of_two_packs_must_not_mix_nor_grow_without_bound() -> None:
    joiner = Joiner(10)
    joiner.feed((1, False, b"12345"))
    with pytest.raises(ValueError, match="amidst"):
        joiner.feed((2, True, b"1"))
    joiner = Joiner(10)
    joiner.feed((1, False, b"12345"))
    with pytest.raises(ValueError, match="larger"):
        joiner.feed((1, False, b"123456"))


def test_what_was_compressed_comes_back_and_a_bomb_does_not() -> None:
    frame = transit.compress(b"a" * 100_000)
    assert transit.decompress(frame, 100_000) == b"a" * 100_000
    with pytest.raises(ValueError, match="100000 bytes"):
        transit.decompress(frame, 99_999)
    for damaged in (b"", b"nothing of the kind", frame[:-3], frame[:6] + b"\xff" + frame[7:]):
        with pytest.raises(ValueError):
            transit.decompress(damaged, 100_000)


def test_the_frames_used_last_are_kept() -> None:
    recent = Recent(10)
    recent.put("a", 0, b"12345")
    recent.put("a", 1, b"1234")
    assert recent.get("a", 0) == b"12345"
    recent.put("b", 0, b"123")
    assert recent.get("a", 1) is None
    assert recent.get("a", 0) is not None
    recent.put("a", 0, b"1")
    recent.put("c", 0, b"123456")
    assert [recent.get(layer, 0) for layer in "abc"] == [b"1", b"123", b"123456"]
    recent.put("d", 0, b"x" * 11)
    assert recent.get("d", 0) is None


def test_a_difference_is_small_and_of_use_to_who_has_the_base_alone() -> None:
    base = random.Random(1).randbytes(3 << 20)
    raw = base[: 1 << 20] + b"edited" + base[1 << 20 :]
    frame = compress(raw, base)
    assert len(frame) < 8000
    assert decompress(frame, len(raw), base) == raw
    with pytest.raises(ValueError, match="cannot be decompressed"):
        decompress(frame, len(raw))
