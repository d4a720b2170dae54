import asyncio
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigmachine.host.spool import OutputChunk, Spool
from bigmachine.lines import LINE_LIMIT_BYTES, Stream

MIB = 1 << 20


def new_spool(*, limit_bytes: int = 64 * MIB) -> Spool:
    return Spool(asyncio.Event, limit_bytes=limit_bytes)


def all_of(spool: Spool, machine_id: str, stream: Stream = "stdout") -> bytes:
    out = b""
    while batch := spool.take_batch():
        out += b"".join(c.data for c in batch if (c.machine_id, c.stream) == (machine_id, stream))
    return out


def test_whole_lines_come_out_as_they_went_in() -> None:
    spool = new_spool()
    spool.append("m", "stdout", b"one\ntwo\n")
    assert spool.take_batch() == [OutputChunk(machine_id="m", stream="stdout", data=b"one\ntwo\n")]
    assert spool.take_batch() == []


def test_an_unfinished_line_is_held_back_until_it_ends() -> None:
    spool = new_spool()
    spool.append("m", "stdout", b"one\ntw")
    assert all_of(spool, "m") == b"one\n"
    spool.append("m", "stdout", b"o\n")
    assert all_of(spool, "m") == b"two\n"


def test_the_end_of_a_machine_brings_the_unfinished_line_and_the_ends_of_its_streams() -> None:
    spool = new_spool()
    spool.append("m", "stdout", b"no newline")
    spool.end("m")
    spool.end("m")
    spool.append("m", "stdout", b"too late\n")
    assert [(c.stream, c.data) for c in spool.take_batch()] == [
        ("stdout", b"no newline"),
        ("stdout", b""),
        ("stderr", b""),
    ]
    assert spool.take_batch() == []


def test_a_line_without_an_end_is_passed_on_in_parts() -> None:
    spool = new_spool()
    for _ in range(40):
        spool.append("m", "stdout", b"x" * (LINE_LIMIT_BYTES // 16))
    out = all_of(spool, "m")
    assert len(out) == 2 * LINE_LIMIT_BYTES
    spool.end("m")
    assert out + all_of(spool, "m") == b"x" * (40 * LINE_LIMIT_BYTES // 16)


def test_binary_noise_is_unchanged() -> None:
    noise = random.Random(1).randbytes(3 * MIB)
    spool = new_spool()
    for at in range(0, len(noise), 10_007):
        spool.append("m", "stderr", noise[at : at + 10_007])
    spool.end("m")
    assert all_of(spool, "m", "stderr") == noise


def test_a_flood_is_bounded_for_each_machine_alone() -> None:
    spool = new_spool(limit_bytes=MIB)
    chunk = (b"x" * 79 + b"\n") * 800
    for _ in range(100):
        spool.append("loud", "stdout", chunk)
    spool.append("quiet", "stdout", b"hello\n")
    assert spool.pending_bytes <= MIB + 1_024
    batches = []
    while batch := spool.take_batch():
        batches += batch
    loud = b"".join(c.data for c in batches if c.machine_id == "loud")
    kept = loud.count(b"x\n")
    assert loud.endswith(
        b"bigmachine: %d lines dropped, the driver was too slow\n" % (80_000 - kept)
    )
    assert [c.data for c in batches if c.machine_id == "quiet"] == [b"hello\n"]


def test_a_slow_reader_gets_the_machines_in_turn() -> None:
    spool = new_spool()
    line = b"x" * 65_535 + b"\n"
    for _ in range(64):
        spool.append("loud", "stdout", line)
    spool.append("quiet", "stdout", b"hello\n")
    first = spool.take_batch()
    assert "quiet" in {chunk.machine_id for chunk in first}
    assert sum(len(chunk.data) for chunk in first) <= 2 * MIB


def test_next_batch_waits_for_output_and_ends_after_the_spool_is_closed() -> None:
    async def scenario() -> None:
        spool = new_spool()
        async with asyncio.timeout(10):
            waiting = asyncio.ensure_future(spool.next_batch())
            spool.append("m", "stdout", b"no line yet")
            await asyncio.sleep(0)
            assert not waiting.done()
            spool.append("m", "stdout", b"!\n")
            assert [c.data for c in await waiting or ()] == [b"no line yet!\n"]
            waiting = asyncio.ensure_future(spool.next_batch())
            spool.append("m", "stderr", b"last words")
            spool.close()
            assert [c.data for c in await waiting or ()] == [b"", b"last words", b""]
            assert await spool.next_batch() is None

    asyncio.run(scenario())


def test_a_cancelled_next_batch_loses_nothing() -> None:
    async def scenario() -> None:
        spool = new_spool()
        async with asyncio.timeout(10):
            waiting = asyncio.ensure_future(spool.next_batch())
            await asyncio.sleep(0)
            spool.append("m", "stdout", b"line\n")
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert [c.data for c in await spool.next_batch() or ()] == [b"line\n"]

    asyncio.run(scenario())


def test_the_last_lines_are_remembered_after_they_were_taken() -> None:
    spool = new_spool()
    for index in range(100):
        spool.append("m", "stdout", b"line %d\n" % index)
    spool.append("m", "stderr", b"and an unfinished one")
    spool.take_batch()
    last = spool.last_lines("m")
    assert last == (*(f"line {index}" for index in range(81, 100)), "and an unfinished one")
    spool.end("m")
    assert spool.last_lines("m", 1) == ("and an unfinished one",)
    assert spool.last_lines("m", 0) == ()
    assert spool.last_lines("unknown") == ()


def test_the_last_lines_are_clipped_and_readable_whatever_was_written() -> None:
    spool = new_spool()
    spool.append("m", "stdout", b"10%\r50%\r100%\r\n\n\xff\xfe\n" + b"x" * 5_000 + b"\n")
    first, second, third = spool.last_lines("m")
    assert (first, second) == ("100%", "\\xff\\xfe")
    assert third.startswith("xxx")
    assert len(third) < 1_100


def test_a_crash_dump_is_found_in_stderr_though_stdout_floods() -> None:
    spool = new_spool(limit_bytes=1_000)
    dump = (
        b"Fatal Python error: Segmentation fault\n\nCurrent thread 0x1 (most recent call first):\n"
    )
    spool.append("m", "stderr", dump + b'  File "a.py"')
    for _ in range(100):
        spool.append("m", "stdout", b"x" * 4_095 + b"\n")
    assert spool.recent_stderr("m").endswith(dump.decode() + '  File "a.py"')
    assert spool.recent_stderr("unknown") == ""


def test_a_forgotten_machine_leaves_only_what_was_not_taken() -> None:
    spool = new_spool()
    spool.append("m", "stdout", b"line\n")
    spool.forget("m")
    spool.forget("m")
    assert spool.last_lines("m") == ()
    assert [c.data for c in spool.take_batch()] == [b"line\n", b"", b""]
    assert "machines=0" in repr(spool)


def test_a_tail_begins_with_the_last_lines_and_follows_until_the_machine_ends() -> None:
    async def scenario() -> None:
        spool = new_spool()
        for index in range(50):
            spool.append("m", "stdout", b"%d\n" % index)
        tail = spool.tail("m")
        async with asyncio.timeout(10):
            assert await tail.next_lines() == [str(index) for index in range(30, 50)]
            waiting = asyncio.ensure_future(tail.next_lines())
            await asyncio.sleep(0)
            spool.append("m", "stderr", b"caf\xc3\xa9 \xff\n\nunfinished")
            assert await waiting == ["café \\xff", ""]
            spool.end("m")
            assert await tail.next_lines() == ["unfinished"]
            assert await tail.next_lines() is None
            assert await spool.tail("m").next_lines() is not None

    asyncio.run(scenario())


def test_a_tail_that_nobody_reads_drops_lines_and_does_not_hurt_the_driver() -> None:
    async def scenario() -> None:
        spool = new_spool()
        tail = spool.tail("m", limit_bytes=10_000)
        lines = b"".join(b"%d\n" % index for index in range(10_000))
        spool.append("m", "stdout", lines)
        async with asyncio.timeout(10):
            got = await tail.next_lines() or []
        dropped = 10_000 - len(got) + 1
        assert got[-1] == f"bigmachine: {dropped} lines dropped, the reader was too slow"
        assert all_of(spool, "m") == lines

    asyncio.run(scenario())


def test_a_closed_tail_ends_and_costs_the_machine_nothing_more() -> None:
    async def scenario() -> None:
        spool = new_spool()
        tail = spool.tail("m")
        tail.close()
        spool.append("m", "stdout", b"line\n")
        async with asyncio.timeout(10):
            assert await tail.next_lines() is None

    asyncio.run(scenario())


def test_a_tail_puts_a_line_together_that_came_in_parts() -> None:
    async def scenario() -> None:
        spool = new_spool()
        tail = spool.tail("m")
        spool.append("m", "stdout", b"x" * LINE_LIMIT_BYTES)
        spool.append("m", "stderr", b"between\n")
        spool.append("m", "stdout", b"\nlast\n")
        got: list[str] = []
        async with asyncio.timeout(10):
            while "last" not in got:
                got += await tail.next_lines() or []
        assert [line for line in got if line != "between"] == ["x" * LINE_LIMIT_BYTES, "last"]

    asyncio.run(scenario())


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=30))
def test_however_a_stream_is_cut_it_comes_out_the_same(data: bytes, cuts: list[int]) -> None:
    spool = new_spool()
    bounds = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    for begin, end in pairwise(bounds):
        spool.append("m", "stdout", data[begin:end])
        spool.append("m", "stderr", b"other\n")
    spool.end("m")
    assert all_of(spool, "m") == data


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.binary(max_size=20)), max_size=40))
def test_what_is_taken_before_the_end_ends_with_a_newline(feeds: list[tuple[str, bytes]]) -> None:
    spool = new_spool()
    for machine_id, data in feeds:
        spool.append(machine_id, "stdout", data)
        assert all(chunk.data.endswith(b"\n") for chunk in spool.take_batch())
