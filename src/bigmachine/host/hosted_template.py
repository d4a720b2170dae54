"""A template as its supervisor sees it: what it says, what it writes, and how it ends.

What a program writes before it reaches ``bigmachine.start`` is held back, the last 64 KiB of it,
and shown if it fails.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bigmachine.host.link import Link
from bigmachine.host.messages import (
    Forked,
    ForkFailed,
    MachineStart,
    Preload,
    Preloaded,
    Reached,
)
from bigmachine.values import changed

if TYPE_CHECKING:
    import asyncio

    from bigmachine.host.headstart import Begun
    from bigmachine.host.launcher import Family, Launcher
    from bigmachine.host.processes import Exit

logger = logging.getLogger(__name__)

HELD_OUTPUT_BYTES: Final = 64 << 10
"""How much of what a program writes before ``bigmachine.start`` is kept."""
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


class HostedTemplate:
    """One process that runs, or has run, a program up to ``bigmachine.start``.

    Args:
        launcher: Whom to tell what becomes of it.
        family: What it belongs to.
        begun: Its process.
    """

    def __init__(self, launcher: Launcher, family: Family, begun: Begun) -> None:
        self._launcher = launcher
        self.family = family
        self._held = bytearray()
        self._end: Exit | None = None
        self._reports = 0
        self._loaded: frozenset[str] = frozenset()
        self.reached: Reached | None = None
        self.is_loading = False
        self.asked: dict[str, Request] = {}
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
        missing = self.family.modules - self._loaded
        if not missing or self.reached is None or self.reached.reason:
            return False
        self._loaded |= missing
        self.is_loading = True
        sys_path = self.family.waiting[-1][0].sys_path
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
        self._launcher.became_machine(self)
        self.asked.clear()
        self._close_output()
        self._launcher.on_started(start.identity.id, self.pid, self.reached.stack_fd)

    def ended(self, end: Exit) -> None:
        """Its process has been reaped."""
        self._end = end
        if self in self.family.templates:
            self.family.templates.remove(self)
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
        launcher, family = self._launcher, self.family
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
        family, launcher = self.family, self._launcher
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
