"""Exceptions that cross machines: the same type, with all that hangs on it."""

from __future__ import annotations

import asyncio
import copyreg
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigmachine.errors import (
    CallError,
    Death,
    DeathKind,
    MachineStoppedError,
    NoSuchServiceError,
    PayloadError,
    RemoteError,
    RemoteProtocolError,
    TransportError,
)
from bigmachine.rpc import exceptions, tracebacks
from bigmachine.rpc.exceptions import decode_exception, encode_exception, is_remote, mark_hop


def send(exc: BaseException, machine: str = "", method: str = "") -> Any:
    """Return what arrives of an exception at the other end."""
    return decode_exception(encode_exception(exc), machine=machine, method=method)


def raised(function: Callable[[], object]) -> BaseException:
    """Return what a function raises."""
    try:
        function()
    except BaseException as exc:
        return exc
    raise AssertionError("nothing was raised")


def notes_of(exc: BaseException) -> list[str]:
    return getattr(exc, "__notes__", [])


class TwoArguments(Exception):
    """Pickles, and fails to load: its constructor wants two arguments and hands one on."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")
        self.first = first
        self.second = second


class Wrapping(Exception):
    """Pickles, loads, and has its message wrapped once more each time."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no such thing: {name}")


class Slotted(Exception):
    __slots__ = ("code", "unset")

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code

    def __str__(self) -> str:
        return f"code {self.code}"


@dataclass(frozen=True)
class Sealed(Exception):
    code: int


class Choosy(Exception):
    def __new__(cls, *, code: int) -> Choosy:
        return super().__new__(cls, code)

    def __init__(self, *, code: int) -> None:
        self.code = code


class MissingFile(OSError):
    def __init__(self, name: str, *, hint: str) -> None:
        super().__init__(2, "no such file", name)
        self.hint = hint


class Both(OSError, ValueError):
    pass


class Counted(Exception):
    made = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).made += 1


class Holder(Exception):
    def __init__(self) -> None:
        super().__init__("holds a lock")
        self.lock = threading.Lock()


class ReducesItself(Exception):
    """Has a lock, and says how it pickles all the same."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return ReducesItself, self.args


class ReducesWrongly(TwoArguments):
    def __reduce__(self) -> tuple[Any, ...]:
        return ReducesWrongly, self.args


class Rude(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text for you")

    def __reduce__(self) -> NoReturn:
        raise RuntimeError("no pickle for you")

    __reduce_ex__ = __reduce__  # type: ignore[assignment]


class Registered(Exception):
    pass


class Labelled(ExceptionGroup[Exception]):
    label = ""

    def __new__(cls, label: str, members: list[Exception]) -> Labelled:
        group = super().__new__(cls, f"group {label}", members)
        group.label = label
        return group

    def derive(self, excs: Any) -> Labelled:
        return Labelled(self.label, excs)


@pytest.mark.parametrize(
    "exc",
    [
        ValueError("plain"),
        ValueError(),
        ValueError("several", 1, None),
        KeyError("key"),
        IndexError(3),
        AssertionError(),
        RecursionError("deep"),
        FileNotFoundError(2, "no such file", "a.txt", None, "b.txt"),
        BlockingIOError(11, "again", 7),
        OSError("only a text"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        UnicodeEncodeError("ascii", "ä", 0, 1, "not in range"),
        SyntaxError("bad", ("f.py", 1, 2, "x =", 1, 3)),
        ImportError("no module", name="m", path="/m.py"),
        ModuleNotFoundError("no module", name="m"),
        NameError("no name", name="n"),
        AttributeError("no attribute", name="a"),
        TwoArguments(1, 2),
        Wrapping("x"),
        Slotted(3),
        Sealed(4),
        Choosy(code=5),
        MissingFile("a.txt", hint="look again"),
        Both(2, "both"),
        ReducesItself(6),
        ReducesWrongly(1, 2),
        TransportError("refused", machine="m1", method="A.b", outcome="not_sent"),
    ],
    ids=lambda exc: f"{type(exc).__name__}-{exc.args!r:.20}",
)
def test_an_exception_arrives_as_what_it_was(exc: BaseException) -> None:
    twin = send(exc)

    assert twin is not exc
    assert type(twin) is type(exc)
    assert twin.args == exc.args
    assert str(twin) == str(exc)
    assert is_remote(twin)
    assert not is_remote(exc)
    fields: tuple[str, ...] = (
        "errno",
        "strerror",
        "filename",
        "filename2",
        "characters_written",
        "encoding",
        "start",
    )
    fields += ("lineno", "offset", "text", "end_offset", "name", "path", "hint", "first", "code")
    for field in fields:
        assert getattr(twin, field, None) == getattr(exc, field, None)


def test_a_constructor_is_not_run_again() -> None:
    exc = Counted()

    send(exc)

    assert Counted.made == 1


def test_arguments_that_do_not_fit_the_class_are_kept() -> None:
    exc = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid")
    exc.args = ("changed later",)

    assert send(exc).args == ("changed later",)


def test_attributes_and_notes_arrive() -> None:
    exc = ValueError("plain")
    exc.job = {"id": 3}  # type: ignore[attr-defined]
    exc.add_note("first")
    exc.add_note("second")

    twin = send(exc)

    assert twin.job == {"id": 3}
    assert notes_of(twin) == ["first", "second"]
    assert notes_of(exc) == ["first", "second"]


def test_odd_notes_arrive_as_text() -> None:
    exc = ValueError()
    odd: list[Any] = ["text", 3, Rude()]
    exc.__notes__ = odd

    assert notes_of(send(exc))[:2] == ["text", "3"]
    exc.__notes__ = 7  # type: ignore[assignment]
    assert notes_of(send(exc)) == []


def test_a_class_registered_with_copyreg_is_left_to_its_way() -> None:
    copyreg.pickle(Registered, lambda exc: (Registered, ("by copyreg",)))
    try:
        assert send(Registered("original")).args == ("by copyreg",)
    finally:
        del copyreg.dispatch_table[Registered]


def test_a_class_made_in_a_function_arrives_by_value() -> None:
    class Local(LookupError):
        def __str__(self) -> str:
            return f"local {self.args[0]}"

    twin = send(Local(3))

    assert type(twin).__name__ == "Local"
    assert isinstance(twin, LookupError)
    assert str(twin) == "local 3"


# What cannot be rebuilt


@pytest.mark.parametrize("exc", [Holder(), ValueError(threading.Lock()), Rude("rude")])
def test_what_does_not_pickle_arrives_as_text(exc: BaseException) -> None:
    def fail() -> NoReturn:
        raise exc

    twin = send(raised(fail), "m3", "A.b")

    assert type(twin) is RemoteError
    assert twin.type_name == tracebacks.type_name(type(exc))
    assert (twin.machine, twin.method) == ("m3", "A.b")
    assert twin.traceback.startswith("Traceback (most recent call last):\n")
    assert "raise exc" in twin.traceback
    assert any(f"this was a {twin.type_name}; it cannot be pickled: " in n for n in notes_of(twin))
    assert is_remote(twin)


def test_the_text_of_what_does_not_pickle_is_kept() -> None:
    twin = send(Holder())

    assert twin.message == "holds a lock"
    assert str(twin).endswith("test_exceptions.Holder: holds a lock")


def test_an_exception_without_a_text_says_so() -> None:
    assert "its text cannot be had: str() raised RuntimeError" in send(Rude()).message


@pytest.mark.parametrize(
    "exc",
    [
        SystemExit(3),
        KeyboardInterrupt(),
        StopIteration(4),
        StopAsyncIteration(),
        GeneratorExit(),
        asyncio.CancelledError(),
    ],
    ids=lambda exc: type(exc).__name__,
)
def test_what_would_steer_the_caller_arrives_as_text(exc: BaseException) -> None:
    twin = send(exc)

    assert type(twin) is RemoteError
    assert twin.type_name.endswith(type(exc).__name__)
    assert twin.message == str(exc)
    assert type(send(BaseExceptionGroup("g", [exc])).exceptions[0]) is RemoteError


def test_what_would_steer_the_caller_stays_itself_as_a_cause() -> None:
    exc = ValueError("empty")
    exc.__cause__ = StopIteration(4)

    assert type(send(exc).__cause__) is StopIteration


def test_an_exception_of_the_user_below_base_exception_stays_itself() -> None:
    class Stop(BaseException):
        pass

    assert type(send(Stop("enough"))).__name__ == "Stop"


def test_a_huge_exception_arrives_as_text_and_the_rest_as_itself() -> None:
    exc = ValueError("x" * (exceptions.MAX_BYTES + 1))
    exc.__cause__ = KeyError("small")

    twin = send(exc)

    assert type(twin) is RemoteError
    assert len(twin.message) < 2000
    assert any("it is too large" in note for note in notes_of(twin))
    assert type(twin.__cause__) is KeyError


def test_arguments_nested_too_deep_for_pickle_arrive_as_text() -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]

    assert type(send(ValueError("deep", nested))) is RemoteError


@pytest.mark.parametrize(
    "data", [b"", b"junk", encode_exception(ValueError("x"))[:-9], pickle.dumps((True, 5, []))]
)
def test_bytes_that_make_no_sense_are_the_peers_fault(data: bytes) -> None:
    exc = decode_exception(data)

    assert type(exc) is RemoteProtocolError
    assert "makes no sense" in str(exc)


# Chains and groups


def test_causes_and_contexts_arrive() -> None:
    def fail() -> NoReturn:
        try:
            try:
                raise KeyError("a")
            except KeyError:
                raise TwoArguments(1, 2)
        except TwoArguments as error:
            raise ValueError("last") from error

    twin = send(raised(fail))

    assert type(twin) is ValueError
    assert type(twin.__cause__) is TwoArguments
    assert twin.__context__ is twin.__cause__
    assert twin.__suppress_context__
    assert type(twin.__cause__.__context__) is KeyError
    assert not twin.__cause__.__suppress_context__
    assert is_remote(twin.__cause__.__context__)


def test_raise_from_none_still_hides_its_context() -> None:
    def fail() -> NoReturn:
        try:
            raise KeyError("a")
        except KeyError:
            raise ValueError("b") from None

    twin = send(raised(fail))

    assert twin.__cause__ is None
    assert type(twin.__context__) is KeyError
    assert twin.__suppress_context__


def test_a_cause_that_cannot_be_rebuilt_spoils_nothing_else() -> None:
    exc = ValueError("outer")
    exc.__cause__ = Holder()
    exc.__cause__.__cause__ = KeyError("inner")

    twin = send(exc)

    assert [type(twin), type(twin.__cause__)] == [ValueError, RemoteError]
    assert type(twin.__cause__.__cause__) is KeyError


def test_chains_of_sealed_exceptions_arrive() -> None:
    exc = Sealed(1)
    object.__setattr__(exc, "__cause__", Sealed(2))

    assert send(exc).__cause__ == Sealed(2)


def test_cycles_arrive_as_cycles() -> None:
    first, second = ValueError(1), KeyError(2)
    first.__context__, second.__context__ = second, first
    second.__cause__ = second

    twin = send(first)

    assert twin.__context__.__context__ is twin
    assert twin.__context__.__cause__ is twin.__context__


def test_a_chain_of_great_length_is_cut_where_it_is_farthest() -> None:
    exc = root = ValueError(0)
    for index in range(1, 3000):
        exc.__context__ = ValueError(index)
        exc = exc.__context__

    twin, length = send(root), 0
    while twin is not None:
        assert twin.args == (length,)
        twin, length = twin.__context__, length + 1
    assert length == exceptions.MAX_EXCEPTIONS


def test_groups_arrive_with_their_chains_at_all_depths() -> None:
    leaf = TwoArguments(1, 2)
    leaf.__cause__ = KeyError("why")
    inner = ExceptionGroup("inner", [leaf, Holder()])
    inner.add_note("a note of the inner")
    outer = ExceptionGroup("outer", [ValueError("x"), inner])
    outer.__context__ = inner

    twin = send(outer)

    assert (type(twin), twin.message) == (ExceptionGroup, "outer")
    assert [type(member) for member in twin.exceptions] == [ValueError, ExceptionGroup]
    assert twin.__context__ is twin.exceptions[1]
    assert notes_of(twin.exceptions[1]) == ["a note of the inner"]
    first, second = twin.exceptions[1].exceptions
    assert type(first.__cause__) is KeyError
    assert (type(second), second.message) == (RemoteError, "holds a lock")


def test_a_member_of_several_groups_is_one_object_still() -> None:
    shared = ValueError("shared")
    late = ExceptionGroup("late", [shared, KeyError()])
    outer = ExceptionGroup("outer", [shared, ExceptionGroup("early", [late]), late])

    twin = send(outer)

    assert twin.exceptions[2] is twin.exceptions[1].exceptions[0]
    assert twin.exceptions[2].exceptions[0] is twin.exceptions[0]


def test_a_member_may_have_its_own_group_as_context() -> None:
    member = ValueError("member")
    group = ExceptionGroup("group", [member])
    member.__context__ = group

    twin = send(group)

    assert twin.exceptions[0].__context__ is twin


def test_a_group_of_the_users_class_arrives_as_that_with_its_attributes() -> None:
    twin = send(Labelled("nightly", [ValueError(1), KeyError(2)]))

    assert type(twin) is Labelled
    assert (twin.label, twin.message) == ("nightly", "group nightly")
    matched, rest = twin.split(KeyError)
    assert type(matched) is type(rest) is Labelled
    assert is_remote(matched)


def test_a_group_that_cannot_be_rebuilt_is_a_plain_one() -> None:
    group = ExceptionGroup("group", [ValueError(1)])
    group.lock = threading.Lock()  # type: ignore[attr-defined]

    twin = send(group)

    assert type(twin) is ExceptionGroup
    assert type(twin.exceptions[0]) is ValueError
    assert "this was a ExceptionGroup; it cannot be pickled" in notes_of(twin)[0]


def test_a_group_of_what_would_steer_the_caller_keeps_its_other_members() -> None:
    twin = send(BaseExceptionGroup("group", [SystemExit(3), ValueError("x")]))

    assert [type(member) for member in twin.exceptions] == [RemoteError, ValueError]


def test_deep_groups_arrive_and_of_too_many_members_the_rest_is_counted() -> None:
    deep: Exception = ValueError("bottom")
    for level in range(500):
        deep = ExceptionGroup(str(level), [deep])
    twin = send(deep)
    for _ in range(500):
        (twin,) = twin.exceptions
    assert twin.args == ("bottom",)

    wide = send(ExceptionGroup("wide", [ValueError(index) for index in range(1500)]))

    assert len(wide.exceptions) == exceptions.MAX_EXCEPTIONS - 1
    assert notes_of(wide) == ["501 more exceptions of this group were left out"]


def test_a_group_deeper_than_the_limit_ends_in_text() -> None:
    deep: Exception = ValueError("bottom")
    for level in range(2 * exceptions.MAX_EXCEPTIONS):
        deep = ExceptionGroup(str(level), [deep])

    twin, depth = send(deep), 1
    while isinstance(twin, ExceptionGroup):
        (twin,) = twin.exceptions
        depth += 1
    assert type(twin) is RemoteError
    assert depth == exceptions.MAX_EXCEPTIONS


@st.composite
def graphs(draw: st.DrawFn) -> list[BaseException]:
    """Exceptions with any links between them, and groups of any of the earlier ones."""
    made: list[BaseException] = []
    for index in range(draw(st.integers(1, 12))):
        if made and draw(st.booleans()):
            members = draw(st.lists(st.sampled_from(made), min_size=1, max_size=4))
            made.append(BaseExceptionGroup(f"group {index}", members))
        else:
            made.append(draw(st.sampled_from([ValueError, KeyError, Slotted, Sealed]))(index))
    link = st.none() | st.sampled_from(made)
    for exc in made:
        object.__setattr__(exc, "__cause__", draw(link))
        object.__setattr__(exc, "__context__", draw(link))
        object.__setattr__(exc, "__suppress_context__", draw(st.booleans()))
    return made


@given(graphs())
def test_whatever_hangs_together_arrives_hanging_together_the_same_way(
    made: list[BaseException],
) -> None:
    exc = made[-1]
    pairs: list[tuple[Any, Any]] = [(exc, send(exc))]
    twins: dict[int, BaseException] = {}
    for old, new in pairs:
        if id(old) in twins:
            assert twins[id(old)] is new
            continue
        twins[id(old)] = new
        assert type(new) is type(old)
        assert str(new) == str(old)
        assert new.__suppress_context__ == old.__suppress_context__
        links = [(old.__cause__, new.__cause__), (old.__context__, new.__context__)]
        if isinstance(old, BaseExceptionGroup):
            links += zip(old.exceptions, new.exceptions, strict=True)
        for before, after in links:
            assert (before is None) == (after is None)
            if before is not None:
                pairs.append((before, after))


# Tracebacks and hops


def fail_below(depth: int) -> int:
    if depth == 0:
        raise ValueError("bottom")
    return fail_below(depth - 1) + 1


def test_the_traceback_arrives_as_a_note_with_source_lines_and_a_headline() -> None:
    twin = send(raised(lambda: fail_below(1)), "3-9f3a01c2", "PI.sample")

    (note,) = notes_of(twin)
    assert note.startswith("remote traceback (3-9f3a01c2, PI.sample):\n  File ")
    assert "in fail_below\n    return fail_below(depth - 1) + 1\n" in note
    assert note.endswith('in fail_below\n    raise ValueError("bottom")')


def test_what_was_never_raised_has_no_traceback_note() -> None:
    assert notes_of(send(ValueError("made"), "m3", "A.b")) == []


def test_each_hop_adds_one_note() -> None:
    first = send(raised(lambda: fail_below(0)), "m1", "A.a")

    def pass_on() -> NoReturn:
        raise first

    second = send(raised(pass_on), "m2", "B.b")

    headlines = [note.splitlines()[0] for note in notes_of(second)]
    assert headlines == ["remote traceback (m1, A.a):", "remote traceback (m2, B.b):"]
    assert "in pass_on" in notes_of(second)[1]
    assert type(second) is ValueError


def test_causes_and_members_have_tracebacks_of_their_own() -> None:
    def fail() -> NoReturn:
        member = raised(lambda: fail_below(0))
        assert isinstance(member, Exception)
        raise ExceptionGroup("group", [member]) from raised(lambda: fail_below(2))

    twin = send(raised(fail), "m1", "A.a")

    for each, frames in ((twin, 2), (twin.__cause__, 5), (twin.exceptions[0], 3)):
        (note,) = notes_of(each)
        assert note.startswith("remote traceback (m1, A.a):\n")
        assert note.count("  File ") == frames


def test_where_it_came_from_can_be_said_after_it_has_arrived() -> None:
    twin = send(raised(lambda: fail_below(0)))
    assert notes_of(twin)[0].startswith("remote traceback:\n")

    mark_hop(twin, "m1", "")

    assert notes_of(twin)[0].startswith("remote traceback (m1):\n")


def test_an_error_of_a_call_learns_its_call_but_keeps_what_it_knew() -> None:
    unknown, known = PayloadError("no"), PayloadError("no", machine="m1", method="A.a")
    cause = CallError("below")
    unknown.__cause__ = cause

    twin = send(unknown, "m2", "B.b")

    assert (twin.machine, twin.method) == ("m2", "B.b")
    assert twin.__cause__.machine == ""
    assert send(known, "m2", "B.b").machine == "m1"


def test_the_librarys_own_errors_are_not_the_applications() -> None:
    data = encode_exception(NoSuchServiceError("no PI"), by_application=False)

    twin = decode_exception(data, machine="m1", method="PI.sample")

    assert type(twin) is NoSuchServiceError
    assert not is_remote(twin)


def test_an_unsent_call_of_the_method_itself_is_no_reason_to_call_it_again() -> None:
    twin = send(TransportError("refused", machine="m1", method="A.b", outcome="not_sent"))

    assert type(twin) is TransportError
    assert not twin.retryable


def test_the_death_of_a_third_machine_arrives_with_the_exception_of_its_init() -> None:
    death = Death(kind=DeathKind.INIT, machine="m1", detail="TwoArguments: 1 and 2")
    error = MachineStoppedError(machine="m1", death=death.with_cause(TwoArguments(1, 2)))

    twin = send(error, "m2", "B.b")

    assert type(twin) is MachineStoppedError
    assert twin.death == death
    assert type(twin.__cause__) is TwoArguments


def test_the_text_of_a_deep_recursion_is_bounded() -> None:
    def forever(depth: int) -> int:
        return forever(depth + 1) + 1

    twin = send(raised(lambda: forever(0)))

    assert type(twin) is RecursionError
    (note,) = notes_of(twin)
    assert note.count("  File ") == tracebacks.MAX_FIRST_FRAMES + tracebacks.MAX_LAST_FRAMES
    assert " frames left out]\n" in note


def test_long_source_lines_and_unknown_files_are_no_trouble() -> None:
    code = compile(f"raise ValueError({'1' * 5}) # {'x' * 10_000}", "<no such file>", "exec")

    (note,) = notes_of(send(raised(lambda: exec(code))))

    assert note.endswith('File "<no such file>", line 1, in <module>')


def test_the_frames_of_the_library_before_the_method_are_left_out(tmp_path: Path) -> None:
    def frames_in(module: str) -> str:
        scope: dict[str, Any] = {"__name__": module, "fail_below": fail_below}
        exec("def serve(): fail_below(0)", scope)
        exc = raised(scope["serve"])
        assert exc.__traceback__ is not None
        return tracebacks.format_frames(exc.__traceback__.tb_next)

    assert "in serve" not in frames_in("bigmachine.rpc.server")
    assert "in serve" in frames_in("bigmachinery.rpc.server")
    assert "in fail_below" in frames_in("bigmachine.rpc.server")


# Between processes that do not have the same classes

LONE = """
import sys
from bigmachine.rpc.exceptions import decode_exception, encode_exception
{setup}
{action}
"""
RECEIVE = """
exc = decode_exception(sys.stdin.buffer.read())
print(type(exc).__module__, type(exc).__name__, exc, getattr(exc, "code", None))
print(*getattr(exc, "__notes__", ()))
print("Odd" in globals() and isinstance(exc, Odd))
"""
DEFINE = """
class Odd(ValueError):
    def __init__(self, code, text):
        super().__init__(text)
        self.code = code
"""


def run(tmp_path: Path, setup: str, action: str, data: bytes = b"") -> bytes:
    script = tmp_path / "program.py"
    script.write_text(LONE.format(setup=setup, action=action), "utf-8")
    done = subprocess.run(
        [sys.executable, str(script)], input=data, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def encode_in(tmp_path: Path, setup: str, exc: str) -> bytes:
    return run(tmp_path, setup, f"sys.stdout.buffer.write(encode_exception({exc}))")


def test_a_class_of_main_arrives_as_the_receivers_own(tmp_path: Path) -> None:
    data = encode_in(tmp_path, DEFINE, "Odd(3, 'odd')")

    lines = run(tmp_path, DEFINE, RECEIVE, data).decode().splitlines()

    assert lines == ["__main__ Odd odd 3", "", "True"]


def test_a_class_of_main_that_the_receiver_lacks_arrives_as_text(tmp_path: Path) -> None:
    data = encode_in(tmp_path, DEFINE, "Odd(3, 'odd')")

    lines = run(tmp_path, "", RECEIVE, data).decode().splitlines()

    assert lines[0] == "bigmachine.errors RemoteError __main__.Odd: odd None"
    assert "this was a __main__.Odd; it cannot be rebuilt here: AttributeError" in lines[1]


@pytest.mark.parametrize(("receiver", "own"), [(DEFINE, "True"), ("", "False")])
def test_a_class_that_a_machine_got_by_value_arrives_and_the_receivers_own_is_preferred(
    tmp_path: Path, receiver: str, own: str
) -> None:
    away = f"scope = {{'__name__': '__main__'}}\nexec({DEFINE!r}, scope)"
    data = encode_in(tmp_path, away, "scope['Odd'](3, 'odd')")

    lines = run(tmp_path, receiver, RECEIVE, data).decode().splitlines()

    assert lines == ["__main__ Odd odd 3", "", own]


@pytest.mark.parametrize(("receiver", "own"), [(DEFINE, "True"), ("", "False")])
def test_a_class_of_a_notebook_arrives_where_nobody_runs_the_notebook(
    tmp_path: Path, receiver: str, own: str
) -> None:
    data = encode_in(tmp_path, f"del __file__\n{DEFINE}", "Odd(3, 'odd')")

    lines = run(tmp_path, receiver, RECEIVE, data).decode().splitlines()

    assert lines == ["__main__ Odd odd 3", "", own]


def test_a_class_whose_module_the_receiver_lacks_arrives_as_text(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "only_there.py").write_text(DEFINE, "utf-8")
    here = "sys.path.insert(0, sys.path[0] + '/there'); import only_there"
    data = encode_in(tmp_path, here, "only_there.Odd(3, 'odd')")

    lines = run(tmp_path, "", RECEIVE, data).decode().splitlines()

    assert lines[0] == "bigmachine.errors RemoteError only_there.Odd: odd None"
    assert "ModuleNotFoundError: No module named 'only_there'" in lines[1]
