"""The base class of systems, by a small system that has no hosts."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest

from bigmachine.errors import UsageError
from bigmachine.systems.base import MISSING, Host, HostRequest, Keepalive, Option, System
from bigmachine.systems.options import describe

if TYPE_CHECKING:
    from pathlib import Path

    from nowhere import Client


class Box(Host):
    def __init__(self, name: str) -> None:
        self.id = name
        self.ended = asyncio.Event()

    async def connect(self) -> socket.socket:
        raise ConnectionRefusedError(self.id)

    async def stop(self, timeout: float) -> None:
        self.kill()

    def kill(self) -> None:
        self.ended.set()


class Shelf(System):
    name = "shelf"

    def __init__(
        self,
        boxes: int,
        client: Client | None = None,
        *,
        label="none",
        shape: str = "square",
        plan: Path | None = None,
        odd: Client.Kind = None,
    ) -> None:
        self.boxes = boxes

    async def launch(self, request: HostRequest) -> AsyncIterator[Host]:
        for number in range(min(self.boxes, request.machines)):
            yield Box(f"box{number}")


class Plain(Shelf):
    __init__ = object.__init__


class Bare(System):
    name = "bare"

    async def launch(self, request: HostRequest) -> AsyncIterator[Host]:
        yield Box("only")


REQUEST = HostRequest(cluster="c", machines=2, boot={"key": "secret"})


def test_a_system_needs_a_name_and_launch_alone():
    async def launch() -> list[Host]:
        return [host async for host in Bare().launch(REQUEST)]

    assert [host.id for host in asyncio.run(launch())] == ["only"]


def test_options_are_the_parameters_of_init_with_their_types_and_defaults():
    options = Shelf.options()
    assert options["boxes"] == Option(name="boxes", type=int, default=MISSING)
    assert options["boxes"].required
    assert options["label"] == Option(name="label", type=str, default="none")
    assert options["shape"] == Option(name="shape", type=str, default="square")


def test_an_annotation_that_only_a_type_checker_knows_leaves_the_other_options_alone():
    options = Shelf.options()
    assert list(options) == ["boxes", "client", "label", "shape", "plan", "odd"]
    assert not options["client"].required
    assert options["odd"].type is Any


def test_a_type_that_only_a_type_checker_imports_is_known_by_its_name_at_least():
    options = Shelf.options()
    assert describe(options["plan"].type) == "a path or none"
    assert describe(options["client"].type) == "Client or none"


@pytest.mark.parametrize("cls", [Plain, Bare])
def test_a_system_without_an_init_of_its_own_has_no_options(cls: type[System]):
    assert dict(cls.options()) == {}


def test_an_event_is_one_line_in_the_order_of_its_fields(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG, "bigmachine.systems.base")
    Bare().event("launch", host="i-07", seconds=12.5, why='no "space" left', empty="")
    assert caplog.messages == [
        'system=bare event=launch host=i-07 seconds=12.5 why="no \\"space\\" left" empty=""'
    ]


def test_the_defaults_for_logs_and_files_say_ask_the_supervisor():
    async def ask() -> tuple[object, object]:
        box = Box("b")
        await Bare().keepalive_failed(box)
        return await Bare().tail(box), await Bare().read(box, "/etc/hosts")

    assert asyncio.run(ask()) == (None, None)


def test_a_host_that_cannot_see_its_end_waits_until_it_is_cancelled():
    async def wait() -> bool:
        task = asyncio.ensure_future(Box("b").wait_closed())
        await asyncio.sleep(0)
        waiting = not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return waiting and task.cancelled()

    assert asyncio.run(wait())


def test_a_request_shows_no_secret():
    assert "secret" not in repr(REQUEST)


def test_a_host_tells_what_it_is():
    async def show() -> str:
        return repr(Box("b7"))

    assert asyncio.run(show()) == "<Box b7 capacity=1 at None>"


NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"period": 0}, "keepalive: period is a number of seconds above 0, not 0"),
        ({"period": NAN}, "period is a number of seconds above 0, not nan"),
        ({"timeout": INFINITY}, "timeout is a number of seconds above 0, not inf"),
        ({"rpc_timeout": NAN}, "rpc_timeout is a number of seconds above 0, not nan"),
        ({"period": 200}, "period, 200 s, is above timeout, 120.0 s"),
    ],
)
def test_a_keepalive_that_cannot_work_is_refused(wrong: dict[str, float], words: str):
    with pytest.raises(UsageError, match=words):
        Keepalive(**wrong)


@pytest.mark.parametrize("period", [0, -1, NAN, INFINITY])
def test_a_period_that_is_no_time_is_refused_by_the_name_of_its_option(period: float):
    with pytest.raises(UsageError) as raised:
        Keepalive.every(period)
    assert str(raised.value) == f"keepalive is a number of seconds above 0, not {period!r}"


def test_a_keepalive_of_a_period_may_miss_one_beat():
    assert Keepalive.every(0.5) == Keepalive(period=0.5, timeout=1.0, rpc_timeout=0.5)
    assert Keepalive.every(60) == Keepalive(period=60, timeout=120, rpc_timeout=10)
