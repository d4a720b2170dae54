"""How hosts are connected to, as a user has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

CONNECT_SECONDS: Final = 15.0
"""How long a host may take to let us in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectSettings:
    """How hosts are connected to.

    Attributes:
        user: Whom to log in as, where the host does not say; None leaves it to the configuration.
        port: The port, likewise.
        key: Files with private keys; none: the usual ones, and those of the configuration.
        known_hosts: Files of known hosts; none: the usual ones.
        jump: Hosts to connect through, with commas between; None leaves it to the configuration.
        config: An SSH configuration; None: ``~/.ssh/config``.
        connect_seconds: How long a host may take to let us in.
        alive_seconds: A connection on which nothing comes for half as long is lost.
    """

    user: str | None = None
    port: int | None = None
    key: tuple[str, ...] = ()
    known_hosts: tuple[str, ...] = ()
    jump: str | None = None
    config: str | None = None
    connect_seconds: float = CONNECT_SECONDS
    alive_seconds: float = 120.0

    def to_mapping(self) -> dict[str, Any]:
        """Return it as what fits into JSON."""
        return asdict(self)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> ConnectSettings:
        """Rebuild it from `to_mapping` and JSON."""
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
        return cls(**given)
