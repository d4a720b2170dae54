"""What a provider tells the host itself ahead of time: that it takes the host back.

EC2 tells a spot instance two minutes before it ends it, by the instance's metadata service, which
nobody else can ask. It is asked for as long as the host lives; what it says comes once.
"""

from __future__ import annotations

import asyncio
import json
from typing import Final

PERIOD_SECONDS: Final = 5.0
"""How often it is asked, as EC2's own guide advises."""

_ASK_SECONDS: Final = 2.0
_TOKEN_SECONDS: Final = 21_600
_MAX_BYTES: Final = 1 << 16


async def wait_notice(metadata: str, *, period: float = PERIOD_SECONDS) -> str:
    """Wait until the host is to be taken back; return what a person is to know of it.

    Args:
        metadata: Where the metadata service is, ``HOST:PORT``: EC2's, version 2.
        period: How often it is asked, in seconds.
    """
    token = ""
    while True:
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                if not token:
                    token = await _new_token(metadata)
                status, body = await _ask(
                    metadata, "GET /latest/meta-data/spot/instance-action", token=token
                )
            if status == 200:
                return _describe(body)
            if status == 401:
                token = ""
        except (OSError, EOFError, ValueError, LookupError):
            token = ""  # another time it may be better
        await asyncio.sleep(period)


async def _new_token(metadata: str) -> str:
    header = f"X-aws-ec2-metadata-token-ttl-seconds: {_TOKEN_SECONDS}"
    status, body = await _ask(metadata, "PUT /latest/api/token", header)
    if status != 200:
        raise ValueError(f"no token: {status}")
    return body.decode("ascii").strip()


async def _ask(metadata: str, what: str, *headers: str, token: str = "") -> tuple[int, bytes]:
    """Make one request of HTTP; return the answer's status and body."""
    host, _, port = metadata.rpartition(":")
    if token:
        headers = (*headers, f"X-aws-ec2-metadata-token: {token}")
    lines = [f"{what} HTTP/1.0", f"Host: {host}", "Content-Length: 0", *headers, "", ""]
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write("\r\n".join(lines).encode("ascii"))
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()
        named = dict(line.lower().split(": ", 1) for line in head[1:] if ": " in line)
        length = min(int(named.get("content-length", 0)), _MAX_BYTES)
        return int(head[0].split()[1]), await reader.readexactly(length)
    finally:
        writer.close()


def _describe(body: bytes) -> str:
    try:
        said = json.loads(body)
        return f"the provider takes its host back ({said['action']} at {said['time']})"
    except (ValueError, LookupError, TypeError):
        return "the provider takes its host back"
