"""A host learns that its provider takes it back, and its driver and machines with it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest
from hosting import LIMIT_SECONDS, hosting
from services_for_tests import Probe

from bigmachine.death import DeathKind
from bigmachine.host.messages import EventKind
from bigmachine.host.notices import wait_notice
from bigmachine.security.authority import Authority

NOTICE = b'{"action": "terminate", "time": "2031-01-01T08:22:00Z"}'


@dataclass
class Metadata:
    """A metadata service as EC2's, version 2: nothing without a token that holds."""

    address: str = ""
    notice: bytes = b""
    token: str = "first"
    asked: list[str] = field(default_factory=list)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        self.asked.append(lines[0].removesuffix(" HTTP/1.0"))
        status, body = "404 Not Found", b""
        if lines[0].startswith("PUT /latest/api/token "):
            assert any(each.startswith("X-aws-ec2-metadata-token-ttl-seconds: ") for each in lines)
            status, body = "200 OK", self.token.encode()
        elif f"X-aws-ec2-metadata-token: {self.token}" not in lines:
            status = "401 Unauthorized"
        elif self.notice and "/latest/meta-data/spot/instance-action" in lines[0]:
            status, body = "200 OK", self.notice
        head = f"HTTP/1.0 {status}\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        writer.close()


@contextlib.asynccontextmanager
async def metadata_service() -> AsyncIterator[Metadata]:
    service = Metadata()
    server = await asyncio.start_server(service.answer, "127.0.0.1", 0)
    async with server:
        service.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield service


def test_it_is_asked_until_there_is_a_notice_with_tokens_that_hold() -> None:
    async def test() -> None:
        async with metadata_service() as service, asyncio.timeout(LIMIT_SECONDS):
            waiting = asyncio.create_task(wait_notice(service.address, period=0.01))
            while len(service.asked) < 3:  # noqa: ASYNC110
                await asyncio.sleep(0)
            service.token = "second"
            while service.asked.count("PUT /latest/api/token") < 2:  # noqa: ASYNC110
                await asyncio.sleep(0)
            assert not waiting.done()
            service.notice = NOTICE
            said = await waiting
            assert "terminate at 2031-01-01T08:22:00Z" in said

    asyncio.run(test())


@pytest.mark.parametrize("notice", [b"<html>", b"[]", b"{}", b"null"])
def test_a_notice_that_cannot_be_read_is_still_one(notice: bytes) -> None:
    async def test() -> None:
        async with metadata_service() as service:
            service.notice = notice
            said = await asyncio.wait_for(wait_notice(service.address), LIMIT_SECONDS)
            assert said == "the provider takes its host back"

    asyncio.run(test())


def test_a_service_that_says_nothing_is_asked_again() -> None:
    async def test() -> None:
        third = asyncio.Event()
        asked = 0

        def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal asked
            asked += 1
            writer.close()
            if asked == 3:
                third.set()

        async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
            address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            waiting = asyncio.create_task(wait_notice(address, period=0.01))
            await asyncio.wait_for(third.wait(), LIMIT_SECONDS)
            assert not waiting.done()
            waiting.cancel()

    asyncio.run(test())


@pytest.mark.parametrize(
    ("notice", "kind"), [(NOTICE, DeathKind.SPOT), (b"", DeathKind.HOST)], ids=["spot", "none"]
)
def test_what_is_told_to_end_afterwards_has_died_of_that(
    notice: bytes, kind: DeathKind, tmp_path: Path
) -> None:
    authority = Authority()
    theirs = asdict(authority.issue("host-1"))

    async def test() -> None:
        async with metadata_service() as service:
            service.notice = notice
            options = {
                "transport": "tls",
                "credentials": theirs,
                "metadata": service.address,
                "cache": str(tmp_path),
            }
            async with hosting(tls=authority.issue("driver"), **options) as host:
                (machine,) = await host.launch(1, {"Probe": Probe()})
                await host.wait_ready(machine)
                if notice:
                    event = await host.wait_event("", EventKind.NOTICE)
                    assert "terminate" in event.notice
                host.process.send_signal(signal.SIGTERM)  # as when the host is shut down
                death = await host.wait_death(machine)
                assert death.kind is kind
                assert death.detail
                host.close()
                assert await host.wait_end() == 0

    asyncio.run(test())
