"""What somebody gets wrong at first is answered by a sentence that says what to do."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

import bigmachine as bm
from bigmachine.machines import Machines


class Service:
    def one(self) -> int:
        return 1


@pytest.fixture
def cluster() -> Iterator[bm.Cluster]:
    with bm.start(bm.testing.InProcess()) as cluster:
        yield cluster


@pytest.mark.parametrize("services", [Service(), [Service()], 3, "Service", Service])
def test_services_that_are_no_mapping_are_refused(cluster: bm.Cluster, services: object) -> None:
    with pytest.raises(bm.UsageError, match="give a mapping of names to services"):
        cluster.start(1, services=services)  # type: ignore[arg-type]


def test_a_class_in_place_of_an_object_is_refused(cluster: bm.Cluster) -> None:
    with pytest.raises(bm.UsageError, match=r"give an object of it, Service\(\.\.\.\)"):
        cluster.start(1, services={"Service": Service})


def test_a_service_that_cannot_be_pickled_is_refused_by_name(cluster: bm.Cluster) -> None:
    service = Service()
    service.lock = threading.Lock()  # type: ignore[attr-defined]

    with pytest.raises(bm.PayloadError) as refused:
        cluster.start(1, services={"Service": service})

    assert refused.value.path.endswith(".lock")


def test_no_machines_cannot_be_waited_for() -> None:
    with pytest.raises(bm.UsageError, match="no machines"):
        Machines([]).running()
