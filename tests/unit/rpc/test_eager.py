"""Tasks that take their first step at once."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

from bigmachine.rpc.eager import Starter

T = TypeVar("T")
Task = asyncio.Task[None]
color: contextvars.ContextVar[str] = contextvars.ContextVar("color", default="none")


async def on_loop(action: Callable[[Starter], T]) -> T:
    """Do something in a callback of the loop, which is where tasks are started."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    loop.call_soon(lambda: done.set_result(action(Starter(loop))))
    return cast("T", await done)


def test_a_coroutine_that_waits_for_nothing_is_done_when_its_start_returns() -> None:
    async def main() -> None:
        context, seen = contextvars.copy_context(), list[Any]()

        async def method() -> None:
            seen.append((color.get(), asyncio.current_task()))

        context.run(color.set, "red")

        def start(starter: Starter) -> tuple[Task, bool]:
            task = starter.start(method(), context)
            return task, task.done()

        task, was_done = await on_loop(start)
        assert was_done
        assert seen == [("red", task)]

    asyncio.run(main())


def test_one_that_waits_goes_on_as_any_task_does() -> None:
    async def main() -> None:
        gates = [asyncio.Event(), asyncio.Event()]
        steps: list[str] = []

        async def method(name: str, gate: asyncio.Event) -> None:
            steps.append(f"{name} begins")
            await gate.wait()
            steps.append(f"{name} ends")

        def start(starter: Starter) -> list[Task]:
            return [
                starter.start(method(name, gate), contextvars.copy_context())
                for name, gate in zip("ab", gates, strict=True)
            ]

        tasks = await on_loop(start)
        assert steps == ["a begins", "b begins"]
        gates[1].set()
        await tasks[1]
        tasks[0].cancel()
        await asyncio.wait(tasks)
        assert steps == ["a begins", "b begins", "b ends"]
        assert tasks[0].cancelled()

    asyncio.run(main())


def test_what_others_ask_of_the_loop_while_a_task_is_made_is_not_lost() -> None:
    asked: list[int] = []

    class Curious(Coroutine[Any, Any, None]):
        """Asks for something as garbage may that is collected just then."""

        @property  # type: ignore[misc]
        def __class__(self) -> type:
            asyncio.get_running_loop().call_soon(asked.append, 1)
            return Curious

        def send(self, value: Any) -> Any:
            raise StopIteration

        def throw(self, *args: Any) -> Any:
            raise AssertionError

        def close(self) -> None:
            pass

        def __await__(self) -> Any:
            return iter(())

    async def main() -> None:
        task = await on_loop(lambda it: it.start(Curious(), contextvars.copy_context()))
        await task
        assert asked

    asyncio.run(main())
