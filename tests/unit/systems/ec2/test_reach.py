"""How long an instance may take to answer, and what is said meanwhile. The clock is a made one."""

from __future__ import annotations

import asyncio
import logging
import selectors
from collections.abc import Coroutine
from typing import Any

import pytest

from bigmachine.systems.ec2.errors import InstanceFailed
from bigmachine.systems.ec2.instances import Instance
from bigmachine.systems.ec2.reach import Reach

BOOT_SECONDS = 600.0
WORLD = {"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}


class Skipping(selectors.DefaultSelector):
    """Lets the time pass for which there is nothing to do."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        self.now += timeout or 0.0
        return super().select(0)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run something whose waiting takes no time."""
    selector = Skipping()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.now  # type: ignore[method-assign]
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(work)


class Answer:
    def close(self) -> None:
        pass


class Host:
    """An instance that answers from some second on, or never."""

    ip = "192.0.2.1"
    place = "192.0.2.1:5550"

    def __init__(self, name: str, answers: float | None, error: type[OSError] = TimeoutError):
        self.instance = Instance(name)
        self.error = error
        now = asyncio.get_running_loop().time()
        self.answers = None if answers is None else now + answers

    async def connect(self) -> Answer:
        if self.answers is None or asyncio.get_running_loop().time() < self.answers:
            raise self.error
        return Answer()


class Api:
    """Knows the security groups and the state of instances."""

    def __init__(self, status: str = "ok") -> None:
        self.asked: list[str] = []
        self.status = status

    async def call(self, method: str, **parameters: Any) -> Any:
        self.asked.append(method)
        if method == "describe_security_groups":
            return {"SecurityGroups": [{"GroupId": "sg-1", "IpPermissions": [WORLD]}]}
        return {"InstanceStatuses": [{"InstanceStatus": {"Status": self.status}}]}


def reach(api: Any = None) -> Reach:
    return Reach(api or Api(), port=5550, boot_seconds=BOOT_SECONDS)


async def wait(reach: Reach, host: Any) -> float:
    """Return how long it took until an instance answered, or was given up."""
    clock = asyncio.get_running_loop().time
    begun = clock()
    described = {
        "InstanceId": host.instance.id,
        "PublicIpAddress": host.ip,
        "SubnetId": "subnet-1",
        "SecurityGroups": [{"GroupId": "sg-1"}],
    }
    try:
        await reach.wait(host, described)
    finally:
        host.took = clock() - begun
    return float(host.took)


def test_it_is_waited_until_an_instance_answers_and_nothing_is_said(caplog) -> None:
    async def main() -> None:
        assert await wait(reach(api), Host("i-1", 55.0)) == pytest.approx(55.0, abs=0.6)

    api = Api()
    run(main())
    assert api.asked == []
    assert not caplog.records


def test_after_a_minute_the_likely_causes_are_said_once_for_all(caplog) -> None:
    async def main() -> None:
        one = reach()
        await asyncio.gather(*(wait(one, Host(f"i-{n}", 130.0)) for n in range(3)))

    with caplog.at_level(logging.WARNING):
        run(main())
    (record,) = caplog.records
    said = record.getMessage()
    assert "has not answered at 192.0.2.1:5550 for a minute (nothing came back)" in said
    assert "sg-1 lets everybody in" in said
    assert "subnet-1" in said


def test_where_none_answers_all_are_waited_for_and_no_other_one_is_tried() -> None:
    async def main() -> None:
        host = Host("i-1", None, ConnectionRefusedError)
        with pytest.raises(InstanceFailed, match="nor did any other") as raised:
            await wait(reach(), host)
        assert host.took == pytest.approx(BOOT_SECONDS, abs=1)  # type: ignore[attr-defined]
        assert not raised.value.replaceable
        assert "get-console-output" in raised.value.remedy

    run(main())


@pytest.mark.parametrize(
    ("others", "patience"), [(1.0, 60.0), (40.0, 120.0), (300.0, BOOT_SECONDS)]
)
def test_where_others_have_answered_one_that_takes_far_longer_is_replaced(others, patience) -> None:
    async def main() -> None:
        one = reach()
        await wait(one, Host("i-1", others))
        host = Host("i-2", None)
        with pytest.raises(InstanceFailed, match="while others did") as raised:
            await wait(one, host)
        assert host.took == pytest.approx(patience, rel=0.03)  # type: ignore[attr-defined]
        assert raised.value.replaceable

    run(main())


def test_what_ec2_calls_impaired_is_replaced_but_only_once() -> None:
    async def main() -> None:
        one = reach(Api("impaired"))
        with pytest.raises(InstanceFailed, match="InstanceStatus impaired") as raised:
            await wait(one, Host("i-1", None))
        assert raised.value.replaceable
        with pytest.raises(InstanceFailed, match="nor did any other") as raised:
            await wait(one, Host("i-2", None))
        assert not raised.value.replaceable

    run(main())


def test_one_that_ends_before_it_answers_is_given_up_at_once() -> None:
    async def main() -> None:
        host = Host("i-1", None)
        asyncio.get_running_loop().call_later(5.0, host.instance.end, "EC2 says terminated")
        with pytest.raises(InstanceFailed, match="i-1 has ended: EC2 says terminated") as raised:
            await wait(reach(), host)
        assert host.took == pytest.approx(5.0, abs=0.1)  # type: ignore[attr-defined]
        assert raised.value.replaceable

    run(main())


def test_without_permission_to_look_the_advice_is_what_can_be_said(caplog) -> None:
    class Forbidden(Api):
        async def call(self, method: str, **parameters: Any) -> Any:
            raise PermissionError(method)

    async def main() -> None:
        await wait(reach(Forbidden()), Host("i-1", 90.0))

    with caplog.at_level(logging.WARNING):
        run(main())
    (record,) = caplog.records
    assert "see whether its security group sg-1 lets this computer connect" in record.getMessage()
