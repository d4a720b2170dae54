"""How the supervisor makes machines: templates, one for each program, and their requests.

A *family* is everything that comes from one `TemplateSpec`. Its first template runs the program
and then says how it goes on: by forking, then it serves all requests; or by spawning, then it
becomes one machine itself, and a process is started for each further one::

    launch ─▶ family.waiting ─▶ template reached bigmachine.start ─▶ MachineStart ─▶ Forked
                    │                                                      (fork)  or itself (spawn)
                    └─ template ended before: on_failed, with its exit status and its output

Nothing here waits: whatever a template says, or its end, moves the family on. What a program writes
before it reaches ``bigmachine.start`` is held back, the last 64 KiB of it, and shown if it fails.
"""

from __future__ import annotations

import logging
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from bigmachine.host import processes
from bigmachine.host.headstart import Begun, begin
from bigmachine.host.link import Link
from bigmachine.host.messages import (
    Forked,
    ForkFailed,
    MachineStart,
    Preload,
    Preloaded,
    Reached,
    Retire,
    TemplateSpec,
    TemplateStart,
)
from bigmachine.values import as_mapping, changed

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping

    from bigmachine.host.processes import Exit

logger = logging.getLogger(__name__)

HELD_OUTPUT_BYTES: Final = 64 << 10
"""How much of what a program writes before ``bigmachine.start`` is kept."""
SPAWNS_AT_ONCE: Final = 2 * (os.cpu_count() or 1) + 2
"""How many processes of one family run the program at a time; more would only get in each
other's way."""
_OUTPUT_SECONDS: Final = 0.2  # for what a failed template has written to arrive

Request = tuple[MachineStart, tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BootFailure:
    """Why a machine did not come up.

    Attributes:
        detail: For a person.
        output: What the program wrote until then.
        exit: How its process ended, if it did.
    """

    detail: str
    output: bytes = b""
    exit: Exit | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all templates of a host have in common.

    Attributes:
        supervisor_pid: Their parent.
        open_files: The soft limit of open files that programs are to have; None: the present one.
        credentials: With TLS: what machines prove themselves with.
        new_mark: Makes a mark for a process and its descendants.
    """

    supervisor_pid: int
    open_files: int | None
    credentials: Mapping[str, str] | None
    new_mark: Callable[[], int]


class Launcher:
    """Makes machines of any kind.

    The first template may be started (`prepare`) before there is an event loop; everything else
    happens on the loop given to `attach`.

    Args:
        surroundings: What all templates have in common.
    """

    def __init__(self, surroundings: Surroundings) -> None:
        self.surroundings = surroundings
        self.on_started: Callable[[str, int, int], None]
        self.on_failed: Callable[[str, BootFailure], None]
        self.loop: asyncio.AbstractEventLoop | None = None
        self._families: dict[str, _Family] = {}
        self._templates: dict[int, _Template] = {}

    def attach(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        on_started: Callable[[str, int, int], None],
        on_failed: Callable[[str, BootFailure], None],
    ) -> None:
        """Work on this loop from now on.

        Args:
            loop: The loop.
            on_started: Called with a machine's id, its process, and its descriptor for stacks.
            on_failed: Called with the id of a machine that could not be made, and why.
        """
        self.loop = loop
        self.on_started = on_started
        self.on_failed = on_failed
        for template in self._templates.values():
            template.attach(loop)

    def prepare(self, spec: TemplateSpec, begun: Begun | None = None) -> None:
        """Start a template that will be needed.

        Args:
            spec: Which.
            begun: Its process, where that has been started already.

        Raises:
            OSError: The interpreter cannot be started.
        """
        family = self._family(spec)
        if not family.templates:
            self.start_template(family, begun)

    def launch(
        self, spec: TemplateSpec, request: Request, *, modules: frozenset[str] = frozenset()
    ) -> None:
        """Have a machine made.

        Args:
            spec: What it is made from.
            request: The machine. Its descriptors belong to the launcher from now on.
            modules: What its template should have imported.
        """
        family = self._family(spec)
        family.modules |= modules
        family.waiting.append(request)
        self.move_on(family)

    def withdraw(self, machine_id: str) -> bool:
        """Take back a request that no template has been given yet.

        Returns:
            Whether it could be.
        """
        for family in self._families.values():
            for request in family.waiting:
                if request[0].identity.id == machine_id:
                    family.waiting.remove(request)
                    _close(request)
                    return True
        return False

    def pids(self) -> Iterator[int]:
        """Return the processes of templates, also of those about to become machines."""
        return iter(self._templates)

    def owns(self, pid: int) -> bool:
        """Whether a process is a template, or has been until it is reaped."""
        return pid in self._templates

    @property
    def is_forking(self) -> bool:
        """Whether some template has requests that it has not answered."""
        return any(template.asked for template in self._templates.values())

    def mark_of(self, pid: int) -> int | None:
        """Return the mark of a template's descendants; None: it is none."""
        template = self._templates.get(pid)
        return None if template is None else template.mark

    def reaped(self, ended: Exit) -> bool:
        """Take note that a process has ended; whether it was a template."""
        template = self._templates.pop(ended.pid, None)
        if template is None:
            return False
        template.ended(ended)
        return True

    def retire(self) -> None:
        """Have all templates end."""
        for template in self._templates.values():
            template.link.send(Retire())

    def kill(self) -> None:
        """Kill all templates."""
        for pid in self._templates:
            processes.kill(pid, signal.SIGKILL)

    # For families and templates

    def start_template(self, family: _Family, begun: Begun | None = None) -> None:
        """Start one more process that runs the family's program."""
        template = _Template(self, family, begun)
        self._templates[template.pid] = template
        family.templates.append(template)
        if self.loop is not None:
            template.attach(self.loop)

    def move_on(self, family: _Family) -> None:
        """Give requests to templates that are ready, and start those that are missing."""
        for template in family.templates:
            if template.is_free and family.waiting and not template.preload():
                template.give(family.waiting)
        running = sum(not template.is_free for template in family.templates)
        wanted = 0
        if family.waiting:
            spawns = family.mode == "spawn"
            wanted = min(len(family.waiting), SPAWNS_AT_ONCE) if spawns else 1
        try:
            for _ in range(wanted - running):
                self.start_template(family)
        except OSError as error:
            detail = f"its interpreter could not be started: {error}"
            self.fail(family.take_all(), BootFailure(detail=detail))

    def fail(self, requests: list[Request], failure: BootFailure) -> None:
        """Tell that these machines will not be."""
        for request in requests:
            _close(request)
            self.on_failed(request[0].identity.id, failure)

    def _family(self, spec: TemplateSpec) -> _Family:
        key = spec.key()
        family = self._families.get(key)
        if family is None:
            family = self._families[key] = _Family(spec)
        return family


class _Family:
    """All that comes from one specification."""

    def __init__(self, spec: TemplateSpec) -> None:
        self.spec = spec
        self.mode: Literal["unknown", "fork", "spawn"] = (
            "spawn" if spec.start_method == "spawn" else "unknown"
        )
        self.waiting: deque[Request] = deque()
        self.modules: frozenset[str] = frozenset()
        self.templates: list[_Template] = []

    def take_all(self) -> list[Request]:
        """Take all requests that wait."""
        requests = list(self.waiting)
        self.waiting.clear()
        return requests


class _Template:
    """One process that runs, or has run, a program up to ``bigmachine.start``."""

    def __init__(self, launcher: Launcher, family: _Family, begun: Begun | None = None) -> None:
        self._launcher = launcher
        self._family = family
        self._held = bytearray()
        self._end: Exit | None = None
        self._reports = 0
        self._loaded: frozenset[str] = frozenset()
        self.reached: Reached | None = None
        self.is_loading = False
        self.asked: dict[str, Request] = {}
        if begun is None:
            common = launcher.surroundings
            start = TemplateStart(
                program=family.spec.program,
                environ=family.spec.later_environ,
                start_method=family.spec.start_method,
                supervisor_pid=common.supervisor_pid,
                mark=common.new_mark(),
                open_files=common.open_files,
                credentials=common.credentials,
            )
            begun = begin(as_mapping(start), family.spec.environ)
        self.pid = begun.pid
        self.mark = begun.mark
        self.link = Link(begun.link)
        self._output_fd = begun.output_fd

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Listen to it, on this loop."""
        self._loop = loop
        loop.add_reader(self._output_fd, self._read_output)
        self.link.attach(loop, self._on_message, self._on_link_end)

    @property
    def is_free(self) -> bool:
        """Whether it can be given requests."""
        return self.reached is not None and not self.is_loading

    def preload(self) -> bool:
        """Have it import what the family needs and it has not; whether there is any such thing."""
        missing = self._family.modules - self._loaded
        if not missing or self.reached is None or self.reached.reason:
            return False
        self._loaded |= missing
        self.is_loading = True
        sys_path = self._family.waiting[-1][0].sys_path
        self.link.send(Preload(modules=tuple(missing), sys_path=sys_path))
        return True

    def give(self, waiting: deque[Request]) -> None:
        """Have it make machines: all of these if it forks, or become the first one."""
        assert self.reached is not None
        if not self.reached.reason:
            while waiting:
                self._ask(waiting.popleft())
            return
        start = self._ask(waiting.popleft())
        # It has left the family: it is no template any more, but a machine.
        self._family.templates.remove(self)
        self._launcher._templates.pop(self.pid, None)
        self.asked.clear()
        self._close_output()
        self._launcher.on_started(start.identity.id, self.pid, self.reached.stack_fd)

    def ended(self, end: Exit) -> None:
        """Its process has been reaped."""
        self._end = end
        if self in self._family.templates:
            self._family.templates.remove(self)
        if self._output_fd < 0:
            self._report()
            return
        self._loop.call_later(_OUTPUT_SECONDS, self._report)
        self._read_output()

    def _ask(self, request: Request) -> MachineStart:
        start, fds = request
        self.asked[start.identity.id] = request
        self.link.send(start, fds)
        return start

    def _on_message(self, message: object, fds: tuple[int, ...]) -> None:
        del fds
        launcher, family = self._launcher, self._family
        match message:
            case Reached():
                self.reached = message
                self._held.clear()
                family.mode = "spawn" if message.reason else "fork"
                if message.reason and family.spec.start_method != "spawn":
                    logger.info("machines are spawned, not forked: %s", message.reason)
                launcher.move_on(family)
            case Preloaded():
                self.is_loading = False
                self._held.clear()
                if message.reason and self.reached is not None:
                    self.reached = changed(self.reached, reason=message.reason)
                    family.mode = "spawn"
                    logger.info("machines are spawned, not forked: %s", message.reason)
                launcher.move_on(family)
            case Forked() if self.asked.pop(message.machine_id, None):
                assert self.reached is not None
                launcher.on_started(message.machine_id, message.pid, self.reached.stack_fd)
            case ForkFailed() if self.asked.pop(message.machine_id, None):
                detail = f"the system refused to make its process: {message.reason}"
                launcher.on_failed(message.machine_id, BootFailure(detail=detail))

    def _on_link_end(self) -> None:
        self.link.close()

    def _read_output(self) -> None:
        """Keep the last of what the program writes, until it reaches ``bigmachine.start``."""
        while self._output_fd >= 0:
            try:
                data = os.read(self._output_fd, HELD_OUTPUT_BYTES)
            except BlockingIOError:
                return
            if not data:
                self._close_output()
                break
            if not self.is_free:
                self._held += data
                del self._held[:-HELD_OUTPUT_BYTES]
        if self._end is not None:
            self._report()

    def _close_output(self) -> None:
        if self._output_fd >= 0:
            self._loop.remove_reader(self._output_fd)
            os.close(self._output_fd)
            self._output_fd = -1

    def _report(self) -> None:
        """Tell what its end means for machines that were to come from it; once."""
        self._reports += 1
        if self._reports > 1:
            return
        self._close_output()
        self.link.close()
        family, launcher = self._family, self._launcher
        failure = self._failure()
        for machine_id in list(self.asked):
            launcher.on_failed(machine_id, failure)
        self.asked.clear()
        if not self.is_free:
            # With "spawn" each process stands for one machine; else all depend on the first.
            one_only = family.mode == "spawn" and len(family.waiting) > 0
            lost = [family.waiting.popleft()] if one_only else family.take_all()
            launcher.fail(lost, failure)
        if family.waiting:
            launcher.move_on(family)

    def _failure(self) -> BootFailure:
        detail = "" if self.reached is None else "the template of its program was lost"
        if self.is_loading:
            detail += " while it imported what the services need"
        return BootFailure(detail=detail, output=bytes(self._held), exit=self._end)


def _close(request: Request) -> None:
    for fd in request[1]:
        os.close(fd)
