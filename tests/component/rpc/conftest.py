"""Makes the modules beside the tests importable, and lets no test leave anything behind."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

_WAIT_SECONDS = 5.0


def _descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # the one that listed the directory
            continue
        found[name] = target
    return {fd: to for fd, to in found.items() if to.startswith(("socket:", "anon_inode:"))}


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Fail a test that leaves a thread, a socket or an event queue."""
    threads, descriptors = set(threading.enumerate()), set(_descriptors())
    yield
    end = time.monotonic() + _WAIT_SECONDS
    while True:
        left = [each.name for each in threading.enumerate() if each not in threads]
        open_ones = {fd: to for fd, to in _descriptors().items() if fd not in descriptors}
        if not left and not open_ones:
            return
        gc.collect()  # a loop's own descriptors go with the loop
        assert time.monotonic() < end, f"left behind: threads {left}, descriptors {open_ones}"
        for thread in threading.enumerate():
            if thread not in threads:
                thread.join(0.05)
