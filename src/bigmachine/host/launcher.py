"""How the supervisor makes machines: templates, one for each program, and their requests.

A *family* is everything that comes from one `TemplateSpec`. Its first template runs the program
and then says how it goes on: by forking, then it serves all requests; or by spawning, then it
becomes one machine itself, and a process is started for each further one::

    launch ─▶ family.waiting ─▶ template reached bigmachine.start ─▶ MachineStart ─▶ Forked
                    │                                                      (fork)  or itself (spawn)
                    └─ template ended before: on_failed, with its exit status and its output

Nothing here waits: whatever a template says, or its end, moves the family on
(`host.hosted_template`).
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from bigmachine.host import processes
from bigmachine.host.headstart import Begun, begin
from bigmachine.host.hosted_template import BootFailure, HostedTemplate, Request
from bigmachine.host.messages import Retire, TemplateSpec, TemplateStart
from bigmachine.values import as_mapping

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping

    from bigmachine.host.processes import Exit

SPAWNS_AT_ONCE: Final = 2 * (os.cpu_count() or 1) + 2
"""How many processes of one family run the program at a time; more would only get in each
other's way."""


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
        self._families: dict[str, Family] = {}
        self._templates: dict[int, HostedTemplate] = {}

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

    def start_template(self, family: Family, begun: Begun | None = None) -> None:
        """Start one more process that runs the family's program."""
        template = HostedTemplate(self, family, begun or self._begin(family.spec))
        self._templates[template.pid] = template
        family.templates.append(template)
        if self.loop is not None:
            template.attach(self.loop)

    def _begin(self, spec: TemplateSpec) -> Begun:
        common = self.surroundings
        start = TemplateStart(
            program=spec.program,
            environ=spec.later_environ,
            start_method=spec.start_method,
            supervisor_pid=common.supervisor_pid,
            mark=common.new_mark(),
            open_files=common.open_files,
            credentials=common.credentials,
        )
        return begin(as_mapping(start), spec.environ)

    def became_machine(self, template: HostedTemplate) -> None:
        """A template has left its family: it is one no more, but a machine."""
        template.family.templates.remove(template)
        self._templates.pop(template.pid, None)

    def move_on(self, family: Family) -> None:
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

    def _family(self, spec: TemplateSpec) -> Family:
        key = spec.key()
        family = self._families.get(key)
        if family is None:
            family = self._families[key] = Family(spec)
        return family


class Family:
    """All that comes from one specification."""

    def __init__(self, spec: TemplateSpec) -> None:
        self.spec = spec
        self.mode: Literal["unknown", "fork", "spawn"] = (
            "spawn" if spec.start_method == "spawn" else "unknown"
        )
        self.waiting: deque[Request] = deque()
        self.modules: frozenset[str] = frozenset()
        self.templates: list[HostedTemplate] = []

    def take_all(self) -> list[Request]:
        """Take all requests that wait."""
        requests = list(self.waiting)
        self.waiting.clear()
        return requests


def _close(request: Request) -> None:
    for fd in request[1]:
        os.close(fd)
