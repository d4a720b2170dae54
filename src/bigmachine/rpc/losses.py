"""Calls whose connection is gone, until it is known what became of the peer.

A connection that breaks says little: the machine may have died, or the network alone. So its calls
wait for a verdict, and end with that: the machine's `Death`, or a `TransportError` that tells
whether they may have run. What always holds: every call that is given to `Losses` ends, once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from bigmachine.errors import TransportError
from bigmachine.futures import Wakes
from bigmachine.rpc.pending import Call, StreamCall

logger = logging.getLogger(__name__)

Verdict = Callable[[], Awaitable[BaseException | None]]
"""Returns the error that says what became of a peer; None where the network alone is to blame."""
Calls = dict[int, Call | StreamCall]
"""Calls that have not ended, by number."""


class Losses:
    """One client's lost calls. On its loop, but for what says otherwise.

    Args:
        loop: The client's.
        label: How errors call the peer.
        verdict: Asked for each connection that was lost under calls; None: nobody knows more.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, label: str, verdict: Verdict | None
    ) -> None:
        self._loop = loop
        self._label = label
        self._verdict = verdict
        self._judging: set[asyncio.Task[None]] = set()
        self.undecided: list[Calls] = []
        self.failed: BaseException | None = None
        """What the client has failed with: no other error counts then."""

    def __repr__(self) -> str:
        return f"<Losses of {self._label}, {sum(map(len, self.undecided))} calls undecided>"

    def add(self, lost: Calls, reason: str, cause: BaseException | None, *, sent: bool) -> None:
        """End calls whose connection is gone, once it is known what became of the peer.

        Args:
            lost: The calls.
            reason: What happened, where the network alone is to blame.
            cause: What was raised by it.
            sent: Whether they may have reached the peer.
        """
        if not lost:
            return
        verdict = self._verdict
        self.undecided.append(lost)  # before the look: who fails all of them looks there later
        if verdict is None or self.failed is not None:
            self._end(lost, reason, cause, sent=sent)
            return

        async def judge() -> None:
            found: BaseException | None = None
            try:
                found = await verdict()
            except Exception as error:
                logger.error("nobody can say what became of %s: %s", self._label, repr(error))
            finally:
                self._end(lost, reason, cause, sent=sent, verdict=found)

        task = self._loop.create_task(judge(), name=f"verdict on {self._label}")
        self._judging.add(task)
        task.add_done_callback(self._judging.discard)

    def cancel(self, number: int) -> None:
        """Forget a call whose caller no longer wants the answer; from any thread."""
        for calls in list(self.undecided):
            call = calls.pop(number, None)
            if call is not None:
                call.end()

    def error(
        self,
        pending: Call | StreamCall,
        reason: str,
        cause: BaseException | None = None,
        *,
        sent: bool = True,
    ) -> BaseException:
        """Return what a call ends with that gets no answer; from any thread."""
        if self.failed is not None:
            return self.failed
        error = TransportError(
            reason,
            machine=self._label,
            method=pending.method,
            outcome="maybe_ran" if sent else "not_sent",
        )
        error.__cause__ = cause
        return error

    def _end(
        self,
        lost: Calls,
        reason: str,
        cause: BaseException | None,
        *,
        sent: bool,
        verdict: BaseException | None = None,
    ) -> None:
        self.undecided = [calls for calls in self.undecided if calls is not lost]
        wakes = Wakes()
        while lost:  # other threads take out what is cancelled
            try:
                _, pending = lost.popitem()
            except KeyError:
                break
            error = verdict or self.error(pending, reason, cause, sent=sent)
            pending.end(error, wakes=wakes)
        wakes.send()
