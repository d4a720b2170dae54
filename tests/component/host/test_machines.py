"""Machines without a user's main program, from launch to death, under a real supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import textwrap
import time
from collections.abc import Awaitable, Callable

import psutil
import pytest
from hosting import SLACK, Hosting, hosting
from services_for_tests import Brittle, Broken, Closing, Probe, Slow

from bigmachine.death import DeathKind
from bigmachine.errors import MachineStoppedError, TransportError
from bigmachine.host.messages import EventKind
from bigmachine.info import digest_of, local_info
from bigmachine.rpc import codec
from bigmachine.rpc.exceptions import decode_exception


def run(test: Callable[[Hosting], Awaitable[None]]) -> None:
    """Run a test with a supervisor, and shut that down."""

    async def main() -> None:
        async with hosting() as host:
            await test(host)
            if host.process.poll() is None:
                await host.shutdown()

    asyncio.run(main())


async def evaluate(host: Hosting, machine: str, source: str) -> object:
    return await host.call(machine, "Probe.evaluate", textwrap.dedent(source))


async def start_one(host: Hosting) -> str:
    (machine,) = await host.launch(1, {"Probe": Probe()})
    await host.wait_ready(machine)
    return machine


def test_machines_serve_and_end_with_the_supervisor() -> None:
    async def test(host: Hosting) -> None:
        machines = await host.launch(3, {"Probe": Probe()}, maxprocs=2)
        ready = await host.wait_ready(*machines)
        assert [event.maxprocs for event in ready] == [2, 2, 2]
        assert ready[0].hostname == os.uname().nodename
        pids = [await host.call(each, "Probe.pid") for each in machines]
        assert len(set(pids)) == 3
        started = [await host.wait_event(each, EventKind.STARTED) for each in machines]
        assert [event.pid for event in started] == pids
        assert all(psutil.Process(pid).ppid() == host.process.pid for pid in pids)
        await host.shutdown()
        assert host.process.returncode == 0
        assert [(await host.wait_death(each)).kind for each in machines] == ["shutdown"] * 3
        assert not any(psutil.pid_exists(pid) for pid in pids)

    run(test)


def test_a_machine_leads_a_session_and_reads_nothing() -> None:
    async def test(host: Hosting) -> None:
        machine = await start_one(host)
        source = """
            import os, sys, signal
            result = (os.getsid(0) == os.getpid(), sys.stdin.read(), os.getpgid(0) == os.getpid(),
                      signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
                      signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)
        """
        assert await evaluate(host, machine, source) == (True, "", True, True, True)

    run(test)


def test_what_init_raised_is_told() -> None:
    async def test(host: Hosting) -> None:
        (machine,) = await host.launch(1, {"Broken": Broken()})
        event = await host.wait_event(machine, EventKind.DIED)
        assert event.death is not None
        assert event.death.kind is DeathKind.INIT
        assert event.death.detail == "ZeroDivisionError: no divisor today"
        assert event.init_error is not None
        assert isinstance(decode_exception(event.init_error), ZeroDivisionError)

    run(test)


def test_a_service_that_cannot_be_rebuilt_fails_as_init_does() -> None:
    async def test(host: Hosting) -> None:
        (machine,) = await host.launch(1, {"Brittle": Brittle()})
        death = await host.wait_death(machine)
        assert death.kind is DeathKind.INIT
        assert "it broke on the way" in death.detail

    run(test)


@pytest.mark.parametrize(
    ("source", "kind", "text"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "signal", "SIGKILL"),
        ("import os; os._exit(3)", "exit", "exit code 3"),
        ("import sys; sys.exit(4)", "exit", "exit code 4"),
        ("import ctypes; ctypes.string_at(0)", "signal", "SIGSEGV"),
        ("import os; os.abort()", "signal", "SIGABRT"),
    ],
)
def test_what_ended_a_machine_is_told_with_its_last_lines(
    source: str, kind: str, text: str
) -> None:
    async def test(host: Hosting) -> None:
        machine = await start_one(host)
        began = time.monotonic()
        host.client(machine).call("Probe.evaluate", (f"print('the last words'); {source}",))
        death = await host.wait_death(machine)
        assert time.monotonic() - began < 2
        assert death.kind == kind
        assert text in str(death)
        assert "the last words" in death.output
        assert death.peak_memory_bytes is not None
        assert death.peak_memory_bytes > 1 << 20
        if text in ("SIGSEGV", "SIGABRT"):
            assert "in evaluate" in death.stack
        with pytest.raises(MachineStoppedError, match=text):
            await host.call_host("Supervisor.Ping", machine)

    run(test)


def test_all_that_was_written_before_a_death_arrives() -> None:
    async def test(host: Hosting) -> None:
        machine = await start_one(host)
        source = """
            import os
            for i in range(20000):
                print("line", i)
            os.write(2, b"unfinished")
            os._exit(0)
        """
        host.client(machine).call("Probe.evaluate", (textwrap.dedent(source),))
        death = await host.wait_death(machine)
        assert death.output[-1] == "unfinished" or "unfinished" in death.output
        await host.shutdown()
        lines = bytes(host.output[machine, "stdout"]).decode().splitlines()
        assert lines == [f"line {i}" for i in range(20000)]
        assert bytes(host.output[machine, "stderr"]) == b"unfinished"

    run(test)


DESCENDANTS = """
    import os, subprocess, sys
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    result = [subprocess.Popen(sleep).pid]                               # a child
    result.append(subprocess.Popen(sleep, start_new_session=True).pid)   # in a session of its own
    result.append(subprocess.Popen(sleep, start_new_session=True, env={}).pid)
    read, write = os.pipe()
    if os.fork() == 0:                                                   # a daemon: twice forked
        os.setsid()
        if os.fork() == 0:
            os.write(write, str(os.getpid()).encode())
            os.execve(sys.executable, sleep, {})
        os._exit(0)
    result.append(int(os.read(read, 20)))
    if os.fork() == 0:                                                   # never executes anything
        os.setsid()
        if os.fork() == 0:
            os.write(write, str(os.getpid()).encode())
            import time
            time.sleep(600)
        os._exit(0)
    result.append(int(os.read(read, 20)))
"""


async def wait_gone(pids: list[int], seconds: float) -> None:
    end = time.monotonic() + seconds
    while any(map(is_running, pids)):
        assert time.monotonic() < end, [pid for pid in pids if is_running(pid)]
        await asyncio.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_descendants_die_with_their_machine_and_with_no_other() -> None:
    async def test(host: Hosting) -> None:
        first, second = await host.launch(2, {"Probe": Probe()})
        await host.wait_ready(first, second)
        of_first = await evaluate(host, first, DESCENDANTS)
        of_second = await evaluate(host, second, DESCENDANTS)
        assert isinstance(of_first, list)
        assert isinstance(of_second, list)
        assert all(map(is_running, of_first + of_second))
        await host.call_host("Host.kill", first, "canceled")
        death = await host.wait_death(first)
        assert death.kind is DeathKind.CANCELED
        await wait_gone(of_first, 1.0 * SLACK)
        assert all(map(is_running, of_second))
        assert await host.call(second, "Probe.pid")
        await host.shutdown()
        await wait_gone(of_second, 0.5 * SLACK)

    run(test)


def test_a_descendant_that_holds_the_output_delays_no_report() -> None:
    async def test(host: Hosting) -> None:
        machine = await start_one(host)
        source = """
            import os, signal, subprocess, sys
            subprocess.Popen(["sleep", "600"], start_new_session=True)
            os.kill(os.getpid(), signal.SIGKILL)
        """
        began = time.monotonic()
        host.client(machine).call("Probe.evaluate", (textwrap.dedent(source),))
        await host.wait_death(machine)
        assert time.monotonic() - began < 0.2 * SLACK

    run(test)


def test_children_of_a_machine_that_lost_their_parent_are_reaped() -> None:
    async def test(host: Hosting) -> None:
        machine = await start_one(host)
        source = """
            import subprocess
            command = ["sh", "-c", "sleep 600 > /dev/null & echo $!"]
            result = int(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
        """
        orphan = psutil.Process(await evaluate(host, machine, source))
        assert orphan.ppid() == host.process.pid
        orphan.kill()
        end = time.monotonic() + 5
        while orphan.is_running():  # also as a zombie
            assert time.monotonic() < end
            await asyncio.sleep(0.01)

    run(test)


def test_a_graceful_end_closes_services_and_runs_exit_handlers() -> None:
    async def test(host: Hosting) -> None:
        (machine,) = await host.launch(1, {"Probe": Probe(), "A": Closing("a"), "B": Closing("b")})
        await host.wait_ready(machine)
        source = "import atexit; atexit.register(print, 'exit handler')"
        await evaluate(host, machine, source)
        await host.call_host("Host.stop", machine, 5.0)
        death = await host.wait_death(machine)
        assert (death.kind, death.exit_code) == ("shutdown", 0)
        assert set(death.output) == {"closed a", "closed b", "exit handler"}
        assert death.output[-1] == "exit handler"

    run(test)


STUCK = "import ctypes; print('stuck', flush=True); ctypes.PyDLL(None).sleep(60)"
DEAF = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32)); import time; "


def test_shutdown_is_bounded_and_shows_where_a_machine_was_stuck() -> None:
    async def test(host: Hosting) -> None:
        stuck, deaf = await host.launch(2, {"Probe": Probe()})
        await host.wait_ready(stuck, deaf)
        host.client(stuck).call("Probe.evaluate", (STUCK,))
        host.client(deaf).call("Probe.evaluate", (DEAF + "print('deaf'); time.sleep(60)",))
        await host.wait_output(stuck, "stuck")
        await host.wait_output(deaf, "deaf")
        began = time.monotonic()
        await host.shutdown(2.0)
        assert time.monotonic() - began < 2.0 * SLACK
        death = await host.wait_death(stuck)
        assert (death.kind, death.signal) == ("shutdown", "SIGKILL")
        assert "in evaluate" in death.stack
        assert "_sleep" not in death.stack
        assert (await host.wait_death(deaf)).kind is DeathKind.SHUTDOWN

    run(test)


def test_many_idle_machines_end_at_once() -> None:
    async def test(host: Hosting) -> None:
        machines = await host.launch(32, {"Probe": Probe()})
        await host.wait_ready(*machines)
        began = time.monotonic()
        await host.shutdown()
        assert time.monotonic() - began < 0.5 * SLACK

    run(test)


def test_a_machine_whose_init_hangs_can_be_stopped() -> None:
    async def test(host: Hosting) -> None:
        plain, asynchronous = [(await host.launch(1, {"S": Slow(kind)}))[0] for kind in ("p", "a")]
        for machine in (plain, asynchronous):
            await host.wait_output(machine, "init begins")
            began = time.monotonic()
            await host.call_host("Host.stop", machine, 5.0)
            assert time.monotonic() - began < 1.0 * SLACK
            assert (await host.wait_death(machine)).kind is DeathKind.SHUTDOWN

    run(test)


def test_a_busy_machine_is_measured_from_outside() -> None:
    async def test(host: Hosting) -> None:
        machine = await start_one(host)
        host.client(machine).call("Probe.evaluate", (STUCK,))
        await host.wait_output(machine, "stuck")
        await host.call_host("Supervisor.MemInfo", machine)  # imports, the first time
        began = time.monotonic()
        info = await host.call_host("Supervisor.MemInfo", machine)
        assert time.monotonic() - began < 0.1 * SLACK
        assert info.machine.rss_bytes > 1 << 20
        assert (await host.call_host("Supervisor.DiskInfo", machine)).total_bytes > 0
        assert (await host.call_host("Supervisor.LoadInfo", machine)).cpus == os.cpu_count()
        assert await host.call_host("Supervisor.Ping", machine, 7) == 7
        described = await host.call_host("Supervisor.Info", machine)
        assert described == local_info(digest=digest_of(""))
        await host.call_host("Host.kill", machine, "canceled")

    run(test)


def test_services_are_added_to_a_running_machine_once() -> None:
    async def test(host: Hosting) -> None:
        machine = await start_one(host)
        service = codec.encode(Closing("late"))
        assert await host.call_host("Supervisor.Register", machine, "Late", service) is True
        assert await host.call(machine, "Late.name") == "late"
        assert await host.call_host("Supervisor.Register", machine, "Late", service) is False
        broken = codec.encode(Broken())
        with pytest.raises(ZeroDivisionError, match="no divisor"):
            await host.call_host("Supervisor.Register", machine, "Broken", broken)
        figures = await host.call_host("Supervisor.MemInfo", machine, True)
        assert figures.runtime.threads >= 1
        assert await host.call_host("Supervisor.Expvars", machine) == {}

    run(test)


def test_the_environment_is_changed_as_asked() -> None:
    async def test(host: Hosting) -> None:
        env = {"NEW_NAME": "value", "HOME": None}
        environ = dict(os.environ)
        (machine,) = await host.launch(1, {"Probe": Probe()}, env=env, environ=environ)
        await host.wait_ready(machine)
        source = "import os; result = dict(os.environ)"
        expected = {k: v for k, v in os.environ.items() if k != "HOME"} | {"NEW_NAME": "value"}
        assert await evaluate(host, machine, source) == expected

    run(test)


def test_limits_are_the_drivers() -> None:
    async def test(host: Hosting) -> None:
        machine = await start_one(host)
        source = """
            import resource
            result = [resource.getrlimit(getattr(resource, name)) for name in names]
        """
        names = ["RLIMIT_NOFILE", "RLIMIT_STACK", "RLIMIT_AS", "RLIMIT_CORE", "RLIMIT_NPROC"]
        found = await evaluate(host, machine, f"names = {names}\n" + textwrap.dedent(source))
        import resource

        assert found == [resource.getrlimit(getattr(resource, name)) for name in names]

    run(test)


def test_random_numbers_differ() -> None:
    async def test(host: Hosting) -> None:
        machines = await host.launch(4, {"Probe": Probe()})
        await host.wait_ready(*machines)
        source = "import random; result = random.random()"
        drawn = [await evaluate(host, machine, source) for machine in machines]
        assert len(set(drawn)) == 4

    run(test)


def test_an_unknown_machine_is_refused_and_so_is_an_unknown_service() -> None:
    async def test(host: Hosting) -> None:
        with pytest.raises(MachineStoppedError, match="no machine 'nobody'"):
            await host.call_host("Supervisor.Ping", "nobody", 1)
        with pytest.raises(TransportError):
            await host.call("nobody", "Probe.pid")

    run(test)


def test_a_peer_that_does_not_say_for_whom_it_comes_is_dropped() -> None:
    async def test(host: Hosting) -> None:
        path = host.ready["address"].removeprefix("unix:").partition("#")[0]
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"GET / HTTP/1.1\r\n" + b"\r\n" * 40)
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()

    run(test)


def test_sigterm_ends_the_supervisor_gracefully() -> None:
    async def test(host: Hosting) -> None:
        (machine,) = await host.launch(1, {"A": Closing("a")})
        await host.wait_ready(machine)
        host.process.send_signal(signal.SIGTERM)
        death = await host.wait_death(machine)
        assert death.kind is DeathKind.SHUTDOWN
        assert death.output == ("closed a",)
        host.close()
        assert await host.wait_end() == 0

    run(test)


def test_a_launch_that_is_stopped_at_once_leaves_nothing() -> None:
    async def test(host: Hosting) -> None:
        machines = await host.launch(3, {"Probe": Probe()})
        await host.shutdown()
        assert [(await host.wait_death(each)).kind for each in machines] == ["shutdown"] * 3

    run(test)
