"""Texts over a socket that nobody serves yet: a length (4 bytes, big-endian) and so many bytes.

For the first words between two processes: JSON, since neither side has imported anything else.
Everything blocks, with a limit.
"""

from __future__ import annotations

import os
import select
from typing import Final

LIMIT_SECONDS: Final = 10.0
"""How long one side waits for the other to begin."""

_LENGTH_BYTES: Final = 4


def frame(text: bytes) -> bytes:
    """Return a text as it is sent."""
    return len(text).to_bytes(_LENGTH_BYTES, "big") + text


def receive(descriptor: int) -> bytes:
    """Wait for a text and return it, reading not a byte more than that.

    Raises:
        EOFError: The other side has gone.
        TimeoutError: It says nothing.
    """
    length = int.from_bytes(_receive_exactly(descriptor, _LENGTH_BYTES), "big")
    return _receive_exactly(descriptor, length)


def _receive_exactly(descriptor: int, count: int) -> bytes:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    data = bytearray()
    while len(data) < count:
        if not poller.poll(LIMIT_SECONDS * 1000):
            raise TimeoutError(f"nothing was said for {LIMIT_SECONDS:g} s")
        more = os.read(descriptor, count - len(data))
        if not more:
            raise EOFError("the other side has gone")
        data += more
    return bytes(data)
