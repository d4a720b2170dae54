r"""Where machines' lines go at the driver: its own streams, a text file, or a callable.

A sink gets lines without their newline and may keep them until ``flush`` writes whole blocks.

The driver's streams are what ``sys.stdout`` and ``sys.stderr`` are at that time: a terminal, a
pipe, a notebook's, a test's. Bytes go unchanged to those that take bytes; the others get text in
which bytes that are not UTF-8 stand as ``\xNN``. What the program printed before comes first.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import select
import sys
from collections.abc import Callable
from itertools import groupby
from typing import Protocol, TextIO, TypeAlias

from bigmachine.driver import progress
from bigmachine.errors import UsageError
from bigmachine.lines import OutputLine, Stream

Target: TypeAlias = Callable[[OutputLine], object] | TextIO | None
"""What a program may give as ``output``: a callable, a text file, or None for its own streams."""

_logger = logging.getLogger(__name__)


class Sink(Protocol):
    """Takes lines. Whatever it raises comes from what the user gave."""

    def add(self, machine: str, stream: Stream, lines: list[bytes], /) -> None:
        """Take lines of one stream, without their newlines."""

    def flush(self) -> None:
        """Write what was kept."""


def make_sink(target: Target) -> Sink:
    """The sink for what a program gave as ``output``.

    Raises:
        UsageError: It is none of the three.
    """
    if target is None:
        return DriverStreams()
    if callable(getattr(target, "write", None)):
        return FileSink(target)  # type: ignore[arg-type]
    if callable(target):
        return CallableSink(target)
    raise UsageError(
        f"output must be a callable, a text file or None, not {type(target).__name__}: give a "
        f"function of one argument, the line, or a file opened for writing text"
    )


class CallableSink:
    """Calls the user's function with each line, an `OutputLine`."""

    def __init__(self, function: Callable[[OutputLine], object]) -> None:
        self._function = function

    def __repr__(self) -> str:
        return f"the callable {self._function!r}"

    def add(self, machine: str, stream: Stream, lines: list[bytes], /) -> None:
        """Call the function."""
        for line in lines:
            self._function(OutputLine(line, machine, stream))

    def flush(self) -> None:
        """Nothing was kept."""


class FileSink:
    """Writes prefixed lines to the user's text file and flushes it."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._blocks: list[bytes] = []

    def __repr__(self) -> str:
        return f"the file {self._file!r}"

    def add(self, machine: str, _stream: Stream, lines: list[bytes], /) -> None:
        """Keep lines of either stream."""
        self._blocks.append(prefixed(machine, lines))

    def flush(self) -> None:
        """Write them."""
        blocks, self._blocks = self._blocks, []
        if blocks:
            write_block(self._file, b"".join(blocks))


class DriverStreams:
    """Writes prefixed lines to ``sys.stdout`` and ``sys.stderr``, each machine stream to its like.

    A stream that cannot be written (closed, or a pipe whose reader has gone) loses its lines, and
    one warning says so. It is tried again with the next lines: programs replace their streams.
    """

    def __init__(self, *, status: progress.StatusLine = progress.terminal) -> None:
        self._status = status
        self._blocks: list[tuple[Stream, bytes]] = []
        self._warned = False

    def __repr__(self) -> str:
        return "the driver's streams"

    def add(self, machine: str, stream: Stream, lines: list[bytes], /) -> None:
        """Keep lines."""
        self._blocks.append((stream, prefixed(machine, lines)))

    def flush(self) -> None:
        """Write them, in the order they came."""
        blocks, self._blocks = self._blocks, []
        for stream, group in groupby(blocks, key=_stream_of):
            self._write(stream, b"".join(block for _, block in group))

    def _write(self, stream: Stream, block: bytes) -> None:
        file: TextIO | None = getattr(sys, stream)
        if file is None:  # a program without a console
            return
        aside = self._status.aside() if progress.is_terminal(file) else contextlib.nullcontext()
        try:
            with aside:
                write_block(file, block)
        except Exception as error:  # any object may stand in for sys.stdout
            if not self._warned:
                self._warned = True
                _logger.warning("machines' output is lost: cannot write sys.%s: %r", stream, error)


def _stream_of(block: tuple[Stream, bytes]) -> Stream:
    return block[0]


def prefixed(machine: str, lines: list[bytes]) -> bytes:
    """The lines, each with its machine in front and a newline behind."""
    prefix = f"[{machine}] ".encode()
    return prefix + (b"\n" + prefix).join(lines) + b"\n"


def write_block(file: TextIO, block: bytes) -> None:
    """Write bytes to a text file, behind what has been written to it before, and flush it."""
    if not _has_bytes_below(file):
        _write_as_text(file, block)
        return
    file.flush()
    descriptor = _plain_descriptor(file)
    if descriptor is None:
        file.buffer.write(block)
        file.buffer.flush()
    else:
        _write_all(descriptor, block)


def _has_bytes_below(file: TextIO) -> bool:
    """Whether the file's bytes go nowhere but to its ``buffer``: a plain text layer.

    Objects that copy what is written, or hand it to a notebook, often pass ``buffer`` on from the
    stream they stand in for: only their own ``write`` will do.
    """
    return isinstance(file, io.TextIOWrapper) and type(file).write is io.TextIOWrapper.write


def _plain_descriptor(file: TextIO) -> int | None:
    """The descriptor, where the file is nothing but a buffer above one.

    Writing to it directly leaves the buffer's lock free. A write that blocks would hold the lock
    for ever, and an interpreter that ends meanwhile aborts when it cannot have it.
    """
    buffer = file.buffer
    if type(buffer) is io.BufferedWriter and type(buffer.raw) is io.FileIO:
        return file.fileno()
    if type(buffer) is io.FileIO:  # python -u
        return file.fileno()
    return None


def _write_all(descriptor: int, block: bytes) -> None:
    rest = memoryview(block)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:  # whoever shares it made it non-blocking
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()


def _write_as_text(file: TextIO, block: bytes) -> None:
    text = block.decode("utf-8", "backslashreplace")
    try:
        file.write(text)
    except UnicodeEncodeError:
        encoding = getattr(file, "encoding", None) or "ascii"
        file.write(text.encode(encoding, "backslashreplace").decode(encoding))
    flush = getattr(file, "flush", None)
    if callable(flush):
        flush()
