import copy
import datetime
import pickle
import subprocess
import sys

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from bigmachine.security.authority import BACKDATED, LIFETIME, Authority

NOW = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
SHARED = Authority(now=NOW)


@pytest.fixture
def authority() -> Authority:
    return SHARED


def issued(authority: Authority, subject: str = "host-0.cluster") -> x509.Certificate:
    return x509.load_pem_x509_certificate(authority.issue(subject).certificate.encode())


def test_a_certificate_states_its_subject_once(authority: Authority) -> None:
    names = issued(authority).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.value.get_values_for_type(x509.DNSName) == ["host-0.cluster"]
    assert len(list(names.value)) == 1


def test_a_certificate_serves_both_ends_of_a_connection(authority: Authority) -> None:
    usage = issued(authority).extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    assert set(usage.value) == {
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    }


def test_a_certificate_is_valid_for_clocks_that_are_behind(authority: Authority) -> None:
    certificate = issued(authority)
    assert certificate.not_valid_before_utc == NOW - BACKDATED
    assert certificate.not_valid_after_utc == NOW + LIFETIME
    assert datetime.timedelta(hours=1) <= BACKDATED


def test_a_host_cannot_issue_certificates(authority: Authority) -> None:
    extensions = issued(authority).extensions
    assert extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign is False


def test_the_authority_signed_what_it_issued(authority: Authority) -> None:
    certificate = issued(authority)
    issuer = x509.load_pem_x509_certificate(authority.certificate.encode())
    certificate.verify_directly_issued_by(issuer)
    constraints = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (True, 0)


def test_two_authorities_have_different_keys_and_names() -> None:
    one, other = (
        x509.load_pem_x509_certificate(Authority().certificate.encode()) for _ in range(2)
    )
    assert one.subject != other.subject
    assert one.public_key() != other.public_key()


def test_an_authority_cannot_be_pickled_or_copied(authority: Authority) -> None:
    with pytest.raises(TypeError, match="stays in the process"):
        pickle.dumps(authority)
    with pytest.raises(TypeError, match="stays in the process"):
        copy.deepcopy(authority)


def test_an_authority_shows_no_secret(authority: Authority) -> None:
    assert "PRIVATE" not in repr(authority)
    assert "PRIVATE" not in authority.certificate


@pytest.mark.parametrize(
    "subject", ["", "*.cluster", "Host", "a..b", "-a", "a-", "a b", "a\n", "127.0.0.1", "x" * 65]
)
def test_a_subject_that_tls_would_not_compare_exactly_is_refused(
    authority: Authority, subject: str
) -> None:
    with pytest.raises(ValueError, match="subject"):
        authority.issue(subject)


@given(st.text(max_size=80) | st.text("ab0-.", max_size=70))
def test_any_subject_is_issued_as_it_is_or_refused(subject: str) -> None:
    try:
        certificate = issued(SHARED, subject)
    except ValueError:
        return
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.value.get_values_for_type(x509.DNSName) == [subject]


def test_an_authority_imports_its_library_only_when_it_is_made() -> None:
    program = (
        "import sys, bigmachine.security.authority; "
        "print([m for m in ('ssl', 'cryptography') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.strip() == "[]"
