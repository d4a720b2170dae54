"""Layers on their way from the driver to hosts, and from host to host."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from environments import Environment
from linking import LIMIT, until
from screens import Terminal
from textlayers import TextLayer, layer_of, manifest_of

from bigmachine.driver.images import ImageServer, Prepared, fetch_image
from bigmachine.driver.progress import StatusLine
from bigmachine.errors import BigmachineError, ProvisionError
from bigmachine.futures import Future
from bigmachine.host.images import ImagesService
from bigmachine.image.build import Image
from bigmachine.image.files import FileLayer, Source, make_layer
from bigmachine.image.store import Store
from bigmachine.image.stored import StoredLayer
from bigmachine.image.transit import Piece, compress
from bigmachine.rpc import endpoints
from hosts import Cluster, Host, cluster_in

MIB = 1 << 20


def noise(count: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(count)


def image_of(*layers: TextLayer | FileLayer) -> Image:
    manifest = manifest_of(*layers, mounts={"src:app": "src/0"})
    return Image(manifest=manifest, layers={layer.digest: layer for layer in layers})


def sources(line: str = "x = 1\n") -> TextLayer:
    files = {f"m{n}.py": f"x = {n}\n".encode() * 500 for n in range(40)}
    files["edited.py"] = line.encode()
    return layer_of(files, name="src:app", kind="source")


@pytest.fixture(scope="module")
def image() -> Image:
    return image_of(
        layer_of({"lib/big.so": noise(3 * MIB + 17, 1), "lib/a.py": b"a = 1\n"}, name="big-1"),
        layer_of({"lib/mid.so": noise(MIB, 2)}, name="mid-1"),
        layer_of({"lib/small.py": b"s = 1\n"}, name="small-1"),
        layer_of({"lib/empty.py": b""}, name="empty-1"),
        sources(),
    )


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with cluster_in(tmp_path) as cluster:
        yield cluster


def check(image: Image, host: Host, root: str) -> None:
    for layer in image.layers.values():
        assert isinstance(layer, TextLayer | StoredLayer)
    assert Path(root, "lib/big.so").read_bytes() == noise(3 * MIB + 17, 1)
    assert Path(root, "lib/empty.py").read_bytes() == b""
    assert Path(root, "src/0/edited.py").read_text() == "x = 1\n"
    assert root.startswith(str(host.root))


def test_eight_hosts_have_everything_and_the_driver_sends_each_layer_once(
    cluster: Cluster, image: Image
) -> None:
    server = cluster.server(image)
    hosts = cluster.add(8)
    for host, prepared in zip(hosts, cluster.provide(server, hosts), strict=True):
        check(image, host, prepared.root)
        assert prepared.python == f"{prepared.root}/bin/python"
    for digest, layer in image.layers.items():
        assert server.sent[digest] <= layer.size_bytes + len(layer.listing) + 2000, layer.name


def test_a_second_start_moves_no_layer_and_an_edited_line_little(
    cluster: Cluster, image: Image
) -> None:
    (host,) = cluster.add(1)
    cluster.provide(cluster.server(image), [host])
    host = cluster.restart(host)
    again = cluster.server(image)
    cluster.provide(again, [host])
    assert again.sent.total() == 0
    layers = [each for each in image.layers.values() if each.name != "src:app"]
    edited = image_of(*layers, sources("x = 2\n"))  # type: ignore[arg-type]
    third = cluster.server(edited)
    (prepared,) = cluster.provide(third, [host])
    assert Path(prepared.root, "src/0/edited.py").read_text() == "x = 2\n"
    assert 0 < third.sent.total() < 8_000


def test_the_cache_is_looked_through_after_a_launch_or_in_the_next(
    cluster: Cluster, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    (host,) = cluster.add(1)
    store = Store(str(host.root))
    cluster.provide(cluster.server(image), [host])
    host = cluster.restart(host)
    assert not store.is_within(store.limit_bytes), "the program was too short for that"
    cluster.provide(cluster.server(image), [host])
    until(lambda: store.is_within(store.limit_bytes))
    monkeypatch.setattr("bigmachine.host.images.PRUNE_SECONDS", 0.01)
    cluster.provide(cluster.server(image_of(sources("x = 2\n"))), [host])
    until(lambda: store.is_within(store.limit_bytes))


def test_an_edited_line_among_many_files_costs_hardly_more(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "driver"))
    many = {f"pkg/m{n}.py": Source("", f"x = {n}\n".encode()) for n in range(400)}

    def image_with(line: str) -> Image:
        files = {**many, "e.py": Source("", line.encode())}
        return image_of(make_layer("src:app", "source", files))

    (host,) = cluster.add(1)
    first = cluster.server(image_with("x = 1\n"))
    cluster.provide(first, [host])
    until(lambda: (tmp_path / "driver/bigmachine/listings").is_dir())
    whole = first.sent.total()
    host = cluster.restart(host)
    again = cluster.server(image_with("x = 2\n"))
    (prepared,) = cluster.provide(again, [host])
    assert Path(prepared.root, "src/0/e.py").read_text() == "x = 2\n"
    assert whole > 15_000
    assert again.sent.total() < 1000
    (other,) = cluster.add(1)  # which has no earlier version
    third = cluster.server(image_with("x = 3\n"))
    cluster.provide(third, [other])
    assert third.sent.total() > 15_000


def test_what_a_warm_host_has_the_others_get_from_it(cluster: Cluster, image: Image) -> None:
    warm, *cold = cluster.add(4)
    cluster.provide(cluster.server(image), [warm])
    server = cluster.server(image)
    cluster.provide(server, [warm])
    cluster.provide(server, cold)
    assert server.sent.total() == 0


def test_a_notebook_that_saves_itself_meanwhile_spoils_no_launch(
    cluster: Cluster, tmp_path: Path
) -> None:
    env = Environment(tmp_path.resolve() / "driver")
    notebook = env.write(env.project / "pi.ipynb", "{}\n")
    server = cluster.server(env.build())
    notebook.unlink()
    env.write(env.project / "pi.ipynb", '{"cells": []}\n')
    for prepared in cluster.provide(server, cluster.add(2)):
        assert Path(prepared.root, "src/0/pi.ipynb").read_text() == "{}\n"


class Gate(TextLayer):
    """A layer of which the driver sends only some packs until it is opened."""

    opened: threading.Event
    at: int
    reached: threading.Event

    def read_pack(self, number: int) -> bytes:
        if number >= self.at:
            self.reached.set()
            assert self.opened.wait(LIMIT)
        return super().read_pack(number)


def gated(at: int = 2) -> Gate:
    plain = layer_of({"lib/big.so": noise(4 * MIB, 3)}, name="gated-1")
    gate = Gate(plain.listing, plain.content, plain.name, plain.kind)
    object.__setattr__(gate, "opened", threading.Event())
    object.__setattr__(gate, "reached", threading.Event())
    object.__setattr__(gate, "at", at)
    return gate


def packs_at(host: Host, layer: TextLayer) -> int:
    coming = host.service._inbound.get(layer.digest)
    return sum(coming.has(number) for number in range(layer.packs)) if coming else 0


def half_way(cluster: Cluster) -> tuple[Gate, ImageServer, Host, Future[Prepared]]:
    """A layer of which the half is at a host, its server, the host, and what will come of it."""
    layer = gated()
    server = cluster.server(image_of(layer))
    (host,) = cluster.add(1)
    future = cluster.begin(server, host)
    until(lambda: packs_at(host, layer) == 2)
    return layer, server, host, future


def test_hosts_pass_packs_on_while_they_still_receive(cluster: Cluster) -> None:
    layer = gated()
    server = cluster.server(image_of(layer))
    hosts = cluster.add(4)
    futures = [cluster.begin(server, host) for host in hosts]
    until(lambda: all(packs_at(host, layer) == 2 for host in hosts))
    assert not any(future.done() for future in futures)
    assert server.sent[layer.digest] < 2.1 * MIB, "the driver has sent these packs to one of them"
    layer.opened.set()
    for future in futures:
        assert Path(future.result(LIMIT).root, "lib/big.so").read_bytes() == layer.content


def test_who_waits_at_a_terminal_sees_how_far_it_is(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    screen = Terminal()
    layer = gated()
    server = ImageServer(cluster.runtime, image_of(layer), status=StatusLine(lambda: screen.stream))
    futures = [cluster.begin(server, host) for host in cluster.add(2)]
    screen.read_until("image to 2 hosts: [#########...............] 2/5 MB, ")
    layer.opened.set()
    for future in futures:
        future.result(LIMIT)
    screen.read_until("\r\x1b[K")
    until(lambda: not server._arrival._wanted)
    screen.close()


def test_when_a_source_is_lost_the_fetch_goes_on_where_it_was(cluster: Cluster) -> None:
    layer = gated()
    server = cluster.server(image_of(layer))
    head, *others = cluster.add(4)
    lost = cluster.begin(server, head)
    until(lambda: packs_at(head, layer) > 0)
    futures = [cluster.begin(server, host) for host in others]
    until(lambda: all(packs_at(host, layer) == 2 for host in others))
    cluster.runtime.loop.call_soon_threadsafe(server.forget, head.name)
    cluster.home.do(head.cut)
    layer.opened.set()
    for future in futures:
        future.result(LIMIT)
    with pytest.raises(ProvisionError, match="given up"):
        lost.result(LIMIT)
    assert server.sent[layer.digest] < 1.6 * layer.size_bytes, "the rest, and what was on its way"


def test_a_host_that_others_cannot_reach_is_none_to_get_layers_from(
    cluster: Cluster, image: Image
) -> None:
    server = cluster.server(image)
    hidden, *others = cluster.add(3)
    hidden.shut_door()
    cluster.provide(server, [hidden])
    cluster.provide(server, others)
    sizes = sum(layer.size_bytes for layer in image.layers.values())
    assert server.sent.total() < 2.1 * sizes


def with_one_that_has_it(cluster: Cluster, image: Image) -> tuple[ImageServer, Host, Host]:
    """A server, a host that has the image from it, and one that has nothing."""
    server = cluster.server(image)
    first, second = cluster.add(2)
    cluster.provide(server, [first])
    return server, first, second


def test_a_source_that_falls_silent_is_replaced(
    cluster: Cluster, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bigmachine.host.peer.SILENCE_SECONDS", 0.2)
    server, first, second = with_one_that_has_it(cluster, image)

    async def silent(layer: str, wanted: list[int]) -> AsyncIterator[Piece]:
        async for piece in ImagesService.packs(first.service, layer, wanted[:1]):
            yield piece
        await asyncio.Event().wait()

    monkeypatch.setattr(first.service, "packs", silent)
    sent = server.sent.total()
    cluster.provide(server, [second])
    assert server.sent.total() > sent, "in the end only the driver was left"


def test_a_host_that_does_not_answer_is_left_alone(
    cluster: Cluster, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bigmachine.host.peer.CONNECT_SECONDS", 0.1)
    server, first, second = with_one_that_has_it(cluster, image)
    held: list[socket.socket] = []

    def accept(_: str) -> socket.socket:
        mine, theirs = socket.socketpair()
        mine.setblocking(False)
        held.append(theirs)
        return mine

    endpoints.open_endpoint(first.address.path, accept)
    cluster.provide(server, [second])
    assert held
    for sock in held:
        sock.close()


def test_a_damaged_pack_goes_no_further(
    cluster: Cluster, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, first, second = with_one_that_has_it(cluster, image)

    async def damaged(layer: str, wanted: list[int]) -> AsyncIterator[Piece]:
        for number in wanted:
            yield number, True, compress(b"something else")

    monkeypatch.setattr(first.service, "packs", damaged)
    (prepared,) = cluster.provide(server, [second])
    check(image, second, prepared.root)


def test_what_was_begun_before_the_host_was_lost_is_not_sent_again(cluster: Cluster) -> None:
    layer, server, host, lost = half_way(cluster)
    cluster.runtime.loop.call_soon_threadsafe(server.forget, host.name)
    layer.opened.set()
    with pytest.raises(ProvisionError, match="given up"):
        lost.result(LIMIT)
    host = cluster.restart(host)
    again = cluster.server(image_of(layer))
    cluster.provide(again, [host])
    assert 0 < again.sent[layer.digest] < 2.1 * MIB


def test_a_layer_that_was_changed_on_the_host_comes_again(cluster: Cluster, image: Image) -> None:
    (host,) = cluster.add(1)
    (prepared,) = cluster.provide(cluster.server(image), [host])
    path = Path(prepared.root, "lib/a.py")
    path.chmod(0o644)
    path.write_text("a = 22\n")
    host = cluster.restart(host)
    for name in os.listdir(host.root / "images"):
        os.rename(host.root / "images" / name, host.root / "tmp" / name)
    (prepared,) = cluster.provide(cluster.server(image), [host])
    assert Path(prepared.root, "lib/a.py").read_text() == "a = 1\n"


def test_a_host_without_room_says_so_and_the_others_do_without_it(
    cluster: Cluster, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bigmachine.image.receiving import Contents

    write = Contents.write_pack

    def full_on_the_first(self: Contents, *args: object) -> None:
        if "/h0/" in self.tree:
            raise OSError(28, "No space left on device")
        write(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Contents, "write_pack", full_on_the_first)
    server = cluster.server(image)
    first, *others = cluster.add(3)
    failing = cluster.begin(server, first)
    futures = [cluster.begin(server, host) for host in others]
    with pytest.raises(ProvisionError, match=r"h0 cannot take .* is full: free some space"):
        failing.result(LIMIT)
    for host, future in zip(others, futures, strict=True):
        check(image, host, future.result(LIMIT).root)


def test_an_image_can_be_fetched_back_and_given_to_others(
    cluster: Cluster, image: Image, tmp_path: Path
) -> None:
    first, second = cluster.add(2)
    cluster.provide(cluster.server(image), [first])
    store = Store(str(tmp_path / "driver"))
    runtime = cluster.runtime
    back = cluster.run(fetch_image(runtime, first.control, image.digest, store))
    assert back.digest == image.digest
    (prepared,) = cluster.provide(cluster.server(back), [second])
    check(back, second, prepared.root)
    with pytest.raises(LookupError):
        cluster.run(fetch_image(runtime, first.control, "0" * 64, store))
    store.close()


def test_a_host_that_is_gone_fails_at_once(cluster: Cluster) -> None:
    layer, _, host, future = half_way(cluster)
    cluster.home.do(host.cut)
    layer.opened.set()
    with pytest.raises(BigmachineError):
        future.result(LIMIT)
