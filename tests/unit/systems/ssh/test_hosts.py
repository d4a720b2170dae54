"""What users write for hosts, and what is made of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigmachine.errors import UsageError
from bigmachine.systems.ssh.hosts import parse, parse_all, read_file


@pytest.mark.parametrize(
    ("text", "name", "user", "port"),
    [
        ("a", "a", None, None),
        (" node-1.example.org ", "node-1.example.org", None, None),
        ("ops@a", "a", "ops", None),
        ("ops@a:2222", "a", "ops", 2222),
        ("a:22", "a", None, 22),
        ("10.0.0.7", "10.0.0.7", None, None),
        ("fe80::7%eth0", "fe80::7%eth0", None, None),
        ("[fe80::7]:2222", "fe80::7", None, 2222),
        ("ops@[::1]", "::1", "ops", None),
        ("me@corp@a", "a", "me@corp", None),
        ("ssh://ops@a:2222/", "a", "ops", 2222),
    ],
)
def test_a_host_is_a_name_with_a_user_and_a_port_perhaps(text, name, user, port):
    host = parse(text)
    assert (host.name, host.user, host.port) == (name, user, port)


@pytest.mark.parametrize(
    "text", ["", "@a", "a b", "-oProxyCommand=x", "a:b", "a:0", "a:65536", "a:", "[::1]x", "a/b"]
)
def test_what_is_no_host_is_refused_with_its_text(text):
    with pytest.raises(UsageError) as raised:
        parse(text)
    assert repr(text) in str(raised.value)


@given(st.text())
def test_any_text_is_a_host_or_a_usage_error(text):
    try:
        host = parse(text)
    except UsageError:
        return
    assert host.name
    assert not host.name.startswith("-")


@given(st.from_regex(r"[A-Za-z0-9_.-]{1,80}", fullmatch=True).filter(lambda t: t[0] != "-"))
def test_the_word_of_a_host_fits_a_certificate(text):
    word = parse(text).word
    assert 1 <= len(word) <= 24
    assert word.replace("-", "a").isalnum()
    assert word == word.lower()
    assert word[0] != "-" != word[-1]


def test_a_host_named_twice_is_refused_and_one_with_two_users_is_not():
    assert len(parse_all(["a", "ops@a", "a:2222"])) == 3
    with pytest.raises(UsageError, match="twice"):
        parse_all(["a", "b", "a"])


def test_a_hosts_file_has_a_host_on_each_line_and_comments(tmp_path: Path):
    file = tmp_path / "hosts"
    file.write_text("# the rack\n\n a # first\nops@b:2222\n", "utf-8")
    assert read_file(file) == ["a", "ops@b:2222"]


def test_a_wrong_line_of_a_hosts_file_is_named(tmp_path: Path):
    file = tmp_path / "hosts"
    file.write_text("a\nb c\n", "utf-8")
    with pytest.raises(UsageError, match=r"hosts:2: 'b c' is no SSH host"):
        read_file(file)


def test_a_hosts_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(UsageError, match="cannot be read"):
        read_file(tmp_path / "missing")
