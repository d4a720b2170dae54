"""How packs travel: each a Zstandard frame of its own, cut into pieces of a stream.

A piece is ``(number, is_last, data)``. The pieces of one pack follow each other; a number of
`BEAT` says only that the sender is there and has nothing to send yet. Whoever relays a pack passes
its frame on as it came.

Pure. ``zstandard`` is imported when it is first needed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from zstandard import ZstdCompressionDict

    from bigmachine.image.receiving import Receiving

Piece: TypeAlias = tuple[int, bool, bytes]

BEAT: Final = -1
PIECE_BYTES: Final = 256 * 1024
"""How much is in one piece: a quarter of a stream's window, so one is always on its way."""
_LEVEL: Final = 3
_HASH_LOG: Final = 22  # of what is found again in a base; four bytes each
_MAX_REACH_LOG: Final = 27  # which every decompressor takes


def compress(raw: bytes, base: bytes = b"") -> bytes:
    """Return a pack, or a listing, as it travels.

    Args:
        raw: What it is.
        base: What the other side has, and it may be like: then the difference travels.
    """
    import zstandard

    if not base:
        return zstandard.ZstdCompressor(level=_LEVEL).compress(raw)
    # What is like it lies as far back as the base is long, and has to be found there.
    reach = min(max(10, (len(raw) + len(base)).bit_length()), _MAX_REACH_LOG)
    hash_log = min(reach, _HASH_LOG)
    parameters = zstandard.ZstdCompressionParameters.from_level(
        _LEVEL, window_log=reach, hash_log=hash_log, chain_log=hash_log
    )
    compressor = zstandard.ZstdCompressor(
        dict_data=_dictionary(base), compression_params=parameters
    )
    return compressor.compress(raw)


def decompress(frame: bytes, limit_bytes: int, base: bytes = b"") -> bytes:
    """Return what was compressed.

    Args:
        frame: How it travelled.
        limit_bytes: How much it may be.
        base: What it is the difference to.

    Raises:
        ValueError: It is no whole frame, or has more in it than ``limit_bytes``.
    """
    import zstandard

    try:
        size = zstandard.frame_content_size(frame)
        if not 0 <= size <= limit_bytes:
            raise ValueError(f"what arrived is {size} bytes, and may be {limit_bytes}")
        decompressor = zstandard.ZstdDecompressor(dict_data=_dictionary(base) if base else None)
        return decompressor.decompress(frame, max_output_size=limit_bytes)
    except zstandard.ZstdError as error:
        raise ValueError(f"what arrived cannot be decompressed: {error}") from error


def _dictionary(base: bytes) -> ZstdCompressionDict:
    import zstandard

    return zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


def unpack(receiving: Receiving, number: int, frame: bytes) -> None:
    """Decompress a pack, verify it and write it; errors as in `Receiving.write_pack`."""
    receiving.write_pack(number, decompress(frame, receiving.listing.packs[number].size))


def pieces(number: int, frame: bytes) -> Iterator[Piece]:
    """Cut a pack's frame into the pieces that travel."""
    last = max(0, len(frame) - 1) // PIECE_BYTES
    for index in range(last + 1):
        start = index * PIECE_BYTES
        yield number, index == last, frame[start : start + PIECE_BYTES]


class Joiner:
    """Puts the frames of packs together again."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._number = BEAT
        self._parts: list[bytes] = []

    def feed(self, piece: Piece) -> tuple[int, bytes] | None:
        """Take a piece; return the number and frame of a pack that is whole now.

        Raises:
            ValueError: The piece does not belong where it comes, or the frame grows too large.
        """
        number, is_last, data = piece
        if number == BEAT:
            return None
        if self._parts and number != self._number:
            raise ValueError(f"a piece of pack {number} came amidst pack {self._number}")
        self._number = number
        self._parts.append(data)
        if sum(map(len, self._parts)) > self._limit:
            raise ValueError(f"pack {number} is larger than it may be")
        if not is_last:
            return None
        frame = b"".join(self._parts)
        self._parts = []
        return number, frame


class Recent:
    """The frames of the packs that were used last, within a limit.

    Args:
        limit_bytes: How much they may be together.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._frames: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._bytes = 0

    def __repr__(self) -> str:
        return f"<Recent {len(self._frames)} packs, {self._bytes} bytes>"

    def put(self, layer: str, number: int, frame: bytes) -> None:
        """Remember a frame, and forget those that were not used for longest."""
        old = self._frames.pop((layer, number), b"")
        self._frames[layer, number] = frame
        self._bytes += len(frame) - len(old)
        while self._bytes > self._limit:
            _, gone = self._frames.popitem(last=False)
            self._bytes -= len(gone)

    def get(self, layer: str, number: int) -> bytes | None:
        """Return a frame if it is still here."""
        frame = self._frames.get((layer, number))
        if frame is not None:
            self._frames.move_to_end((layer, number))
        return frame
