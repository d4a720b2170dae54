import itertools
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigmachine.death import DeathKind
from bigmachine.host.cause import (
    OUTPUT_LINES,
    Ending,
    explain,
    read_status,
    signal_name,
    split_crash_report,
)
from bigmachine.host.oom import OomEvidence

STOPPED_HERE = [
    DeathKind.SHUTDOWN,
    DeathKind.CANCELED,
    DeathKind.KEEPALIVE,
    DeathKind.HOST,
    DeathKind.SPOT,
]
SEEN = OomEvidence(detail="the kernel logged 'Killed process 7'", certainty="seen")
INFERRED = OomEvidence(detail="98 % were in use", certainty="inferred")

#: What 3.11 writes; the part after the blank line varies with the imported modules.
CRASH = """\
Fatal Python error: Segmentation fault

Thread 0x00007f3ddf34b6c0 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 982 in run
  File "/usr/lib/python3.11/threading.py", line 1045 in _bootstrap_inner

Current thread 0x00007f3ddfdebb80 (most recent call first):
  File "/usr/lib/python3.11/ctypes/__init__.py", line 519 in string_at
  File "/home/ann/service.py", line 6 in crash
  ...

Extension modules: numpy._core._multiarray_umath, numpy.linalg._umath_linalg (total: 2)
""".splitlines()

#: 3.14 names threads and adds a C stack.
CRASH_3_14 = """\
Fatal Python error: Segmentation fault

<Cannot show all threads while the GIL is disabled>
Current thread 0x00007f3ddfdebb80 [python] (most recent call first):
  File "/home/ann/service.py", line 6 in crash

Current thread's C stack trace (most recent call first):
  Binary file "/usr/lib/libpython3.14.so", at _Py_DumpStack+0x4b [0x7f1]
  Binary file "/usr/lib/libc.so.6", at +0x3c050 [0x7f2]

Extension modules: _socket (total: 1)
""".splitlines()

STACK = "\n".join([CRASH[0], *CRASH[6:10]])


def exited(code: int) -> int:
    return code << 8


def test_a_machine_that_exits_dies_of_its_exit_code() -> None:
    death = explain(Ending(machine="m3", status=exited(3)))
    assert (death.kind, death.exit_code, death.signal) == (DeathKind.EXIT, 3, None)
    assert "exit code 3" in str(death)
    assert "m3" in str(death)
    assert death.certainty == "seen"


def test_a_machine_that_is_killed_from_outside_dies_of_the_signal() -> None:
    death = explain(Ending(machine="m3", status=signal.SIGKILL))
    assert (death.kind, death.exit_code, death.signal) == (DeathKind.SIGNAL, None, "SIGKILL")
    assert "killed by signal SIGKILL" in str(death)


def test_a_core_dump_does_not_hide_the_signal() -> None:
    assert read_status(signal.SIGSEGV | 0x80) == (None, "SIGSEGV")


@pytest.mark.parametrize("evidence", [SEEN, INFERRED])
def test_a_sigkill_with_evidence_is_an_out_of_memory_kill(evidence: OomEvidence) -> None:
    death = explain(Ending(machine="m3", status=signal.SIGKILL, oom=evidence))
    assert death.kind is DeathKind.OOM
    assert death.certainty == evidence.certainty
    assert evidence.detail in str(death)
    assert "out of memory" in str(death)


@pytest.mark.parametrize("status", [exited(0), exited(137), signal.SIGTERM, signal.SIGSEGV])
def test_only_a_sigkill_can_be_an_out_of_memory_kill(status: int) -> None:
    assert explain(Ending(machine="m3", status=status, oom=SEEN)).kind is not DeathKind.OOM


@pytest.mark.parametrize("reason", STOPPED_HERE)
@pytest.mark.parametrize("status", [None, exited(0), exited(1), signal.SIGKILL, signal.SIGTERM])
def test_whoever_stopped_the_machine_is_the_reason(reason: DeathKind, status: int | None) -> None:
    death = explain(
        Ending(machine="m3", status=status, reason=reason, reason_detail="because", oom=SEEN)
    )
    assert death.kind is reason
    assert death.detail == "because"
    assert death.certainty == "seen"


@pytest.mark.parametrize("reason", STOPPED_HERE)
def test_a_crash_while_it_is_being_stopped_is_told_as_a_crash(reason: DeathKind) -> None:
    death = explain(Ending(machine="m3", status=signal.SIGSEGV, reason=reason, output=CRASH))
    assert (death.kind, death.signal) == (DeathKind.SIGNAL, "SIGSEGV")
    assert str(reason) in death.detail
    assert death.stack == STACK


def test_a_raising_init_is_the_reason_whatever_the_exit_code() -> None:
    death = explain(Ending(machine="m3", status=exited(1), init_error="ValueError: no such model"))
    assert death.kind is DeathKind.INIT
    assert "ValueError: no such model" in str(death)


@pytest.mark.parametrize("status", [exited(0), exited(2), signal.SIGSEGV, signal.SIGKILL])
def test_a_program_that_ends_before_bigmachine_start_dies_in_boot(status: int) -> None:
    death = explain(Ending(machine="m3", status=status, booted=False, output=["ImportError: nope"]))
    assert death.kind is DeathKind.BOOT
    assert (death.exit_code, death.signal) == read_status(status)
    assert "ImportError: nope" in str(death)


def test_memory_that_runs_out_in_boot_is_told_as_such() -> None:
    ending = Ending(machine="m3", status=signal.SIGKILL, booted=False, oom=SEEN)
    assert explain(ending).kind is DeathKind.OOM


def test_an_end_that_nobody_saw_is_called_an_inference() -> None:
    death = explain(Ending(machine="m3", status=None))
    assert (death.kind, death.certainty) == (DeathKind.EXIT, "inferred")


def test_the_supervisors_stack_is_shown_where_there_was_no_crash() -> None:
    assert explain(Ending(machine="m3", status=signal.SIGKILL, stack="File x")).stack == "File x"


def test_what_the_machine_was_doing_is_carried_along() -> None:
    death = explain(
        Ending(machine="m3", status=exited(1), calls=["A.b", "A.c"], peak_memory_bytes=1 << 20)
    )
    assert death.calls == ("A.b", "A.c")
    assert death.peak_memory_bytes == 1 << 20


def test_a_crashs_report_leaves_the_programs_last_lines_in_view() -> None:
    printed = [f"line {n}" for n in range(100)]
    death = explain(Ending(machine="m3", status=signal.SIGSEGV, output=printed + CRASH))
    assert death.output == tuple(printed[-OUTPUT_LINES:])
    assert death.stack == STACK
    assert "service.py" in str(death)


def test_lines_between_those_of_the_report_are_kept() -> None:
    woven = [part for line in CRASH for part in ("x", line)]
    stack, rest = split_crash_report(woven)
    assert stack == STACK
    assert set(rest) == {"x"}


def test_the_report_of_newer_pythons_is_understood() -> None:
    stack, _ = split_crash_report(["before", *CRASH_3_14, "after"])
    assert stack.splitlines() == [CRASH_3_14[0], *CRASH_3_14[3:5]]
    assert not any("Binary file" in line for line in split_crash_report(CRASH_3_14)[1])


def test_the_last_of_two_reports_counts() -> None:
    other = ["Fatal Python error: Aborted", "", CRASH[6], '  File "b.py", line 1 in b']
    stack, _ = split_crash_report(CRASH + other)
    assert stack.splitlines() == [other[0], other[2], other[3]]


def test_a_report_without_a_python_stack_stays_in_the_output() -> None:
    lines = ["Fatal Python error: init_fs_encoding: failed", "", "Python runtime state: core"]
    assert split_crash_report(lines) == ("", lines)


def test_stacks_that_a_program_dumps_for_itself_are_output() -> None:
    dump = CRASH[2:]
    assert split_crash_report(dump) == ("", dump)


@given(st.lists(st.text(max_size=30) | st.sampled_from(CRASH + CRASH_3_14), max_size=60))
def test_any_output_is_split_without_losing_a_users_line(lines: list[str]) -> None:
    stack, rest = split_crash_report(lines)
    reported = set(CRASH + CRASH_3_14)
    assert [line for line in rest if line not in reported and line] == [
        line for line in lines if line not in reported and line
    ]
    assert not stack or stack.startswith("Fatal Python error")


def test_every_ending_has_a_death_with_a_text() -> None:
    for status, reason, booted, error, oom in itertools.product(
        [None, exited(0), exited(1), *(int(each) for each in signal.valid_signals())],
        [None, *STOPPED_HERE],
        [True, False],
        [None, "ValueError: x"],
        [None, SEEN, INFERRED],
    ):
        death = explain(
            Ending(
                machine="m1", status=status, reason=reason, booted=booted, init_error=error, oom=oom
            )
        )
        assert str(death)
        assert death.kind in DeathKind


@pytest.mark.parametrize(
    ("number", "name"),
    [(9, "SIGKILL"), (signal.SIGRTMIN + 5, "SIGRTMIN+5"), (127, "signal 127"), (33, "signal 33")],
)
def test_every_signal_has_a_name(number: int, name: str) -> None:
    assert signal_name(number) == name
