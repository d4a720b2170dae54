"""Measure one case of one contestant, in this process, and write what was found as JSON.

``python -m benchmarks.contestant NAME CASE PARAMS RESULT``, where ``NAME`` may be ``floor``.
Started by ``run``; by hand it is the thing to put under a profiler.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.cases import CASES, Params
from benchmarks.contestants import load
from benchmarks.contestants.base import Unsupported

UNSUPPORTED = 77
"""The exit code that says that the contestant cannot do this."""


def main(arguments: Sequence[str]) -> int:
    """Measure and write; return the exit code."""
    name, case, params, result = arguments
    try:
        if name == "floor":
            from benchmarks import floor

            figures = {"floor": floor.run(case, json.loads(params))}
        else:
            figures = CASES[case](load(name)(), Params(**json.loads(params)))
    except Unsupported:
        return UNSUPPORTED
    Path(result).write_text(json.dumps(figures), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
