"""The frame: what every byte after the handshake belongs to.

A connection carries frames of this shape, little-endian::

    0        4      5       6      8        12
    +--------+------+-------+------+--------+----------------- - - -
    | length | kind | flags | sub  |  call  | body (length bytes)
    |  u32   |  u8  |  u8   | u16  |  u32   |
    +--------+------+-------+------+--------+----------------- - - -

``call`` names the exchange; the side that calls chooses it. ``sub`` names a stream within
the exchange: 0 is the reply's, 1 and up are those passed as arguments.

A *message* is a CALL, REPLY, ERROR or ITEM. A small one is one frame. One with large parts
begins with a frame that carries a table of its parts (flag PARTS) and goes on in DATA frames
with the same ``call`` and ``sub``, between which other frames may pass. What always holds:

- each CALL is answered by exactly one REPLY, ERROR or END (or ABORT of the answer);
- frames of one ``(call, sub)`` arrive in the order in which they were sent;
- a frame that breaks these rules ends the connection, never the process.
"""

from __future__ import annotations

import json
import struct
from typing import Final, NamedTuple

from bigmachine.errors import RemoteProtocolError, UsageError

PROTOCOL: Final = 1
"""The version of this protocol; both sides must speak the same."""

PREAMBLE_BYTES: Final = 64
_PREAMBLE_MAGIC: Final = b"bigmachine/1 "

HEADER: Final = struct.Struct("<IBBHI")
HEADER_BYTES: Final = HEADER.size
CALL_META: Final = struct.Struct("<dH")
PART: Final = struct.Struct("<QB")
COUNT: Final = struct.Struct("<H")
WINDOW_BODY: Final = struct.Struct("<II")

HELLO: Final = 1
CALL: Final = 2
REPLY: Final = 3
ERROR: Final = 4
ITEM: Final = 5
END: Final = 6
WINDOW: Final = 7
CANCEL: Final = 8
DATA: Final = 9
ABORT: Final = 10
GOODBYE: Final = 11

KIND_NAMES: Final = {
    HELLO: "HELLO",
    CALL: "CALL",
    REPLY: "REPLY",
    ERROR: "ERROR",
    ITEM: "ITEM",
    END: "END",
    WINDOW: "WINDOW",
    CANCEL: "CANCEL",
    DATA: "DATA",
    ABORT: "ABORT",
    GOODBYE: "GOODBYE",
}
MESSAGES: Final = frozenset({CALL, REPLY, ERROR, ITEM})

FLAG_PARTS: Final = 1
"""The body begins with a table of parts, whose bytes follow in DATA frames."""
FLAG_STREAM: Final = 2
"""On a CALL: the caller wants a stream of items for an answer."""
FLAG_FEEDS: Final = 4
"""On a CALL: some of its arguments are streams."""

INLINE_BYTES: Final = 64 * 1024
"""A payload up to this size travels in one frame; a larger one in parts."""
MAX_FRAME_BYTES: Final = 128 * 1024
"""The longest body of any frame but DATA."""
CHUNK_BYTES: Final = 512 * 1024
"""How much of a large part travels in one DATA frame: small frames wait no longer than this."""
MAX_CHUNK_BYTES: Final = 4 * 1024 * 1024
"""The longest DATA frame that is accepted."""
MAX_METHOD_BYTES: Final = 16 * 1024
"""The longest name of a method: with the largest payload or table it still fits one frame."""
MAX_PARTS: Final = 4096
MAX_MESSAGE_BYTES: Final = 64 * 1024**3
"""The default limit on the parts of one message together."""
MAX_OPEN_MESSAGES: Final = 4096
"""How many messages in parts may be on their way at once on one connection."""

WINDOW_ITEMS: Final = 1000
WINDOW_BYTES: Final = 1024 * 1024


class Event(NamedTuple):
    """One frame, or one message whose parts have all arrived."""

    kind: int
    flags: int
    sub: int
    call: int
    body: bytes
    """The frame's body; of a message in parts what followed the table (a CALL's head)."""
    parts: list[bytes | bytearray | memoryview] | None
    """The parts of a message in parts: the pickle, then its out-of-band buffers."""


def new_event(fields: tuple[int, int, int, int, bytes, None]) -> Event:
    """Return an `Event` of its fields, in half the time that its constructor takes."""
    return _new_tuple(Event, fields)


_new_tuple = tuple.__new__


def frame(kind: int, call: int = 0, sub: int = 0, body: bytes = b"", flags: int = 0) -> bytes:
    """Return one whole frame."""
    return HEADER.pack(len(body), kind, flags, sub, call) + body


def call_head(method: bytes, remaining: float) -> bytes:
    """Return what stands before the payload of a CALL.

    Args:
        method: ``Service.method``, in UTF-8.
        remaining: How long the caller will wait, in seconds; infinity for ever.

    Raises:
        UsageError: The name is too long.
    """
    if len(method) > MAX_METHOD_BYTES:
        raise UsageError(f"the name of a method is too long: {len(method):,} bytes")
    return CALL_META.pack(remaining, len(method)) + method


def split_call(body: bytes) -> tuple[float, bytes, int]:
    """Take the head of a CALL apart.

    Returns:
        The seconds it has left, its method (`method_name`), and where its payload begins.

    Raises:
        RemoteProtocolError: The head is broken.
    """
    try:
        left, length = CALL_META.unpack_from(body)
    except struct.error as error:
        raise RemoteProtocolError(f"a CALL frame with a broken head: {error}") from error
    end = CALL_META.size + length
    if len(body) < end or left != left:
        raise RemoteProtocolError("a CALL frame whose head is cut off")
    return left, body[CALL_META.size : end], end


def method_name(name: bytes) -> str:
    """Return the method that a CALL names.

    Raises:
        RemoteProtocolError: It is no text.
    """
    try:
        return name.decode()
    except UnicodeDecodeError as error:
        raise RemoteProtocolError(f"a CALL frame whose method is no text: {error}") from error


def window(call: int, sub: int, items: int, size: int) -> bytes:
    """Return a frame that allows ``items`` more items and ``size`` more bytes on a stream."""
    return frame(WINDOW, call, sub, WINDOW_BODY.pack(items, size))


def split_window(body: bytes) -> tuple[int, int]:
    """Return the items and bytes that a WINDOW frame allows."""
    if len(body) != WINDOW_BODY.size:
        raise RemoteProtocolError(f"a WINDOW frame of {len(body)} bytes")
    items, size = WINDOW_BODY.unpack(body)
    return items, size


def hello(version: str) -> bytes:
    """Return the first frame of either side."""
    body = json.dumps({"protocol": PROTOCOL, "version": version}).encode()
    return frame(HELLO, body=body)


def check_hello(body: bytes, version: str) -> None:
    """Check the peer's first frame.

    Raises:
        RemoteProtocolError: The peer speaks another version of the protocol, or none.
    """
    try:
        said = json.loads(body)
        protocol, theirs = said["protocol"], said["version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RemoteProtocolError(
            "the peer does not speak bigmachine's protocol: its HELLO cannot be read"
        ) from error
    if protocol != PROTOCOL:
        raise RemoteProtocolError(
            f"the peer runs bigmachine {theirs} with protocol {protocol}, this side runs "
            f"bigmachine {version} with protocol {PROTOCOL}; install the same version on both"
        )


def preamble(target: str) -> bytes:
    """Return what a connection begins with: whom on the host it is for.

    Raises:
        ValueError: The name of the target is too long or not ASCII.
    """
    data = _PREAMBLE_MAGIC + target.encode("ascii")
    if len(data) > PREAMBLE_BYTES:
        raise ValueError(f"target {target!r} does not fit a preamble")
    return data.ljust(PREAMBLE_BYTES, b"\0")


def split_preamble(data: bytes) -> str:
    """Return the target that a preamble names.

    Raises:
        RemoteProtocolError: It is not a preamble of this protocol.
    """
    if len(data) != PREAMBLE_BYTES or not data.startswith(_PREAMBLE_MAGIC):
        raise RemoteProtocolError("the connection did not begin with a preamble of this protocol")
    try:
        return data[len(_PREAMBLE_MAGIC) :].rstrip(b"\0").decode("ascii")
    except UnicodeDecodeError as error:
        raise RemoteProtocolError("the preamble's target is not ASCII") from error
