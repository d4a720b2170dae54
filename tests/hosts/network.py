"""The network of a run's hosts: a bridge with an address of the driver's, and what ails it.

```
 driver (this computer's own network)
    │ bridge bmtXXYY, 10.X.Y.1
    ├── bmtXXYY-1 ══ eth0 of host 1, 10.X.Y.11
    ├── bmtXXYY-2 ══ eth0 of host 2, 10.X.Y.12
```

The bridge's name says its addresses, so two runs that want the same ones collide on the name, and
the second takes others. What is cut or lost is decided in one table of the bridge's packet filter,
which sees the driver's packets and those between hosts alike; it is written anew at each change.
"""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from . import warden

HOST_NUMBERS: Final = range(11, 251)
"""The last numbers of hosts' addresses, used over and over."""

TRIES: Final = 50


def run(*command: str, text: str | None = None) -> str:
    """Run a command of this computer and return what it wrote."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}\n{text or ''}")
    return done.stdout


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ailment:
    """What happens to packets between two addresses, both ways.

    Attributes:
        one: An address, or None for all.
        other: The other address, or None for all.
        loss: The share of packets that is lost, from 0 to 1.
        between: Whether traffic through the bridge is meant (of hosts), the driver's, or both.
    """

    one: str | None
    other: str | None = None
    loss: float = 1.0

    def rules(self) -> Iterable[str]:
        chance = "" if self.loss >= 1 else f"numgen random mod 1000 < {round(self.loss * 1000)} "
        for source, target in ((self.one, self.other), (self.other, self.one)):
            saddr = f"ip saddr {source} " if source else ""
            daddr = f"ip daddr {target} " if target else ""
            yield f"{saddr}{daddr}{chance}drop"


def rate_limit(bits_per_second: int) -> list[str]:
    """Return what ``tc`` is told to hold a rate."""
    return ["tbf", "rate", f"{bits_per_second}", "burst", "256kb", "latency", "100ms"]


class Network:
    """A bridge of our own, gone with the process that made it."""

    def __init__(self) -> None:
        warden.BASE.mkdir(parents=True, exist_ok=True)
        warden.sweep()
        block, self.name = self._claim()
        self.driver = f"{block}.1"
        """The driver's address."""
        self.prefix_bits = 24
        self._block = block
        self._next = 0
        self._ailments: list[Ailment] = []
        self.directory = warden.BASE / self.name
        self._warden = self._set_up()

    def next_host(self) -> tuple[str, str]:
        """Return the name of the next host's interface on this side, and the host's address."""
        number = HOST_NUMBERS[self._next % len(HOST_NUMBERS)]
        self._next += 1
        return f"{self.name}-{self._next}", f"{self._block}.{number}"

    def connect(self, interfaces: Iterable[tuple[str, int]]) -> None:
        """Give each of these processes an eth0; the other end, by that name, is on the bridge."""
        lines: list[str] = []
        for interface, pid in interfaces:
            lines.append(f"link add {interface} type veth peer name eth0 netns {pid}")
            lines.append(f"link set {interface} master {self.name} up")
        # An address may have been another host's before.
        lines.append(f"neigh flush dev {self.name}")
        run("ip", "-batch", "-", text="\n".join(lines))

    def ail(self, ailment: Ailment) -> None:
        """Have this happen from now on."""
        self._ailments.append(ailment)
        self._write_table()

    def heal(self, ailment: Ailment | None = None) -> None:
        """Have this happen no longer, or nothing at all."""
        if ailment is None:
            self._ailments.clear()
        else:
            self._ailments.remove(ailment)
        self._write_table()

    def limit_driver(self, bits_per_second: int | None) -> None:
        """Limit what the driver sends to a rate; None: no longer."""
        if bits_per_second is None:
            run("tc", "qdisc", "delete", "dev", self.name, "root")
        else:
            run("tc", "qdisc", "replace", "dev", self.name, "root", *rate_limit(bits_per_second))

    def close(self) -> None:
        """Take everything down."""
        self._warden.kill()
        self._warden.wait()
        warden.take_down(self.directory)

    def _claim(self) -> tuple[str, str]:
        """Find addresses that nobody here has."""
        taken = run("ip", "-o", "-4", "addr", "show")
        for _ in range(TRIES):
            second, third = random.randrange(200, 250), random.randrange(256)
            block, name = f"10.{second}.{third}", f"{warden.PREFIX}{second:02x}{third:02x}"
            if f" {block}." in taken:
                continue
            try:
                run("ip", "link", "add", name, "type", "bridge")
            except RuntimeError as error:
                if "exists" not in str(error):
                    raise
                continue
            return block, name
        raise RuntimeError("no free addresses for test hosts")

    def _set_up(self) -> subprocess.Popen[bytes]:
        directory = self.directory
        shutil.rmtree(directory, ignore_errors=True)
        directory.joinpath("processes").mkdir(parents=True, mode=0o700)
        directory.joinpath("names").write_text(f"table {self.name}\nlink {self.name}\n", "ascii")
        directory.joinpath("owner").write_text(warden.identity(os.getpid()) or "", "ascii")
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(warden.__file__)), str(directory)],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        # Without waiting for a first packet's address to be learnt.
        run("ip", "link", "set", self.name, "type", "bridge", "forward_delay", "0")
        run("ip", "addr", "add", f"{self.driver}/{self.prefix_bits}", "dev", self.name)
        run("ip", "link", "set", self.name, "up")
        self._write_table()
        return process

    def _write_table(self) -> None:
        rules = "\n".join(rule for ailment in self._ailments for rule in ailment.rules())
        chains = "".join(
            f"chain {hook} {{ type filter hook {hook} priority 0\n{rules}\n}}\n"
            for hook in ("input", "output", "forward")
        )
        table = f"table bridge {self.name}"
        run("nft", "-f", "-", text=f"{table} {{}}\ndelete {table}\n{table} {{\n{chains}}}\n")
