"""Tasks that take their first step at once: most methods wait for nothing, and need no second.

It saves an iteration of the loop for a call alone: an eighth of its time. Python 3.12 has it
(``eager_start``); before that, a new task has its loop call its first step soon, and that one
request is caught here.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any

if sys.version_info >= (3, 12):

    class Starter:
        """Starts the tasks of a loop, in callbacks of that."""

        def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
            self._loop = loop

        def start(
            self, coroutine: Coroutine[Any, Any, None], context: Context
        ) -> asyncio.Task[None]:
            """Run a coroutine as a task in a context, up to its first wait before this returns."""
            return asyncio.Task(coroutine, loop=self._loop, context=context, eager_start=True)

else:

    class Starter:
        """Starts the tasks of a loop, in callbacks of that."""

        def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
            self._loop = loop
            self._context: Context | None = None
            self._step: Callable[[], object] | None = None

        def start(
            self, coroutine: Coroutine[Any, Any, None], context: Context
        ) -> asyncio.Task[None]:
            """Run a coroutine as a task in a context, up to its first wait before this returns."""
            loop = self._loop
            self._context = context
            loop.call_soon = self._catch  # type: ignore[method-assign, assignment]
            try:
                task = asyncio.Task(coroutine, loop=loop, context=context)
            finally:
                del loop.call_soon
            step, self._step = self._step, None
            assert step is not None
            context.run(step)
            return task

        def _catch(
            self, callback: Callable[..., object], *args: Any, context: Context | None = None
        ) -> asyncio.Handle:
            if context is self._context:  # nobody else has it yet
                self._context, self._step = None, callback
                return None  # type: ignore[return-value]  # which tasks do not look at
            # What is collected as garbage just now may ask for something too.
            return type(self._loop).call_soon(self._loop, callback, *args, context=context)
