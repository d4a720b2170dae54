"""A payload in an anonymous file: how services get from the supervisor to machines.

The supervisor writes a launch's services once and hands the same file to every machine, which maps
it privately. So a large array in a service costs the host its size once and not once for each
machine, arrives writable, and is copied by the page where a machine does write::

    ┌────────┬──────────────────┬──────┬─────────┬──────────┬─────
    │ count  │ count lengths    │ body │ padding │ buffer 0 │ …      every part begins on a page
    └────────┴──────────────────┴──────┴─────────┴──────────┴─────
"""

from __future__ import annotations

import mmap
import os
import struct
from typing import TYPE_CHECKING, Any, Final

from bigmachine import osdep

if TYPE_CHECKING:
    from bigmachine.rpc.codec import Payload

_LENGTH: Final = struct.Struct("!Q")


def write_parcel(payload: Payload) -> int:
    """Write a payload into a new anonymous file and return its descriptor."""
    parts = [view for view, _ in payload.parts()]
    header = b"".join(_LENGTH.pack(number) for number in (len(parts), *map(len, parts)))
    descriptor = osdep.memfd("bigmachine-services")
    try:
        offset = 0
        for part in (memoryview(header), *parts):
            _write_at(descriptor, part, offset)
            offset = _next_page(offset + len(part))
        os.ftruncate(descriptor, max(offset, mmap.PAGESIZE))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_parcel(descriptor: int) -> Any:
    """Decode the value that a parcel holds, and close its descriptor.

    Raises:
        PayloadError: The value cannot be rebuilt here.
    """
    from bigmachine.rpc import codec

    try:
        size_bytes = os.fstat(descriptor).st_size
        view = memoryview(mmap.mmap(descriptor, size_bytes, access=mmap.ACCESS_COPY))
    finally:
        os.close(descriptor)
    (count,) = _LENGTH.unpack_from(view)
    lengths = [_LENGTH.unpack_from(view, (1 + at) * _LENGTH.size)[0] for at in range(count)]
    offset = _next_page((1 + count) * _LENGTH.size)
    parts = []
    for length in lengths:
        parts.append(view[offset : offset + length])
        offset = _next_page(offset + length)
    return codec.decode(parts[0], parts[1:])


def _next_page(offset: int) -> int:
    return -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE


def _write_at(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data = data[written:]
        offset += written
