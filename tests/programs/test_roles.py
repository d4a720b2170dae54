"""Who is a driver, who is a machine, and who is neither: children of both."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .conftest import RunProgram


def test_a_process_is_what_it_was_started_as(run_program: RunProgram) -> None:
    ran = run_program(
        """
        import json, multiprocessing, subprocess, sys
        import bigmachine as bm

        NESTED = '''
        import bigmachine as bm
        class Inner:
            def answer(self): return 42
        with bm.start() as cluster:
            machine, = cluster.start(1, services={"I": Inner()})
            print(bm.is_driver(), machine.call(Inner.answer).result(20))
        '''

        def nested():
            return subprocess.run([sys.executable, "-c", NESTED], capture_output=True, text=True)

        def refusal(function, *args, **kwargs):
            try:
                function(*args, **kwargs)
            except bm.UsageError as error:
                return str(error)

        def forked(send):
            class Deep:
                def answer(self): return 7
            with bm.start(program="bare") as cluster:
                machine, = cluster.start(1, services={"D": Deep()})
                send.send((bm.is_driver(), machine.call("D.answer").result(20)))

        class Outer:
            def look(self):
                here = bm.current()
                ran = nested()
                return {
                    "is_driver": bm.is_driver(),
                    "cluster.is_driver": here.cluster.is_driver,
                    "start": refusal(bm.start),
                    "cluster.start": refusal(here.cluster.start, 1, services={"O": Outer()}),
                    "subprocess": ran.stdout + ran.stderr,
                }

            def fork(self):
                context = multiprocessing.get_context("fork")
                receive, send = context.Pipe(False)
                child = context.Process(target=forked, args=(send,))
                child.start()
                answer = receive.recv() if receive.poll(20) else None
                child.join(10)
                return answer, child.exitcode

        before = bm.is_driver()
        if __name__ == "__main__":
            with bm.start() as cluster:
                machine, = cluster.start(1, services={"O": Outer()})
                told = machine.call(Outer.look).result(40)
                told["forked"] = machine.call(Outer.fork).result(40)
                print(json.dumps(told | {"driver": [before, bm.is_driver(), cluster.is_driver]}))
        """
    )

    told = json.loads(ran.stdout)
    assert told["driver"] == [True, True, True]
    assert (told["is_driver"], told["cluster.is_driver"]) == (False, False)
    assert "was called on a machine" in told["start"]
    assert "machines cannot start machines" in told["cluster.start"]
    assert told["subprocess"] == "True 42\n"
    assert told["forked"] == [[True, 7], 0]


def test_a_forked_child_cannot_use_the_cluster_and_leaves_it_alone(
    run_program: RunProgram,
) -> None:
    ran = run_program(
        """
        import multiprocessing, os, sys
        import bigmachine as bm

        class Service:
            def double(self, n): return 2 * n

        def refused(function, *args, **kwargs):
            try:
                result = function(*args, **kwargs)
                if isinstance(result, bm.Future):
                    result.result(5)
            except bm.UsageError as error:
                return "fork" in str(error)
            except Exception as error:
                return repr(error)
            return "nothing was raised"

        def check():
            return [
                refused(cluster.start, 1, services={"S": Service()}),
                refused(machine.call, Service.double, 1),
                refused(machine.call, "S.double", 1),
                refused(machine.mem_info),
                refused(machine.shutdown),
                refused(lambda: list(machine.stream("S.stream"))),
                refused(cluster.dial, machine.addr),
                refused(later.wait, bm.State.STOPPED),
            ]

        def in_child(send):
            send.send(check())

        with bm.start() as cluster:
            machine, later = cluster.start(2, services={"S": Service()}).running().result(20)
            assert machine.call(Service.double, 1).result(20) == 2
            pid = os.fork()
            if pid == 0:
                with cluster:
                    answers = check()
                cluster.shutdown().result(5)
                sys.stdout.write(f"child {answers}\\n")
                sys.exit(0)  # its exit handlers run
            assert os.waitpid(pid, 0)[1] == 0
            context = multiprocessing.get_context("fork")
            receive, send = context.Pipe(False)
            process = context.Process(target=in_child, args=(send,))
            process.start()
            print("process", receive.recv())
            process.join()
            with context.Pool(1) as pool:
                print("pool", pool.apply(abs, (-1,)))
            print("driver", machine.call(Service.double, 21).result(20), later.state.name)
        """,
        timeout=90,
    )

    good = [True] * 8
    assert ran.stdout.splitlines() == [
        f"child {good}",
        f"process {good}",
        "pool 1",
        "driver 42 RUNNING",
    ]


def test_a_forked_child_may_have_a_cluster_of_its_own(run_program: RunProgram) -> None:
    ran = run_program(
        """
        import os, sys
        import bigmachine as bm

        class Service:
            def double(self, n): return 2 * n

        def work(n):
            with bm.start(program="bare") as cluster:
                machine, = cluster.start(1, services={"S": Service()})
                print(machine.call(Service.double, n).result(20), flush=True)
                if n == 1 and (pid := os.fork()) == 0:
                    work(2)
                    os._exit(0)
                elif n == 1:
                    assert os.waitpid(pid, 0)[1] == 0
                    print(machine.call(Service.double, 3).result(20), flush=True)

        work(1)
        """
    )

    assert ran.stdout.split() == ["2", "4", "6"]


def test_a_spawned_child_that_runs_an_unguarded_script_again_is_told_of_the_guard(
    run_program: RunProgram,
) -> None:
    ran = run_program(
        """
        import multiprocessing
        import bigmachine as bm

        class Service:
            def double(self, n): return 2 * n

        with bm.start() as cluster:
            machine, = cluster.start(1, services={"S": Service()})
            process = multiprocessing.get_context("spawn").Process(target=print, args=("never",))
            process.start()
            process.join()
            print(process.exitcode, machine.call(Service.double, 4).result(20))
        """
    )

    assert ran.stdout == "1 8\n"
    assert "UsageError" in ran.stderr
    assert "if __name__ == '__main__':" in ran.stderr


def test_a_spawned_child_may_be_a_driver(run_program: RunProgram) -> None:
    ran = run_program(
        """
        import multiprocessing
        import bigmachine as bm

        class Service:
            def double(self, n): return 2 * n

        def work():
            with bm.start() as cluster:
                machine, = cluster.start(1, services={"S": Service()})
                print(machine.call(Service.double, 4).result(20), flush=True)

        if __name__ == "__main__":
            process = multiprocessing.get_context("spawn").Process(target=work)
            process.start()
            process.join()
            work()
        """
    )

    assert ran.stdout == "8\n8\n"


def test_machines_may_use_multiprocessing(run_program: RunProgram) -> None:
    ran = run_program(
        """
        import multiprocessing
        import bigmachine as bm

        def square(n): return n * n

        class Service:
            def squares(self, method):
                with multiprocessing.get_context(method).Pool(2) as pool:
                    return pool.map(square, range(4))

        if __name__ == "__main__":
            with bm.start() as cluster:
                machine, = cluster.start(1, services={"S": Service()})
                for method in ("fork", "spawn", "forkserver"):
                    print(machine.call(Service.squares, method).result(30))
        """
    )

    assert ran.stdout == "[0, 1, 4, 9]\n" * 3
