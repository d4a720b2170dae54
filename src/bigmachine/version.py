"""The version of this library, in one place for packaging, handshakes and the command line."""

from __future__ import annotations

from typing import Final

VERSION: Final = "0.1.0"
