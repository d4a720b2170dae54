import asyncio
import io
import logging
import os
import random
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigmachine.driver.output import Output
from bigmachine.driver.sinks import Target
from bigmachine.lines import LINE_LIMIT_BYTES, OutputLine

LIMIT = 10.0
"""Seconds; how long a test waits for what must happen."""


@contextmanager
def writing_to(target: Target, *, limit_bytes: int = 8 << 20) -> Iterator[Output]:
    output = Output(target, name="test", limit_bytes=limit_bytes)
    try:
        yield output
    finally:
        assert output.close(LIMIT)


def test_lines_arrive_whole_whatever_the_pieces() -> None:
    got: list[OutputLine] = []
    with writing_to(got.append) as output:
        output.feed("m0", "stdout", b"he")
        output.feed("m1", "stdout", b"one\ntwo\nthr")
        output.feed("m0", "stdout", b"llo\n")
        assert output.drain(LIMIT)
        assert got == ["one", "two", "hello"]
        output.feed("m1", "stdout", b"")
        assert output.drain(LIMIT)
    assert got == ["one", "two", "hello", "thr"]
    assert [line.machine for line in got] == ["m1", "m1", "m0", "m1"]


def test_close_writes_unfinished_lines_too() -> None:
    got: list[str] = []
    with writing_to(got.append) as output:
        output.feed("m0", "stderr", b"no newline")
    assert got == ["no newline"]
    output.feed("m0", "stderr", b"too late\n")
    assert got == ["no newline"]
    assert output.close(LIMIT)
    assert "closed" in repr(output)


def test_a_machine_that_vanished_leaves_its_unfinished_lines() -> None:
    got: list[OutputLine] = []
    with writing_to(got.append) as output:
        output.feed("m0", "stdout", b"half a li")
        output.feed("m0", "stderr", b"half an er")
        output.finish("m0")
        assert output.drain(LIMIT)
        assert [(line, line.stream) for line in got] == [
            ("half a li", "stdout"),
            ("half an er", "stderr"),
        ]


def test_the_driver_s_own_streams_get_the_lines_prefixed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with writing_to(None) as output:
        print("before")
        output.feed("m0", "stdout", b"out\n")
        output.feed("m0", "stderr", b"err\n")
    assert capsys.readouterr() == ("before\n[m0] out\n", "[m0] err\n")


def test_a_flood_arrives_complete_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "log"
    chunk = b"".join(b"line %d of the flood\n" % index for index in range(10_000))
    with path.open("w") as file, writing_to(file) as output:
        for _ in range(50):
            output.feed("m0", "stdout", chunk)
    want = b"".join(b"[m0] " + line for line in chunk.splitlines(keepends=True)) * 50
    assert path.read_bytes() == want


def test_a_line_without_an_end_and_binary_noise_do_not_hurt() -> None:
    got: list[OutputLine] = []
    noise = random.Random(2).randbytes(500_000)
    with writing_to(got.append) as output:
        for _ in range(48):
            output.feed("m0", "stdout", b"x" * 65_536)
        output.feed("m1", "stderr", noise)
        output.feed("m0", "stdout", b"\nnext\n")
    by_machine = {m: [line for line in got if line.machine == m] for m in ("m0", "m1")}
    assert [len(line) for line in by_machine["m0"]] == [LINE_LIMIT_BYTES] * 3 + [len("next")]
    joined = b"\n".join(line.raw for line in by_machine["m1"])
    assert joined.removesuffix(b"\n") == noise.removesuffix(b"\n")


def test_a_callable_that_raises_is_logged_once_and_not_called_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls: list[str] = []

    def faulty(line: OutputLine) -> None:
        calls.append(line)
        raise SystemExit("no")

    with caplog.at_level(logging.ERROR), writing_to(faulty) as output:
        output.feed("m0", "stdout", b"one\ntwo\n")
        assert output.drain(LIMIT)
        output.feed("m0", "stdout", b"three\n")
        assert output.drain(LIMIT)
    assert calls == ["one"]
    assert len(caplog.records) == 1
    assert "faulty" in caplog.text
    assert "SystemExit" in caplog.text


def test_a_file_that_raises_is_logged_once_and_not_written_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    file = io.StringIO()
    file.close()
    with writing_to(file) as output:
        for _ in range(3):
            output.feed("m0", "stdout", b"line\n")
            assert output.drain(LIMIT)
    assert len(caplog.records) == 1
    assert "the file" in caplog.text


def test_a_target_that_blocks_holds_up_nobody_but_its_own_lines() -> None:
    blocked, go_on = threading.Event(), threading.Event()
    got: list[str] = []

    def slow(line: OutputLine) -> None:
        blocked.set()
        go_on.wait(LIMIT)
        got.append(line)

    with writing_to(slow) as output:
        output.feed("m0", "stdout", b"one\n")
        assert blocked.wait(LIMIT)
        output.feed("m0", "stdout", b"two\n")
        assert not output.drain(0.01)
        assert not output.close(0.01)
        go_on.set()
    assert got == ["one", "two"]


def test_room_waits_for_a_slow_writer_and_the_loop_runs_on() -> None:
    go_on = threading.Event()

    def slow(_line: OutputLine) -> None:
        go_on.wait(LIMIT)

    async def scenario() -> None:
        with writing_to(slow, limit_bytes=1_000) as output:
            output.feed("m0", "stdout", b"x" * 500 + b"\n")
            async with asyncio.timeout(LIMIT):
                await output.room()
                for _ in range(3):
                    output.feed("m0", "stdout", b"x" * 500 + b"\n")
                waiting = asyncio.ensure_future(output.room())
                await asyncio.sleep(0)
                assert not waiting.done()
                assert not await output.drained(0.01)
                go_on.set()
                await waiting
                assert await output.drained(LIMIT)

    asyncio.run(scenario())


def test_room_that_is_waited_for_no_more_is_no_error() -> None:
    go_on = threading.Event()
    with writing_to(lambda _: go_on.wait(LIMIT), limit_bytes=10) as output:
        output.feed("m0", "stdout", b"x" * 50 + b"\n")

        async def scenario() -> None:
            waiting = asyncio.ensure_future(output.room())
            await asyncio.sleep(0)
            waiting.cancel()

        asyncio.run(scenario())
        go_on.set()
        assert output.drain(LIMIT)


def test_a_file_that_blocks_is_left_behind_at_close() -> None:
    reading, writing = os.pipe()
    file = os.fdopen(writing, "w")
    output = Output(file)
    output.feed("m0", "stdout", b"x" * (1 << 20) + b"\n")
    assert os.read(reading, 1) == b"["
    assert not output.drain(0.01)
    assert not output.close(0.01)
    os.close(reading)  # now the writer fails, and its thread ends
    assert output.close(LIMIT)
    file.close()


def test_a_callable_may_close_the_output_it_is_called_from() -> None:
    closed: list[bool] = []
    output = Output(lambda _: closed.append(output.close(LIMIT)))
    output.feed("m0", "stdout", b"line\n")
    assert output.drain(LIMIT)
    assert closed == [False]
    assert output.close(LIMIT)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["m0", "m1"]), st.binary(max_size=30)), max_size=30))
def test_each_machine_s_bytes_come_back_from_its_lines(feeds: list[tuple[str, bytes]]) -> None:
    got: list[OutputLine] = []
    with writing_to(got.append) as output:
        for machine, data in feeds:
            if data:  # an empty piece would end the stream
                output.feed(machine, "stdout", data)
    for machine in ("m0", "m1"):
        written = b"".join(data for name, data in feeds if name == machine)
        lines = b"".join(line.raw + b"\n" for line in got if line.machine == machine)
        assert lines == written + (b"\n" if written and not written.endswith(b"\n") else b"")


def test_a_program_ends_though_nobody_reads_its_stdout() -> None:
    source = """
        import os, sys
        from bigmachine.driver.output import Output
        output = Output()
        output.feed("m0", "stdout", b"x" * (1 << 20) + b"\\n")
        assert not output.close(0.2)
        sys.stderr.write("main is done")
    """
    program = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(source)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert program.stdout is not None
        assert program.stderr is not None
        assert program.wait(LIMIT) == 0
        assert program.stderr.read() == b"main is done"
    finally:
        program.kill()
        program.wait()
        for stream in (program.stdout, program.stderr):
            if stream is not None:
                stream.close()
