"""A terminal, for what is shown on one."""

from __future__ import annotations

import os
import pty
import select
import time
from typing import TextIO

LIMIT = 10.0


class Terminal:
    """Both ends of a pseudo-terminal."""

    def __init__(self) -> None:
        self.screen, below = pty.openpty()
        self.stream: TextIO = os.fdopen(below, "w")
        self.seen = ""

    def read_until(self, text: str) -> str:
        """Everything shown up to and including ``text``, which must come."""
        deadline = time.monotonic() + LIMIT
        while text not in self.seen:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} is not in {self.seen!r}"
            if select.select([self.screen], [], [], left)[0]:
                self.seen += os.read(self.screen, 65_536).decode()
        before, _, self.seen = self.seen.partition(text)
        return before + text

    def close(self) -> None:
        self.stream.close()
        os.close(self.screen)
