"""The words in which a machine's death is told."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigmachine.errors import Death, DeathKind

FULL = Death(
    kind=DeathKind.SIGNAL,
    machine="m3",
    signal="SIGSEGV",
    output=("loading", "computing"),
    stack='  File "app.py", line 7 in sample',
    calls=("PI.sample", "PI.sample", "PI.reset"),
    peak_memory_bytes=123_456_789,
)

DEATHS = st.builds(
    Death,
    kind=st.sampled_from(DeathKind),
    machine=st.text(max_size=20),
    exit_code=st.none() | st.integers(0, 255),
    signal=st.none() | st.sampled_from(["SIGKILL", "SIGSEGV", "SIGRTMIN+3"]),
    output=st.lists(st.text(max_size=50), max_size=20).map(tuple),
    stack=st.text(max_size=200),
    calls=st.lists(st.sampled_from(["A.a", "B.b", "C.c"]), max_size=30).map(tuple),
    peak_memory_bytes=st.none() | st.integers(0, 2**50),
    detail=st.text(max_size=100),
    certainty=st.sampled_from(["seen", "inferred"]),
    never_had=st.booleans(),
)


@pytest.mark.parametrize(
    ("death", "words"),
    [
        (Death(kind=DeathKind.EXIT, exit_code=3), ["exit code 3", "sys.exit", "os._exit"]),
        (Death(kind=DeathKind.EXIT, exit_code=0), ["exit code 0"]),
        (Death(kind=DeathKind.SIGNAL, signal="SIGKILL"), ["killed by signal SIGKILL", "outside"]),
        (Death(kind=DeathKind.SIGNAL, signal="SIGTERM"), ["killed by signal SIGTERM", "asked"]),
        (Death(kind=DeathKind.SIGNAL, signal="SIGSEGV"), ["signal SIGSEGV", "native code"]),
        (Death(kind=DeathKind.SIGNAL, signal="SIGBUS"), ["signal SIGBUS", "native code"]),
        (Death(kind=DeathKind.SIGNAL, signal="SIGABRT"), ["signal SIGABRT", "interpreter"]),
        (Death(kind=DeathKind.SIGNAL, signal="SIGUSR1"), ["killed by signal SIGUSR1"]),
        (Death(kind=DeathKind.SIGNAL), ["killed by signal unknown"]),
        (
            Death(kind=DeathKind.OOM, signal="SIGKILL", detail="its cgroup counted an oom_kill"),
            ["out of memory", "SIGKILL", "its cgroup counted an oom_kill", "fewer on one host"],
        ),
        (Death(kind=DeathKind.OOM), ["ran out of memory and was killed."]),
        (Death(kind=DeathKind.KEEPALIVE), ["keepalives", "host may be down"]),
        (Death(kind=DeathKind.HOST), ["lost together with its host"]),
        (
            Death(kind=DeathKind.HOST, never_had=True, detail="no such host; mend its name"),
            ["could not be had: no such host; mend its name."],
        ),
        (
            Death(kind=DeathKind.INIT, detail="ValueError: no model."),
            ["init of a service raised ValueError: no model.", "Mend init"],
        ),
        (
            Death(kind=DeathKind.INIT, cause=ValueError("no model")),
            ["init of a service raised ValueError: no model."],
        ),
        (Death(kind=DeathKind.INIT), ["init of a service raised an exception."]),
        (
            Death(kind=DeathKind.BOOT, exit_code=1),
            ["before it reached bigmachine.start, with exit code 1", "from its top"],
        ),
        (Death(kind=DeathKind.BOOT, signal="SIGSEGV"), ["bigmachine.start, with signal SIGSEGV"]),
        (Death(kind=DeathKind.CANCELED), ["was cancelled by the program"]),
        (Death(kind=DeathKind.SHUTDOWN), ["was shut down"]),
        (Death(kind=DeathKind.SPOT, detail="two minutes' notice"), ["spot", "two minutes' notice"]),
    ],
)
def test_each_kind_says_what_happened_and_what_to_do(death: Death, words: list[str]) -> None:
    text = str(death)

    assert [word for word in words if word not in text] == []
    assert "\n" not in text
    assert ".." not in text


def test_every_kind_is_told_in_words_of_its_own() -> None:
    texts = {str(Death(kind=kind, machine="m3")) for kind in DeathKind}

    assert len(texts) == len(DeathKind)
    assert all(text.startswith("machine m3 ") for text in texts)


def test_a_kind_equals_its_word() -> None:
    assert FULL.kind == "signal"
    assert [str(kind) for kind in DeathKind] == [
        *("exit", "signal", "oom", "keepalive", "host"),
        *("init", "boot", "canceled", "shutdown", "spot"),
    ]


def test_everything_that_is_known_is_in_the_text() -> None:
    assert str(FULL) == (
        "machine m3 was killed by signal SIGSEGV. It was running PI.sample (2 calls), PI.reset."
        " Its memory peaked at 117.7 MiB. That is a crash in native code: an extension module,"
        " ctypes or the interpreter.\n"
        "Its last Python stack:\n"
        '    File "app.py", line 7 in sample\n'
        "Its last output:\n"
        "  loading\n"
        "  computing"
    )


def test_an_inferred_death_says_so() -> None:
    assert "inferred" in str(Death(kind=DeathKind.OOM, certainty="inferred"))
    assert "inferred" not in str(Death(kind=DeathKind.OOM))


def test_of_many_running_methods_a_few_are_named_and_the_rest_counted() -> None:
    calls = (*(f"A.method{index}" for index in range(20)), "A.method7")

    text = str(Death(kind=DeathKind.HOST, calls=calls))

    assert "It was running A.method7 (2 calls), A.method0, " in text
    assert ", 15 more." in text


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (6 * 2**30, "6.0 GiB"),
        (2**60, "1048576.0 TiB"),
    ],
)
def test_peak_memory_has_a_unit(size_bytes: int, text: str) -> None:
    assert f" {text}." in str(Death(kind=DeathKind.OOM, peak_memory_bytes=size_bytes))


@given(DEATHS)
def test_a_death_survives_pickle(death: Death) -> None:
    twin = pickle.loads(pickle.dumps(death))

    assert twin == death
    assert repr(twin) == repr(death)
    assert str(twin) == str(death)


def test_the_exception_behind_a_death_does_not_travel_and_does_not_count() -> None:
    caused = FULL.with_cause(ValueError(lambda: "does not pickle"))

    assert caused == FULL
    assert hash(caused) == hash(FULL)
    assert repr(caused) == repr(FULL)
    assert pickle.loads(pickle.dumps(caused)).cause is None


def test_a_machine_that_was_never_had_has_run_no_calls() -> None:
    death = Death(kind=DeathKind.HOST, machine="m0", never_had=True, detail="no such host")

    assert str(death) == "machine m0 could not be had: no such host."
    assert pickle.loads(pickle.dumps(death)).never_had
