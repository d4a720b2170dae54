"""Services that machines import by reference."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import Any


class Probe:
    """Tells about its process."""

    def pid(self) -> int:
        return os.getpid()

    def evaluate(self, source: str) -> Any:
        """Execute statements, and return what ``result`` is then."""
        namespace: dict[str, Any] = {"self": self}
        exec(source, namespace)
        return namespace.get("result")


class Broken:
    """Cannot be initialized."""

    def init(self, cluster: object) -> None:
        raise ZeroDivisionError("no divisor\n today")


class Brittle:
    """Can be pickled, and not be rebuilt."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _break, ()


def _break() -> None:
    raise RuntimeError("it broke on the way")


class Closing:
    """Says when it is closed."""

    def __init__(self, label: str) -> None:
        self.label = label

    def name(self) -> str:
        return self.label

    def close(self) -> None:
        sys.stdout.write(f"closed {self.label}\n")  # at once: others are closed meanwhile


class Slow:
    """Never gets ready."""

    def __init__(self, kind: str) -> None:
        if kind == "a":
            self.init = self._init_async
        else:
            self.init = self._init_plain  # type: ignore[assignment]

    async def _init_async(self, cluster: object) -> None:
        print("init begins")
        await asyncio.sleep(600)

    def _init_plain(self, cluster: object) -> None:
        print("init begins")
        time.sleep(600)
