"""With real processes, since that is what it is about. Each is bounded, and none is left behind."""

import contextlib
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bigmachine import osdep

LIMIT = 20.0  # seconds that any wait here may take

#: Python itself would turn off the buffers of C otherwise.
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}

linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux has it, macOS has not")

#: Prints a line when it is ready, then waits until its stdin is closed.
WAITER = "import sys; print('ready', flush=True); sys.stdin.read()"


def python(source: str, *arguments: str, **options: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
        [sys.executable, "-c", source, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=BUFFERED,
        **options,
    )


@contextlib.contextmanager
def running(source: str, *arguments: str, **options: object) -> Iterator["subprocess.Popen[str]"]:
    """A process that has printed something, killed in the end if it has not ended."""
    with python(source, *arguments, **options) as process:
        try:
            assert process.stdout is not None
            readable, _, _ = select.select([process.stdout], [], [], LIMIT)
            assert readable, "the process did not come up"
            yield process
        finally:
            process.kill()
            process.wait(LIMIT)


def first_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def run(source: str) -> str:
    """Run a program of its own, for what cannot be undone in this process."""
    done = subprocess.run(
        [sys.executable, "-c", "import os\nfrom bigmachine import osdep\n" + source],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env=BUFFERED,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def ended(pid: int) -> bool:
    """Wait until a process that is not our child has ended."""
    try:
        watch = osdep.watch_process(pid)
    except ProcessLookupError:
        return True
    try:
        return osdep.wait_process(watch, LIMIT)
    finally:
        os.close(watch)


# Parents and children


@linux
def test_a_subreaper_becomes_the_parent_of_orphans_and_can_wait_for_them() -> None:
    program = """
assert osdep.set_child_subreaper()
reading, writing = os.pipe()
middle = os.fork()
if middle == 0:
    orphan = os.fork()
    if orphan == 0:
        os.close(writing)
        os.read(reading, 1)       # until the parent has ended
        os._exit(7 if os.getppid() != middle else 8)
    os._exit(0)
os.waitpid(middle, 0)
os.close(writing)
orphan, status = os.waitpid(-1, 0)
print(os.waitstatus_to_exitcode(status))
"""
    assert run(program) == "7\n"


@linux
def test_a_process_with_a_parent_death_signal_ends_with_its_parent() -> None:
    parent = f"""
import os, signal, sys
from bigmachine import osdep
pid = os.fork()
if pid == 0:
    assert osdep.set_parent_death_signal(signal.SIGKILL)
    print(os.getpid(), flush=True)
    signal.alarm({LIMIT:.0f})
    signal.pause()
os.waitpid(pid, 0)
"""
    with running(parent) as process:
        child = int(first_line(process))
        watch = osdep.watch_process(child)
        try:
            assert not osdep.wait_process(watch, 0)
            process.kill()
            assert osdep.wait_process(watch, LIMIT)
        finally:
            os.close(watch)


def test_children_and_descendants_are_found_from_above_and_from_below() -> None:
    middle = f"""
import subprocess, sys
with subprocess.Popen([sys.executable, "-c", {WAITER!r}], stdin=subprocess.PIPE) as child:
    print(child.pid, flush=True)
    sys.stdin.read()
    child.stdin.close()
"""
    with running(middle) as process:
        child = int(first_line(process))
        assert process.pid in osdep.children_of(os.getpid())
        assert osdep.children_of(process.pid) == [child]
        assert osdep.descendants_of(process.pid) == [child]
        assert osdep.descendants_of(os.getpid()).index(process.pid) < osdep.descendants_of(
            os.getpid()
        ).index(child)
        assert osdep.parent_of(child) == process.pid
        assert {child, process.pid, os.getpid()} <= set(osdep.all_processes())
        assert process.stdin is not None
        process.stdin.close()  # ends both, the child first
        assert process.wait(LIMIT) == 0
        assert ended(child)


def test_children_of_every_thread_are_found() -> None:
    with contextlib.ExitStack() as stack:
        started: list[subprocess.Popen[str]] = []

        def start() -> None:
            started.append(stack.enter_context(running(WAITER)))
            assert started[0].pid in osdep.children_of(os.getpid())

        thread = threading.Thread(target=start)
        thread.start()
        thread.join(LIMIT)
        assert started[0].pid in osdep.children_of(os.getpid())


def test_a_zombie_is_still_a_child() -> None:
    process = python("")
    assert ended(process.pid)
    assert process.pid in osdep.children_of(os.getpid())
    assert osdep.parent_of(process.pid) == os.getpid()
    process.communicate(timeout=LIMIT)
    assert process.pid not in osdep.children_of(os.getpid())


def test_a_process_that_is_gone_has_no_relatives_and_no_start_time() -> None:
    gone = python("")
    gone.communicate(timeout=LIMIT)
    assert osdep.children_of(gone.pid) == []
    assert osdep.descendants_of(gone.pid) == []
    assert osdep.parent_of(gone.pid) is None
    assert osdep.session_of(gone.pid) is None
    assert osdep.process_start_time(gone.pid) is None


def test_a_name_full_of_parentheses_does_not_confuse_the_fields(tmp_path: Path) -> None:
    program = tmp_path / "a) R 1 (b"
    program.symlink_to(sys.executable)
    with subprocess.Popen(
        [program, "-c", WAITER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert first_line(process) == "ready"
        assert osdep.parent_of(process.pid) == os.getpid()
        process.communicate(timeout=LIMIT)


# Sessions and groups


def test_the_processes_of_a_session_are_found_and_its_group_can_be_killed() -> None:
    leader = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {WAITER!r}], stdin=subprocess.PIPE)
print(child.pid, flush=True)
sys.stdin.read()
"""
    with running(leader, start_new_session=True) as process:
        child = int(first_line(process))
        assert osdep.session_of(child) == process.pid
        assert sorted(osdep.processes_in({process.pid})) == sorted([process.pid, child])
        process.kill()
        process.wait(LIMIT)
        # The leader has been reaped; what it left behind is still found by the session.
        assert osdep.processes_in({process.pid}) == [child]
        if sys.platform == "linux":
            assert osdep.strays_of({process.pid}) == []
        assert osdep.kill_process_group(process.pid, signal.SIGKILL)
        assert ended(child)


def test_killing_a_group_that_is_gone_says_so() -> None:
    gone = python("", start_new_session=True)
    gone.communicate(timeout=LIMIT)
    assert not osdep.kill_process_group(gone.pid, signal.SIGKILL)


@pytest.mark.parametrize("group", [-1, 0, 1])
def test_what_kill_takes_for_everybody_is_refused(group: int) -> None:
    with pytest.raises(ValueError, match="refusing"):
        osdep.kill_process_group(group, 0)


def test_ones_own_group_is_not_signalled() -> None:
    with pytest.raises(ValueError, match="refusing"):
        osdep.kill_process_group(os.getpgrp(), 0)


# One process


def test_a_watch_turns_readable_when_the_process_ends_and_does_not_reap_it() -> None:
    with running(WAITER) as process:
        watch = osdep.watch_process(process.pid)
        try:
            assert not osdep.wait_process(watch, 0)
            process.kill()
            assert osdep.wait_process(watch, LIMIT)
            assert osdep.wait_process(watch, 0)  # and stays so
        finally:
            os.close(watch)
        assert process.wait(LIMIT) == -signal.SIGKILL


def test_a_watch_of_a_zombie_is_readable_at_once() -> None:
    process = python("")
    assert ended(process.pid)
    watch = osdep.watch_process(process.pid)
    try:
        assert osdep.wait_process(watch, 0)
    finally:
        os.close(watch)
        process.communicate(timeout=LIMIT)


def test_a_process_that_is_gone_cannot_be_watched() -> None:
    gone = python("")
    gone.communicate(timeout=LIMIT)
    with pytest.raises(ProcessLookupError):
        osdep.watch_process(gone.pid)


def test_a_watch_is_not_inherited_by_programs() -> None:
    watch = osdep.watch_process(os.getpid())
    try:
        assert not os.get_inheritable(watch)
    finally:
        os.close(watch)


def test_a_start_time_stays_the_same_and_orders_processes() -> None:
    mine = osdep.process_start_time(os.getpid())
    assert mine is not None
    assert osdep.process_start_time(os.getpid()) == mine
    with running(WAITER) as process:
        theirs = osdep.process_start_time(process.pid)
        assert theirs is not None
        assert theirs > mine - 0.02  # the clock ticks a hundred times a second


ENVIRONS: dict[bytes, dict[str, str] | None] = {
    b"": {},
    b"A=1\0B=x=y\0C=\0": {"A": "1", "B": "x=y", "C": ""},
    b"A=first\0A=second\0": {"A": "first"},
    b"A=\xff\0": {"A": "\udcff"},
    b"\0\0\0\0": None,
    b"of a title\0\0\0": None,
    b"A=1\0=x\0": None,
    b"A=1\0B=cut o": None,
}


@pytest.mark.parametrize("data", ENVIRONS)
def test_an_environment_is_told_from_what_has_taken_its_place(data: bytes) -> None:
    assert osdep._parse_environ(data) == ENVIRONS[data]


def test_the_first_environment_is_what_the_process_was_started_with() -> None:
    told = run(
        "import subprocess, sys\n"
        "code = 'import os; from bigmachine import osdep; '\\\n"
        '    \'os.environ.update(A="2", NEW="3"); del os.environ["B"]; \'\\\n'
        "    'print(osdep.first_environ())'\n"
        "print(subprocess.check_output([sys.executable, '-c', code], text=True,\n"
        "    env={'A': '1', 'B': '\\udcff'}).strip())"
    )
    assert told == "{'A': '1', 'B': '\\udcff'}\n"


def test_peak_memory_is_told_in_bytes() -> None:
    peak = osdep.peak_memory_bytes(resource.getrusage(resource.RUSAGE_SELF))
    assert 1 << 22 < peak < 1 << 40


@linux
def test_the_out_of_memory_score_is_raised_and_never_lowered() -> None:
    program = """
def score(): return int(open("/proc/self/oom_score_adj").read())
before = score()
assert osdep.raise_oom_score(score=before + 100) and score() == before + 100
assert osdep.raise_oom_score(score=before) and score() == before + 100
assert osdep.raise_oom_score(os.getpid(), score=before + 200) and score() == before + 200
"""
    run(program)


@linux
def test_the_out_of_memory_score_of_nobody_cannot_be_raised() -> None:
    gone = python("")
    gone.communicate(timeout=LIMIT)
    assert not osdep.raise_oom_score(gone.pid)


def test_a_process_with_one_thread_can_be_forked_safely() -> None:
    assert run("print(osdep.has_fork_safe())") == f"{sys.platform == 'linux'}\n"


def test_a_process_with_another_python_thread_cannot_be_forked_safely() -> None:
    program = """
import _thread
entered, leave = _thread.allocate_lock(), _thread.allocate_lock()
entered.acquire(), leave.acquire()
def hold():
    entered.release()
    leave.acquire()
_thread.start_new_thread(hold, ())
entered.acquire()
print(osdep.has_fork_safe())
"""
    assert run(program) == "False\n"


def test_the_signal_for_stacks_makes_faulthandler_write_them() -> None:
    program = """
import faulthandler, signal, sys
faulthandler.register(osdep.STACK_DUMP_SIGNAL, file=sys.stdout)
def working(): signal.raise_signal(osdep.STACK_DUMP_SIGNAL)
working()
"""
    assert "in working" in run(program)


# Sockets and files


def test_the_peers_user_of_a_unix_socket_is_known() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert osdep.peer_uid(one) == os.getuid()


def test_a_network_socket_has_no_peers_user() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(OSError):
        osdep.peer_uid(server)


def test_an_anonymous_file_can_be_written_and_is_not_inherited() -> None:
    descriptor = osdep.memfd("test")
    try:
        os.write(descriptor, b"text")
        os.lseek(descriptor, 0, os.SEEK_SET)
        assert os.read(descriptor, 10) == b"text"
        assert not os.get_inheritable(descriptor)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("data", [b"", b"secret", b"x" * 1_000_000])
def test_a_secret_file_is_readable_inside_and_gone_outside(data: bytes) -> None:
    with osdep.secret_file(data) as path:
        assert Path(path).read_bytes() == data
        assert Path(path).read_bytes() == data  # again from its beginning
        assert sys.platform != "linux" or path.startswith("/proc/self/fd/")
    assert not os.path.exists(path)


def test_a_secret_file_is_gone_when_its_user_fails() -> None:
    with pytest.raises(KeyError), osdep.secret_file(b"secret") as path:
        raise KeyError
    assert not os.path.exists(path)


def test_the_limit_of_open_files_is_raised_and_put_back() -> None:
    program = """
import resource
def soft(): return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
assert osdep.raise_open_files_limit() == 100
assert soft() > 100
osdep.restore_open_files_limit(100)
assert soft() == 100 and resource.getrlimit(resource.RLIMIT_NOFILE)[1] == hard
"""
    run(program)


# The C library's own streams


def test_native_output_into_a_pipe_comes_line_by_line() -> None:
    program = """
import ctypes, os, sys
from bigmachine import osdep
assert osdep.line_buffer_stdio()
ctypes.CDLL(None).puts(b"native")
sys.stdin.read()
os._exit(0)
"""
    with running(program) as process:  # it is up when its line has come
        assert first_line(process) == "native"


def test_line_buffering_survives_a_fork() -> None:
    program = """
import ctypes
assert osdep.line_buffer_stdio()
pid = os.fork()
if pid == 0:
    ctypes.CDLL(None).puts(b"child")
    os._exit(0)
os.waitpid(pid, 0)
"""
    assert run(program) == "child\n"


@pytest.mark.parametrize(("flush", "text"), [("osdep.flush_stdio()", "native"), ("", "")])
def test_native_output_survives_a_hard_exit_only_if_it_is_flushed(flush: str, text: str) -> None:
    assert run(f"import ctypes\nctypes.CDLL(None).printf(b'native')\n{flush}\nos._exit(0)") == text


def test_the_module_imports_nothing_heavy() -> None:
    loaded = run("import sys; print(*sys.modules)").split()
    assert not {"ctypes", "psutil", "socket", "tempfile", "resource", "subprocess"} & set(loaded)


@pytest.mark.parametrize("depth", [1, 4])
def test_a_unix_socket_is_reached_by_a_path_of_any_length(tmp_path: Path, depth: int) -> None:
    directory = tmp_path.joinpath(*["d" * 40] * depth)
    directory.mkdir(parents=True)
    path = str(directory / "socket")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as caller:
        with osdep.socket_path(path) as short:
            listener.bind(short)
        listener.listen()
        with osdep.socket_path(path) as short:
            caller.connect(short)
        assert os.path.exists(path)
