"""What `Machines.map` says of an item that failed."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

import bigmachine as bm


class Service:
    def divide(self, number: int) -> float:
        return 12 / number

    def length(self, text: str) -> int:
        raise ValueError("never")

    def survive(self, number: int) -> int:
        if number == 0:
            sys.exit(3)
        return number


@pytest.fixture
def cluster() -> Iterator[bm.Cluster]:
    with bm.start(bm.testing.InProcess()) as cluster:
        yield cluster


def notes_of(error: BaseException) -> str:
    return "\n".join(error.__notes__)


def test_a_failure_names_its_item(cluster: bm.Cluster) -> None:
    machines = cluster.start(1, services={"S": Service()})

    with pytest.raises(ZeroDivisionError) as failed:
        list(machines.map(Service.divide, [3, 2, 1, 0]))

    assert "map: item 3 (0)" in failed.value.__notes__


def test_a_large_item_is_named_in_short(cluster: bm.Cluster) -> None:
    machines = cluster.start(1, services={"S": Service()})

    with pytest.raises(ValueError, match="never") as failed:
        list(machines.map(Service.length, ["x" * 10_000]))

    (note,) = (note for note in failed.value.__notes__ if note.startswith("map: item 0 ('xxx"))
    assert len(note) < 120


def test_an_item_that_was_lost_names_its_machine(cluster: bm.Cluster) -> None:
    machines = cluster.start(1, services={"S": Service()})

    with pytest.raises(bm.MachineStoppedError) as failed:
        list(machines.map(Service.survive, [0]))

    assert failed.value.__notes__ == ["map: item 0 (0), on m0"]
    # The machine's own error, which later calls raise, is not that item's.
    later = machines[0].call(Service.survive, 1).exception(10)
    assert not hasattr(later, "__notes__")
    assert not hasattr(machines[0].err, "__notes__")


def test_an_item_that_is_given_up_says_on_which_machines_it_was(cluster: bm.Cluster) -> None:
    machines = cluster.start(4, services={"S": Service()})
    machines.running().result(10)

    with pytest.raises(bm.MachineStoppedError) as failed:
        list(machines.map(Service.survive, [0], retries=2))

    assert failed.value.__notes__ == [
        "map: item 0 (0), given up after 3 tries, on m0, m1, m2; "
        "the same item had already been running on m0, m1 when these died"
    ]


def test_when_no_machine_is_left_the_item_that_was_on_them_is_named(cluster: bm.Cluster) -> None:
    machines = cluster.start(2, services={"S": Service()})
    machines.running().result(10)

    with pytest.raises(ExceptionGroup, match="every machine has stopped") as failed:
        list(machines.map(Service.survive, [0], retries=9))

    assert notes_of(failed.value) == "map: item 0 (0) was running on m0, m1 when these died"
