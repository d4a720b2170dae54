"""Everything that differs between Linux and macOS, and the few system calls Python does not have.

The rest of the package asks here and knows neither ``prctl`` nor ``/proc``. Linux is the platform
that is tested; where macOS has no counterpart a function says so by its result (``False``,
``None``), never by an exception, and its caller has another way: end-of-file instead of a parent's
death signal, a template that waits for its forks instead of a subreaper.

What always holds: nothing here keeps state, starts a thread, or waits without a limit. Heavy
modules (ctypes, psutil, tempfile) are imported where they are used, since the supervisor and the
template import this one before they have done anything else.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import typing

if typing.TYPE_CHECKING:
    import ctypes
    import resource
    import socket
    from collections.abc import Iterator, Set

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_IOLBF = 1  # stdio.h, in glibc, musl and macOS alike
_MACOS_OPEN_MAX = 10_240  # setrlimit(2) on macOS refuses a soft limit above OPEN_MAX
_SOCKET_PATH_BYTES = 100
_MACHINE_OOM_SCORE = 500  # of 1000: before anything a person started, after those who asked for it

if sys.platform == "linux":
    #: Asks a machine's faulthandler for its stacks: a real-time signal, which programs rarely use.
    #: None where the supervisor could not read them; then programs keep all their signals.
    STACK_DUMP_SIGNAL: int | None = signal.SIGRTMIN + 5
else:
    STACK_DUMP_SIGNAL = None


# Parents and children


def set_child_subreaper() -> bool:
    """Become the parent of every descendant whose own parent ends.

    Returns:
        Whether the platform can do this. If not, orphans go to init and cannot be waited for.
    """
    if sys.platform == "linux":
        return _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    else:
        return False


def set_parent_death_signal(sig: int) -> bool:
    """Have the kernel send ``sig`` to this process when its parent ends.

    The "parent" is the *thread* that made this process, and a parent that died before this call is
    never noticed: call it once the process has its final parent, compare ``os.getppid()`` after it,
    and do not rely on it alone. It is cleared by ``fork`` and by executing a setuid program.

    Returns:
        Whether the platform can do this.
    """
    if sys.platform == "linux":
        return _prctl(_PR_SET_PDEATHSIG, int(sig))
    else:
        return False


def children_of(pid: int) -> list[int]:
    """List the children of a process, zombies included; empty when there is no such process.

    A snapshot: a child made or reaped meanwhile may be missing. Who must catch them all repeats it.
    """
    if sys.platform == "linux":
        return _proc_children(pid)
    else:
        return _psutil_children(pid)


def descendants_of(pid: int) -> list[int]:
    """List a process's children, their children and so on, nearest first, without itself."""
    found: list[int] = []
    seen = {pid}
    generation = [pid]
    while generation:
        generation = [
            child for parent in generation for child in children_of(parent) if child not in seen
        ]
        seen.update(generation)
        found += generation
    return found


def parent_of(pid: int) -> int | None:
    """Return the process id of a process's parent, or None when there is no such process."""
    if sys.platform == "linux":
        fields = _stat_fields(pid)
        return int(fields[1]) if fields else None
    else:
        return _psutil_parent(pid)


def all_processes() -> list[int]:
    """List the ids of all processes that this one can see."""
    if sys.platform == "linux":
        return [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    else:
        import psutil

        return list(psutil.pids())


# Sessions and groups


def session_of(pid: int) -> int | None:
    """Return the session of a process, or None when there is no such process."""
    try:
        return os.getsid(pid)
    except (ProcessLookupError, PermissionError):
        return None


def processes_in(sessions: Set[int]) -> list[int]:
    """List the processes of these sessions, their leaders and zombies included."""
    return [pid for pid in all_processes() if session_of(pid) in sessions]


def strays_of(sessions: Set[int]) -> list[int]:
    """List what is left of sessions whose leaders are dead, where orphans find no other parent.

    Empty on Linux: there the subreaper has them all, whatever session they have gone to.
    """
    if sys.platform == "linux":
        return []
    else:
        return processes_in(sessions)


def kill_process_group(pgid: int, sig: int) -> bool:
    """Send a signal to every process of a group.

    Returns:
        False when no process of the group is left.

    Raises:
        ValueError: The group is this process's own, or not a group (0, 1 and negative numbers mean
            "everybody" to ``kill``): surely a mistake, and a deadly one.
    """
    if pgid <= 1 or pgid == os.getpgrp():
        raise ValueError(f"refusing to signal process group {pgid}")
    try:
        os.killpg(pgid, sig)
    except (ProcessLookupError, PermissionError):
        # macOS says EPERM for a group that holds nothing but zombies.
        return False
    return True


# One process


def watch_process(pid: int) -> int:
    """Open a descriptor that turns readable when the process ends.

    It needs no clock and no polling, also serves processes that are not our children, and is never
    fooled by a reused process id once it is open. The caller closes it with ``os.close``.

    Raises:
        ProcessLookupError: There is no such process (any more).
    """
    if sys.platform == "linux":
        return os.pidfd_open(pid)
    else:
        event = select.kevent(
            pid,
            filter=select.KQ_FILTER_PROC,
            flags=select.KQ_EV_ADD,
            fflags=select.KQ_NOTE_EXIT,
        )
        with contextlib.closing(select.kqueue()) as queue:
            queue.control([event], 0, 0)
            return os.dup(queue.fileno())  # outlives the queue object, which closes its own


def wait_process(watch: int, timeout: float) -> bool:
    """Wait until a watched process has ended, at most ``timeout`` seconds.

    It does not reap: a child stays a zombie until its parent waits for it.

    Args:
        watch: What `watch_process` returned.
        timeout: In seconds; 0 only looks.

    Returns:
        Whether it has ended.
    """
    poller = select.poll()
    poller.register(watch, select.POLLIN)
    return bool(poller.poll(max(0.0, timeout) * 1000))


def process_start_time(pid: int) -> float | None:
    """Return when a process started, in seconds, or None when there is no such process.

    Together with the id this names one process for good, although ids are reused. The origin
    differs between platforms and is fixed for one boot: compare for equality, on one host.
    """
    if sys.platform == "linux":
        fields = _stat_fields(pid)
        return int(fields[19]) / os.sysconf("SC_CLK_TCK") if fields else None
    else:
        return _psutil_start_time(pid)


def boot_id() -> str:
    """Return what names this start of the computer: after the next one it is another."""
    if sys.platform == "linux":
        return _read("/proc/sys/kernel/random/boot_id").decode().strip()
    else:
        return _boot_session()


def first_environ() -> dict[str, str] | None:
    """Return the environment that this process was started with, before it made changes to it.

    Of a process that was forked it is that of the program that it came from. It is None where it
    cannot be known: the process is not allowed to look, or something, as setproctitle does, has
    used the room for other things.
    """
    if sys.platform == "linux":
        try:
            return _parse_environ(_read("/proc/self/environ"))
        except OSError:
            return None
    else:
        return _psutil_environ()


def peak_memory_bytes(usage: resource.struct_rusage) -> int:
    """Return the most memory that a process had resident, in bytes, from what ``os.wait4`` gave."""
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def raise_oom_score(pid: int | None = None, *, score: int = _MACHINE_OOM_SCORE) -> bool:
    """Have the kernel prefer a process as victim when memory runs out.

    For machines, so that the supervisor and the driver survive to tell what happened. A process
    that is a more likely victim already is left alone: lowering needs a privilege.

    Args:
        pid: The process; None for this one.
        score: 0 to 1000, added to the share of memory in use (proc(5), ``oom_score_adj``).

    Returns:
        Whether its score is now at least ``score``.
    """
    path = f"/proc/{'self' if pid is None else pid}/oom_score_adj"
    try:
        if int(_read(path)) >= score:
            return True
        _write(path, str(score).encode())
    except OSError:
        return False
    return True


def has_fork_safe() -> bool:
    """Whether this process can be forked now without breaking its copy.

    A lock that another Python thread holds at the fork is never released in the copy; native
    thread pools (OpenBLAS) do no harm. On macOS the system's own frameworks do not survive a fork.
    """
    # Counts threads started below ``threading`` (by ``_thread``) as well.
    return sys.platform != "darwin" and len(sys._current_frames()) == 1


# Sockets and files


def peer_uid(sock: socket.socket) -> int:
    """Return the user id of the process that connected a Unix socket's other end.

    Raises:
        OSError: The socket is not connected, or not a Unix socket.
    """
    import struct

    if sys.platform == "linux":
        import socket as sockets

        if sock.family != sockets.AF_UNIX:
            # Linux answers "no such user" rather than refusing.
            raise OSError(f"only a Unix socket knows its peer's user, this is {sock.family!r}")
        raw = sock.getsockopt(sockets.SOL_SOCKET, sockets.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", raw)[1])
    else:
        sol_local, local_peercred = 0, 1  # sys/un.h; the answer is a ``struct xucred``
        raw = sock.getsockopt(sol_local, local_peercred, 76)
        return int(struct.unpack_from("=II", raw)[1])


def memfd(name: str) -> int:
    """Open an empty anonymous file for reading and writing, closed on exec.

    It lives in memory where the platform has such files, else it is a temporary file of mode 0600
    that has no name any more.

    Args:
        name: Shown by debugging tools only.
    """
    if sys.platform == "linux":
        return os.memfd_create(name, os.MFD_CLOEXEC)
    else:
        import tempfile

        descriptor, path = tempfile.mkstemp(prefix=name)
        os.unlink(path)
        return descriptor


@contextlib.contextmanager
def socket_path(path: str) -> Iterator[str]:
    """Give a path that fits a Unix socket's address and leads to the same place, within a ``with``.

    The address has room for 108 bytes on Linux, where any directory has a short path besides, and
    for 104 on macOS, where a longer one stays what it is, and the system says that it is too long.
    """
    if sys.platform == "linux" and len(os.fsencode(path)) > _SOCKET_PATH_BYTES:
        directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield f"/proc/self/fd/{directory}/{os.path.basename(path)}"
        finally:
            os.close(directory)
    else:
        yield path


@contextlib.contextmanager
def secret_file(data: bytes) -> Iterator[str]:
    """Give the path of a file that holds ``data``, for libraries that read secrets from files only.

    The path is good inside the ``with`` and in this process. On Linux no disk ever sees the data;
    elsewhere it is a file of mode 0600, removed at the end.
    """
    if sys.platform == "linux":
        descriptor = memfd("secret")
        try:
            _write_all(descriptor, data)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
    else:
        import tempfile

        descriptor, path = tempfile.mkstemp()
        try:
            with contextlib.closing(os.fdopen(descriptor, "wb")) as file:
                file.write(data)
            yield path
        finally:
            os.unlink(path)


def raise_open_files_limit() -> int:
    """Raise the number of files this process may have open as far as it may itself.

    Returns:
        The soft limit of before, for `restore_open_files_limit` in children that run a user's
        program: it may rely on small descriptors (``select``), or close them all one by one.
    """
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard
    if sys.platform == "darwin":
        wanted = _MACOS_OPEN_MAX if hard == resource.RLIM_INFINITY else min(hard, _MACOS_OPEN_MAX)
    if soft != resource.RLIM_INFINITY and (wanted == resource.RLIM_INFINITY or wanted > soft):
        # Some containers refuse even this; then the limit stays as it is.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return soft


def restore_open_files_limit(soft: int) -> None:
    """Put back the soft limit that `raise_open_files_limit` returned."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# The C library's own streams


def line_buffer_stdio() -> bool:
    """Have native code's ``printf`` arrive line by line although stdout is a pipe.

    The C library buffers whole blocks there, so lines would come late, or never from a process
    that is killed. Inherited by forks. (Its stderr has no buffer in the first place.)

    Returns:
        Whether it worked.
    """
    import ctypes

    libc = ctypes.CDLL(None)
    try:
        stdout = ctypes.c_void_p.in_dll(libc, "__stdoutp" if sys.platform == "darwin" else "stdout")
    except ValueError:
        return False
    libc.fflush(stdout)  # what is in the buffer of before
    return bool(libc.setvbuf(stdout, None, _IOLBF, ctypes.c_size_t(0)) == 0)


def flush_stdio() -> None:
    """Write out what the C library buffers, in all its streams (``fflush(NULL)``).

    Needed before ``fork``, or text appears twice, and before ``os._exit``, or it is lost. Python's
    own streams are the caller's. Blocks, without holding the interpreter lock, while a pipe is full
    or another thread holds a stream.
    """
    import ctypes

    ctypes.CDLL(None).fflush(None)


# Helpers


def _prctl(option: int, value: int) -> bool:
    import ctypes

    unused = ctypes.c_ulong(0)
    result: int = _libc().prctl(option, ctypes.c_ulong(value), unused, unused, unused)
    return result == 0


def _libc() -> ctypes.CDLL:
    import ctypes

    return ctypes.CDLL(None, use_errno=True)


def _proc_children(pid: int) -> list[int]:
    children: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            # Children belong to the thread that forked them.
            with contextlib.suppress(ProcessLookupError):
                children += map(int, _read(f"/proc/{pid}/task/{task}/children").split())
    except FileNotFoundError:
        # There is no such process; or a thread ended under our hands, or this kernel has no
        # ``children`` files (CONFIG_PROC_CHILDREN): look at everybody's parent instead.
        if os.path.exists(f"/proc/{pid}"):
            return [each for each in all_processes() if parent_of(each) == pid]
    return children


def _stat_fields(pid: int) -> list[bytes] | None:
    """Return ``/proc/<pid>/stat`` from its third field (the state) on."""
    try:
        text = _read(f"/proc/{pid}/stat")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the program's name in parentheses, and may hold any character.
    return text[text.rindex(b")") + 2 :].split()


def _parse_environ(data: bytes) -> dict[str, str] | None:
    """Read ``NAME=value`` entries, each with a NUL behind it; None when they are something else."""
    found: dict[str, str] = {}
    for entry in data.split(b"\0")[:-1]:
        name, equals, value = os.fsdecode(entry).partition("=")
        if not name or not equals:
            return None
        found.setdefault(name, value)  # Python, too, takes the first one
    return None if data and data[-1] else found


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _write(path: str, data: bytes) -> None:
    with open(path, "wb", buffering=0) as file:
        file.write(data)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _boot_session() -> str:
    """Return by what macOS knows this boot: the time of it changes when the clock is set."""
    import ctypes

    import psutil

    text = ctypes.create_string_buffer(64)
    size = ctypes.c_size_t(len(text))
    name = b"kern.bootsessionuuid"
    if _libc().sysctlbyname(name, text, ctypes.byref(size), None, ctypes.c_size_t(0)) == 0:
        return text.value.decode()
    return str(psutil.boot_time())


def _psutil_children(pid: int) -> list[int]:
    import psutil

    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.Error:
        return []


def _psutil_parent(pid: int) -> int | None:
    import psutil

    try:
        return int(psutil.Process(pid).ppid())
    except psutil.Error:
        return None


def _psutil_start_time(pid: int) -> float | None:
    import psutil

    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def _psutil_environ() -> dict[str, str] | None:
    import psutil

    try:
        return dict(psutil.Process().environ()) or None  # it is empty where it cannot be read
    except psutil.Error:
        return None
