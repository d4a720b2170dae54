"""The preamble of a connection."""

from __future__ import annotations

import pytest

from bigmachine.host.door import PREAMBLE_BYTES, read_preamble


def preamble(target: str, magic: bytes = b"bigmachine/1 ") -> bytes:
    return (magic + target.encode()).ljust(PREAMBLE_BYTES, b"\0")


def test_the_target_is_read() -> None:
    assert read_preamble(preamble("3-9f3a01c2")) == "3-9f3a01c2"


@pytest.mark.parametrize(
    "data",
    [
        preamble("host")[:-1],
        preamble("host", b"bigmachine/2 "),
        b"GET / HTTP/1.1\r\n".ljust(PREAMBLE_BYTES, b"\0"),
        preamble("höst"),
        b"",
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="no preamble"):
        read_preamble(data)
