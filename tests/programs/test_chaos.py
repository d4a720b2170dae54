"""Whatever is killed, stopped, cancelled or shut down, in any order, while calls run: each ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from .driven import driven, leftovers

CHAOS = """
import random

chosen = random.Random(int(sys.argv[1]))
seconds, transport = float(sys.argv[2]), sys.argv[3]
end = time.monotonic() + seconds
lock = threading.Lock()
machines, pending, errors, done = [], [], [], [0, 0]


class Busy(Probe):
    def work(self, seconds, payload):
        time.sleep(seconds)
        return payload

    async def work_async(self, seconds, payload):
        await asyncio.sleep(seconds)
        return payload

    def count(self, n):
        for number in range(n):
            yield number
            time.sleep(0.001)

    def ask(self, other):
        return other.call("B.work_async", 0.01, "asked").result(20)


def note(error):
    with lock:
        if error is None:
            done[0] += 1
        elif isinstance(error, bm.MachineStoppedError):
            done[1] += 1
        elif isinstance(error, bm.TransportError) and bm.is_remote(error) and transport == "tls":
            done[1] += 1  # from a machine, that cannot know of another one's host more than that
        else:
            errors.append(repr(error))


def pick(random_numbers):
    with lock:
        return random_numbers.choice(machines)


def check(call, *args):
    try:
        call(*args)
    except BaseException as error:
        note(error)
    else:
        note(None)


def call_from_thread(seed):
    numbers = random.Random(seed)
    while time.monotonic() < end:
        machine, other = pick(numbers), pick(numbers)
        payload = bytes(numbers.choice((0, 10, 300_000)))
        way = numbers.randrange(5)
        if way == 0:
            check(lambda: machine.call(Busy.work, 0.005, payload).result(20))
        elif way == 1:
            futures = [machine.call(Busy.work_async, 0.02, payload) for _ in range(20)]
            for future in futures:
                check(future.result, 20)
        elif way == 2:
            check(lambda: list(machine.stream(Busy.count, 30)))
        elif way == 3:
            check(lambda: machine.mem_info().result(20))
        else:
            check(lambda: machine.call(Busy.ask, other).result(20))


async def call_from_loop(seed):
    numbers = random.Random(seed)
    while time.monotonic() < end:
        futures = [pick(numbers).call(Busy.work_async, 0.01, n) for n in range(10)]
        for error in await asyncio.gather(*futures, return_exceptions=True):
            note(error if isinstance(error, BaseException) else None)


def processes(pid):
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as children:
            found += map(int, children.read().split())
    return found


def disturb(cluster):
    way = chosen.choice(["kill"] * 4 + ["stop", "cancel", "shutdown", "template", "supervisor"])
    machine = pick(chosen)
    try:
        if way == "kill":
            os.kill(machine.call("Supervisor.Getpid").result(20), signal.SIGKILL)
        elif way == "stop":
            pid = machine.call("Supervisor.Getpid").result(20)
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.05)
            os.kill(pid, signal.SIGCONT)
        elif way == "cancel":
            machine.cancel()
        elif way == "shutdown":
            machine.shutdown().result(20)
        else:
            for supervisor in processes(os.getpid()):
                if way == "supervisor":
                    os.kill(supervisor, signal.SIGKILL)
                else:
                    known = {each._handle.pid for each in machines}
                    for pid in set(processes(supervisor)) - known:
                        os.kill(pid, signal.SIGKILL)
    except (bm.BigmachineError, ProcessLookupError, FileNotFoundError):
        pass
    with lock:
        lost = [each for each in machines if each.state is bm.State.STOPPED]
        machines[:] = [each for each in machines if each.state is not bm.State.STOPPED]
        machines.extend(cluster.start(max(len(lost), 6 - len(machines), 1), services={"B": Busy()}))


with bm.start(Local(transport=transport)) as cluster:
    machines.extend(cluster.start(6, services={"B": Busy()}))
    threads = [threading.Thread(target=call_from_thread, args=(seed,)) for seed in range(3)]
    threads.append(threading.Thread(target=lambda: asyncio.run(call_from_loop(9))))
    for thread in threads:
        thread.start()
    while time.monotonic() < end:
        disturb(cluster)
        time.sleep(0.05)
    for thread in threads:
        thread.join(30)
    say("hung", json.dumps([thread.name for thread in threads if thread.is_alive()]))
    say("errors", json.dumps(sorted(set(errors))[:5]))
    say("done", json.dumps(done))
"""


def check_chaos(tmp_path: Path, seed: int, seconds: float, transport: str) -> None:
    with driven(CHAOS, tmp_path, str(seed), str(seconds), transport) as program:
        assert program.record("hung", timeout=seconds + 60) == []
        assert program.record("errors") == []
        answered, died = program.record("done")
        assert answered > 10 * seconds
        assert died > 0
        assert program.wait() == 0, program.shown()
        program.assert_gone()
        assert leftovers(tmp_path) == []


@pytest.mark.parametrize("transport", ["unix", "tls"])
def test_every_call_ends_with_an_answer_or_a_death(tmp_path: Path, transport: str) -> None:
    check_chaos(tmp_path, 1, 3.0, transport)


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "transport"), [(2, "unix"), (3, "tls"), (4, "unix"), (5, "tls")])
def test_every_call_ends_in_long_chaos(tmp_path: Path, seed: int, transport: str) -> None:
    check_chaos(tmp_path, seed, 20.0, transport)
