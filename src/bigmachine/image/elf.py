"""Shared libraries and programs of Linux, as far as they are changed before they travel.

Only what the loader reads is looked at: the program headers, and the dynamic section that they lead
to (`elf(5)`). Files of another kind than 64 bits, little-endian, are left as they are.

Pure: bytes in, bytes out.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_MAGIC: Final = b"\x7fELF\x02\x01"
_HEADER: Final = struct.Struct("<32xQQ6xHHHHH")  # phoff, shoff; then sizes and numbers of entries
_PROGRAM: Final = struct.Struct("<IIQQQQQQ")  # type, flags, offset, vaddr, paddr, filesz, …
_DYNAMIC: Final = struct.Struct("<QQ")  # tag, value

_PT_LOAD: Final = 1
_PT_DYNAMIC: Final = 2
_DT_NULL: Final = 0
_DT_NEEDED: Final = 1
_DT_STRTAB: Final = 5
_DT_RPATH: Final = 15
_DT_DEBUG: Final = 21
_DT_RUNPATH: Final = 29

# Names that linked files have, of functions that need not be there and are not: room for a text.
_SPARE_NAMES: Final = (
    b"__gmon_start__",
    b"_ITM_registerTMCloneTable",
    b"_ITM_deregisterTMCloneTable",
)


@dataclass(frozen=True, slots=True)
class _Segment:
    kind: int
    offset: int
    address: int
    size: int


def is_elf(data: bytes) -> bool:
    """Whether this is a file of the kind that is understood here."""
    return data[: len(_MAGIC)] == _MAGIC


def without_sections(data: bytes) -> bytes:
    """Return a library without what only linkers and debuggers read, often most of it."""
    if not is_elf(data):
        return data
    end = max((each.offset + each.size for each in _segments(data)), default=len(data))
    if end >= len(data):
        return data
    cut = bytearray(data[:end])
    struct.pack_into("<Q", cut, 40, 0)  # e_shoff
    struct.pack_into("<HH", cut, 60, 0, 0)  # e_shnum, e_shstrndx
    return bytes(cut)


def needed(data: bytes) -> list[str]:
    """Return the libraries that a file is linked with, as it names them."""
    if not is_elf(data):
        return []
    table = _strings_at(data)
    return [_text(data, table + value) for _, tag, value in _dynamic(data) if tag == _DT_NEEDED]


def with_search_path(data: bytes, path: str) -> bytes | None:
    """Return a file that looks for libraries in ``path`` before anywhere else.

    It is set as the old kind of search path, ``DT_RPATH``: with a program's, whatever it loads
    later is also looked for there. A file that has a path already has that one replaced; a program
    without one gets it in the place of what only debuggers need.

    Args:
        data: The file.
        path: The path; ``$ORIGIN`` is the file's own directory.

    Returns:
        The changed file, None where there is no room for it.
    """
    if not is_elf(data):
        return None
    changed = bytearray(data)
    table = _strings_at(data)
    wanted = path.encode() + b"\0"
    entries = {tag: (at, value) for at, tag, value in _dynamic(data)}
    for tag in (_DT_RPATH, _DT_RUNPATH):
        if tag in entries:
            at, value = entries[tag]
            start = table + value
            room = data.index(b"\0", start) + 1 - start
            if room < len(wanted):
                break
            changed[start : start + room] = wanted.ljust(room, b"\0")
            _DYNAMIC.pack_into(changed, at, _DT_RPATH, value)
            return bytes(changed)
    else:
        for name in _SPARE_NAMES if _DT_DEBUG in entries else ():
            start = data.find(b"\0" + name + b"\0", table) + 1
            if start > table and len(wanted) <= len(name) + 1:
                changed[start : start + len(name) + 1] = wanted.ljust(len(name) + 1, b"\0")
                _DYNAMIC.pack_into(changed, entries[_DT_DEBUG][0], _DT_RPATH, start - table)
                return bytes(changed)
    return None


def search_path(data: bytes) -> str:
    """Return where a file says that its libraries are; "" where it does not say."""
    if is_elf(data):
        for _, tag, value in _dynamic(data):
            if tag in (_DT_RPATH, _DT_RUNPATH):
                return _text(data, _strings_at(data) + value)
    return ""


def machine(data: bytes) -> int:
    """Return for which kind of processor a file is (``e_machine``); 0 if it is none of these."""
    return int.from_bytes(data[18:20], "little") if is_elf(data) else 0


def _segments(data: bytes) -> Iterator[_Segment]:
    offset, _, size, count, *_ = _HEADER.unpack_from(data)
    for number in range(count):
        kind, _, at, address, _, length, _, _ = _PROGRAM.unpack_from(data, offset + number * size)
        yield _Segment(kind, at, address, length)


def _dynamic(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the entries of the dynamic section: where each is, its tag, its value."""
    for segment in _segments(data):
        if segment.kind == _PT_DYNAMIC:
            for at in range(segment.offset, segment.offset + segment.size, _DYNAMIC.size):
                tag, value = _DYNAMIC.unpack_from(data, at)
                if tag == _DT_NULL:
                    return
                yield at, tag, value


def _strings_at(data: bytes) -> int:
    """Return where in the file the table of names begins; the length of the file if nowhere."""
    for _, tag, address in _dynamic(data):
        if tag == _DT_STRTAB:
            for segment in _segments(data):
                if segment.kind == _PT_LOAD and 0 <= address - segment.address < segment.size:
                    return segment.offset + address - segment.address
    return len(data)


def _text(data: bytes, start: int) -> str:
    return data[start : data.index(b"\0", start)].decode("utf-8", "surrogateescape")
