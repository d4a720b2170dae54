import io
import logging
import os
import sys
import threading
from pathlib import Path

import pytest

from bigmachine.driver.sinks import DriverStreams, FileSink, make_sink, prefixed, write_block
from bigmachine.errors import UsageError
from bigmachine.lines import OutputLine

NOISE = bytes(range(11, 256))


def test_every_line_has_its_machine_in_front() -> None:
    assert prefixed("m3", [b"one", b"", b"two"]) == b"[m3] one\n[m3] \n[m3] two\n"


def test_lines_go_to_the_stream_of_their_like(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    sink = DriverStreams()
    sink.add("m0", "stdout", [b"out"])
    sink.add("m1", "stderr", [b"err " + NOISE])
    sink.flush()
    captured = capfdbinary.readouterr()
    assert captured.out == b"[m0] out\n"
    assert captured.err == b"[m1] err " + NOISE + b"\n"


def test_what_the_program_printed_before_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with path.open("w") as file:
        file.write("no newline yet, ")
        write_block(file, b"[m0] bytes \xff\n")
        file.write("after\n")
    assert path.read_bytes() == b"no newline yet, [m0] bytes \xff\nafter\n"


def test_a_stream_is_the_one_of_that_time(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = DriverStreams()
    for word in ("first", "second"):
        stand_in = io.StringIO()
        monkeypatch.setattr(sys, "stdout", stand_in)
        sink.add("m0", "stdout", [word.encode(), b"\xff"])
        sink.flush()
        assert stand_in.getvalue() == f"[m0] {word}\n[m0] \\xff\n"


def test_a_stand_in_that_passes_buffer_on_still_sees_the_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Tee:
        def __init__(self, below: io.TextIOWrapper) -> None:
            self.below = below
            self.seen = ""

        def write(self, text: str) -> int:
            self.seen += text
            return self.below.write(text)

        def __getattr__(self, name: str) -> object:
            return getattr(self.below, name)

    tee = Tee(io.TextIOWrapper(io.BytesIO()))
    monkeypatch.setattr(sys, "stdout", tee)
    sink = DriverStreams()
    sink.add("m0", "stdout", [b"line"])
    sink.flush()
    assert tee.seen == "[m0] line\n"


def test_a_stream_above_something_else_than_a_descriptor_gets_bytes_through_it() -> None:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    write_block(file, b"\xff\n")
    assert raw.getvalue() == b"\xff\n"


def test_a_stand_in_that_cannot_encode_gets_escapes() -> None:
    class Ascii(io.StringIO):
        encoding = "ascii"

        def write(self, text: str, /) -> int:
            text.encode("ascii")
            return super().write(text)

    file = Ascii()
    write_block(file, "café\n".encode())
    assert file.getvalue() == "caf\\xe9\n"


def test_without_a_stream_lines_are_dropped_silently(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    sink = DriverStreams()
    sink.add("m0", "stdout", [b"line"])
    sink.flush()
    assert not caplog.records


def test_a_closed_stream_is_warned_of_once_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    closed = io.StringIO()
    closed.close()
    sink = DriverStreams()
    with caplog.at_level(logging.WARNING):
        for stand_in in (closed, closed, later := io.StringIO()):
            monkeypatch.setattr(sys, "stdout", stand_in)
            sink.add("m0", "stdout", [b"line"])
            sink.flush()
    assert later.getvalue() == "[m0] line\n"
    assert len(caplog.records) == 1
    assert "sys.stdout" in caplog.text


def test_a_pipe_whose_reader_has_gone_costs_its_lines_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as broken:
        monkeypatch.setattr(sys, "stdout", broken)
        sink = DriverStreams()
        for _ in range(3):
            sink.add("m0", "stdout", [b"line"])
            sink.flush()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "BrokenPipeError" in caplog.text


def test_a_non_blocking_pipe_gets_everything_however_slow_its_reader() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    block = (b"x" * 79 + b"\n") * 20_000
    got = bytearray()

    def read() -> None:
        while data := os.read(reading, 4_096):
            got.extend(data)

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(writing, "w") as file:
        write_block(file, block)
    reader.join(10)
    os.close(reading)
    assert got == block


def test_a_blocked_write_leaves_the_stream_usable_by_others() -> None:
    size = 4 << 20  # more than a pipe holds
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as file:
        writer = threading.Thread(target=write_block, args=(file, b"x" * size))
        writer.start()
        assert os.read(reading, 1) == b"x"  # it has begun, and cannot end
        printer = threading.Thread(target=file.write, args=("kept in the buffer",))
        printer.start()
        printer.join(10)
        assert not printer.is_alive()
        left = size - 1
        while left:
            left -= len(os.read(reading, left))
        writer.join(10)
        assert not writer.is_alive()
    os.close(reading)


def test_a_file_gets_prefixed_lines_of_both_streams_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("w") as file:
        sink = make_sink(file)
        sink.add("m0", "stdout", [b"out \xff"])
        sink.add("m1", "stderr", [b"err"])
        sink.flush()
        sink.flush()
        assert path.read_bytes() == b"[m0] out \xff\n[m1] err\n"
    assert isinstance(sink, FileSink)


def test_a_callable_gets_each_line_with_its_origin() -> None:
    got: list[OutputLine] = []
    sink = make_sink(got.append)
    sink.add("m0", "stdout", [b"one", b"\xfe"])
    sink.add("m1", "stderr", [b""])
    sink.flush()
    assert got == ["one", "\\xfe", ""]
    assert [(line.machine, line.stream, line.raw) for line in got] == [
        ("m0", "stdout", b"one"),
        ("m0", "stdout", b"\xfe"),
        ("m1", "stderr", b""),
    ]


def test_anything_else_is_refused_with_what_to_give() -> None:
    with pytest.raises(UsageError, match=r"not int: give a function .* or a file"):
        make_sink(3)  # type: ignore[arg-type]
