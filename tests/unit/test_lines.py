import copy
import pickle
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigmachine.lines import LINE_LIMIT_BYTES, LineAssembler, OutputLine


def lines_of(pieces: list[bytes], *, limit_bytes: int = LINE_LIMIT_BYTES) -> list[bytes]:
    assembler = LineAssembler(limit_bytes=limit_bytes)
    return [line for piece in pieces for line in assembler.feed(piece)] + assembler.end()


def test_lines_come_without_their_newline() -> None:
    assert lines_of([b"one\n\ntwo\r\n", b"thr", b"ee"]) == [b"one", b"", b"two\r", b"three"]


def test_an_unfinished_line_waits_for_its_end() -> None:
    assembler = LineAssembler()
    assert assembler.feed(b"un") == []
    assert assembler.feed(b"finished\nnext") == [b"unfinished"]
    assert assembler.end() == [b"next"]
    assert assembler.end() == []


def test_a_line_of_exactly_the_limit_is_whole() -> None:
    assert lines_of([b"abcd\n"], limit_bytes=4) == [b"abcd"]
    assert lines_of([b"abcd", b"\n"], limit_bytes=4) == [b"abcd"]
    assert lines_of([b"abcdefgh", b"\n"], limit_bytes=4) == [b"abcd", b"efgh"]
    assert lines_of([b"abcdefghi\n"], limit_bytes=4) == [b"abcd", b"efgh", b"i"]


def test_a_line_without_an_end_is_split_and_never_held_beyond_the_limit() -> None:
    assembler = LineAssembler()
    got = b""
    for _ in range(64):
        for line in assembler.feed(b"x" * 65_536):
            assert len(line) == LINE_LIMIT_BYTES
            got += line
    rest = assembler.end()
    assert [len(line) for line in rest] == [LINE_LIMIT_BYTES]
    assert len(got) == 3 * LINE_LIMIT_BYTES


def simple_lines(data: bytes, limit_bytes: int) -> list[bytes]:
    """What the assembler must give, said in the simplest way."""
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return [
        line[at : at + limit_bytes]
        for line in lines
        for at in range(0, max(len(line), 1), limit_bytes)
    ]


@given(
    st.text("ab\n", max_size=120).map(str.encode),
    st.lists(st.integers(0, 120), max_size=20),
    st.integers(1, 20),
)
def test_however_the_stream_is_cut_the_lines_are_the_same(
    data: bytes, cuts: list[int], limit_bytes: int
) -> None:
    bounds = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    pieces = [data[begin:end] for begin, end in pairwise(bounds)]
    assert lines_of(pieces, limit_bytes=limit_bytes) == simple_lines(data, limit_bytes)


@given(st.binary(max_size=200), st.integers(1, 50))
def test_a_byte_at_a_time_gives_the_same_lines(data: bytes, limit_bytes: int) -> None:
    pieces = [data[at : at + 1] for at in range(len(data))]
    assert lines_of(pieces, limit_bytes=limit_bytes) == simple_lines(data, limit_bytes)


def test_ordinary_lines_pass_at_a_hundred_megabytes_a_second() -> None:
    chunk = ((b"x" * 79 + b"\n") * 1_000)[:65_536]
    assembler = LineAssembler()
    best = min(_seconds_for(assembler, chunk) for _ in range(5))
    assert 160 * len(chunk) / best > 100e6


def _seconds_for(assembler: LineAssembler, chunk: bytes) -> float:
    began = time.thread_time()
    for _ in range(160):
        assembler.feed(chunk)
    return time.thread_time() - began


def test_an_output_line_is_text_that_knows_its_origin() -> None:
    line = OutputLine(b"caf\xc3\xa9 \xff", "m3", "stderr")
    assert line == "café \\xff"
    assert (line.machine, line.stream, line.raw) == ("m3", "stderr", b"caf\xc3\xa9 \xff")
    assert isinstance(line, str)


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_an_output_line_can_be_copied_and_pickled(again) -> None:
    line = again(OutputLine(b"text \xff", "m3", "stdout"))
    assert isinstance(line, OutputLine)
    assert (line, line.machine, line.stream, line.raw) == (
        "text \\xff",
        "m3",
        "stdout",
        b"text \xff",
    )
