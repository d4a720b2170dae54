"""Seeded faults of the network: what goes wrong with connections and their frames, and when.

`Faults` decides and `testing.relay` does. What always holds: what happens to frame number *n* of a
connection depends on the seed, the machine's index, the number of the connection and *n* alone. So
a test that makes its calls one after the other meets the same faults each time; `Faults.injected`
tells which. Chance goes on also while faults are off, so that switching them moves none of the
later ones.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal

from bigmachine.errors import UsageError

if TYPE_CHECKING:
    from bigmachine.machine import Machine

Where = Literal["calls", "host", "all"]
What = Literal["delay", "drop", "cut", "refuse"]
Direction = Literal["there", "back", ""]

_MAX_INJECTED: Final = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault that was injected.

    Attributes:
        what: Which.
        machine: The machine's index.
        where: ``"calls"``: on a connection to the machine; ``"host"``: on one to its supervisor.
        connection: Which connection of these, counted from 0.
        direction: ``"there"`` is to the machine; "" for a refused connection.
        frame: Which frame, counted from 0, the greeting.
        seconds: Of a delay: how long.
    """

    what: What
    machine: int
    where: Literal["calls", "host"]
    connection: int
    direction: Direction = ""
    frame: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """How often what goes wrong, and where."""

    delay: tuple[float, float] = (0.0, 0.0)
    drop: float = 0.0
    cut: float = 0.0
    refuse: float = 0.0
    where: Where = "calls"
    machine: int | str | None = None
    active: bool = True

    def __post_init__(self) -> None:
        low, high = self.delay
        if not 0 <= low <= high:
            raise UsageError(f"faults: delay={self.delay!r} is no range of seconds (low, high)")
        for name in ("drop", "cut", "refuse"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"faults: {name}={getattr(self, name)!r} is no probability")
        if self.where not in ("calls", "host", "all"):
            raise UsageError(f"faults: where={self.where!r}: it is 'calls', 'host' or 'all'")

    def hit(self, place: Place) -> bool:
        """Whether they are for connections of this place, now."""
        aimed = self.machine is None or self.machine in place.names()
        return self.active and aimed and self.where in ("all", place.where)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a connection leads to.

    Attributes:
        machine: The index of the machine.
        where: To itself, or to its host.
        names: Returns what one may aim by to hit it: indexes and unique ids.
    """

    machine: int
    where: Literal["calls", "host"]
    names: Callable[[], Collection[int | str]] = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What becomes of one frame."""

    delay: float = 0.0
    drop: bool = False
    cut: bool = False


FINE: Final = Verdict()


class Faults:
    """What goes wrong on the connections of `InProcess` machines. Used from any thread.

    Frames are the units of bigmachine's protocol: a small call is one, and so is its reply.

    Args:
        seed: What all chances are drawn from.
        delay: How long a frame is held up, in seconds: at least and at most. Order is kept.
        drop: The probability that a frame vanishes. A lost call or reply is noticed by its
            deadline alone, so give calls one (``bm.timeout``). The greeting is never lost.
        cut: The probability that the connection breaks in place of delivering a frame.
        refuse: The probability that a new connection is refused.
        where: ``"calls"``: connections to machines. ``"host"``: those to their supervisors, which
            carry launches, keepalives and the news of machines' deaths. ``"all"``: both.
        machine: Aims at one machine, given by its index or itself; None: at all.
        active: Whether they begin at once; else `on` does.

    Raises:
        UsageError: A probability or a range is none.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        delay: tuple[float, float] = (0.0, 0.0),
        drop: float = 0.0,
        cut: float = 0.0,
        refuse: float = 0.0,
        where: Where = "calls",
        machine: Machine | int | None = None,
        active: bool = True,
    ) -> None:
        self._seed = seed
        self._rates = Rates(
            delay=delay,
            drop=drop,
            cut=cut,
            refuse=refuse,
            where=where,
            machine=_name(machine),
            active=active,
        )
        self._lock = threading.Lock()
        self._connections: dict[Place, int] = {}
        self._injected: list[Fault] = []

    def __repr__(self) -> str:
        return f"<Faults seed={self._seed} {self._rates} injected={len(self._injected)}>"

    def on(self) -> None:
        """Begin, or begin again."""
        self._change(active=True)

    def off(self) -> None:
        """Stop: every connection works, and what is open stays open."""
        self._change(active=False)

    def __enter__(self) -> Faults:
        self.on()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.off()

    def aim(self, machine: Machine | int | None, where: Where | None = None) -> None:
        """Aim at one machine, given by its index or itself, or with None at all of them."""
        self._change(machine=_name(machine), where=where or self._rates.where)

    def set(
        self,
        *,
        delay: tuple[float, float] | None = None,
        drop: float | None = None,
        cut: float | None = None,
        refuse: float | None = None,
    ) -> None:
        """Change rates; those not given stay.

        Raises:
            UsageError: One is no probability or no range.
        """
        given = {"delay": delay, "drop": drop, "cut": cut, "refuse": refuse}
        self._change(**{name: value for name, value in given.items() if value is not None})

    @property
    def injected(self) -> tuple[Fault, ...]:
        """What has been done so far, by machine, place, connection, direction and frame."""
        with self._lock:
            return tuple(sorted(self._injected, key=_order))

    def count(self, what: What) -> int:
        """Return how often something was done."""
        return sum(fault.what == what for fault in self.injected)

    # What the relay asks.

    def connect(self, place: Place) -> Connection | None:
        """Return the fate of a new connection; None: it is refused."""
        with self._lock:
            number = self._connections.get(place, 0)
            self._connections[place] = number + 1
        connection = Connection(self, place, number, self._seed)
        refused = connection.chance("").random() < self._rates.refuse and self._rates.hit(place)
        if refused:
            self.note(Fault(what="refuse", connection=number, **_at(place)))
            return None
        return connection

    def rates(self) -> Rates:
        """Return what holds now."""
        return self._rates

    def note(self, fault: Fault) -> None:
        """Remember that something was done."""
        with self._lock:
            if len(self._injected) < _MAX_INJECTED:
                self._injected.append(fault)

    def _change(self, **changes: Any) -> None:
        with self._lock:
            self._rates = replace(self._rates, **changes)


class Connection:
    """The fate of one connection: one `Lane` for each direction."""

    def __init__(self, faults: Faults, place: Place, number: int, seed: int) -> None:
        self.faults = faults
        self.place = place
        self.number = number
        self._seed = seed

    def __repr__(self) -> str:
        return f"<Connection {self.number} to the {self.place.where} of {self.place.machine}>"

    def chance(self, direction: Direction) -> random.Random:
        """Return the source of chances of one direction."""
        place = self.place
        return random.Random(
            f"{self._seed}/{place.machine}/{place.where}/{self.number}/{direction}"
        )

    def lane(self, direction: Direction) -> Lane:
        """Return the fate of one direction."""
        return Lane(self, direction)


class Lane:
    """The fate of the frames of one direction of a connection, one after the other."""

    def __init__(self, connection: Connection, direction: Direction) -> None:
        self._connection = connection
        self._direction: Direction = direction
        self._chance = connection.chance(direction)
        self._frame = 0

    def __repr__(self) -> str:
        return f"<Lane {self._direction} of {self._connection!r} at frame {self._frame}>"

    def next(self) -> Verdict:
        """Return what becomes of the next frame."""
        # Always three draws to a frame: what is off now must not shift what comes later.
        how_long, lost, broken = (self._chance.random() for _ in range(3))
        frame, self._frame = self._frame, self._frame + 1
        rates = self._connection.faults.rates()
        if not rates.hit(self._connection.place):
            return FINE
        if broken < rates.cut:
            self._note("cut", frame)
            return Verdict(cut=True)
        if frame and lost < rates.drop:
            self._note("drop", frame)
            return Verdict(drop=True)
        low, high = rates.delay
        if not high:
            return FINE
        seconds = low + (high - low) * how_long
        self._note("delay", frame, seconds)
        return Verdict(delay=seconds)

    def _note(self, what: What, frame: int, seconds: float = 0.0) -> None:
        connection = self._connection
        connection.faults.note(
            Fault(
                what=what,
                connection=connection.number,
                direction=self._direction,
                frame=frame,
                seconds=seconds,
                **_at(connection.place),
            )
        )


def _at(place: Place) -> dict[str, Any]:
    return {"machine": place.machine, "where": place.where}


def _name(machine: Machine | int | None) -> int | str | None:
    """Return what a machine is known by: its index, or its unique id."""
    if machine is None or isinstance(machine, int):
        return machine
    from bigmachine.addresses import Address

    handle = machine._handle
    owned = getattr(handle, "id", "")
    return owned or Address.parse(handle.addr).target


def _order(fault: Fault) -> tuple[Any, ...]:
    return fault.machine, fault.where, fault.connection, fault.direction, fault.frame
