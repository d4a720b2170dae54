"""The cluster's certificate authority.

Each cluster has its own, made in the driver's memory when a host needs TLS and gone with the
driver. It issues one certificate to each party. Nobody outside the cluster trusts it, so a
certificate is worthless once the cluster has ended, and stealing one host's key gains that host's
identity and no more: the authority's own key never leaves this process, not even to the hosts.

Certificates are for both ends of a connection, since hosts dial each other. Keys are on the curve
P-256: signatures cost a tenth of a millisecond, and every TLS library has it.
"""

from __future__ import annotations

import datetime
import re
import secrets
from typing import TYPE_CHECKING, NoReturn

from bigmachine.security.credentials import Credentials

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

#: A cluster may run for weeks, and there is no renewal; nothing trusts its certificates afterwards.
LIFETIME = datetime.timedelta(days=30)

#: Hosts' clocks may be behind the driver's, and a certificate from the future is refused.
BACKDATED = datetime.timedelta(hours=24)

#: DNS labels in lower case, so that TLS libraries compare them exactly; but not an IP address, for
#: which they look elsewhere in the certificate. A common name holds 64 characters.
_LABEL = "[a-z0-9]([a-z0-9-]*[a-z0-9])?"
_SUBJECT = re.compile(rf"(?=.{{1,64}}\Z)(?![0-9.]+\Z){_LABEL}(\.{_LABEL})*")


class Authority:
    """Issues the certificates of one cluster. Making one takes about a millisecond.

    It cannot be pickled or copied. Any thread may use it.
    """

    def __init__(self, *, now: datetime.datetime | None = None) -> None:
        """Make a new authority with a key of its own.

        Args:
            now: The time that validities count from, with a time zone; None for the clock's.
        """
        from cryptography.hazmat.primitives.asymmetric import ec

        self._now = now or datetime.datetime.now(datetime.UTC)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = f"bigmachine authority {secrets.token_hex(8)}"
        self._certificate = self._certify_itself()

    def __repr__(self) -> str:
        return f"<Authority {self._name!r}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a cluster's authority stays in the process that made it")

    @property
    def certificate(self) -> str:
        """The certificate by which members of the cluster verify each other, PEM."""
        return _pem(self._certificate)

    def issue(self, subject: str) -> Credentials:
        """Make a key and a certificate for one party of the cluster.

        Args:
            subject: Its identity, formed like a host name in lower case, at most 64 characters.

        Raises:
            ValueError: ``subject`` is not formed so.
        """
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID

        if not _SUBJECT.fullmatch(subject):
            raise ValueError(f"{subject!r} cannot be a certificate's subject: use a host name")
        key = ec.generate_private_key(ec.SECP256R1())
        both_ends = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = self._sign(
            self._describe(subject, key.public_key(), authority=False)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(subject)]), critical=False)
            .add_extension(x509.ExtendedKeyUsage(both_ends), critical=False)
        )
        encoded_key = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return Credentials(
            subject=subject,
            certificate=_pem(certificate),
            key=encoded_key.decode("ascii"),
            authority=self.certificate,
        )

    def _certify_itself(self) -> x509.Certificate:
        return self._sign(self._describe(self._name, self._key.public_key(), authority=True))

    def _describe(
        self, subject: str, key: ec.EllipticCurvePublicKey, *, authority: bool
    ) -> x509.CertificateBuilder:
        """State what every certificate states; OpenSSL's strict mode wants each of these."""
        from cryptography import x509

        return (
            x509.CertificateBuilder()
            .subject_name(_common_name(subject))
            .issuer_name(_common_name(self._name))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now - BACKDATED)
            .not_valid_after(self._now + LIFETIME)
            .add_extension(
                x509.BasicConstraints(ca=authority, path_length=0 if authority else None),
                critical=True,
            )
            .add_extension(_key_usage(authority=authority), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )

    def _sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        from cryptography.hazmat.primitives import hashes

        return builder.sign(self._key, hashes.SHA256())


def _common_name(name: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    """An authority signs certificates and nothing else, its members sign handshakes and no more."""
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> str:
    from cryptography.hazmat.primitives import serialization

    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")
