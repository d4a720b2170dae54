"""Endpoints inside this process: what ``inproc`` addresses lead to.

A host that lives in the process of a test opens one, under a name, and is then dialled like any
other; no preamble is sent, since the target is told outright. Used from any thread.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

Accept = Callable[[str], socket.socket]
"""Takes a target; returns the caller's end of a new connection to it, or raises OSError."""

_open: dict[str, Accept] = {}


def open_endpoint(name: str, accept: Accept) -> None:
    """Have connections to a name accepted."""
    _open[name] = accept


def close_endpoint(name: str) -> None:
    """Refuse connections to a name from now on. Idempotent."""
    _open.pop(name, None)


def connect(name: str, target: str) -> socket.socket:
    """Return a connected, non-blocking socket.

    Raises:
        ConnectionRefusedError: Nobody accepts connections to that name in this process.
    """
    accept = _open.get(name)
    if accept is None:
        raise ConnectionRefusedError(f"there is no host {name!r} inside this process")
    return accept(target)
