"""Ends of clusters: graceful, forced, interrupted, from everywhere, again and again."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .driven import LIMIT_SECONDS, SLACK, Driven, driven, leftovers, send, wait_until

SHUTDOWN_SECONDS = 5.0
"""Within this time a shutdown ends, whatever its machines do."""


def check_ended(program: Driven, tmp_path: Path, code: int = 0) -> None:
    assert program.wait() == code, program.shown()
    program.assert_gone()
    assert leftovers(tmp_path) == []


MANY = """
with bm.start() as cluster:
    machines = cluster.start(64, services={"P": Probe()})
    for call in machines.call(Probe.pid):
        call.result(30)
    began = time.monotonic()
say("seconds", time.monotonic() - began)
"""


def test_64_machines_are_shut_down_in_half_a_second(tmp_path: Path) -> None:
    with driven(MANY, tmp_path) as program:
        assert program.record("seconds") < 0.5 * SLACK
        check_ended(program, tmp_path)


STUBBORN = """
class Stubborn(Probe):
    def ignore_sigterm(self):
        # Python sets handlers in the main thread alone, which is the loop's.
        ctypes.CDLL(None).signal(signal.SIGTERM, ctypes.c_void_p(1))
        print("deaf")
        self.block(600)

    def stick(self):
        print("stuck")
        hold_lock(600_000_000)

    async def refuse_to_be_cancelled(self):
        while True:
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                print("no")

    def close(self):
        print("closing")
        self.block(600)

    def write_on(self):
        while not bm.cancelled():
            print("still here")
            self.block(0.01)
        return "as you like"


with bm.start(Local(transport=sys.argv[1])) as cluster:
    machines = cluster.start(5, services={"S": Stubborn()})
    for machine in machines:
        machine.call(Stubborn.pid).result(20)
    calls = [
        machines[0].call(Stubborn.stick), machines[1].call(Stubborn.ignore_sigterm),
        machines[2].call(Stubborn.refuse_to_be_cancelled), machines[3].call(Stubborn.write_on),
    ]
    listen()
    began = time.monotonic()
say("seconds", time.monotonic() - began)
assert calls.pop().result(1) == "as you like"
say("kinds", json.dumps([call.exception(1).death.kind for call in calls]))
say("stack", json.dumps(str(calls[0].exception(1))))
"""


@pytest.mark.parametrize("transport", ["unix", "tls"])
def test_a_shutdown_is_bounded_whatever_machines_do(tmp_path: Path, transport: str) -> None:
    with driven(STUBBORN, tmp_path, transport) as program:
        for line in ("stuck", "deaf"):
            wait_until(lambda line=line: f"] {line}" in program.stdout)  # type: ignore[misc]
        program.tell("go")
        seconds = program.record("seconds")
        assert seconds < SHUTDOWN_SECONDS * SLACK, program.shown()
        assert program.record("kinds") == ["shutdown"] * 3
        assert "in stick" in program.record("stack")
        assert "[m4] closing" in program.stdout
        assert "[m3] still here" in program.stdout
        check_ended(program, tmp_path)


OUTPUT = """
class Writer(Probe):
    def init(self, cluster):
        self.name = bm.current().machine.addr

    def flood(self, count):
        for number in range(count):
            print("line", number)
        return count

    def close(self):
        print("closed")


with bm.start() as cluster:
    first, second = cluster.start(2, services={"W": Writer()})
    second.call(Writer.pid).result(20)
    first.call(Writer.flood, 3).result(20)
    stopping = first.shutdown()
    say("shut", stopping.result(20), first.state.name, first.err.death.kind)
    say("other", second.call(Writer.echo, "lives").result(20))
    second.call(Writer.flood, 20_000).result(20)
"""


def test_output_arrives_and_close_runs_when_a_machine_or_the_cluster_is_shut_down(
    tmp_path: Path,
) -> None:
    with driven(OUTPUT, tmp_path) as program:
        assert program.expect("^shut (.*)$")[1] == "None STOPPED shutdown"
        assert program.expect("^other (.*)$")[1] == "lives"
        check_ended(program, tmp_path)
        lines = program.stdout.splitlines()
        first = [line for line in lines if line.startswith("[m0]")]
        second = [line for line in lines if line.startswith("[m1]")]
        assert first == [*(f"[m0] line {number}" for number in range(3)), "[m0] closed"]
        assert second == [*(f"[m1] line {number}" for number in range(20_000)), "[m1] closed"]


WITHOUT_WITH = """
class Closing(Probe):
    def close(self):
        print("closed")


def main():
    cluster = bm.start()
    machine, = cluster.start(1, services={"C": Closing()})
    machine.call(Closing.write, "hello").result(20)
    how = sys.argv[1]
    if how == "exit":
        sys.exit(3)
    if how == "raise":
        raise LookupError("lost")
    if how == "thread":
        threading.Thread(target=later, args=(machine,)).start()


def later(machine):
    threading.main_thread().join()  # the program's end has begun
    machine.call(Closing.write, "from a thread").result(20)


main()
"""


@pytest.mark.parametrize(("how", "code"), [("return", 0), ("exit", 3), ("raise", 1), ("thread", 0)])
def test_a_cluster_that_is_open_at_exit_is_shut_down(tmp_path: Path, how: str, code: int) -> None:
    with driven(WITHOUT_WITH, tmp_path, how) as program:
        check_ended(program, tmp_path, code)
        assert "[m0] hello\n[m0] " in program.stdout
        assert program.stdout.endswith("[m0] closed")
        assert ("LookupError: lost" in program.stderr) == (how == "raise")


ABRUPT = """
class Parent(Probe):
    def leave_children(self):
        subprocess.Popen(["sleep", "600"], start_new_session=True)


with bm.start(Local(transport=sys.argv[2])) as cluster:
    machines = cluster.start(3, services={"P": Parent()})
    for machine in machines:
        machine.call(Parent.leave_children).result(20)
    calls = [machine.call(Parent.block) for machine in machines]
    say("ready")
    if sys.argv[1] == "os._exit":
        listen()
        os._exit(5)
    if sys.argv[1] == "abort":
        listen()
        os.abort()
    calls[0].result()
"""


@pytest.mark.parametrize("transport", ["unix", "tls"])
@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("os._exit", 5),
        ("abort", -signal.SIGABRT),
        ("SIGTERM", -signal.SIGTERM),
        ("SIGHUP", -signal.SIGHUP),
    ],
)
def test_nothing_is_left_of_a_driver_that_ends_without_a_word(
    tmp_path: Path, how: str, code: int, transport: str
) -> None:
    with driven(ABRUPT, tmp_path, how, transport) as program:
        program.expect("^ready")
        if how.startswith("SIG"):
            send(program.pid, getattr(signal, how))
        else:
            program.tell("go")
        assert program.process.wait(LIMIT_SECONDS) == code
        program.assert_gone()
        assert leftovers(tmp_path) == []


INTERRUPTED = """
class Patient(Probe):
    interrupted = 0

    def init(self, cluster):
        before = signal.getsignal(signal.SIGINT)
        print("SIGINT is", "ignored" if before is signal.SIG_IGN else before)

    def close(self):
        print("closed in order")

    def linger(self):
        print("lingering")
        hold_lock(600_000_000)


stuck = sys.argv[1] == "stuck"
with bm.start() as cluster:
    machine, other = cluster.start(2, services={"P": Patient()})
    other.call(Patient.pid).result(20)
    call = machine.call(Patient.linger if stuck else Patient.block)
    say("pid", machine.call("Supervisor.Getpid").result(20))
    try:
        if not stuck:
            machine.call(Patient.echo, 1).result(20)
        say("ready")
        call.result(60)
    except KeyboardInterrupt:
        say("interrupted")
        raise
"""


class Terminal:
    """A terminal that a program has as its own, and its keys."""

    def __init__(self) -> None:
        self.near, self.far = pty.openpty()
        self._drain = threading.Thread(target=self._read, daemon=True)
        self._drain.start()

    def take_over(self) -> None:
        """In the program's process, before it runs: make it the session's terminal."""
        import fcntl
        import termios

        fcntl.ioctl(self.far, termios.TIOCSCTTY, 0)

    def press_ctrl_c(self) -> float:
        os.write(self.near, b"\x03")
        return time.monotonic()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while os.read(self.near, 4096):
                pass

    def close(self) -> None:
        os.close(self.far)
        self._drain.join(LIMIT_SECONDS)
        os.close(self.near)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    it = Terminal()
    yield it
    it.close()


def at_terminal(
    source: str, tmp_path: Path, terminal: Terminal, *args: str
) -> contextlib.AbstractContextManager[Driven]:
    return driven(source, tmp_path, *args, preexec_fn=terminal.take_over)


def test_ctrl_c_reaches_the_driver_alone_and_shuts_down_in_order(
    tmp_path: Path, terminal: Terminal
) -> None:
    with at_terminal(INTERRUPTED, tmp_path, terminal, "free") as program:
        program.expect("^ready")
        pressed = terminal.press_ctrl_c()
        program.expect("^interrupted")
        code = program.wait()
        assert time.monotonic() - pressed < SHUTDOWN_SECONDS * SLACK
        assert code == -signal.SIGINT, program.shown()
        program.assert_gone()
        assert "[m0] SIGINT is ignored" in program.stdout
        assert "[m0] closed in order" in program.stdout
        assert "[m1] closed in order" in program.stdout
        assert program.stderr.endswith("KeyboardInterrupt")
        assert leftovers(tmp_path) == []


def test_ctrl_c_shuts_down_in_time_although_a_machine_is_stuck(
    tmp_path: Path, terminal: Terminal
) -> None:
    with at_terminal(INTERRUPTED, tmp_path, terminal, "stuck") as program:
        wait_until(lambda: "[m0] lingering" in program.stdout)
        pressed = terminal.press_ctrl_c()
        assert program.wait() == -signal.SIGINT, program.shown()
        assert time.monotonic() - pressed < SHUTDOWN_SECONDS * SLACK
        program.assert_gone()
        assert leftovers(tmp_path) == []


def test_a_second_ctrl_c_ends_it_at_once(tmp_path: Path, terminal: Terminal) -> None:
    with at_terminal(INTERRUPTED, tmp_path, terminal, "stuck") as program:
        wait_until(lambda: "[m0] lingering" in program.stdout)
        terminal.press_ctrl_c()
        wait_until(lambda: "[m1] closed in order" in program.stdout)  # it has begun
        pressed = terminal.press_ctrl_c()
        assert program.wait() == -signal.SIGINT, program.shown()
        assert time.monotonic() - pressed < 0.3 * SLACK
        program.assert_gone()
        assert leftovers(tmp_path) == []


ASYNC_INTERRUPTED = """
class Stuck(Probe):
    def linger(self):
        print("lingering")
        hold_lock(600_000_000)

    def close(self):
        print("closed in order")


async def main():
    async with bm.start() as cluster:
        machine, other = cluster.start(2, services={"S": Stuck()})
        await other.call(Stuck.pid)
        try:
            await machine.call(Stuck.linger)
        except asyncio.CancelledError:
            say("interrupted")
            raise


asyncio.run(main())
"""


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_ends_an_async_program_likewise(
    tmp_path: Path, terminal: Terminal, presses: int
) -> None:
    with at_terminal(ASYNC_INTERRUPTED, tmp_path, terminal) as program:
        wait_until(lambda: "[m0] lingering" in program.stdout)
        pressed = terminal.press_ctrl_c()
        program.expect("^interrupted")
        if presses == 2:
            wait_until(lambda: "[m1] closed in order" in program.stdout)  # it has begun
            pressed = terminal.press_ctrl_c()
        assert program.wait() == -signal.SIGINT, program.shown()
        limit = (SHUTDOWN_SECONDS if presses == 1 else 0.3) * SLACK
        assert time.monotonic() - pressed < limit
        program.assert_gone()
        assert leftovers(tmp_path) == []


INTERRUPTED_RESULTS = """
with bm.start(Local(transport=sys.argv[1])) as cluster:
    machine, other = cluster.start(2, services={"P": Probe()})
    machine.call(Probe.pid).result(20)
    other.call(Probe.pid).result(20)
    interrupts, answers, number = 0, 0, 0
    stop = threading.Event()

    def interrupt():
        while not stop.wait(0.002):
            os.kill(os.getpid(), signal.SIGINT)

    def call():  # beside it, from another thread
        while not stop.is_set():
            assert machine.call(Probe.echo, "beside").result(20) == "beside"

    inside = False

    def handler(number, frame):  # as Python's, but not between one call and the next
        if inside:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, handler)
    beside = threading.Thread(target=call)
    beside.start()
    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    end = time.monotonic() + 3
    while time.monotonic() < end:
        try:
            inside = True
            number += 1
            value = number, b"x" * (number % 7 * 5000)
            future = (machine if number % 2 else other).call(Probe.echo, value)
            try:
                got = future.result(20)
            except KeyboardInterrupt:
                interrupts += 1
                got = future.result(20)  # the call went on
            assert got[0] == number, (got[0], number)
            answers += 1
            inside = False
        except KeyboardInterrupt:
            inside = False
            interrupts += 1
    stop.set()
    interrupter.join()
    beside.join(20)
    assert signal.getsignal(signal.SIGINT) is handler, "the program's handler is not there any more"
    say("same", json.dumps([each.call(Probe.echo, 7).result(20) for each in (machine, other)]))
    say("counts", json.dumps([interrupts, answers]))
"""


@pytest.mark.parametrize("transport", ["unix", "tls"])
def test_connections_survive_ctrl_c_anywhere_in_result(tmp_path: Path, transport: str) -> None:
    with driven(INTERRUPTED_RESULTS, tmp_path, transport) as program:
        assert program.record("same") == [7, 7]
        interrupts, answers = program.record("counts")
        assert interrupts > 50, program.shown()
        assert answers > 50
        check_ended(program, tmp_path)


IN_MANY_WAYS = """
from concurrent.futures import CancelledError, wait

# Twice, and the future cancelled.
with bm.start() as cluster:
    machine, = cluster.start(1, services={"P": Probe()})
    machine.call(Probe.pid).result(20)
    first, second = cluster.shutdown(), cluster.shutdown()
    first.cancel()
    second.result(20)
    cluster.shutdown().result(0)
    assert machine.state is bm.State.STOPPED, machine
say("twice")

# From several threads, while calls run.
cluster = bm.start()
machines = cluster.start(4, services={"P": Probe()})
calls = [machine.call(Probe.block) for machine in machines for _ in range(10)]
[machine.call(Probe.echo, 1).result(20) for machine in machines]
threads = [threading.Thread(target=lambda: cluster.shutdown().result(20)) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
kinds = {call.exception(0).death.kind for call in calls}
assert kinds == {"shutdown"}, kinds
say("threads")

# While machines start.
for pause in (0, 0.01, 0.05, 0.1, 0.2, 0.3):
    with bm.start() as cluster:
        machines = cluster.start(8, services={"P": Probe()})
        calls = machines.call(Probe.pid)
        waits = [machine.wait() for machine in machines]
        running = machines.running()
        time.sleep(pause)
    for call, machine in zip(calls, machines):
        assert machine.state is bm.State.STOPPED, machine
        error = call.exception(0)
        assert error is None or error.death.kind == "shutdown", error
    assert all(each.result(0) >= bm.State.RUNNING for each in waits)
    assert running.done()
say("starting")

# Whatever is done with it afterwards.
for action in (
    lambda: cluster.start(1, services={"P": Probe()}),
    lambda: machine.call(Probe.pid).result(0),
    lambda: machine.retry_call(Probe.pid).result(0),
    lambda: machine.mem_info().result(0),
    lambda: machine.register("Q", Probe()).result(0),
    lambda: list(machine.stream("P.block")),
    lambda: cluster.dial(machine.addr),
):
    try:
        action()
    except bm.BigmachineError as error:
        pass
    else:
        raise AssertionError("nothing was raised")
machine.cancel()
machine.shutdown().result(1)
assert machine.wait(bm.State.STOPPED).result(0) is bm.State.STOPPED
assert cluster.machines == ()
say("afterwards")

# Single machines: cancelled and shut down before they are up, and twice.
with bm.start() as cluster:
    early, late, stopping = cluster.start(3, services={"P": Probe()})
    early.cancel()
    assert early.call(Probe.pid).exception(20).death.kind == "canceled"
    stopping.shutdown().result(20)
    assert stopping.err.death.kind == "shutdown"
    pid = late.call(Probe.pid).result(20)
    call = late.call(Probe.block)
    late.cancel()
    late.cancel()
    assert call.exception(20).death.kind == "canceled"
    assert late.wait(bm.State.RUNNING).result(20) is bm.State.STOPPED
    late.shutdown().result(20)
    assert late.call(Probe.pid).exception(20).death.kind == "canceled"
    while os.path.exists(f"/proc/{pid}") and open(f"/proc/{pid}/stat").read().split()[2] != "Z":
        time.sleep(0.01)
    assert cluster.machines == ()
    later, = cluster.start(1, services={"P": Probe()})
    assert later.call(Probe.echo, 1).result(20) == 1
    dialled = cluster.dial(later.addr)
    assert dialled.wait().result(20) is bm.State.RUNNING
    dialled.shutdown().result(20)
    assert later.wait(bm.State.STOPPED).result(20) is bm.State.STOPPED
say("machines")

# A signal handler that shuts down, in the middle of a shutdown.
with bm.start() as cluster:
    machine, = cluster.start(1, services={"P": Probe()})
    machine.call(Probe.pid).result(20)
    signal.signal(signal.SIGALRM, lambda *_: cluster.shutdown())
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    cluster.shutdown().result(20)
    signal.setitimer(signal.ITIMER_REAL, 0)
say("handler")

# In a done-callback, on the runtime's own thread.
done = threading.Event()
cluster = bm.start()
machine, = cluster.start(1, services={"P": Probe()})
machine.call(Probe.pid).add_done_callback(
    lambda _: cluster.shutdown().add_done_callback(lambda _: done.set())
)
assert done.wait(20)
say("callback")
"""


def test_a_cluster_is_shut_down_once_whoever_asks_and_whenever(tmp_path: Path) -> None:
    with driven(IN_MANY_WAYS, tmp_path) as program:
        for stage in (
            *("twice", "threads", "starting", "afterwards", "machines", "handler"),
            "callback",
        ):
            program.expect(f"^{stage}$")
        check_ended(program, tmp_path)
        assert program.stderr == ""


AGAIN = """
def count_threads():
    with open("/proc/self/status") as status:
        return int(re.search(r"Threads:\\s+(\\d+)", status.read())[1])


def leftovers():
    gc.collect()
    types = [type(each) for each in gc.get_objects()]
    tasks = sum(each is asyncio.Task for each in types)
    clusters = sum(each.__module__.startswith("bigmachine.driver") for each in types)
    end = time.monotonic() + 5
    while (threads := count_threads()) > 1 and time.monotonic() < end:
        time.sleep(0.01)  # one that has been joined may still be on its way out of the kernel
    return len(os.listdir("/proc/self/fd")), threads, tasks, clusters


seen = []
for number in range(20):
    with bm.start(Local(transport=("unix", "tls")[number % 2])) as cluster:
        machines = cluster.start(2, services={"P": Probe()})
        machines.running().result(20)
        dialled = cluster.dial(machines[0].addr)
        assert dialled.call("P.echo", number).result(20) == number
        assert [call.result(20) for call in machines.call(Probe.echo, number)] == [number] * 2
        assert machines[0].mem_info().result(20)
        del machines, dialled
    del cluster
    seen.append(leftovers())
say("seen", json.dumps(seen))
"""


def test_nothing_accumulates_in_a_driver_that_has_clusters_again_and_again(tmp_path: Path) -> None:
    with driven(AGAIN, tmp_path) as program:
        seen = program.record("seen", timeout=60)
        descriptors, threads, tasks, objects = zip(*seen[4:], strict=True)
        assert threads == (1,) * 16, seen
        assert tasks == (0,) * 16, seen
        assert max(descriptors) == descriptors[0], seen
        assert objects[-1] <= objects[0], seen
        check_ended(program, tmp_path)


SIDE_BY_SIDE = """
with bm.start(name="left") as left, bm.start(name="right") as right:
    both = [cluster.start(3, services={"P": Probe()}) for cluster in (left, right)]
    pids = [call.result(20) for machines in both for call in machines.call(Probe.pid)]
    assert len(set(pids)) == 6
    assert {left.name, right.name} == {"left", "right"}
    left.shutdown().result(20)
    assert [call.result(20) for call in both[1].call(Probe.echo, 1)] == [1] * 3
say("side by side")
for number in range(10):
    with bm.start() as cluster:
        machine, = cluster.start(1, services={"P": Probe()})
        assert machine.call(Probe.echo, number).result(20) == number
say("one after another")
clusters = [bm.start() for _ in range(3)]
for cluster in clusters:
    cluster.start(1, services={"P": Probe()})[0].call(Probe.write, "left open").result(20)
"""


def test_clusters_live_side_by_side_and_one_after_another(tmp_path: Path) -> None:
    with driven(SIDE_BY_SIDE, tmp_path) as program:
        program.expect("^side by side")
        program.expect("^one after another")
        check_ended(program, tmp_path)
        assert program.stdout.count("[m0] left open") == 3
