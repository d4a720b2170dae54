"""Listings and packs: what names a layer, and what of it travels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigmachine.image.listing import (
    PACK_BYTES,
    Cutter,
    Entry,
    Kind,
    Listing,
    Pack,
    digest_of,
    is_safe,
    sort_entries,
)

KINDS: list[Kind] = ["distribution", "source"]


def listing(
    files: dict[str, bytes], kind: Kind = "distribution", extra: Sequence[Entry] = ()
) -> Listing:
    cutter = Cutter(kind)
    for path in sorted(files):
        cutter.feed(files[path])
        cutter.end_file()
    entries = [Entry(path, 0o644, len(data)) for path, data in files.items()]
    return Listing(
        name="thing-1.0",
        kind=kind,
        entries=sort_entries([*entries, *extra]),
        packs=cutter.close(),
    )


names = st.text(alphabet="abcé", min_size=1, max_size=4).map(lambda name: name + ".py")
contents = st.integers(0, 3 * PACK_BYTES).map(lambda size: bytes([size % 251]) * size)
small = st.binary(max_size=50)


@given(st.dictionaries(names, contents | small, max_size=6), st.sampled_from(KINDS))
def test_packs_hold_the_files_one_after_the_other(files: dict[str, bytes], kind: Kind) -> None:
    made = listing(files, kind)
    whole = b"".join(files[path] for path in sorted(files))
    at = 0
    for pack, spans in zip(made.packs, made.spans(), strict=True):
        data = b"".join(
            files[made.entries[span.entry].path][span.offset : span.offset + span.size]
            for span in spans
        )
        assert hashlib.sha256(data).hexdigest() == pack.sha256
        assert data == whole[at : at + pack.size]
        at += pack.size
    assert at == len(whole) == made.size_bytes


@given(st.dictionaries(names, small, max_size=6), st.sampled_from(KINDS))
def test_a_listing_is_what_its_text_says(files: dict[str, bytes], kind: Kind) -> None:
    made = listing(files, kind)
    assert Listing.decode(made.encode()) == made
    assert digest_of(made.encode()) == digest_of(Listing.decode(made.encode()).encode())


@given(st.lists(st.binary(max_size=9), max_size=9))
def test_however_a_file_is_read_its_packs_are_the_same(pieces: list[bytes]) -> None:
    slowly, at_once = Cutter("source"), Cutter("source")
    for piece in pieces:
        slowly.feed(piece)
    at_once.feed(b"".join(pieces))
    assert slowly.close() == at_once.close()


def test_an_edited_source_file_changes_its_own_pack_alone() -> None:
    files = {"a.py": b"a" * 1000, "b.py": b"b" * 1000, "c.py": b"c" * 1000}
    before = listing(files, "source").packs
    after = listing({**files, "b.py": b"b" * 999 + b"!"}, "source").packs
    assert [x == y for x, y in zip(before, after, strict=True)] == [True, False, True]


def test_names_that_are_no_unicode_survive() -> None:
    odd = listing({b"caf\xe9.txt".decode("utf-8", "surrogateescape"): b"x"})
    assert Listing.decode(odd.encode()) == odd


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "a/../b", "a//b", "./a", "a/", "a\0b"])
def test_paths_that_lead_elsewhere_are_refused(path: str) -> None:
    assert not is_safe(path)
    with pytest.raises(ValueError, match="must not hold"):
        Listing.decode(listing({}, extra=[Entry(path, 0o644, 0)]).encode())


@pytest.mark.parametrize("target", ["/etc/passwd", "../../x", "a/../../../x", ""])
def test_links_that_lead_out_are_refused(target: str) -> None:
    with pytest.raises(ValueError, match="leads out"):
        Listing.decode(listing({}, extra=[Entry("d/link", 0o777, None, target)]).encode())


def test_a_link_within_the_layer_is_fine() -> None:
    made = listing({"lib/x.so.1": b"elf"}, extra=[Entry("lib/x.so", 0o777, None, "x.so.1")])
    assert Listing.decode(made.encode()) == made


def test_nothing_is_unpacked_below_a_link() -> None:
    made = listing({"d/f": b"x"}, extra=[Entry("d", 0o777, None, "elsewhere")])
    with pytest.raises(ValueError, match="below what is no directory"):
        Listing.decode(made.encode())


def test_nothing_is_there_twice() -> None:
    made = listing({"f": b""}, extra=[Entry("f", 0o644, 0)])
    with pytest.raises(ValueError, match="twice"):
        Listing.decode(made.encode())


@pytest.mark.parametrize(
    "packs", [(), (Pack("00" * 32, 2),), (Pack("00" * 32, 0), Pack("00" * 32, 1))]
)
def test_packs_that_do_not_add_up_are_refused(packs: tuple[Pack, ...]) -> None:
    made = listing({"f": b"x"})
    wrong = Listing(name=made.name, kind=made.kind, entries=made.entries, packs=packs)
    with pytest.raises(ValueError, match="add up"):
        Listing.decode(wrong.encode())


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda x: (
            st.lists(x)
            | st.dictionaries(st.sampled_from(["v", "name", "kind", "entries", "packs"]), x)
        ),
    )
)
def test_garbage_is_refused(values: object) -> None:
    with pytest.raises(ValueError):
        Listing.decode(json.dumps(values).encode())
