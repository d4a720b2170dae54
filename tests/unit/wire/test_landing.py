"""Memory for parts: of the kind that was sent, whatever its size."""

from __future__ import annotations

import gc

import pytest

from bigmachine.wire import landing

MIB = 1024 * 1024
SIZES = [0, 1, 4095, 4096, 64 * 1024, MIB - 1, MIB, MIB + 1, 3 * MIB + 7]


def land(kind: int, data: bytes) -> object:
    owner, view = landing.allocate(kind, len(data))
    assert view.nbytes == len(data)
    assert not view.readonly
    view[:] = data
    view.release()
    return landing.finish(kind, owner)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", sorted(landing.KINDS))
def test_what_is_put_in_is_there_in_the_kind_of_memory_it_had(kind: int, size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]
    landed = land(kind, data)
    assert bytes(landed) == data  # type: ignore[call-overload]
    if kind == landing.BYTES:
        assert type(landed) is bytes
        assert memoryview(landed).readonly
        assert hash(landed) == hash(data)
        assert landed[-1:] == data[-1:]
    elif kind == landing.BYTEARRAY:
        assert type(landed) is bytearray
    else:
        assert not memoryview(landed).readonly  # type: ignore[arg-type]
        assert memoryview(landed).nbytes == size  # type: ignore[arg-type]


@pytest.mark.parametrize("size", SIZES)
def test_a_bytearray_can_be_resized_after_it_has_landed(size: int) -> None:
    landed = land(landing.BYTEARRAY, b"x" * size)
    assert isinstance(landed, bytearray)
    landed += b"more"
    assert landed == b"x" * size + b"more"
    landed.clear()


@pytest.mark.parametrize("size", [MIB - 1, MIB])
def test_bytes_end_with_the_nul_that_c_code_relies_on(size: int) -> None:
    import ctypes

    landed = land(landing.BYTES, b"x" * size)
    assert isinstance(landed, bytes)
    address = id(landed) + bytes.__basicsize__ - 1
    assert ctypes.string_at(address + size, 1) == b"\0"


def test_what_nobody_took_is_freed() -> None:
    for kind in landing.KINDS:
        owner, view = landing.allocate(kind, 2 * MIB)
        del owner
        view.release()
    assert gc.collect() >= 0


def test_more_memory_than_there_is_is_a_memory_error() -> None:
    for kind in landing.KINDS:
        with pytest.raises(MemoryError):
            landing.allocate(kind, 2**62)
