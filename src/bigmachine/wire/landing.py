"""Memory for large parts to land in: allocated once, never cleared, never copied.

Touching fresh memory costs more than the socket: 100 MB into a new `bytearray`, which is
cleared first and mapped in pages of 4 KiB, arrives at 1.2 GB/s; into memory that is neither
cleared nor mapped in small pages at 4.4 GB/s. So a part gets memory of the very type that it
had at the sender, uninitialised and with huge pages where the system has them.

A `bytes` object is immutable only once somebody else can see it. CPython's own C interface
fills new ones the same way (``PyBytes_FromStringAndSize(NULL, n)``); nobody sees these before
their last byte has arrived.
"""

from __future__ import annotations

import mmap
import sys
from functools import cache
from typing import Any, Final

BUFFER: Final = 0
"""A writable buffer of no particular type: what an array stands on."""
BYTES: Final = 1
BYTEARRAY: Final = 2
KINDS: Final = frozenset({BUFFER, BYTES, BYTEARRAY})

_LARGE_BYTES: Final = 1024 * 1024
"""From here on the special ways pay."""


def allocate(kind: int, size: int) -> tuple[Any, memoryview]:
    """Return an object of a kind and a writable view of its ``size`` bytes.

    The object must not be shown to anybody before the view has been filled and released.

    Raises:
        MemoryError: There is not that much.
    """
    if size < _LARGE_BYTES or sys.implementation.name != "cpython":
        return _allocate_small(kind, size)
    if kind == BUFFER:
        memory = _map(size)
        return memory, memoryview(memory)
    return _allocate_uninitialised(kind, size)


def finish(kind: int, owner: Any) -> Any:
    """Return the object as its receiver sees it, now that it is filled."""
    if kind == BYTES and type(owner) is bytearray:
        return bytes(owner)
    return owner


def _allocate_small(kind: int, size: int) -> tuple[Any, memoryview]:
    del kind
    memory = bytearray(size)
    return memory, memoryview(memory)


def _map(size: int) -> mmap.mmap:
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"no room for a part of {size:,} bytes") from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            memory.madvise(mmap.MADV_HUGEPAGE)
        except OSError:  # the kernel was built without huge pages
            return memory
    return memory


@cache
def _c() -> Any:
    import ctypes

    api = ctypes.pythonapi
    for name in ("PyBytes_FromStringAndSize", "PyByteArray_FromStringAndSize"):
        function = getattr(api, name)
        function.restype = ctypes.py_object
        function.argtypes = [ctypes.c_void_p, ctypes.c_ssize_t]
    api.PyByteArray_AsString.restype = ctypes.c_void_p
    api.PyByteArray_AsString.argtypes = [ctypes.py_object]
    return ctypes


def _allocate_uninitialised(kind: int, size: int) -> tuple[Any, memoryview]:
    ctypes = _c()
    api = ctypes.pythonapi
    owner: bytes | bytearray
    if kind == BYTES:
        owner = api.PyBytes_FromStringAndSize(None, size)
        address = id(owner) + bytes.__basicsize__ - 1  # the data follows the header
    else:
        owner = api.PyByteArray_FromStringAndSize(None, size)
        address = api.PyByteArray_AsString(owner)
    _advise_huge_pages(ctypes, address, size)
    array = (ctypes.c_ubyte * size).from_address(address)
    return owner, memoryview(array).cast("B")


def _advise_huge_pages(ctypes: Any, address: int, size: int) -> None:
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return
    start = (address + mmap.PAGESIZE - 1) // mmap.PAGESIZE * mmap.PAGESIZE
    end = (address + size) // mmap.PAGESIZE * mmap.PAGESIZE
    libc = ctypes.CDLL(None)
    libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_HUGEPAGE)
