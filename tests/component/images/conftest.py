"""Makes the modules beside these tests, and those of others that they use, importable."""

from __future__ import annotations

import sys
from pathlib import Path

_HERE = Path(__file__).parent
_TESTS = _HERE.parent.parent

sys.path += map(
    str, (_HERE, _HERE.parent / "rpc", _TESTS / "unit" / "image", _TESTS / "unit" / "driver")
)
