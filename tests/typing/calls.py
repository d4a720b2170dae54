# pyright: reportUnnecessaryTypeIgnoreComment=true
"""What the type checkers know of calls: the arguments are checked, and the result is typed.

Never run. Every ``type: ignore`` here is a promise too: both checkers fail where it suppresses
nothing.
"""

from collections.abc import AsyncIterator, Iterator
from typing import Any, BinaryIO, assert_type

import bigmachine as bm


class Words:
    """A service with a method of each kind."""

    def count(self, text: str, *, least: int = 1) -> dict[str, int]:
        return dict.fromkeys(text.split(), least)

    async def longest(self, texts: list[str]) -> str:
        return max(texts)

    def each(self, text: str) -> Iterator[str]:
        yield from text.split()

    async def later(self, text: str) -> AsyncIterator[bytes]:
        for word in text.split():
            yield word.encode()

    def file(self, path: str) -> BinaryIO:
        return open(path, "rb")

    def nothing(self) -> None:
        pass


def plain_methods(m: bm.Machine) -> None:
    assert_type(m.call(Words.count, "a b"), bm.Future[dict[str, int]])
    assert_type(m.call(Words.count, "a b", least=2).result(), dict[str, int])
    assert_type(m.call(Words.count, "a b").result(1.5), dict[str, int])
    assert_type(m.call(Words.nothing), bm.Future[None])
    assert_type(m.retry_call(Words.count, "a b"), bm.Future[dict[str, int]])


def async_methods(m: bm.Machine) -> None:
    assert_type(m.call(Words.longest, ["a"]), bm.Future[str])
    assert_type(m.retry_call(Words.longest, ["a"]), bm.Future[str])


async def awaiting(m: bm.Machine) -> None:
    assert_type(await m.call(Words.count, "a b"), dict[str, int])
    assert_type(await m.call(Words.longest, ["a"]), str)


def generator_methods(m: bm.Machine) -> None:
    assert_type(m.stream(Words.each, "a b"), bm.Stream[str])
    assert_type(m.stream(Words.later, "a b"), bm.Stream[bytes])
    assert_type(m.stream(Words.file, "/path"), bm.Stream[bytes])
    for word in m.stream(Words.each, "a b"):
        assert_type(word, str)


async def async_iteration(m: bm.Machine) -> None:
    async for word in m.stream(Words.each, "a b"):
        assert_type(word, str)


def by_name_anything_goes(m: bm.Machine) -> None:
    assert_type(m.call("Words.count", 1, 2, 3), bm.Future[Any])
    assert_type(m.stream("Words.each", 1), bm.Stream[Any])


def on_all_machines(machines: bm.Machines) -> None:
    assert_type(machines[0], bm.Machine)
    assert_type(machines[1:], bm.Machines)
    assert_type(machines.call(Words.count, "a b"), list[bm.Future[dict[str, int]]])
    assert_type(machines.call(Words.longest, ["a"]), list[bm.Future[str]])
    assert_type(machines.map(Words.count, ["a", "b"]), bm.Stream[dict[str, int]])
    assert_type(machines.map(Words.longest, [["a"]], ordered=False), bm.Stream[str])
    assert_type(machines.running().result(), bm.Machines)


def clusters() -> None:
    with bm.start() as cluster:
        assert_type(cluster, bm.Cluster)
        machines = cluster.start(5, services={"Words": Words()}, env={"LANG": None})
        assert_type(machines, bm.Machines)
        assert_type(cluster.dial(machines[0].addr), bm.Machine)
        assert_type(cluster.shutdown(), bm.Future[None])
    assert_type(bm.is_driver(), bool)


async def async_clusters() -> None:
    async with bm.start() as cluster:
        assert_type(cluster, bm.Cluster)
        assert_type(await cluster.start(1, services={"Words": Words()}).running(), bm.Machines)


def states(m: bm.Machine) -> None:
    assert_type(m.wait(), bm.Future[bm.State])
    assert_type(m.state < bm.State.RUNNING, bool)
    assert_type(m.err, bm.MachineStoppedError | None)
    assert_type(m.maxprocs, int)


def wrong_arguments_are_errors(m: bm.Machine, machines: bm.Machines) -> None:
    m.call(Words.count)  # type: ignore[call-overload]
    m.call(Words.count, 1)  # type: ignore[call-overload]
    m.call(Words.count, "a", most=2)  # type: ignore[call-arg, arg-type]
    m.call(Words.longest, "a")  # type: ignore[call-overload]
    m.stream(Words.each, 1)  # type: ignore[call-overload]
    m.stream(Words.later)  # type: ignore[call-overload]
    machines.call(Words.count, 1)  # type: ignore[call-overload]
    m.call(1)  # type: ignore[call-overload]


def streams_of_what_is_no_stream_are_errors(m: bm.Machine) -> None:
    m.stream(Words.count, "a")  # type: ignore[call-overload]
    m.stream(Words.longest, ["a"])  # type: ignore[call-overload]
