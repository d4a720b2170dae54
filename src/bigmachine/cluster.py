"""Clusters: where a program begins.

`start` returns a `Cluster` in the driver. Where the same program is replayed on behalf of machines
it never returns: the process becomes machines, which serve until they are stopped. Everything that
takes time happens on a runtime behind the cluster; nothing here blocks but leaving the ``with``.
"""

from __future__ import annotations

import atexit
import itertools
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, TextIO

from bigmachine.errors import UsageError
from bigmachine.futures import Future

if TYPE_CHECKING:
    from types import TracebackType

    from bigmachine.calls import Current
    from bigmachine.driver.behind import Behind
    from bigmachine.host.messages import MachineIdentity, Program
    from bigmachine.image.build import Image
    from bigmachine.machine import Machine
    from bigmachine.machines import Machines
    from bigmachine.systems.base import System

__all__ = ["Cluster", "enter_machine", "is_driver", "redial", "start"]

Services = Mapping[str, object]

LEAVE_SECONDS: Final = 6.0
"""How long leaving a cluster may take: the shutdown is bounded by 5 s itself."""

_FORKED: Final = (
    "this process was forked from the one that has the cluster, and cannot use it; let the parent "
    "do that, or start a cluster here"
)

_clusters: set[Cluster] = set()  # those that are open
_disowned: list[Cluster] = []  # their remains must not be collected: they share what the parent has


def start(
    system: System | str | None = None,
    *,
    name: str | None = None,
    program: Literal["auto", "main", "bare"] = "auto",
    output: Callable[[Any], object] | TextIO | None = None,
) -> Cluster:
    """Start a cluster: returns at once in the driver, and never on a machine.

    May be called anywhere, in async code too. Leave the cluster by its ``with``; one that is still
    open when the interpreter exits is shut down then.

    Args:
        system: Where the machines are: a `System`, the name of one, or None for what the flags,
            the environment or ``bigmachine.toml`` say, else ``local``.
        name: The cluster's name, for logs and tags; None for one made of the program's.
        program: How machines get the program. ``"main"``: they run the driver's own script or
            module from the top until it reaches this call. ``"bare"``: they run none; services
            arrive by pickle, what belongs to ``__main__`` by value. ``"auto"``: ``"main"`` for
            scripts and modules, else (notebook, REPL, ``-c``, test runners) ``"bare"``.
        output: Where the machines' lines go: a callable, called with each `OutputLine`, or a text
            file; None for `sys.stdout` and `sys.stderr` as they are at that time. In a file and
            by default each line is prefixed with its machine.

    Raises:
        UsageError: A setting is wrong, or this process is not one that may have a cluster.
    """
    from bigmachine.host import role

    if role.current is role.Role.TEMPLATE:
        role.take_over()
    _check_role()
    from bigmachine import config
    from bigmachine.host.imports import finish_imports
    from bigmachine.host.replay import describe_main

    finish_imports()
    chosen = config.resolve(system).make_system()
    described = describe_main(program)
    return Cluster._of_driver(chosen, name or _default_name(), described, output)


def is_driver() -> bool:
    """Return whether this process is a driver, not one that is or will become machines."""
    from bigmachine import calls
    from bigmachine.host import role

    if role.current is role.Role.MACHINE:
        return role.is_inherited()  # what a machine has forked may start a cluster
    return role.current is role.Role.DRIVER and calls.home.get() is None


class Cluster:
    """Machines, and the program that they belong to.

    A context manager, sync and async: leaving it shuts everything down, within 5 s. A second
    Ctrl-C meanwhile kills at once.
    """

    def __init__(
        self,
        *,
        name: str,
        system: System | None,
        program: Program | None = None,
        build: Callable[[], Behind],
    ) -> None:
        self._name = name
        self._system = system
        self._program = program
        self._build = build
        self._built: Behind | None = None
        self._building = threading.RLock()
        self._pid = os.getpid()
        self._indexes = itertools.count()
        self._shutdown: Future[None] | None = None
        self._shutdown_lock = threading.RLock()  # a signal handler may shut down, too

    @classmethod
    def _of_driver(
        cls,
        system: System,
        name: str,
        program: Program,
        output: Callable[[Any], object] | TextIO | None,
    ) -> Cluster:
        if output is not None:
            from bigmachine.driver.sinks import make_sink

            make_sink(output)  # says now what is wrong with it

        def build() -> Behind:
            from bigmachine.driver.behind import Behind

            return Behind.driver(name=name, system=system, program=program, output=output)

        cluster = cls(name=name, system=system, program=program, build=build)
        _clusters.add(cluster)
        _register_exit()
        return cluster

    def __repr__(self) -> str:
        state = "open" if self._shutdown is None else "shut down"
        return f"<bigmachine.Cluster {self._name} on {self._system!r} {state}>"

    @property
    def _behind(self) -> Behind:
        """The machinery: imported and started when it is first needed."""
        with self._building:
            if self._built is None:
                self._built = self._build()
            return self._built

    @property
    def name(self) -> str:
        """The cluster's name."""
        return self._name

    @property
    def system(self) -> System | None:
        """The system that its machines are on; None on a machine."""
        return self._system

    @property
    def is_driver(self) -> bool:
        """Whether this is the cluster as its driver sees it."""
        return self._system is not None

    @property
    def machines(self) -> tuple[Machine, ...]:
        """A snapshot of the live machines that this cluster has started or dialled."""
        return () if self._built is None else self._built.machines()

    def start(
        self,
        n: int,
        *,
        services: Services | Sequence[Services],
        env: Mapping[str, str | None] | None = None,
        args: Sequence[str] | None = None,
        image: Image | None = None,
    ) -> Machines:
        """Start up to ``n`` machines. Never blocks on them: their handles come back at once.

        Machines that cannot be had become STOPPED, with their error.

        Args:
            n: How many.
            services: The services of each, by name: a mapping or several. They are pickled once,
                here and now.
            env: Changes to the machines' environment; None removes a variable. Later ones
                override.
            args: What the machines' program gets as arguments in place of the driver's.
            image: The program's environment (`bigmachine.image`), for machines on other hosts; None
                is the driver's own. Not for machines on this host, which share its disk.

        Raises:
            UsageError: ``n`` is below 1, there are no services, something else that was given is
                of the wrong kind, or this is no driver's cluster.
            PayloadError: A service cannot be pickled; ``path`` names the attribute.
        """
        from bigmachine.driver.orders import Orders, host_config
        from bigmachine.machine import Machine
        from bigmachine.machines import Machines
        from bigmachine.service import ServiceTable

        self._check_usable()
        if self._system is None or self._program is None:
            raise UsageError("machines cannot start machines: have the driver do that")
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise UsageError(f"cluster.start({n!r}): give the number of machines, at least 1")
        if image is not None and self._system.is_here:
            raise UsageError(f"image=: machines of system {self._system.name} share this disk")
        merged = _merge(services)
        changes = _check_env(env)
        words = _check_args(args)
        table = ServiceTable(merged)
        indexes = [next(self._indexes) for _ in range(n)]
        orders = Orders.of(
            self._name,
            self._system,
            self._program,
            merged,
            env=changes,
            args=words,
            image=image,
        )
        with self._building:
            self._check_usable()
            if self._built is None:
                # While its processes come up, this one imports what talks to them.
                is_simple = self._system.transport == "unix"  # and needs no credentials
                config = host_config(orders, self._system) if is_simple else None
                self._system.begin(self._name, config)
            handles = self._behind.start(indexes, orders)
        return Machines([self._behind.keep(Machine(handle, table)) for handle in handles])

    def dial(self, addr: str) -> Machine:
        """Return a machine that somebody else started, by its address.

        It is not owned and not kept alive; its state is known by ping.

        Raises:
            UsageError: ``addr`` is no machine's address.
        """
        from bigmachine.machine import Machine

        self._check_usable()
        return self._behind.keep(Machine(self._behind.dial(addr), None))

    def shutdown(self) -> Future[None]:
        """Shut everything down: the machines' output arrives first, nothing is left afterwards.

        Idempotent; takes at most 5 s, whatever the machines do; goes on if the future is
        cancelled. On a machine: does nothing.
        """
        ended: Future[None] = Future()
        if self._system is None or os.getpid() != self._pid:
            ended.resolve()
        else:
            self._begin_shutdown().add_done_callback(
                lambda done: ended.resolve(None, None if done.cancelled() else done.exception())
            )
        return ended

    def _begin_shutdown(self) -> Future[None]:
        with self._building, self._shutdown_lock:
            if self._shutdown is None:
                if self._built is None:  # nothing was ever started
                    self._shutdown = Future()
                    self._shutdown.resolve()
                else:
                    self._shutdown = self._built.shutdown()
                self._shutdown.add_done_callback(lambda _: _clusters.discard(self))
            return self._shutdown

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave()

    async def __aenter__(self) -> Cluster:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        import asyncio

        done = self.shutdown()
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await asyncio.shield(asyncio.wrap_future(done))
        except TimeoutError:
            self._kill()
        except BaseException:
            self._kill()
            raise
        finally:
            self._stop()

    def _leave(self) -> None:
        if os.getpid() != self._pid:
            return  # a forked child leaves the block: the cluster is its parent's
        done = self._begin_shutdown()
        try:
            done.result(LEAVE_SECONDS)
        except TimeoutError:
            self._kill()
        except BaseException:  # a second Ctrl-C, above all
            self._kill()
            raise
        finally:
            self._stop()

    def _kill(self) -> None:
        if self._built is not None:
            self._built.kill()

    def _stop(self) -> None:
        if self._built is not None:
            self._built.stop()

    def _check_usable(self) -> None:
        if os.getpid() != self._pid:
            raise UsageError(_FORKED)
        if self._shutdown is not None:
            raise UsageError(f"cluster {self._name} was shut down; start another one")

    def _disown(self) -> None:
        """Make the cluster unusable in a process that was forked from its own."""
        self._shutdown_lock = threading.RLock()  # another thread of the parent's may have held it
        self._building = threading.RLock()
        if self._built is not None:
            self._built.disown(UsageError(_FORKED))


# On machines.


def enter_machine(identity: MachineIdentity, loop: Any) -> Cluster:
    """Make this process the machine that it is, and return its view of the cluster.

    Args:
        identity: Which machine.
        loop: Its event loop, which is running.
    """
    from bigmachine import calls

    current = machine_view(identity, loop)
    calls.set_process_home(current)
    os.register_at_fork(after_in_child=current.cluster._disown)
    return current.cluster


def machine_view(identity: MachineIdentity, loop: Any) -> Current:
    """Return a machine's view of its cluster and itself."""
    from bigmachine import calls
    from bigmachine.driver.behind import Behind
    from bigmachine.machine import Machine

    behind = Behind.machine(identity, loop)
    cluster = Cluster(name=identity.cluster, system=None, build=lambda: behind)
    machine = Machine(behind.dial(identity.address, identity.label, identity.maxprocs), None)
    return calls.Current(cluster=cluster, machine=machine)


def redial(addr: str, label: str, maxprocs: int) -> Machine:
    """Return the machine at an address, in whatever cluster this process belongs to.

    This is what a pickled `Machine` becomes.
    """
    from bigmachine import calls
    from bigmachine.machine import Machine

    home = calls.find_home()
    cluster = None if home is None else home.cluster
    if cluster is None:
        for candidate in list(_clusters):
            built = candidate._built
            found = None if built is None else built.owned(addr)
            if found is not None:
                return found
        cluster = next(iter(_clusters), None)
    if cluster is None:
        raise UsageError("a Machine can be used only in a driver with a cluster, or on a machine")
    return Machine(cluster._behind.dial(addr, label, maxprocs), None)


# The driver's process.


def clusters_on(system: System) -> list[Cluster]:
    """Return the clusters of this process whose machines are on a system."""
    return [cluster for cluster in list(_clusters) if cluster.system is system]


def _check_role() -> None:
    from bigmachine import calls
    from bigmachine.host import role

    is_machine = role.current is role.Role.MACHINE and not role.is_inherited()
    if is_machine or calls.home.get() is not None:
        raise UsageError(
            "bigmachine.start was called on a machine; the running service finds its cluster with "
            "bigmachine.current().cluster"
        )
    spawning = sys.modules.get("multiprocessing.process")
    if spawning is not None and getattr(spawning.current_process(), "_inheriting", False):
        raise UsageError(
            "bigmachine.start was reached in a multiprocessing child that imports the program's "
            "main module again; put the program's code under  if __name__ == '__main__':"
        )


def _default_name() -> str:
    import re

    program = os.path.splitext(os.path.basename(sys.argv[0] if sys.argv else ""))[0]
    stem = re.sub(r"[^A-Za-z0-9]+", "-", program).strip("-") or "bigmachine"
    return f"{stem[:24]}-{os.urandom(2).hex()}"


def _merge(services: Services | Sequence[Services]) -> dict[str, object]:
    several = [services] if isinstance(services, Mapping) else services
    if not isinstance(several, Sequence) or not all(isinstance(each, Mapping) for each in several):
        raise UsageError(
            f"services={services!r}: give a mapping of names to services, or several mappings"
        )
    merged: dict[str, object] = {}
    for mapping in several:
        merged.update(mapping)
    if not merged:
        raise UsageError("cluster.start without services: a machine needs at least one to serve")
    for name, service in merged.items():
        if not isinstance(name, str) or not name or "." in name or name[0] == "@":
            raise UsageError(f"a service cannot be called {name!r}: give a name without dots")
        if name == "Supervisor":
            raise UsageError("a service cannot be called 'Supervisor': every machine has that one")
        if isinstance(service, type):
            raise UsageError(
                f"service {name!r} is the class {service.__name__}: give an object of it, "
                f"{service.__name__}(...)"
            )
    return merged


def _check_env(env: Mapping[str, str | None] | None) -> dict[str, str | None]:
    changes = dict(env or {})
    for name, value in changes.items():
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise UsageError(f"env={{{name!r}: …}}: that is no variable's name")
        if value is not None and (not isinstance(value, str) or "\0" in value):
            raise UsageError(f"env={{{name!r}: {value!r}}}: a value is a text, or None to remove")
    return changes


def _check_args(args: Sequence[object] | None) -> tuple[str, ...] | None:
    if args is None:
        return None
    is_list = isinstance(args, Sequence) and not isinstance(args, (str, bytes, bytearray))
    if not is_list or not all(isinstance(each, (str, int, float, os.PathLike)) for each in args):
        raise UsageError(f"args={args!r}: give a list of texts, as sys.argv[1:] is")
    words = tuple(map(str, args))
    if any("\0" in word for word in words):
        raise UsageError(f"args={args!r}: a program's arguments hold no NUL characters")
    return words


_exit_registered = False


def _register_exit() -> None:
    global _exit_registered
    if not _exit_registered:
        _exit_registered = True
        atexit.register(_leave_all)
        os.register_at_fork(after_in_child=_disown_all)


def _leave_all() -> None:
    clusters = [each for each in _clusters if each._pid == os.getpid()]
    for cluster in clusters:
        cluster._begin_shutdown()
    for cluster in clusters:
        cluster._leave()


def _disown_all() -> None:
    for cluster in list(_clusters):
        cluster._disown()
        _disowned.append(cluster)
    _clusters.clear()
