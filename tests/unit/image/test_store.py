"""The host's store of layers."""

from __future__ import annotations

import errno
import os
import random
import threading
from pathlib import Path

import pytest
from textlayers import TextLayer, layer_of

from bigmachine import osdep
from bigmachine.image import locks
from bigmachine.image.listing import FIXED_MTIME
from bigmachine.image.prune import items, make_room, prune
from bigmachine.image.receiving import Receiving, remove_tree
from bigmachine.image.store import Store

BIG = random.Random(1).randbytes(2_500_000)
FILES = {
    "pkg/__init__.py": b"x = 1\n",
    "pkg/empty.py": b"",
    "pkg/big.so": BIG,
    "pkg/alias.py": "__init__.py",
}


def put(store: Store, layer: TextLayer) -> None:
    receiving = store.begin(layer.listing)
    receiving.reuse()
    for number in receiving.lacking:
        receiving.write_pack(number, layer.read_pack(number))
    receiving.finish()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "cache"))


def tree(store: Store, layer: TextLayer) -> Path:
    return Path(store.tree(layer.digest))


def test_what_is_not_in_place_yet_is_where_it_goes_with_its_process(tmp_path: Path) -> None:
    root, private = str(tmp_path / "cache"), str(tmp_path / "cache" / "clusters" / "c-1")

    assert os.path.dirname(Store(root).temporary()) == str(tmp_path / "cache" / "tmp")
    assert os.path.dirname(Store(root, temporary=private).temporary()) == private


def test_a_layer_is_there_when_all_its_packs_have_come(store: Store) -> None:
    layer = layer_of(FILES)
    receiving = store.begin(layer.listing)
    assert receiving.lacking == [0, 1, 2]
    for number in (2, 0, 1):
        with pytest.raises(ValueError):
            receiving.finish()
        assert not store.has(layer.digest)
        receiving.write_pack(number, layer.read_pack(number))
    assert receiving.read_pack(1) == layer.read_pack(1)
    receiving.finish()
    assert store.has(layer.digest)
    root = tree(store, layer)
    assert (root / "pkg/big.so").read_bytes() == BIG
    assert (root / "pkg/empty.py").read_bytes() == b""
    assert (root / "pkg/alias.py").read_bytes() == b"x = 1\n"
    assert {each.stat().st_mtime for each in (root / "pkg").glob("*.*")} == {FIXED_MTIME}
    assert [store.read_pack(layer.digest, n) for n in range(3)] == layer.raw_packs
    assert receiving.read_pack(2) == layer.read_pack(2), "of the layer in its place"
    assert not os.listdir(store.path("partial"))


def test_a_damaged_pack_is_refused(store: Store) -> None:
    layer = layer_of(FILES)
    receiving = store.begin(layer.listing)
    with pytest.raises(ValueError, match=r"pack 1 of layer thing-1\.0 is damaged"):
        receiving.write_pack(1, layer.read_pack(0))
    assert receiving.lacking == [0, 1, 2]
    receiving.close()


def test_what_has_arrived_is_there_for_the_next_attempt(store: Store) -> None:
    layer = layer_of(FILES)
    first = store.begin(layer.listing)
    first.write_pack(1, layer.read_pack(1))
    first.close()
    second = Store(store.root).begin(layer.listing)
    assert second.lacking == [0, 2]
    second.close()


def test_after_a_crash_of_the_computer_what_is_hollow_comes_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = layer_of(FILES)
    first = store.begin(layer.listing)
    first.write_pack(0, layer.read_pack(0))
    first.write_pack(1, layer.read_pack(1))
    path = Path(first.path) / "tree/pkg/big.so"
    first.close()
    with path.open("r+b") as file:
        file.write(b"\0" * 4096)
    monkeypatch.setattr(osdep, "boot_id", lambda: "the next one")
    second = store.begin(layer.listing)
    assert second.lacking == [0, 2]
    second.close()


def test_a_layer_is_verified_again_once_after_a_start_of_the_computer(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = layer_of(FILES), layer_of({"a.py": b"a = 1\n"})
    put(store, good)
    put(store, bad)
    store.close()
    broken = tree(store, bad) / "a.py"
    broken.chmod(0o644)
    broken.write_bytes(b"\0" * 6)
    assert store.has(bad.digest), "of this boot: not looked at"
    store.close()
    monkeypatch.setattr(osdep, "boot_id", lambda: "the next one")
    assert store.has(good.digest)
    assert not store.has(bad.digest)
    assert not broken.exists()
    assert Path(store.path("layers", good.digest, "boot")).read_text() == "durable"
    put(store, bad)
    assert store.has(bad.digest)


def test_two_clusters_may_receive_the_same_layer_at_once(store: Store) -> None:
    layer = layer_of(FILES)
    other_store = Store(store.root)
    one, two = store.begin(layer.listing), other_store.begin(layer.listing)
    for receiving in (one, two):
        for number in range(3):
            receiving.write_pack(number, layer.read_pack(number))
    two.finish()
    one.finish()
    assert store.has(layer.digest)
    assert other_store.has(layer.digest)
    assert not os.listdir(store.path("partial"))


def test_an_edited_file_costs_only_itself(store: Store) -> None:
    files = {f"m{n}.py": f"x = {n}\n".encode() * 100 for n in range(50)}
    put(store, layer_of(files, name="src:app", kind="source"))
    edited = layer_of({**files, "m7.py": b"x = 8\n"}, name="src:app", kind="source")
    receiving = store.begin(edited.listing)
    receiving.reuse()
    assert receiving.lacking == [sorted(files).index("m7.py")]
    receiving.close()


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a/.", "", "nul\0"]
)
def test_a_listing_that_leads_elsewhere_is_refused(store: Store, path: str) -> None:
    with pytest.raises(ValueError):
        store.begin(layer_of({path: b"x"}).listing)


def test_nothing_is_written_through_a_link(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        store.begin(layer_of({"a": "b", "a/x": b"x"}).listing)
    # Should one lie there all the same, it is not followed.
    layer = layer_of({"a": b"x"})
    receiving = store.begin(layer.listing)
    (tmp_path / "victim").write_bytes(b"mine")
    os.symlink(tmp_path / "victim", Path(receiving.path) / "tree/a")
    with pytest.raises(OSError):
        receiving.write_pack(0, b"x")
    assert (tmp_path / "victim").read_bytes() == b"mine"
    receiving.close()


def full(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_full_disk_is_named_and_what_is_not_in_use_makes_room(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = layer_of({"old": b"1"}), layer_of({"new": b"2"})
    put(store, old)
    receiving = store.begin(new.listing)
    write = type(receiving._contents).write_pack
    monkeypatch.setattr(type(receiving._contents), "write_pack", full)
    with pytest.raises(OSError, match=f"cache {store.root} is full: free some space.*prune"):
        receiving.write_pack(0, b"2")
    receiving.close()

    def until_there_is_room(*args: object) -> None:
        full() if tree(store, old).exists() else write(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(type(receiving._contents), "write_pack", until_there_is_room)
    store.close()
    again = Store(store.root, room=make_room).begin(new.listing)
    again.write_pack(0, b"2")
    assert again.lacking == []
    again.close()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        Store(str(tmp_path / "file"))
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(PermissionError, match=r"open can be written by others.*chmod"):
        Store(str(tmp_path / "open"))


def test_no_permission_is_named_with_what_to_do(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "makedirs", forbidden)
    with pytest.raises(PermissionError, match=r"no permission to write the cache.*another"):
        Store(store.root)


def test_what_was_used_least_recently_goes_and_never_what_is_in_use(store: Store) -> None:
    layers = [layer_of({"x": bytes([n]) * 1000}, name=f"l{n}") for n in range(4)]
    for age, layer in zip((40, 30, 20, 10), layers, strict=True):
        put(store, layer)
        os.utime(store.path("layers", layer.digest), (1e9 - age, 1e9 - age))
    store.close()
    user = Store(store.root)
    assert user.hold(layers[0].digest)
    os.utime(store.path("layers", layers[0].digest), (1, 1))
    sizes = [item.size_bytes for item in items(store)]
    gone = prune(store, sum(sizes) - 1)
    assert [item.name for item in gone] == ["l1"]
    assert {item.name for item in prune(store, 0)} == {"l2", "l3"}
    assert [item.name for item in items(store)] == ["l0"]
    user.close()
    assert [item.name for item in prune(store, 0)] == ["l0"]
    assert not os.listdir(store.path("names"))
    assert not os.listdir(store.path("tmp"))


def test_that_the_store_keeps_to_a_limit_is_known_until_something_comes(store: Store) -> None:
    layer, other = layer_of({"x": b"1" * 1000}), layer_of({"x": b"2" * 1000}, name="other")
    put(store, layer)
    assert not store.is_within(1 << 30)
    assert prune(store, 0) == [], "it is in use"
    assert not store.is_within(1 << 30)
    prune(store, 1 << 20)
    assert [store.is_within(limit) for limit in (1 << 19, 1 << 20, 1 << 21)] == [False, True, True]
    put(store, other)
    assert not store.is_within(1 << 30)
    mark = store.begin_look()
    put(store, layer_of({"x": b"3" * 1000}, name="just then"))
    store.note_within(1 << 20, mark)
    assert not store.is_within(1 << 20), "what came meanwhile was not counted"


def test_a_full_disk_keeps_nobody_from_making_room(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, layer_of({"x": b"1" * 1000}))
    store.close()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Store, "_write", full)
    assert len(prune(store, 0)) == 1
    assert items(store) == []


def test_what_nobody_goes_on_receiving_is_given_up(store: Store) -> None:
    layer = layer_of(FILES)
    receiving = store.begin(layer.listing)
    receiving.write_pack(0, layer.read_pack(0))
    path = receiving.path
    os.utime(path, (1, 1))
    assert prune(store, 1 << 30) == [], "somebody does"
    receiving.close()
    assert [item.path for item in prune(store, 1 << 30)] == [path]


def test_a_receiving_that_is_closed_takes_no_more(store: Store) -> None:
    layer = layer_of(FILES)
    receiving: Receiving = store.begin(layer.listing)
    receiving.close()
    receiving.write_pack(0, layer.read_pack(0))
    assert receiving.lacking == [0, 1, 2]


def test_to_look_whether_a_layer_is_in_use_does_not_hide_it(store: Store) -> None:
    layer = layer_of({"x": b"1"})
    put(store, layer)
    store.close()
    look = locks.claim(store.path("layers", layer.digest))
    assert look is not None
    timer = threading.Timer(0.02, os.close, (look,))
    timer.start()
    assert Store(store.root).hold(layer.digest)
    timer.join()


def test_directories_that_a_machine_made_read_only_are_removed_all_the_same(
    tmp_path: Path,
) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/c").write_text("")
    (tmp_path / "a/b").chmod(0o500)
    remove_tree(str(tmp_path / "a"))
    assert not (tmp_path / "a").exists()
