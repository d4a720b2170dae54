"""Where a machine is reached: a text that works anywhere in the cluster and names one instance.

::

    unix:/run/user/0/bigmachine/4f1c/host.sock#3-9f3a01c2
    tls:10.0.0.7:40123#3-9f3a01c2?host=h1.bigpi-4f1c
    inproc:inprocess-7#3-9f3a01c2

Before ``#`` stands the host's one endpoint, after it the target: a machine's unique id, or
``host`` for the supervisor itself. ``host=`` is the subject of the host's certificate; where
``&via=gateway`` follows, other hosts reach it through their gateway alone (`rpc.dialer`).
``inproc`` is for tests: such a host is inside the process that dials it (`rpc.endpoints`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from bigmachine.errors import UsageError

HOST_TARGET = "host"

_VIA_GATEWAY = "&via=gateway"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A parsed address.

    Attributes:
        kind: The transport.
        path: With ``unix``: the socket's path. With ``inproc``: the endpoint's name.
        host: With ``tls``: the host's name or IP address.
        port: With ``tls``: the port.
        target: Who on the host is meant.
        subject: With ``tls``: the subject of the host's certificate.
        tunnelled: With ``tls``: whether nobody but the host itself reaches it directly.
    """

    kind: Literal["unix", "tls", "inproc"]
    path: str = ""
    host: str = ""
    port: int = 0
    target: str = HOST_TARGET
    subject: str = ""
    tunnelled: bool = False

    def __str__(self) -> str:
        if self.kind != "tls":
            return f"{self.kind}:{self.path}#{self.target}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        subject = f"?host={self.subject}" if self.subject else ""
        via = _VIA_GATEWAY if self.subject and self.tunnelled else ""
        return f"tls:{host}:{self.port}#{self.target}{subject}{via}"

    @property
    def hostname(self) -> str:
        """The host's name or address; ``localhost`` on one host."""
        return self.host or "localhost"

    def at(self, target: str) -> Address:
        """Return the address of somebody else on the same host."""
        return replace(self, target=target)

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parse an address.

        Raises:
            UsageError: It is none.
        """
        kind, _, rest = text.partition(":")
        endpoint, _, fragment = rest.partition("#")
        target, _, query = fragment.partition("?")
        target = target or HOST_TARGET
        if kind == "unix" and endpoint:
            return cls(kind="unix", path=endpoint, target=target)
        if kind == "inproc" and endpoint:
            return cls(kind="inproc", path=endpoint, target=target)
        host, _, port = endpoint.rpartition(":")
        if kind == "tls" and host and port.isdecimal():
            return cls(
                kind="tls",
                host=host.strip("[]"),
                port=int(port),
                target=target,
                subject=query.removesuffix(_VIA_GATEWAY).removeprefix("host="),
                tunnelled=query.endswith(_VIA_GATEWAY),
            )
        raise UsageError(
            f"{text!r} is no machine's address; take it from Machine.addr "
            f"(unix:PATH#ID or tls:HOST:PORT#ID)"
        )
