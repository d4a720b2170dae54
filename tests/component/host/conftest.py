"""Makes the modules beside the tests importable, in the machines (which get this path) as well."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
