"""Large payloads of several kinds."""

from __future__ import annotations

import os
from typing import Any, Literal, get_args

PayloadKind = Literal["bytes", "bytearray", "numpy"]

KINDS: tuple[PayloadKind, ...] = get_args(PayloadKind)


def make_payload(kind: PayloadKind, size_bytes: int) -> Any:
    """Make a payload with every page touched (untouched ones would all be one page of zeros)."""
    block = os.urandom(1 << 16)
    data = (block * (size_bytes // len(block) + 1))[:size_bytes]
    if kind == "bytes":
        return data
    if kind == "bytearray":
        return bytearray(data)
    import numpy as np

    return np.frombuffer(data, dtype=np.uint8).copy()


def fresh_memory(kind: PayloadKind, size_bytes: int) -> Any:
    """Memory for a payload to be received into, as its kind makes it."""
    if kind == "numpy":
        import numpy as np

        return np.empty(size_bytes, dtype=np.uint8)
    return bytearray(size_bytes)
