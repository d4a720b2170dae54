"""Programs and libraries of Linux as they travel. These are made here: no compiler is needed."""

from __future__ import annotations

import struct

from bigmachine.image import elf

BASE = 0x1000
"""Where the made files are loaded."""


def make(strings: bytes, entries: list[tuple[int, int]], *, debug: bytes = b"") -> bytes:
    """A file with these strings and this dynamic section, and sections behind all of it."""
    programs = 2
    strings_at = 64 + programs * 56
    dynamic_at = strings_at + len(strings)
    dynamic = b"".join(
        struct.pack("<QQ", *each) for each in [(5, BASE + strings_at), *entries, (0, 0)]
    )
    end = dynamic_at + len(dynamic)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        *(b"\x7fELF\x02\x01\x01", 3, 62, 1, 0, 64, end + len(debug), 0, 64, 56, programs, 64, 1, 0),
    )
    load = struct.pack("<IIQQQQQQ", 1, 4, 0, BASE, BASE, end, end, 4096)
    where = struct.pack("<IIQQQQQQ", 2, 4, dynamic_at, 0, 0, len(dynamic), len(dynamic), 8)
    return header + load + where + strings + dynamic + debug


NAMES = b"\0libssl.so.3\0libc.so.6\0/opt/somewhere/lib\0"
LINKED = [(1, 1), (1, 13), (29, 23)]


def test_libraries_are_named() -> None:
    assert elf.needed(make(NAMES, LINKED)) == ["libssl.so.3", "libc.so.6"]
    assert elf.search_path(make(NAMES, LINKED)) == "/opt/somewhere/lib"
    assert elf.machine(make(NAMES, LINKED)) == 62


def test_a_search_path_is_replaced_by_one_that_holds_for_what_is_loaded_later() -> None:
    before = make(NAMES, LINKED)
    changed = elf.with_search_path(before, "$ORIGIN/../lib")
    assert changed is not None
    assert len(changed) == len(before)
    assert elf.search_path(changed) == "$ORIGIN/../lib"
    assert elf.needed(changed) == elf.needed(before)
    assert struct.pack("<QQ", 15, 23) in changed  # DT_RPATH; DT_RUNPATH is for the file alone
    assert struct.pack("<QQ", 29, 23) not in changed


def test_a_search_path_that_has_no_room_is_refused() -> None:
    assert elf.with_search_path(make(NAMES, LINKED), "$ORIGIN/" + "x" * 30) is None
    assert elf.with_search_path(make(NAMES, [(1, 1)]), "$ORIGIN") is None


def test_a_program_without_one_gets_it_in_the_place_of_a_debuggers_entry() -> None:
    names = b"\0libz.so.1\0__gmon_start__\0"
    before = make(names, [(1, 1), (21, 0)])
    changed = elf.with_search_path(before, "$ORIGIN/../lib")
    assert changed is not None
    assert elf.search_path(changed) == "$ORIGIN/../lib"
    assert elf.needed(changed) == ["libz.so.1"]


def test_what_only_debuggers_read_is_cut_off() -> None:
    before = make(NAMES, LINKED, debug=bytes(5000))
    after = elf.without_sections(before)
    assert len(after) == len(before) - 5000
    assert elf.needed(after) == elf.needed(before)
    assert elf.without_sections(after) == after


def test_other_files_are_left_alone() -> None:
    for data in (b"", b"#!/bin/sh\n", b"\x7fELF\x01\x01" + bytes(90)):
        assert elf.without_sections(data) == data
        assert elf.with_search_path(data, "$ORIGIN") is None
        assert elf.needed(data) == []
        assert elf.search_path(data) == ""
        assert elf.machine(data) == 0
