"""Payloads in anonymous files."""

from __future__ import annotations

import os

import numpy as np
import pytest

from bigmachine.errors import PayloadError
from bigmachine.host.parcel import read_parcel, write_parcel
from bigmachine.rpc import codec


def test_a_value_survives_with_its_arrays_writable() -> None:
    value = {"text": "x" * 100_000, "array": np.arange(100_000), "small": np.ones(3), "none": None}
    descriptor = write_parcel(codec.encode(value))
    for _ in range(2):  # each reader has its own copy
        found = read_parcel(os.dup(descriptor))
        assert found["text"] == value["text"]
        assert (found["array"] == np.arange(100_000)).all()
        found["array"][:] = 7
        assert found["none"] is None
    os.close(descriptor)


def test_payloads_inside_of_a_payload_share_nothing_but_the_file() -> None:
    services = {"A": codec.encode(np.zeros(50_000)), "B": codec.encode("b")}
    found = read_parcel(write_parcel(codec.encode(services)))
    array = codec.decode(found["A"].body, [view for view, _ in found["A"].buffers])
    assert array.sum() == 0
    assert codec.decode(found["B"].body) == "b"


def test_what_cannot_be_rebuilt_is_refused_and_leaves_no_descriptor() -> None:
    descriptor = write_parcel(codec.Payload(b"junk"))
    with pytest.raises(PayloadError):
        read_parcel(descriptor)
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(descriptor)
