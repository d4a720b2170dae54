"""Handshakes over memory: no sockets, no threads; both ends are driven in turn."""

import json
import ssl
from dataclasses import replace

import pytest

from bigmachine.security.authority import Authority
from bigmachine.security.credentials import Credentials
from bigmachine.security.tls import client_context, peer_subject, server_context


class Loopback:
    """A TLS client and server joined by memory BIOs."""

    def __init__(
        self, client: ssl.SSLContext, server: ssl.SSLContext, hostname: str | None
    ) -> None:
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = client.wrap_bio(to_client, to_server, server_hostname=hostname)
        self.server = server.wrap_bio(to_server, to_client, server_side=True)

    def handshake(self) -> None:
        """Let each end move in turn until both are done; 1.3 needs two rounds."""
        waiting = [self.client, self.server]
        for _ in range(10):
            for end in list(waiting):
                try:
                    end.do_handshake()
                    waiting.remove(end)
                except ssl.SSLWantReadError:
                    pass
        assert not waiting
        # In TLS 1.3 a client learns from its first read that the server has refused it.
        with pytest.raises(ssl.SSLWantReadError):
            self.client.read(1)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def host(authority: Authority) -> Credentials:
    return authority.issue("host-0.cluster")


@pytest.fixture(scope="module")
def driver(authority: Authority) -> Credentials:
    return authority.issue("driver.cluster")


def connect(client: ssl.SSLContext, host: Credentials, name: str = "host-0.cluster") -> Loopback:
    pair = Loopback(client, server_context(host), name)
    pair.handshake()
    return pair


def test_both_ends_of_one_cluster_verify_each_other(driver: Credentials, host: Credentials) -> None:
    pair = connect(client_context(driver), host)
    assert pair.client.version() == pair.server.version() == "TLSv1.3"
    assert peer_subject(pair.client) == "host-0.cluster"
    assert peer_subject(pair.server) == "driver.cluster"
    pair.client.write(b"ping")
    assert pair.server.read(10) == b"ping"
    pair.server.write(b"pong")
    assert pair.client.read(10) == b"pong"


def test_hosts_of_one_cluster_dial_each_other(authority: Authority, host: Credentials) -> None:
    other = authority.issue("host-1.cluster")
    assert peer_subject(connect(client_context(other), host).server) == "host-1.cluster"


def test_a_server_of_another_authority_is_refused(driver: Credentials) -> None:
    stranger = Authority().issue("host-0.cluster")
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(client_context(driver), stranger)


def test_a_client_of_another_authority_is_refused(host: Credentials) -> None:
    stranger = Authority().issue("driver.cluster")
    # The stranger even knows the cluster's authority, so the refusal is the server's own.
    trusting = replace(stranger, authority=host.authority)
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(client_context(trusting), host)


def test_a_server_with_another_subject_is_refused(
    driver: Credentials, authority: Authority
) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        connect(client_context(driver), authority.issue("host-1.cluster"))


def test_a_subject_that_only_begins_alike_is_refused(
    driver: Credentials, host: Credentials
) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        connect(client_context(driver), host, "host-0")


def test_a_connection_that_names_no_subject_cannot_be_made(
    driver: Credentials, host: Credentials
) -> None:
    for nothing in (None, ""):
        with pytest.raises(ValueError, match="server_hostname"):
            Loopback(client_context(driver), server_context(host), nothing)


def test_a_client_without_a_certificate_is_refused(host: Credentials) -> None:
    anonymous = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anonymous.load_verify_locations(cadata=host.authority)
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        connect(anonymous, host)


def test_a_client_that_speaks_tls_1_2_at_most_is_refused(
    driver: Credentials, host: Credentials
) -> None:
    old = client_context(driver)
    old.minimum_version = ssl.TLSVersion.TLSv1_2
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match="UNSUPPORTED_PROTOCOL"):
        connect(old, host)


def test_a_server_that_speaks_tls_1_2_at_most_is_refused(
    driver: Credentials, host: Credentials
) -> None:
    old = server_context(host)
    old.minimum_version = ssl.TLSVersion.TLSv1_2
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    pair = Loopback(client_context(driver), old, "host-0.cluster")
    with pytest.raises(ssl.SSLError, match=r"PROTOCOL|NO_PROTOCOLS|VERSION"):
        pair.handshake()


def test_sessions_are_not_resumed_so_that_every_connection_is_verified(
    driver: Credentials, host: Credentials
) -> None:
    pair = connect(client_context(driver), host)
    assert pair.client.session is None or not pair.client.session.has_ticket


def test_the_peers_subject_is_unknown_before_the_handshake(
    driver: Credentials, host: Credentials
) -> None:
    pair = Loopback(client_context(driver), server_context(host), "host-0.cluster")
    with pytest.raises(ValueError):
        peer_subject(pair.client)


def test_a_certificate_with_a_strangers_key_is_refused_when_it_is_loaded(
    driver: Credentials, host: Credentials
) -> None:
    with pytest.raises(ssl.SSLError):
        client_context(replace(driver, key=host.key))


def test_credentials_survive_json_and_still_work(driver: Credentials, host: Credentials) -> None:
    copies = [Credentials.from_json(each.to_json()) for each in (driver, host)]
    assert copies == [driver, host]
    connect(client_context(copies[0]), copies[1])


def test_credentials_never_show_their_key(driver: Credentials) -> None:
    assert "PRIVATE" not in repr(driver)
    assert "driver.cluster" in repr(driver)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "PRIVATE",
        "[]",
        "{}",
        json.dumps({"subject": "PRIVATE", "certificate": "", "key": "", "authority": 1}),
        json.dumps(dict.fromkeys(["subject", "certificate", "key", "authority", "more"], "")),
    ],
)
def test_what_is_not_credentials_is_refused_and_not_quoted(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        Credentials.from_json(text)
    assert "PRIVATE" not in str(caught.value)
    assert caught.value.__context__ is None or caught.value.__suppress_context__
