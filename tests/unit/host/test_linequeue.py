import re

from hypothesis import given
from hypothesis import strategies as st

from bigmachine.host.linequeue import LineQueue
from bigmachine.lines import Stream

BIG = 1 << 20


def taken(queue: LineQueue, max_bytes: int = BIG) -> dict[str, bytes]:
    got = {"stdout": b"", "stderr": b""}
    for stream, data in queue.take(max_bytes):
        got[stream] += data
    return got


def filled(limit_bytes: int, *, line: bytes = b"x" * 99 + b"\n") -> LineQueue:
    queue = LineQueue(limit_bytes, blame="the driver")
    while queue.size_bytes + 256 + len(line) <= limit_bytes:
        queue.put("stdout", line)
    queue.put("stdout", line)
    return queue


def test_what_fits_comes_out_unchanged_and_in_order() -> None:
    queue = LineQueue(BIG, blame="the driver")
    queue.put("stdout", b"a\n")
    queue.put("stderr", b"b\n")
    queue.put("stdout", b"c\n")
    assert queue.take(BIG) == [("stdout", b"a\n"), ("stderr", b"b\n"), ("stdout", b"c\n")]
    assert not queue
    assert queue.size_bytes == 0


def test_small_pieces_of_one_stream_are_joined() -> None:
    queue = LineQueue(BIG, blame="the driver")
    for _ in range(1_000):
        queue.put("stdout", b"x\n")
    assert queue.take(BIG) == [("stdout", b"x\n" * 1_000)]


def test_a_flood_of_tiny_pieces_cannot_cost_more_than_the_limit() -> None:
    queue = LineQueue(64 << 10, blame="the driver")
    for _ in range(10_000):
        queue.put("stdout", b"x\n")
        queue.put("stderr", b"y\n")
    assert len(queue.take(BIG)) < 1_000


def test_lines_beyond_the_limit_are_dropped_whole_and_counted() -> None:
    queue = LineQueue(10_000, blame="the driver")
    lines = [b"line %d\n" % index for index in range(5_000)]
    queue.put("stdout", b"".join(lines))
    kept = taken(queue)["stdout"].splitlines(keepends=True)
    assert kept[:-1] == lines[: len(kept) - 1]
    dropped = len(lines) - len(kept) + 1
    assert kept[-1] == b"bigmachine: %d lines dropped, the driver was too slow\n" % dropped


def test_one_dropped_line_is_said_to_be_one_line() -> None:
    queue = filled(1_000)
    assert taken(queue)["stdout"].endswith(b"bigmachine: 1 line dropped, the driver was too slow\n")


def test_it_drops_until_half_of_it_has_been_taken() -> None:
    queue = filled(1 << 20, line=b"x" * 65_535 + b"\n")
    queue.take(1)
    queue.put("stdout", b"still dropped\n")
    queue.take(512 << 10)
    queue.put("stdout", b"kept\n")
    assert queue.take(BIG)[-2:] == [
        ("stdout", b"bigmachine: 2 lines dropped, the driver was too slow\n"),
        ("stdout", b"kept\n"),
    ]


def test_a_line_that_lost_its_end_is_closed_before_the_notice() -> None:
    queue = LineQueue(1_000, blame="the driver")
    queue.put("stdout", b"begin of a long line ")
    queue.put("stdout", b"x" * 2_000)
    queue.put("stdout", b"its end\nnext\n")
    out = taken(queue)["stdout"]
    assert out == b"begin of a long line \nbigmachine: 2 lines dropped, the driver was too slow\n"


def test_after_a_gap_it_begins_again_with_a_whole_line() -> None:
    queue = LineQueue(1_000, blame="the driver")
    queue.put("stdout", b"x" * 2_000)
    queue.take(BIG)
    queue.put("stdout", b"rest of the dropped line\nwhole\n")
    assert taken(queue)["stdout"] == b"whole\n"


def test_each_stream_has_its_own_gap() -> None:
    queue = filled(1_000)
    queue.put("stderr", b"a\nb\n")
    got = taken(queue)
    assert got["stderr"] == b"bigmachine: 2 lines dropped, the driver was too slow\n"
    assert b"1 line dropped" in got["stdout"]


def test_the_end_of_a_stream_is_an_empty_piece_even_when_full() -> None:
    queue = filled(1_000)
    queue.put_end("stdout")
    assert queue.take(BIG)[-1] == ("stdout", b"")


stream_names = st.sampled_from(["stdout", "stderr"])
some_lines = st.lists(st.text("ab", max_size=40), max_size=6).map(
    lambda lines: "".join(line + "\n" for line in lines).encode()
)
operations = st.lists(
    st.one_of(
        st.tuples(stream_names, some_lines),
        st.tuples(st.just("take"), st.integers(1, 400)),
    ),
    max_size=60,
)


@given(operations, st.integers(600, 2_000))
def test_every_line_is_either_delivered_or_counted(
    todo: list[tuple[Stream, bytes] | tuple[str, int]], limit_bytes: int
) -> None:
    queue = LineQueue(limit_bytes, blame="the driver")
    put = {"stdout": b"", "stderr": b""}
    got = {"stdout": b"", "stderr": b""}

    def take(max_bytes: int) -> None:
        for stream, data in queue.take(max_bytes):
            got[stream] += data

    for where, what in todo:
        if isinstance(what, int):
            take(what)
        else:
            queue.put(where, what)  # type: ignore[arg-type]
            put[where] += what
            assert queue.size_bytes <= limit_bytes + 2 * 256  # a gap in each stream
    while queue:
        take(BIG)
    assert queue.size_bytes == 0
    for stream in put:
        given_lines = put[stream].splitlines()
        at = 0
        for line in got[stream].splitlines():
            if gap := re.match(rb"bigmachine: (\d+) lines? dropped", line):
                at += int(gap[1])
            else:
                assert line == given_lines[at]
                at += 1
        assert at == len(given_lines)
