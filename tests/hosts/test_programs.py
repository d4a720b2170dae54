"""Whole programs on hosts by SSH, unchanged: only the system differs from a run at home."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path

import pytest

from .conftest import MakeDrivers, StartHosts
from .drivers import Drivers, assert_clean, traffic
from .lab import Lab

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = pytest.mark.timeout(240)


def test_the_examples_run_with_only_the_system_changed(hosts: StartHosts, drivers: Drivers) -> None:
    three = hosts(3)
    machines = 2 * len(three)

    pi = drivers.run(
        EXAMPLES / "bigpi.py", three, "-n", "3_000_000", "--machines", f"{machines}"
    ).stdout
    words = drivers.run(
        EXAMPLES / "wordcount.py", three, "--machines", f"{machines}", "--files", "100", "--check"
    ).stdout

    assert re.search(r"^pi = 3\.1", pi, re.MULTILINE)
    assert len(re.findall(r"^\[m\d+\] threw", pi, re.MULTILINE)) > 1
    assert "checked against a count in one process" in words
    assert_clean(three, 5.0)


WHERE = """
    if __name__ == "__main__":
        import socket
        class Where(Probe):
            def name(self):
                return socket.gethostname()

        cluster = bm.start()
        with cluster:
            machines = cluster.start({n}, services={{"Where": Where()}}).running().result()
            names = [call.result() for call in machines.call(Where.name)]
            say("hosts", *sorted(set(names)))
"""


def test_hosts_get_machines_for_their_processors_and_no_more_hosts_come_up_than_needed(
    hosts: StartHosts, drivers: Drivers
) -> None:
    three = hosts(3)
    processors = int(three[0].run("nproc"))

    program = drivers.write(WHERE.format(n=2 * processors))
    said = drivers.run(program, three).stdout

    assert said == "hosts h1 h2"


ANALYSIS = '''
    import sys
    from pathlib import Path

    import numpy as np
    import pandas as pd

    import shop

    import bigmachine as bm


    class Analysis:
        """Uses what only the driver's computer has installed."""

        def mean(self, n):
            frame = pd.DataFrame({"x": np.arange(n)})
            return float(frame["x"].mean())

        def price(self, thing):
            return shop.price(thing)

        def script(self, thing):
            import subprocess
            return subprocess.run(["shop-price", thing], capture_output=True, text=True).stdout

        def data(self):
            return (Path(__file__).parent / "data" / "table.csv").read_text()

        def versions(self):
            return np.__version__, pd.__version__, str(np.__file__)


    if __name__ == "__main__":
        with bm.start() as cluster:
            machines = cluster.start(2, services={"Analysis": Analysis()})
            m = machines[0]
            print(m.call(Analysis.mean, 101).result())
            print(m.call(Analysis.price, "tea").result())
            print(m.call(Analysis.script, "tea").result().strip())
            print(m.call(Analysis.data).result().strip())
            print(*m.call(Analysis.versions).result())
'''


def write_shop(project: Path) -> None:
    package = project / "src" / "shop"
    package.mkdir(parents=True)
    package.joinpath("__init__.py").write_text(
        textwrap.dedent("""
            from importlib import resources
            import sys

            def price(thing):
                text = resources.files("shop").joinpath("prices.txt").read_text()
                return dict(line.split() for line in text.splitlines())[thing]

            def main():
                print("price", price(sys.argv[1]))
        """),
        "utf-8",
    )
    package.joinpath("prices.txt").write_text("tea 3\ncoffee 4\n", "utf-8")


def test_a_program_brings_packages_an_editable_one_data_and_a_console_script(
    hosts: StartHosts, make_drivers: MakeDrivers, tmp_path: Path
) -> None:
    numpy, pandas = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    three = hosts(3)
    drivers = make_drivers("numpy", "pandas")
    write_shop(tmp_path / "shop")
    drivers.environment.install_editable(tmp_path / "shop", "shop", "shop-price", "shop:main")
    folder = tmp_path / "analysis"
    folder.joinpath("data").mkdir(parents=True)
    folder.joinpath("data", "table.csv").write_text("a,b\n1,2\n", "utf-8")
    folder.joinpath("analysis.py").write_text(textwrap.dedent(ANALYSIS), "utf-8")

    said = drivers.run(folder / "analysis.py", three).stdout.splitlines()

    assert said[:5] == ["50.0", "3", "price 3", "a,b", "1,2"]
    versions = said[5].split()
    assert versions[:2] == [numpy.__version__, pandas.__version__]
    assert versions[2].startswith("/home/worker/.cache/bigmachine/images/")
    assert_clean(three, 5.0)


@pytest.mark.filterwarnings("ignore")  # those of nbclient and its libraries
def test_a_notebook_has_machines_on_hosts(
    hosts: StartHosts,
    make_drivers: MakeDrivers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import nbclient
    import nbformat

    (host,) = hosts()
    drivers = make_drivers("ipykernel")
    for name, value in drivers.settings([host]).items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "notebooks"
    folder.mkdir()
    monkeypatch.chdir(folder)  # what is beside a notebook travels
    kernel = tmp_path / "share" / "kernels" / "driver"
    kernel.mkdir(parents=True)
    command = [str(drivers.environment.python), "-m", "ipykernel_launcher"]
    spec = {
        "argv": [*command, "-f", "{connection_file}"],
        "display_name": "x",
        "language": "python",
    }
    kernel.joinpath("kernel.json").write_text(json.dumps(spec), "utf-8")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share"))
    cells = [
        "import os, socket\nimport bigmachine as bm",
        "class Here:\n    def name(self):\n        return socket.gethostname()",
        "cluster = bm.start()\nm = cluster.start(1, services={'Here': Here()})[0]",
        "print(m.call(Here.name).result())",
        "cluster.shutdown()",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(each) for each in cells])

    nbclient.NotebookClient(notebook, timeout=60, kernel_name="driver").execute()

    outputs = [each for cell in notebook.cells for each in cell.outputs]
    texts = [each["text"] for each in outputs if each.get("name") == "stdout"]
    assert "".join(texts).strip() == "h1", outputs
    assert_clean([host], 5.0)


def test_a_second_start_moves_no_layer_and_an_edited_line_a_few_kilobytes(
    lab: Lab, hosts: StartHosts, make_drivers: MakeDrivers
) -> None:
    three = hosts(3)
    drivers = make_drivers("numpy")
    program = drivers.write("import numpy\n" + "# a line\n" * 2000 + textwrap.dedent(PROBE))

    def sent() -> int:
        before = traffic(lab)[1]
        drivers.run(program, three)
        return traffic(lab)[1] - before

    def layers() -> list[str]:
        store = "home/worker/.cache/bigmachine/layers"
        return sorted(str(path) for path in three[0].root.joinpath(store).glob("*"))

    cold, had = sent(), layers()
    again = sent()
    assert layers() == had
    program.write_text(program.read_text("utf-8").replace("# a line", "# an edited line", 1))
    edited = sent()

    assert len(layers()) == len(had) + 1
    assert cold > 5_000_000
    assert again < 1_000_000
    assert edited - again < 3 * 65536


PROBE = """
    if __name__ == "__main__":
        with bm.start() as cluster:
            machines = cluster.start(6, services={"Probe": Probe()}).running().result()
            say(*(call.result() for call in machines.call(Probe.pid)))
"""


def test_eight_hosts_cost_the_driver_two_copies_at_most(
    lab: Lab, hosts: StartHosts, make_drivers: MakeDrivers
) -> None:
    drivers = make_drivers("numpy")
    program = drivers.write("import numpy\n" + textwrap.dedent(EACH))

    def sent(n: int) -> int:
        before = traffic(lab)[1]
        drivers.run(program, hosts(n), f"{n}", cpus_per_machine="host", timeout=120.0)
        return traffic(lab)[1] - before

    one = sent(1)
    eight = sent(8)

    # Not counted: what is said to each host, its boot file first.
    said = 100_000
    assert one > 5_000_000
    assert eight < 2 * one + 8 * said, (one, eight)


EACH = """
    if __name__ == "__main__":
        n = int(sys.argv[1])
        with bm.start() as cluster:
            machines = cluster.start(n, services={"Probe": Probe()}).running().result()
            say(*(call.result() for call in machines.call(Probe.pid)))
"""
