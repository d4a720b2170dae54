"""What proves a party's identity in a cluster, and how it travels.

Credentials are made by the cluster's authority (`bigmachine.security.authority`), one set for each
host. They travel to the host as JSON, over a channel that is trusted already; never as a pickle,
since they are read before anybody may be trusted with one.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What one party of a cluster needs to prove who it is and to verify the others.

    Attributes:
        subject: The identity that the certificate states.
        certificate: The certificate, PEM.
        key: The certificate's private key, PEM; never shown by ``repr``.
        authority: The certificate of the cluster's authority, PEM.
    """

    subject: str
    certificate: str
    key: str = field(repr=False)
    authority: str

    def to_json(self) -> str:
        """Encode, the private key included, for a channel that is trusted already."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Credentials:
        """Decode what `to_json` made.

        Raises:
            ValueError: It is not that. The message does not quote it, for there may be a key in it.
        """
        wrong = ValueError("these are not credentials in JSON")
        try:
            values = json.loads(text)
        except ValueError:
            raise wrong from None  # the decoder's error holds the text
        names = {each.name for each in fields(cls)}
        if not isinstance(values, dict) or values.keys() != names:
            raise wrong
        if not all(isinstance(value, str) for value in values.values()):
            raise wrong
        return cls(**values)
