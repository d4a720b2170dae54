"""The subcommands ``bigmachine doctor``, ``ps`` and ``gc``."""

from __future__ import annotations

import io
import json
import os
import sys
import time
from pathlib import Path

import pytest

from bigmachine.cli import main
from bigmachine.driver import checkup
from bigmachine.driver.recorder import Recorder
from bigmachine.driver.records import Record, default_directory
from bigmachine.errors import ProvisionError
from bigmachine.systems.base import System
from bigmachine.systems.checks import Check, Leftover
from bigmachine.systems.directories import base_directory, make_directory
from bigmachine.systems.origin import Origin
from bigmachine.values import changed


class Rack(System):
    name = "rack"

    def __init__(self, *, row: int = 1, fault: str = "") -> None:
        self.row, self.fault = row, fault

    def launch(self, request):
        raise NotImplementedError

    def recorded(self):
        return {"row": self.row}

    async def doctor(self):
        yield Check.ok("power", "on", subject=f"row{self.row}")
        yield Check.warn("noise", "90 dB", "close the door")
        if self.fault == "check":
            yield Check.fail("door", "locked\udcff", "find the key")
        if self.fault == "provision":
            raise ProvisionError(
                "no answer", system="rack", requested=0, started=0, remedy="ask the janitor"
            )
        if self.fault == "bug":
            raise KeyError("oops")

    async def gc(self, *, dry_run):
        if self.fault == "bug":
            raise KeyError("oops")
        if self.fault == "provision":
            raise ProvisionError(
                "no answer", system="rack", requested=0, started=0, remedy="ask the janitor"
            )
        for name in left:
            yield Leftover(kind="blade", name=f"{name}{self.row}", ended=not dry_run)
        if self.fault == "stuck":
            yield Leftover(kind="blade", name="heavy", problem="it is heavy")


class Silent(Rack):
    """One whose clusters leave nothing."""

    gc = System.gc

    def __init__(self, *, needed: str) -> None:
        super().__init__()


left: list[str] = []


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Directories of this test's own, and the systems above."""
    for kind in ("STATE_HOME", "CACHE_HOME", "RUNTIME_DIR"):
        directory = tmp_path / kind
        directory.mkdir()
        monkeypatch.setenv(f"XDG_{kind}", str(directory))
    monkeypatch.chdir(tmp_path)
    known = {"rack": (__name__, "Rack"), "silent": (__name__, "Silent")}
    monkeypatch.setattr("bigmachine.systems.registry._BUILT_IN", known, raising=True)
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Rack.__module__])
    left[:] = ["a", "b"]


def leave(name: str, system: str, **options: object) -> Path:
    """Leave the record of a cluster whose driver is gone."""
    gone = changed(Origin.here(), started=0.5)
    record = Record(
        name=name,
        origin=gone,
        program="pi.py",
        system=system,
        options=options,
        is_here=system == "local",
        started=time.time() - 7200,
        hosts={"h1": "10.0.0.1:80"},
    )
    path = Path(default_directory(), f"{name}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(record.encode())
    return path


# doctor


def test_it_says_what_was_seen_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "rack", "row=3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "✓ row3 power: on" in lines
    assert lines[-2:] == ["! noise: 90 dB", "  close the door"]
    assert [line.split(":")[0] for line in lines[:5]] == [
        "✓ python",
        "✓ packages",
        "✓ clock",
        "✓ cache",
        "✓ state",
    ]


@pytest.mark.parametrize(
    ("fault", "line", "remedy"),
    [
        ("check", "✗ door: locked\\udcff", "  find the key"),
        ("provision", "✗ system: no answer", "  ask the janitor"),
        ("bug", "✗ system: its doctor failed: KeyError: 'oops'", "  tell those who wrote"),
    ],
)
def test_whatever_fails_is_a_line_and_the_exit_status(
    capsys: pytest.CaptureFixture[str], fault: str, line: str, remedy: str
) -> None:
    assert main(["doctor", "rack", f"fault={fault}"]) == 1
    last = capsys.readouterr().out.splitlines()[-2:]
    assert last[0] == line
    assert last[1].startswith(remedy)


def test_a_terminal_that_knows_no_signs_gets_words(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii"))
    assert main(["doctor", "rack", "fault=check"]) == 1
    text = raw.getvalue().decode("ascii")
    assert "ok   row1 power: on\n" in text
    assert "FAIL door: locked\\udcff\n     find the key\n" in text


def test_programs_can_read_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "rack", "fault=check", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["system"], told["ok"]) == ("rack", False)
    assert told["checks"][-2] == {
        "name": "noise",
        "verdict": "warn",
        "seen": "90 dB",
        "remedy": "close the door",
    }


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["rakc"], "bigmachine doctor: the argument 'rakc': there is no system 'rakc'"),
        (["--system", "rakc"], "bigmachine doctor: --system: there is no system 'rakc'"),
        (["rack", "row"], "'row' is not KEY=VALUE"),
    ],
)
def test_a_system_that_is_not_there_is_no_finding(
    capsys: pytest.CaptureFixture[str], words: list[str], complaint: str
) -> None:
    assert main(["doctor", *words]) == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["row=x"], "the argument 'row=...': row of the system 'rack': 'x' is not"),
        (["rwo=1"], "the argument 'rwo=...': the system 'rack' has no option 'rwo'"),
        (["fault=", "--system-option", "row=x"], "--system-option row: row of the system 'rack'"),
    ],
)
def test_an_option_that_is_wrong_is_one_and_who_said_it_is_told(
    capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main(["doctor", "rack", *words]) == 1
    assert f"✗ system: {said}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("spoil", "name", "text"),
    [
        (lambda home: home.rmdir() or home.touch(), "state", "is no directory"),
        (lambda home: Path(default_directory()).mkdir(parents=True)
            or Path(default_directory()).chmod(0o777), "state", "can be written by others"),
    ],
)  # fmt: skip
def test_directories_that_cannot_be_used_are_found(spoil, name: str, text: str) -> None:
    spoil(Path(os.environ["XDG_STATE_HOME"]))
    (check,) = [each for each in checkup.checks() if each.name == name]
    assert text in check.seen
    assert check.verdict == "fail"
    assert check.remedy


def test_a_package_that_cannot_be_imported_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    (check,) = [each for each in checkup.checks() if each.name == "packages"]
    assert check.verdict == "fail"
    assert "zstandard (ModuleNotFoundError" in check.seen
    assert check.remedy.endswith(" -m pip install --force-reinstall zstandard")


def test_a_clock_from_before_the_installation_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup.time, "time", lambda: 86400.0)
    (check,) = [each for each in checkup.checks() if each.name == "clock"]
    assert (check.verdict, check.seen[:4]) == ("fail", "1970")


# ps


def test_open_clusters_are_listed_and_those_that_were_left(
    capsys: pytest.CaptureFixture[str],
) -> None:
    leave("left", "rack")
    recorder = Recorder({"name": "mine", "program": "x.py", "system": "rack"})
    recorder.open()
    recorder._writer.join()
    assert main(["ps"]) == 0
    pid = os.getpid()
    assert capsys.readouterr().out.splitlines() == [
        f"left  rack  1 host  driver {pid} gone  since 2.0 h  pi.py",
        "  h1  10.0.0.1:80",
        f"mine  rack  0 hosts  driver {pid}  since 0 s  x.py",
    ]
    assert main(["ps", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(each["name"], each["standing"]) for each in told] == [
        ("left", "gone"),
        ("mine", "open"),
    ]
    assert told[0]["hosts"] == [{"id": "h1", "address": "10.0.0.1:80"}]
    recorder.close()


def test_no_clusters_are_said_to_be_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ps"]) == 0
    assert capsys.readouterr().out == "no clusters\n"


# gc


def test_what_is_left_where_the_records_say_is_ended(capsys: pytest.CaptureFixture[str]) -> None:
    paths = [leave("one", "rack", row=1), leave("too", "rack", row=1), leave("two", "rack", row=2)]
    assert main(["gc", "--dry-run"]) == 0
    assert (
        capsys.readouterr().out.split()
        == "found blade {} ".join([""] * 5).format("a1", "b1", "a2", "b2").split()
    )
    assert all(path.exists() for path in paths)
    assert main(["gc"]) == 0
    assert "ended blade a2\n" in capsys.readouterr().out
    assert not any(path.exists() for path in paths)


def test_a_system_that_leaves_nothing_need_not_be_made(capsys: pytest.CaptureFixture[str]) -> None:
    path = leave("one", "silent")
    assert main(["gc"]) == 0
    assert capsys.readouterr().out == "nothing is left\n"
    assert not path.exists()


def test_a_record_stays_while_what_it_tells_of_could_not_be_ended(
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = [
        leave("one", "rack", fault="stuck"),
        leave("two", "rack", fault="bug"),
        leave("odd", "rack", lost="option"),
        leave("off", "unknown"),
    ]
    fine = leave("fine", "rack")
    assert main(["gc"]) == 1
    errors = capsys.readouterr().err
    assert "blade heavy: it is heavy" in errors
    assert "rack: KeyError: 'oops'" in errors
    assert "'lost'" in errors
    assert "no system 'unknown'" in errors
    assert all(path.exists() for path in paths)
    assert not fine.exists()


def test_a_system_that_is_named_is_looked_at_alone(capsys: pytest.CaptureFixture[str]) -> None:
    same, other = leave("same", "rack", row=2), leave("other", "rack", row=3)
    assert main(["gc", "rack", "row=2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["found"] == [
        {"kind": "blade", "name": "a2", "ended": True},
        {"kind": "blade", "name": "b2", "ended": True},
    ]
    assert (same.exists(), other.exists()) == (False, True)


def test_why_it_could_not_be_looked_is_said_with_what_to_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["gc", "rack", "fault=provision"]) == 1
    assert capsys.readouterr().err == "bigmachine gc: rack: no answer; ask the janitor\n"


def test_directories_of_killed_processes_go_and_those_in_use_stay(
    capsys: pytest.CaptureFixture[str],
) -> None:
    used, lock = make_directory("local")
    stale = Path(base_directory(), "hstale")
    stale.mkdir()
    record = leave("local", "local")
    assert main(["gc", "-n"]) == 0
    assert capsys.readouterr().out == f"found directory {stale}\n"
    assert stale.exists()
    assert main(["gc"]) == 0
    assert capsys.readouterr().out == f"ended directory {stale}\n"
    assert (os.path.isdir(used), stale.exists(), record.exists()) == (True, False, False)
    os.close(lock)
