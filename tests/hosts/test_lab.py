"""The hosts that other tests stand on: they are what they say, and faults do what they say."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from . import tools, warden
from .conftest import StartHosts
from .host import HostOptions, LabHost
from .lab import Lab

HERE = Path(__file__).parent

SEND = "import sys; sys.stdout.buffer.write(bytes({n}))"


def reaches(host: LabHost, address: str, timeout: float = 0.5) -> bool:
    """Whether a host gets a connection to another one's SSH server."""
    program = f"import socket; socket.create_connection(({address!r}, 22), {timeout})"
    return host.try_run("python3", "-c", program).returncode == 0


def driver_reaches(host: LabHost, timeout: float = 0.5) -> bool:
    try:
        with socket.create_connection((host.address, 22), timeout):
            return True
    except OSError:
        return False


def seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def test_three_hosts_have_an_address_a_name_and_nothing_but_a_python(
    lab: Lab, hosts: StartHosts
) -> None:
    three = hosts(3)

    asked = [lab.ssh(host, "hostname; id -un; python3 -c 'import pip'") for host in three]

    assert [done.stdout.split() for done in asked] == [[f"h{n}", "worker"] for n in (1, 2, 3)]
    assert all("No module named 'pip'" in done.stderr for done in asked)
    assert len({host.address for host in three}) == 3
    assert all(reaches(three[0], host.address) for host in three)


def test_hosts_start_within_a_second(hosts: StartHosts) -> None:
    hosts(1)  # the root is there

    assert seconds(lambda: hosts(3)) < 1.0


def test_a_host_is_clean_until_something_is_left_on_it(lab: Lab, hosts: StartHosts) -> None:
    (host,) = hosts()
    lab.ssh(host, "true")
    assert (host.processes(), host.listening(), host.files()) == ([], set(), [])

    lab.ssh(host, "touch -d 2000-01-01 left; nohup sleep 60 >/dev/null 2>&1 &")
    lab.ssh(host, "nohup python3 -m http.server 8000 >/dev/null 2>&1 &")
    lab.ssh(host, "until bash -c '</dev/tcp/127.0.0.1/8000' 2>/dev/null; do :; done")

    assert sorted(each.name() for each in host.processes()) == ["python3", "sleep"]
    assert host.listening() == {8000}
    assert host.files() == ["/home/worker/left"]


def test_no_host_sees_what_another_has_written(hosts: StartHosts) -> None:
    one, other = hosts(2)

    one.run("touch", "/etc/mine")

    assert not other.root.joinpath("etc/mine").exists()


def test_a_killed_host_falls_silent_and_a_crashed_one_says_farewell(hosts: StartHosts) -> None:
    told: list[bytes | str] = []
    for host, end in zip(hosts(2), (LabHost.kill, LabHost.crash), strict=True):
        with socket.create_connection((host.address, 22)) as connection:
            connection.settimeout(0.5)
            connection.recv(100)
            end(host)
            try:
                told.append(connection.recv(100))
            except OSError as error:
                told.append(type(error).__name__)
        assert not host.is_up

    assert told[0] == "TimeoutError"
    assert told[1] in (b"", "ConnectionResetError")


def test_a_host_parted_from_the_driver_still_reaches_other_hosts(
    lab: Lab, hosts: StartHosts
) -> None:
    one, other = hosts(2)

    parted = one.part_from_driver()
    assert not driver_reaches(one)
    assert driver_reaches(other)
    assert reaches(other, one.address)

    lab.network.heal(parted)
    assert driver_reaches(one, 5.0)


def test_hosts_parted_from_each_other_still_reach_the_driver(lab: Lab, hosts: StartHosts) -> None:
    one, other, third = hosts(3)

    parted = one.part_from(other)
    assert not reaches(one, other.address)
    assert not reaches(other, one.address)
    assert reaches(one, third.address)
    assert driver_reaches(one)

    lab.network.heal(parted)
    assert reaches(one, other.address, 5.0)


def test_a_pulled_cable_is_silence(hosts: StartHosts) -> None:
    (host,) = hosts()

    host.link_down()
    assert not driver_reaches(host)

    host.link_up()
    assert driver_reaches(host, 5.0)


def test_packets_are_lost_in_the_share_that_was_asked_for(lab: Lab, hosts: StartHosts) -> None:
    (host,) = hosts()
    host.lose(0.5)
    count = 400
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
        here.bind((lab.network.driver, 0))
        here.settimeout(0.2)
        program = f"""
            import socket
            s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            for _ in range({count}):
                s.sendto(b"x", {here.getsockname()})
        """
        host.run("python3", "-c", textwrap.dedent(program))
        arrived = 0
        try:
            while here.recv(10):
                arrived += 1
        except TimeoutError:
            pass

    # Six standard deviations: sqrt(400 * 0.5 * 0.5) is 10.
    assert 140 < arrived < 260


def test_bandwidth_is_what_was_asked_for_both_ways(lab: Lab, hosts: StartHosts) -> None:
    (host,) = hosts()
    host.limit_bandwidth(40_000_000)
    size = 5_000_000  # a second at this rate

    down = seconds(lambda: lab.ssh(host, f"head -c {size} /dev/zero"))
    copy = f"head -c {size} /dev/zero | ssh -F {lab.ssh_config} {lab.target(host)} 'cat >/dev/null'"
    up = seconds(lambda: subprocess.run(["sh", "-c", copy], check=True))

    assert 0.8 < down < 3.0
    assert 0.8 < up < 3.0


def test_a_delay_is_added_each_way_and_can_be_changed(hosts: StartHosts) -> None:
    (host,) = hosts([HostOptions(delay=True)])
    at_once = min(seconds(lambda: driver_reaches(host, 5.0)) for _ in range(5))

    host.delay(0.05)

    late = min(seconds(lambda: driver_reaches(host, 5.0)) for _ in range(5))
    assert at_once < 0.05
    assert 0.1 <= late < 0.3


def test_the_clock_is_wrong_by_what_was_asked_for_everywhere_on_the_host(
    lab: Lab, hosts: StartHosts
) -> None:
    (host,) = hosts([HostOptions(clock=3600.0)])
    program = (
        "import time, datetime, threading; m = time.monotonic();"
        " print(time.time(), datetime.datetime.now().timestamp());"
        " threading.Event().wait(0.1); print(time.monotonic() - m)"
    )

    def clocks() -> list[float]:
        told = lab.ssh(host, f'date +%s; python3 -c "{program}"').stdout.split()
        *ahead, waited = (float(each) for each in told)
        assert 0.1 <= waited < 5.0
        return [each - time.time() for each in ahead]

    assert all(3590 < ahead < 3610 for ahead in clocks())
    host.set_clock(-86400.0)
    assert all(-86410 < ahead < -86390 for ahead in clocks())


def test_a_full_disk_takes_nothing_more(lab: Lab, hosts: StartHosts) -> None:
    (host,) = hosts([HostOptions(disk="20m")])

    host.fill_disk(but=1_000_000)
    assert "No space left" in lab.ssh(host, "head -c 2000000 /dev/zero > much").stderr

    host.free_disk()
    assert lab.ssh(host, "head -c 2000000 /dev/zero > much").returncode == 0


@pytest.mark.parametrize("version", ["3.7", "3.8"])
def test_a_host_can_have_an_older_python_alone(
    lab: Lab, hosts: StartHosts, version: str, old_python: Callable[[str], str]
) -> None:
    (host,) = hosts([HostOptions(python=old_python(version))])

    told = lab.ssh(host, "python3 -V; which -a python3 python3.11 python3.13")

    assert told.stdout.split()[1].startswith(f"{version}.")
    assert told.stdout.split()[2:] == ["/usr/local/bin/python3"]


def test_a_host_can_have_no_python(lab: Lab, hosts: StartHosts) -> None:
    (host,) = hosts([HostOptions(python="")])

    assert lab.ssh(host, "python3 -V").returncode == 127


def test_nothing_is_left_of_a_lab_whose_owner_was_killed() -> None:
    program = f"""
        import sys, time
        sys.path.insert(0, {str(HERE.parent)!r})
        from hosts.lab import Lab
        from hosts.host import HostOptions
        lab = Lab()
        hosts = lab.start([HostOptions(), HostOptions(delay=True)])
        print(lab.network.name, *(host.pid for host in hosts), flush=True)
        time.sleep(60)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        name, *pids = owner.stdout.readline().split()
        assert all(psutil.pid_exists(int(pid)) for pid in pids)
        owner.send_signal(signal.SIGKILL)

    deadline = time.monotonic() + 10
    while left := _left_of(name, pids):
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


def _left_of(name: str, pids: list[str]) -> list[str]:
    interfaces = [each for _, each in socket.if_nameindex() if each.startswith(name)]
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True).stdout
    mounts = Path("/proc/mounts").read_text("utf-8")
    found = [*interfaces, *(pid for pid in pids if psutil.pid_exists(int(pid)))]
    found += [each for each in (tables, mounts) if name in each]
    return found + [str(path) for path in warden.BASE.glob(name)]


def test_what_a_killed_run_and_its_warden_left_is_removed_by_the_next(tmp_path: Path) -> None:
    left, alive = tmp_path / "left", tmp_path / "alive"
    sleeper = subprocess.Popen(["sleep", "60"])
    threading.Thread(target=sleeper.wait, daemon=True).start()
    for directory, owner in ((left, f"{sleeper.pid} 1"), (alive, warden.identity(os.getpid()))):
        directory.joinpath("processes").mkdir(parents=True)
        directory.joinpath("owner").write_text(str(owner), "ascii")
    warden.note_process(left, sleeper.pid)

    warden.sweep(tmp_path)

    assert not left.exists()
    assert alive.exists()
    assert sleeper.wait(10) == -signal.SIGKILL


def test_a_process_that_only_has_the_number_of_a_noted_one_is_not_killed(tmp_path: Path) -> None:
    tmp_path.joinpath("processes").mkdir()
    with subprocess.Popen(["sleep", "60"]) as other:
        tmp_path.joinpath("processes", str(other.pid)).write_text(f"{other.pid} 1", "ascii")

        warden.take_down(tmp_path)

        assert other.poll() is None
        other.kill()


@pytest.mark.parametrize("environment", [{}, {"CI": "true", "BIGMACHINE_TEST_HOSTS": "0"}])
def test_hosts_are_not_made_unasked(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    for name in ("CI", "BIGMACHINE_TEST_HOSTS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert "BIGMACHINE_TEST_HOSTS" in (tools.why_not() or "")
