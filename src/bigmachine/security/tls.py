"""TLS as the cluster speaks it: version 1.3 only, and both sides verify.

A certificate's subject is its only DNS name and its host's identity: a client names the subject
that it means to reach, and the handshake fails if anybody else answers.

What always holds: a context trusts one authority, its own cluster's, and nothing that the operating
system trusts. There is no way to get a context that does not verify.
"""

from __future__ import annotations

import ssl

from bigmachine import osdep
from bigmachine.security.credentials import Credentials

__all__ = ["Credentials", "client_context", "peer_subject", "server_context"]


def server_context(credentials: Credentials) -> ssl.SSLContext:
    """Make the context of an accepting side, which demands a certificate of the same authority.

    Raises:
        ssl.SSLError: The credentials are damaged.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # A resumed session would skip the verification of certificates. Connections are few and long.
    context.num_tickets = 0
    return _prepare(context, credentials)


def client_context(credentials: Credentials) -> ssl.SSLContext:
    """Make the context of a connecting side; pass the expected subject as ``server_hostname``.

    Without one, making a connection of it raises ``ValueError``.

    Raises:
        ssl.SSLError: The credentials are damaged.
    """
    context = _ClientContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = True
    context.hostname_checks_common_name = False
    return _prepare(context, credentials)


def peer_subject(connection: ssl.SSLObject | ssl.SSLSocket) -> str:
    """Return the verified identity of the other side, after the handshake.

    Raises:
        ValueError: The handshake is not complete, or the certificate does not state one identity.
    """
    certificate = connection.getpeercert() or {}
    stated = certificate.get("subjectAltName", ())
    # typeshed cannot tell the fields of this mapping apart.
    names = [pair[1] for pair in stated if isinstance(pair, tuple) and pair[0] == "DNS"]
    if len(names) != 1:
        raise ValueError(f"the peer's certificate states {len(names)} identities, 1 was expected")
    return str(names[0])


class _ClientContext(ssl.SSLContext):
    """Insists on the subject: `ssl` does so for sockets, but lets memory BIOs skip the check."""

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        if not server_hostname:
            raise ValueError("a client must say whom it means to reach: server_hostname")
        return super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)


def _prepare(context: ssl.SSLContext, credentials: Credentials) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(cadata=credentials.authority)
    # The key can only be loaded from a file.
    with osdep.secret_file((credentials.certificate + credentials.key).encode()) as path:
        context.load_cert_chain(path)
    return context
