"""What the driver orders of the switchboard: a host, how to reach it, and what runs there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from bigmachine.systems.ssh.settings import ConnectSettings

LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the driver wants.

    Attributes:
        host: The host, as the user names it.
        settings: How to connect.
        subject: Who it will be in the cluster.
        python: The interpreter that runs the boot file.
        tunnel: Whether there may, must or must not be tunnels.
        boot: The boot file's configuration.
    """

    host: str
    settings: ConnectSettings
    subject: str
    python: str
    tunnel: Literal["auto", "always", "never"]
    boot: Mapping[str, Any]

    def to_mapping(self) -> dict[str, Any]:
        """Return it as what fits into JSON."""
        return {
            "host": self.host,
            "settings": self.settings.to_mapping(),
            "subject": self.subject,
            "python": self.python,
            "tunnel": self.tunnel,
            "boot": dict(self.boot),
        }

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Order:
        """Rebuild it from `to_mapping`."""
        return cls(**{**values, "settings": ConnectSettings.from_mapping(values["settings"])})
