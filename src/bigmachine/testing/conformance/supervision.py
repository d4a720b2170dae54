"""Conformance: what supervisors answer, services that come later, and output."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import bigmachine as bm
from bigmachine.testing.conformance.base import Conformance
from bigmachine.testing.conformance.services import Asynchronous, Failing, Refusal, Worker


class SupervisionConformance(Conformance):
    """``Supervisor.*``, figures, ``register``, output and ``tail``."""

    def test_the_supervisor_answers_for_its_machines(self) -> None:
        machine = self.one()
        assert self.result(machine.call("Supervisor.Ping", 7)) == 7
        assert self.result(machine.call("Supervisor.Getpid")) == self.result(
            machine.call(Worker.getpid)
        )
        assert self.result(machine.call("Supervisor.Keepalive", 60.0)).healthy in (True, False)
        assert isinstance(self.result(machine.call("Supervisor.Expvars")), dict)
        for method in ("Info", "MemInfo", "DiskInfo", "LoadInfo"):
            found = self.result(machine.call(f"Supervisor.{method}"))
            assert type(found).__name__ == method

    def test_the_figures_of_a_machine_are_plausible(self) -> None:
        machine = self.one()
        info, local = self.result(machine.info()), bm.local_info()
        assert (info.implementation, info.os) == (local.implementation, local.os)
        memory = self.result(machine.mem_info())
        assert 0 < memory.machine.rss_bytes < memory.system.total_bytes
        assert memory.runtime is None
        assert self.result(machine.mem_info(runtime=True)).runtime is not None
        disk = self.result(machine.disk_info())
        assert 0 <= disk.free_bytes <= disk.total_bytes
        assert self.result(machine.load_info()).cpus >= 1

    def test_keepalives_are_answered(self) -> None:
        machine = self.one()
        self.result(machine.wait())
        self.until(lambda: machine.keepalive_reply_times, "the first keepalive is answered")
        assert all(0 <= seconds < 60 for seconds in machine.keepalive_reply_times)
        assert machine.next_keepalive is not None

    def test_figures_are_answered_while_a_machine_is_busy(self) -> None:
        machine = self.one()
        self.result(machine.mem_info())
        nap = machine.call(Worker.nap, 1.0)
        assert self.result(machine.mem_info()).machine.rss_bytes > 0
        assert not nap.done()
        self.result(nap)

    def test_the_supervisor_may_end_a_machine(self) -> None:
        with self.cluster() as cluster:
            (machine,) = cluster.start(1, services={"Worker": Worker()})
            self.result(machine.wait())
            self.result(machine.call("Supervisor.Shutdown"))
            self.result(machine.wait(bm.State.STOPPED))
            assert machine.err is not None
            assert machine.err.death.kind is bm.DeathKind.SHUTDOWN

    def test_a_service_may_be_registered_later(self) -> None:
        machine = self.one()
        self.result(machine.register("Late", Asynchronous()))
        assert self.result(machine.call("Late.is_ready")) is True

    def test_a_second_service_under_a_taken_name_is_refused(self) -> None:
        machine = self.one()
        self.result(machine.call("Worker.note", 77))
        self.error(machine.register("Worker", Worker()), bm.UsageError)
        assert self.result(machine.call("Worker.noted"))[77] >= 1

    def test_a_later_service_whose_init_raises_is_not_there(self) -> None:
        machine = self.one()
        error = self.error(machine.register("Failing", Failing()), Refusal)
        assert error.code == 13
        self.error(machine.call("Failing.same", 1), bm.NoSuchServiceError)
        assert self.result(machine.call(Worker.same, 1)) == 1

    def test_a_file_of_the_host_may_be_read(self) -> None:
        self.need(self.shares_files, "the driver's files")
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "file")
            path.write_bytes(b"content" * 1000)
            machine = self.one()
            self.result(machine.wait())
            with machine.read(str(path)) as reader:
                assert reader.read() == b"content" * 1000

    def test_all_output_arrives_in_its_order(self) -> None:
        self.need(self.captures_output, "output")
        lines: list[bm.OutputLine] = []
        with self.cluster(output=lines.append) as cluster:
            machines = cluster.start(2, services={"Worker": Worker()})
            for machine in machines:
                for number in range(50):
                    self.result(machine.call(Worker.print, f"line {number}"))
                self.result(machine.call(Worker.print, "oops", "stderr"))
        for name in ("m0", "m1"):
            mine = [line for line in lines if line.machine == name]
            out = [line for line in mine if line.stream == "stdout"]
            assert [str(line) for line in out] == [f"line {number}" for number in range(50)]
            assert [str(line) for line in mine if line.stream == "stderr"] == ["oops"]

    def test_the_last_output_of_a_dead_machine_is_in_its_death(self) -> None:
        self.need(self.captures_output, "output")
        with self.cluster(output=_ignore) as cluster:
            (machine,) = cluster.start(1, services={"Worker": Worker()})
            self.result(machine.call(Worker.print, "famous last words"))
            self.kill(cluster.system, machine)
            self.result(machine.wait(bm.State.STOPPED))
            assert machine.err is not None
            assert "famous last words" in machine.err.death.output

    def test_output_may_be_followed(self) -> None:
        self.need(self.captures_output, "output")
        with self.cluster(output=_ignore) as cluster:
            (machine,) = cluster.start(1, services={"Worker": Worker()})
            self.result(machine.wait())
            with machine.tail() as tail:
                follower = iter(tail)
                self.result(machine.call(Worker.print, "first"))
                assert next(follower) == "first"
                self.result(machine.call(Worker.print, "second"))
                assert next(follower) == "second"

    def test_following_ends_with_the_machine(self) -> None:
        with self.cluster(output=_ignore) as cluster:
            (machine,) = cluster.start(1, services={"Worker": Worker()})
            self.result(machine.wait())
            tail = machine.tail()
            self.result(machine.shutdown())
            start = time.monotonic()
            for _ in tail:
                continue
            assert time.monotonic() - start < self.limit_seconds


def _ignore(line: object) -> None:
    del line
