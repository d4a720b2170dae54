"""Who a driver is, as others tell from what it has launched."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bigmachine.systems.origin import Origin, Whereabouts
from bigmachine.values import changed


def test_this_process_lives_and_its_text_says_the_same() -> None:
    origin = Origin.here()
    assert origin.whereabouts is Whereabouts.LIVING
    assert Origin.parse(str(origin)) == origin
    assert len(str(origin)) <= 80


@pytest.mark.parametrize("change", [{"pid": 2**22 + 1}, {"started": 0.5}])
def test_a_process_that_has_ended_is_gone_also_when_its_id_is_used_again(change) -> None:
    assert changed(Origin.here(), **change).whereabouts is Whereabouts.GONE


def test_what_lived_before_the_computer_was_started_anew_is_gone() -> None:
    origin = Origin.here()
    processes = origin.boot.partition("+")[2]
    assert changed(origin, boot=f"other+{processes}").whereabouts is Whereabouts.GONE


@pytest.mark.parametrize("part", ["computer", "container"])
def test_nothing_is_said_of_what_cannot_be_seen(part: str) -> None:
    origin = Origin.here()
    change = {
        "computer": {"computer": "other"},
        "container": {"boot": origin.boot.partition("+")[0] + "+other"},
    }[part]
    assert changed(origin, **change).whereabouts is Whereabouts.ELSEWHERE


def test_another_process_is_told_from_its_text() -> None:
    program = "from bigmachine.systems.origin import Origin; print(Origin.here())"
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=True)
    origin = Origin.parse(done.stdout.decode().strip())
    assert origin.whereabouts is Whereabouts.GONE


@pytest.mark.parametrize("text", ["", "a/b/c", "a/b/x/1/2.0", "a/b/1/1/2.0/more"])
def test_what_is_no_text_of_a_driver_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Origin.parse(text)
