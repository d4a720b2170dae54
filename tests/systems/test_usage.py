"""What somebody gets wrong at first is answered by a sentence that says what to do."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator

import pytest

import bigmachine as bm
from bigmachine.machines import Machines
from bigmachine.systems.base import Host, HostRequest


class NoHosts(bm.testing.InProcess):
    """A system that has none."""

    async def launch(self, request: HostRequest) -> AsyncIterator[Host]:
        hosts: list[Host] = []
        for host in hosts:
            yield host
        raise bm.ProvisionError(
            "there are no hosts",
            system="nohosts",
            requested=request.machines,
            started=0,
            answer="sold out",
            remedy="try tomorrow",
        )


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


@pytest.mark.parametrize("args", ["hello", b"hello", 3, [b"3"], [None], {"a": "b"}])
def test_arguments_that_are_no_sequence_of_texts_are_refused(
    cluster: bm.Cluster, args: object
) -> None:
    with pytest.raises(bm.UsageError, match=r"args=.*: give a list of texts"):
        cluster.start(1, services={"Service": Service()}, args=args)  # type: ignore[arg-type]


def test_no_machines_cannot_be_waited_for() -> None:
    with pytest.raises(bm.UsageError, match="no machines"):
        Machines([]).running()


def test_machines_that_could_not_be_had_are_not_called_lost() -> None:
    with bm.start(NoHosts()) as cluster:
        (machine,) = cluster.start(1, services={"Service": Service()})
        error = machine.call(Service.one).exception(10)

    assert isinstance(error, bm.MachineStoppedError)
    assert error.death.kind == "host"
    assert str(error).startswith("machine m0 could not be had: ")
    assert "sold out" in str(error)
    assert str(error).endswith("try tomorrow.")
    assert isinstance(error.__cause__, bm.ProvisionError)
