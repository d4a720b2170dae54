"""Machines that die in every way, and what their driver is told, and how soon."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bigmachine.host.memory import MemoryGroups

from .driven import SLACK, driven, exists, leftovers, wait_until

DEATH_SECONDS = 0.2
"""Within this time pending calls fail."""

WAYS = """
class Mortal(Probe):
    def segfault(self):
        print("about to read what is not there")
        ctypes.string_at(0)

    def leave(self, code):
        print("leaving in a hurry", flush=True)  # os._exit loses what is buffered
        os._exit(code)

    def exit(self, code):
        print("a clean way out")
        sys.exit(code)

    async def exit_async(self, code):
        sys.exit(code)

    def abort(self):
        os.abort()

    def native(self):
        ctypes.CDLL(None).printf(b"native %d\\n", ctypes.c_int(7))
        ctypes.CDLL(None).puts(b"puts has it")
        os.write(2, b"no newline at the end")
        os.kill(os.getpid(), signal.SIGKILL)

    def talk(self, count):
        for number in range(count):
            print("line", number)
        print("to stderr", file=sys.stderr)
        os.kill(os.getpid(), signal.SIGKILL)

    def kill(self, number):
        os.kill(os.getpid(), number)
        self.block()


class Refusing(Probe):
    def init(self, cluster):
        print("init begins")
        raise Special("no licence", code=7) from KeyError("licence")


class RefusingAsync(Probe):
    async def init(self, cluster):
        raise OSError(28, "no room")


class Leaving(Probe):
    def init(self, cluster):
        os._exit(9)


class Special(Exception):
    def __init__(self, text, *, code):
        super().__init__(text)
        self.code = code

    def __reduce__(self):
        return _special, (self.args[0], self.code)


def _special(text, code):
    return Special(text, code=code)


def told(error):
    death = error.death
    return {
        "type": type(error).__name__, "text": str(error), "kind": death.kind,
        "exit": death.exit_code, "signal": death.signal, "stack": death.stack,
        "output": death.output, "calls": death.calls, "cause": repr(error.__cause__),
        "cause_of_cause": repr(getattr(error.__cause__, "__cause__", None)),
    }


def die(name, machine, method, *args):
    error = machine.call(method, *args).exception(20)
    told_of = told(error) if isinstance(error, bm.MachineStoppedError) else {"type": repr(error)}
    say(name, json.dumps(told_of | {"state": machine.state.name, "err": str(machine.err)}))


with bm.start(output=lambda line: None) as cluster:
    one = lambda service=Mortal: cluster.start(1, services={"M": service()})[0]
    ways = {
        "segfault": (Mortal.segfault,), "leave": (Mortal.leave, 3), "exit": (Mortal.exit, 4),
        "exit_async": (Mortal.exit_async, 5), "abort": (Mortal.abort,), "native": (Mortal.native,),
        "talk": (Mortal.talk, 50), "sigkill": (Mortal.kill, 9), "sigterm": (Mortal.kill, 15),
        "exit_text": (Mortal.exit, "a reason"), "exit_none": (Mortal.exit, None),
    }
    machines = cluster.start(len(ways), services={"M": Mortal()})
    for machine, (name, (method, *args)) in zip(machines, ways.items()):
        die(name, machine, method, *args)
    die("init", one(Refusing), Refusing.pid)
    die("init_async", one(RefusingAsync), RefusingAsync.pid)
    die("init_leaves", one(Leaving), Leaving.pid)
    stopped = one()
    stopped.call(Mortal.pid).result(20)
    stopped.cancel()
    die("canceled", stopped, Mortal.pid)
    gone = one()
    gone.call(Mortal.pid).result(20)
    gone.shutdown().result(20)
    die("shutdown", gone, Mortal.pid)
    say("done", len(cluster.machines))
"""


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the driver was told of machines that died in many ways, by the way."""
    with driven(WAYS, tmp_path_factory.mktemp("ways")) as program:
        code = program.wait(60)
        assert code == 0, program.shown()
        lines = (line.split(" ", 1) for line in program.stdout.splitlines())
        records = {name: json.loads(rest) for name, rest in lines}
        assert "done" in records, program.shown()
        program.assert_gone()
        return records


@pytest.mark.parametrize(
    "way",
    [
        *("segfault", "leave", "exit", "exit_async", "abort", "native", "talk", "sigkill"),
        *("sigterm", "exit_text", "exit_none", "init", "init_async", "init_leaves", "canceled"),
        "shutdown",
    ],
)
def test_a_call_that_its_machine_does_not_survive_raises_the_death(
    ways: dict[str, Any], way: str
) -> None:
    record = ways[way]

    assert record["type"] == "MachineStoppedError"
    assert record["state"] == "STOPPED"
    assert record["err"] == record["text"]


def test_calls_that_waited_for_a_machine_are_not_told_as_its_own(ways: dict[str, Any]) -> None:
    assert ways["leave"]["calls"] == ["M.leave"]
    assert ways["init"]["calls"] == []


def test_a_segmentation_fault_is_named_and_shows_the_python_stack(ways: dict[str, Any]) -> None:
    record = ways["segfault"]

    assert (record["kind"], record["signal"]) == ("signal", "SIGSEGV")
    assert "killed by signal SIGSEGV" in record["text"]
    assert "in segfault" in record["stack"]
    assert "in segfault" in record["text"]
    assert record["output"] == ["about to read what is not there"]
    assert record["calls"] == ["M.segfault"]


def test_os_exit_says_its_exit_code(ways: dict[str, Any]) -> None:
    record = ways["leave"]

    assert (record["kind"], record["exit"]) == ("exit", 3)
    assert "exit code 3" in record["text"]
    assert "leaving in a hurry" in record["text"]


@pytest.mark.parametrize(
    ("way", "code"), [("exit", 4), ("exit_async", 5), ("exit_text", 1), ("exit_none", 0)]
)
def test_sys_exit_in_a_method_ends_the_machine_with_its_code(
    ways: dict[str, Any], way: str, code: int
) -> None:
    record = ways[way]

    assert (record["kind"], record["exit"]) == ("exit", code)
    assert f"exit code {code}" in record["text"]


def test_what_was_printed_before_sys_exit_is_in_the_text(ways: dict[str, Any]) -> None:
    assert "a clean way out" in ways["exit"]["text"]
    assert ways["exit_text"]["output"][-1] == "a reason"


@pytest.mark.parametrize(
    ("way", "name"), [("sigkill", "SIGKILL"), ("sigterm", "SIGTERM"), ("abort", "SIGABRT")]
)
def test_a_signal_is_named(ways: dict[str, Any], way: str, name: str) -> None:
    assert (ways[way]["kind"], ways[way]["signal"]) == ("signal", name)
    assert f"killed by signal {name}" in ways[way]["text"]


def test_the_last_lines_of_output_are_in_the_text(ways: dict[str, Any]) -> None:
    record = ways["talk"]

    assert [line for line in record["output"] if line != "to stderr"] == [
        f"line {number}" for number in range(31, 50)
    ]
    assert "to stderr" in record["output"]
    assert "line 49" in record["text"]


def test_output_of_native_code_is_among_the_last_lines(ways: dict[str, Any]) -> None:
    assert {"native 7", "puts has it", "no newline at the end"} <= set(ways["native"]["output"])


def test_an_init_that_raises_is_the_cause(ways: dict[str, Any]) -> None:
    record = ways["init"]

    assert record["kind"] == "init"
    assert "Special: no licence" in record["text"]
    assert record["cause"] == "Special('no licence')"
    assert record["cause_of_cause"] == "KeyError('licence')"
    assert "init begins" in record["output"]


def test_an_async_init_that_raises_is_the_cause(ways: dict[str, Any]) -> None:
    record = ways["init_async"]

    assert (record["kind"], record["cause"]) == ("init", "OSError(28, 'no room')")


def test_an_init_that_ends_the_process_is_an_exit(ways: dict[str, Any]) -> None:
    assert (ways["init_leaves"]["kind"], ways["init_leaves"]["exit"]) == ("exit", 9)


def test_machines_that_the_program_ended_say_so(ways: dict[str, Any]) -> None:
    assert ways["canceled"]["kind"] == "canceled"
    assert ways["shutdown"]["kind"] == "shutdown"


def test_dead_machines_are_in_no_snapshot(ways: dict[str, Any]) -> None:
    assert ways["done"] == 0


TIMES = """
def told(error):
    return time.monotonic(), type(error).__name__, str(error.death.kind), error.death.signal


class Relay(Probe):
    def watch(self, other):
        call = other.call("P.block")
        other.call("P.echo", 1).result(20)  # it came after that one
        yield "pending"
        yield told(call.exception(30))

    def stream(self):
        yield 1
        self.block()


def streamed(stream):
    try:
        for item in stream:
            pass
    except bm.MachineStoppedError as error:
        return told(error)


def pending(machine):
    call = machine.call("P.block")
    machine.call("P.echo", 1).result(20)
    return call


def watched(relay, machine):
    stream = relay.stream(Relay.watch, machine)
    assert next(stream) == "pending"
    return stream


def report(name, killed, outcome):
    say(name, json.dumps([outcome[0] - killed, *outcome[1:]]))


with bm.start(Local(transport=sys.argv[1])) as cluster, bm.start(Local()) as other_cluster:
    victims = cluster.start(6, services={"P": Relay()})
    relay, = cluster.start(1, services={"R": Relay()})
    stranger, = other_cluster.start(1, services={"R": Relay()})
    victims.call(Probe.pid)
    relay.call(Probe.pid).result(20)
    pids = [each.call(Probe.pid).result(20) for each in victims]

    def kill(index):
        os.kill(pids[index], signal.SIGKILL)
        return time.monotonic()

    call = pending(victims[0])
    report("call", kill(0), told(call.exception(20)))
    watching = watched(relay, victims[1])
    report("relayed", kill(1), next(watching))
    call = pending(cluster.dial(victims[2].addr))
    report("dialled", kill(2), told(call.exception(20)))
    if sys.argv[1] == "unix":
        call = pending(other_cluster.dial(victims[3].addr))
        report("foreign", kill(3), told(call.exception(20)))
        watching = watched(stranger, victims[4])
        report("foreign_relayed", kill(4), next(watching))
    stream = victims[5].stream(Relay.stream)
    next(stream)
    report("stream", kill(5), streamed(stream))
    say("waited", json.dumps([each.wait(bm.State.STOPPED).result(10).name for each in victims[:3]]))
"""


@pytest.mark.parametrize("transport", ["unix", "tls"])
def test_pending_calls_of_a_killed_machine_fail_at_once_whoever_made_them(
    tmp_path: Path, transport: str
) -> None:
    with driven(TIMES, tmp_path, transport) as program:
        names = ["call", "relayed", "dialled", "foreign", "foreign_relayed", "stream"]
        if transport == "tls":
            names = [name for name in names if not name.startswith("foreign")]
        for name in names:
            seconds, error, kind, signal_name = program.record(name)
            shown = f"{name} {program.shown()}"
            assert (error, kind, signal_name) == ("MachineStoppedError", "signal", "SIGKILL"), shown
            assert seconds < DEATH_SECONDS * SLACK, shown
        assert program.record("waited") == ["STOPPED"] * 3
        assert program.wait() == 0, program.shown()
        program.assert_gone()


GREEDY = """
class Greedy(Probe):
    def eat(self, group):
        print("so hungry")
        with open(group + "/cgroup.procs", "w") as file:
            file.write("0")
        self.taken = bytearray(256 << 20)


with bm.start() as cluster:
    greedy, sober = cluster.start(2, services={"G": Greedy()})
    error = greedy.call(Greedy.eat, sys.argv[1]).exception(20)
    say("oom", json.dumps([error.death.kind, error.death.signal, str(error)]))
    say("other", json.dumps(sober.call(Greedy.echo, "lives").result(20)))
"""


@pytest.fixture
def memory_group() -> Iterator[Path]:
    """A control group with little memory."""
    own = MemoryGroups().of(os.getpid())
    if own is None:
        pytest.skip("there is no memory controller here")
    path = Path(own.directories[0]) / f"bigmachine-deaths-{os.getpid()}"
    try:
        path.mkdir()
        name = "memory.limit_in_bytes" if own.version == 1 else "memory.max"
        (path / name).write_text(str(96 << 20))
    except OSError as error:
        with contextlib.suppress(OSError):
            path.rmdir()
        pytest.skip(f"no control group with a limit can be made here: {error}")
    yield path
    path.rmdir()


def test_a_machine_that_the_kernel_killed_for_memory_says_so(
    tmp_path: Path, memory_group: Path
) -> None:
    with driven(GREEDY, tmp_path, str(memory_group)) as program:
        kind, signal_name, text = program.record("oom")
        assert (kind, signal_name) == ("oom", "SIGKILL"), text
        assert "out of memory" in text
        assert "so hungry" in text
        assert program.record("other") == "lives"
        assert program.wait() == 0, program.shown()
        program.assert_gone()


PARENT = """
class Parent(Probe):
    def leave_children(self):
        sleep = ["sleep", "600"]
        plain = subprocess.Popen(sleep)
        apart = subprocess.Popen(sleep, start_new_session=True)
        bare = subprocess.Popen(sleep, start_new_session=True, env={})
        orphan = subprocess.run(
            ["sh", "-c", "setsid sleep 600 >/dev/null 2>&1 </dev/null & echo $!"],
            stdout=subprocess.PIPE, check=True,
        )
        return [plain.pid, apart.pid, bare.pid, int(orphan.stdout)]


with bm.start() as cluster:
    parent, other = cluster.start(2, services={"P": Parent()})
    say("children", json.dumps(parent.call(Parent.leave_children).result(20)))
    say("others", json.dumps(other.call(Parent.leave_children).result(20)))
    how = listen()
    if how == "kill":
        os.kill(parent.call(Parent.pid).result(20), signal.SIGKILL)
    elif how == "shutdown":
        parent.shutdown().result(20)
    else:
        parent.cancel()
    say("stopped", parent.wait(bm.State.STOPPED).result(20))
    say("alive", other.call(Parent.echo, 1).result(20))
    listen()
"""


@pytest.mark.parametrize("how", ["kill", "shutdown", "cancel"])
def test_the_descendants_of_a_machine_end_with_it_and_no_others(tmp_path: Path, how: str) -> None:
    with driven(PARENT, tmp_path) as program:
        children, others = program.record("children"), program.record("others")
        assert all(map(exists, children + others))
        program.tell(how)
        program.expect("^stopped")
        program.expect("^alive")
        _wait_for_the_end_of(children, 1.0 * SLACK)
        assert all(map(exists, others)), program.shown()
        program.tell("end")
        assert program.wait() == 0
        program.assert_gone()
        _wait_for_the_end_of(others, 1.0 * SLACK)


HOST_LOST = """
class Parent(Probe):
    def leave_child(self):
        return subprocess.Popen(["sleep", "600"], start_new_session=True, env={}).pid


with bm.start(Local(transport=sys.argv[1])) as cluster:
    machines = cluster.start(3, services={"P": Parent()})
    pids = [each.call(Parent.pid).result(20) for each in machines]
    children = [each.call(Parent.leave_child).result(20) for each in machines]
    calls = [each.call(Parent.block) for each in machines]
    say("ready", json.dumps(pids + children))
    listen()
    errors = [call.exception(20) for call in calls]
    say("errors", json.dumps([[error.death.kind, str(error)] for error in errors]))
    try:
        again, = cluster.start(1, services={"P": Probe()})
        say("again", again.call(Probe.echo, "a new host").result(20))
    except bm.BigmachineError as error:
        say("again", error)
"""


@pytest.mark.parametrize("transport", ["unix", "tls"])
def test_a_killed_supervisor_takes_its_machines_along_and_the_driver_says_host(
    tmp_path: Path, transport: str
) -> None:
    with driven(HOST_LOST, tmp_path, transport) as program:
        pids = program.record("ready")
        supervisor = program.supervisors()[0].pid
        os.kill(supervisor, signal.SIGKILL)
        _wait_for_the_end_of(pids, 1.0 * SLACK)
        program.tell("go")
        for kind, text in program.record("errors"):
            assert kind == "host", text
            assert "SIGKILL" in text
        assert program.expect(r"^again (.*)$")[1] == "a new host"
        assert program.wait() == 0, program.shown()
        program.assert_gone()
        assert leftovers(tmp_path) == []


TEMPLATE_LOST = """
with bm.start() as cluster:
    first, = cluster.start(1, services={"P": Probe()})
    say("ready", json.dumps(first.call(Probe.pid).result(20)))
    listen()
    later = cluster.start(2, services={"P": Probe()})
    for each in later:
        say("later", each.call(Probe.echo, "up").result(20))
    say("first", first.call(Probe.echo, "up").result(20))
"""


def test_a_killed_template_is_replaced_and_its_machines_go_on(tmp_path: Path) -> None:
    with driven(TEMPLATE_LOST, tmp_path) as program:
        machine = program.record("ready")
        (template,) = (each.pid for each in program.hosted() if each.pid != machine)
        os.kill(template, signal.SIGKILL)
        _wait_for_the_end_of([template], 1.0 * SLACK)
        program.tell("go")
        for name in ("later", "later", "first"):
            assert program.expect(rf"^{name} (.*)$")[1] == "up"
        assert program.wait() == 0, program.shown()
        program.assert_gone()


def _wait_for_the_end_of(pids: list[int], timeout: float) -> None:
    wait_until(lambda: not any(map(exists, pids)), timeout)
