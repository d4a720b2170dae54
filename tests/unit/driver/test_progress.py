import io
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from screens import LIMIT, Terminal

from bigmachine.driver import progress
from bigmachine.driver.progress import Progress, StatusLine, render
from bigmachine.driver.sinks import DriverStreams


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    terminal = Terminal()
    yield terminal
    terminal.close()


def test_the_line_is_drawn_redrawn_and_taken_away(terminal: Terminal) -> None:
    status = StatusLine(lambda: terminal.stream)
    with Progress("map", 10, status=status) as work:
        terminal.read_until("map: [........................] 0/10, 0.0/s")
        work.advance(5)
        shown = terminal.read_until("map: [############............] 5/10")
        assert shown.count("\r\x1b[K") >= 1
    assert terminal.read_until("\r\x1b[K")
    assert status._ticker is None


def test_machines_lines_push_it_down(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    status = StatusLine(lambda: terminal.stream)
    monkeypatch.setattr("sys.stdout", terminal.stream)
    sink = DriverStreams(status=status)
    with Progress("map", 10, status=status):
        terminal.read_until("0/10")
        sink.add("m0", "stdout", [b"hello"])
        sink.flush()
        shown = terminal.read_until("[m0] hello\r\n")
        assert shown.endswith("\r\x1b[K[m0] hello\r\n")
        terminal.read_until("0/10")


def test_work_that_ends_at_once_shows_nothing(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "FIRST_DRAW_SECONDS", 60.0)
    with Progress("map", 1, status=StatusLine(lambda: terminal.stream)) as work:
        work.advance()
    terminal.stream.write("|")
    terminal.stream.flush()
    assert terminal.read_until("|") == "|"


def test_the_newest_of_several_works_is_shown(terminal: Terminal) -> None:
    status = StatusLine(lambda: terminal.stream)
    with Progress("outer", 1, status=status):
        with Progress("inner", 1, status=status):
            terminal.read_until("inner: ")
        terminal.read_until("outer: ")


def test_elsewhere_than_on_a_terminal_nothing_is_shown(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "FIRST_DRAW_SECONDS", 0.0)
    closed = io.StringIO()
    closed.close()
    plain = io.StringIO()
    for stream in (plain, closed, None, object()):
        status = StatusLine(lambda stream=stream: stream)  # type: ignore[misc]
        with Progress("map", 1, status=status) as work:
            work.advance()
            assert status._ticker is None
    assert plain.getvalue() == ""
    monkeypatch.setenv("TERM", "dumb")
    status = StatusLine(lambda: terminal.stream)
    with Progress("map", 1, status=status):
        assert status._ticker is None


def test_a_terminal_that_stands_still_delays_the_end_by_a_moment_only(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "ERASE_SECONDS", 0.05)
    status = StatusLine(lambda: terminal.stream)
    work = Progress("map", 1, status=status)
    terminal.read_until("0/1")
    with status.aside():  # somebody's write does not end
        work.advance()
        work.close()
        work.close()
        assert status._ticker is not None
        ticker = status._ticker
    ticker.join(LIMIT)
    assert not ticker.is_alive()


def test_the_time_left_follows_from_the_rate() -> None:
    line = render("map", 25, 100, elapsed=10.0, columns=80)
    assert line == "map: [######..................] 25/100, 2.5/s, 0:30 left"
    assert render("map", 100, 7_300, elapsed=1.0, columns=80).endswith("100/7300, 100/s, 1:12 left")
    assert render("map", 1, 7_200, elapsed=1.0, columns=99).endswith("1.0/s, 1:59:59 left")
    assert render("map", 9, 9, elapsed=3.0, columns=80).endswith("9/9, 3.0/s")
    line = render("image", 43, 120, unit=" MB", elapsed=4.0, columns=80)
    assert line == "image: [########................] 43/120 MB, 11 MB/s, 0:07 left"
    assert render("map", 7, None, elapsed=2.0, columns=80) == "map: 7, 3.5/s"


@given(
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30),
    st.integers(0, 10**12),
    st.none() | st.integers(0, 10**12),
    st.floats(0, 1e9),
    st.integers(0, 200),
)
def test_it_never_wraps(
    label: str, done: int, total: int | None, elapsed: float, columns: int
) -> None:
    line = render(label, done, total, elapsed=elapsed, columns=columns)
    assert len(line) <= max(columns - 1, 0)
    assert "\n" not in line
