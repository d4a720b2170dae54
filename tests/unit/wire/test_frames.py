"""Heads, windows, greetings and preambles: there and back, and broken ones refused."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigmachine.errors import RemoteProtocolError, UsageError
from bigmachine.wire import frames


def test_a_frame_has_the_header_that_the_module_draws() -> None:
    assert frames.frame(frames.REPLY, 7, 3, b"ab", 1) == (b"\x02\0\0\0\x03\x01\x03\0\x07\0\0\0ab")


@given(st.text(max_size=200), st.floats(allow_nan=False), st.binary(max_size=50))
def test_the_head_of_a_call_is_read_back(method: str, remaining: float, payload: bytes) -> None:
    method = method.encode(errors="ignore").decode()
    body = frames.call_head(method.encode(), remaining) + payload
    left, name, offset = frames.split_call(body)
    assert (frames.method_name(name), left) == (method, remaining)
    assert body[offset:] == payload


@given(st.binary(max_size=100))
def test_a_broken_head_of_a_call_is_the_peers_fault(body: bytes) -> None:
    try:
        left, name, offset = frames.split_call(body)
        method = frames.method_name(name)
    except RemoteProtocolError:
        return
    assert 0 <= offset <= len(body)
    assert isinstance(method, str)
    assert not math.isnan(left)


@given(st.text(min_size=1, max_size=200), st.integers(min_value=1, max_value=200))
def test_a_head_that_is_cut_off_is_refused(method: str, cut: int) -> None:
    body = frames.call_head(method.encode(errors="replace"), 1.0)
    with pytest.raises(RemoteProtocolError):
        frames.split_call(body[: -min(cut, len(body))])


def test_a_deadline_that_is_no_number_is_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        frames.split_call(frames.call_head(b"S.m", math.nan))


def test_a_head_fits_a_frame_with_the_largest_payload_and_the_largest_table() -> None:
    head = len(frames.call_head(b"m" * frames.MAX_METHOD_BYTES, 1.0))
    assert head + frames.INLINE_BYTES <= frames.MAX_FRAME_BYTES
    table = frames.COUNT.size + frames.MAX_PARTS * frames.PART.size
    assert head + table <= frames.MAX_FRAME_BYTES


def test_a_name_of_a_method_that_no_frame_could_hold_is_refused_where_it_is_called() -> None:
    with pytest.raises(UsageError, match="too long"):
        frames.call_head(b"m" * (frames.MAX_METHOD_BYTES + 1), 1.0)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_a_window_is_read_back(items: int, size: int) -> None:
    frame = frames.window(1, 2, items, size)
    assert frames.split_window(frame[frames.HEADER_BYTES :]) == (items, size)


@pytest.mark.parametrize("body", [b"", b"1234567", b"123456789"])
def test_a_window_of_another_size_is_refused(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        frames.split_window(body)


def test_both_sides_of_one_version_greet_each_other() -> None:
    frames.check_hello(frames.hello("1.2")[frames.HEADER_BYTES :], "1.2")
    frames.check_hello(frames.hello("1.2")[frames.HEADER_BYTES :], "1.3")


def test_another_protocol_is_refused_with_both_versions_and_the_remedy() -> None:
    body = json.dumps({"protocol": 99, "version": "9.9"}).encode()
    with pytest.raises(RemoteProtocolError, match=r"9\.9.*99.*1\.2.*install the same version"):
        frames.check_hello(body, "1.2")


@given(
    st.binary(max_size=60)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(st.sampled_from(["protocol", "version", "x"]), inner, max_size=3)
        ),
        max_leaves=5,
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_other_greeting_is_refused(body: bytes) -> None:
    try:
        frames.check_hello(body, "1.2")
    except RemoteProtocolError:
        return
    assert json.loads(body)["protocol"] == frames.PROTOCOL


def test_a_greeting_nested_without_end_is_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        frames.check_hello(b"[" * 100_000, "1.2")


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=51))
def test_a_preamble_is_read_back(target: str) -> None:
    assert frames.split_preamble(frames.preamble(target)) == target


@pytest.mark.parametrize("target", ["x" * 52, "é"])
def test_a_target_that_does_not_fit_is_refused(target: str) -> None:
    with pytest.raises(ValueError):
        frames.preamble(target)


@given(st.binary(max_size=64) | st.binary(max_size=51).map(lambda b: b"bigmachine/1 " + b))
def test_a_broken_preamble_is_the_peers_fault(data: bytes) -> None:
    try:
        frames.split_preamble(data)
    except RemoteProtocolError:
        return
    assert data.startswith(b"bigmachine/1 ")


def test_every_kind_has_a_name() -> None:
    kinds = {
        value
        for name, value in vars(frames).items()
        if name.isupper() and isinstance(value, int) and name in frames.KIND_NAMES.values()
    }
    assert kinds == set(frames.KIND_NAMES)
