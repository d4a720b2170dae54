"""Values to payloads and back, through nothing but memory."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
import types
from typing import Any

import pytest

from bigmachine.errors import PayloadError
from bigmachine.rpc import codec
from bigmachine.wire import frames, landing


def landed(payload: codec.Payload) -> tuple[Any, list[Any]]:
    """Return a payload as it is after its journey: each part in memory of its own."""
    arrived = []
    for view, kind in payload.parts():
        owner, target = landing.allocate(kind, view.nbytes)
        target[:] = view
        target.release()
        arrived.append(landing.finish(kind, owner))
    return arrived[0], arrived[1:]


def there_and_back(value: Any) -> Any:
    return codec.decode(*landed(codec.encode(value)))


@pytest.mark.parametrize("value", [None, 1, "text", [1, {"a": (2.0, b"x")}], {1, 2}])
def test_plain_values_go_in_one_small_frame(value: Any) -> None:
    payload = codec.encode(value)
    assert payload.inline
    assert payload.buffers == ()
    assert codec.decode(payload.body) == value


@pytest.mark.parametrize("kind", [bytes, bytearray])
@pytest.mark.parametrize("size", [65_535, 65_536, 2_000_000])
def test_bulk_goes_out_of_band_from_a_size_on_and_keeps_its_type(kind: Any, size: int) -> None:
    value = kind(b"x" * size)
    payload = codec.encode((codec.bulk(value),))
    assert len(payload.buffers) == (size >= codec.OUT_OF_BAND_BYTES)
    (arrived,) = codec.decode(*landed(payload))
    assert type(arrived) is kind
    assert arrived == value


def test_arrays_go_out_of_band_uncopied_and_arrive_writable() -> None:
    np = pytest.importorskip("numpy")
    array = np.arange(100_000.0)
    payload = codec.encode({"a": [array]})
    assert len(payload.body) < 1000
    assert np.shares_memory(np.frombuffer(payload.buffers[0][0]), array)
    arrived = there_and_back({"a": [array], "small": np.ones(3)})
    assert (arrived["a"][0] == array).all()
    arrived["a"][0][0] = arrived["small"][0] = 7


def test_what_stands_on_several_dimensions_or_steps_arrives() -> None:
    np = pytest.importorskip("numpy")
    for array in (
        np.ones((300, 300), order="F"),
        np.arange(200_000)[::2],
        np.zeros((0, 5)),
        np.array(["a", None], dtype=object),
        np.zeros(20_000, dtype=[("x", "f8"), ("y", "i4")]),
    ):
        arrived = there_and_back(array)
        assert arrived.shape == array.shape
        assert (arrived == array).all()


def test_more_buffers_than_a_message_has_parts_are_copied_into_the_pickle() -> None:
    value = [pickle.PickleBuffer(bytes(codec.OUT_OF_BAND_BYTES)) for _ in range(5000)]
    payload = codec.encode(value)
    assert len(payload.parts()) == frames.MAX_PARTS
    assert payload.size_bytes > 5000 * codec.OUT_OF_BAND_BYTES


def test_a_payload_in_a_payload_keeps_its_buffers_out_of_band() -> None:
    inner = codec.encode((codec.bulk(bytes(200_000)),))
    outer = codec.encode({"inner": inner})
    assert len(outer.body) < 1000
    arrived = codec.decode(*landed(outer))["inner"]
    (value,) = codec.decode(arrived.body, [view for view, _ in arrived.buffers])
    assert value == bytes(200_000)


class Model:
    def __init__(self) -> None:
        self._lock = threading.Lock()


class Service:
    def __init__(self) -> None:
        self.model = Model()


GARBAGE = """
import gc
from bigmachine.rpc import codec

inner = codec.encode(codec.bulk(bytearray(100_000)))
garbage = [inner, codec.encode(inner)]
garbage.append(garbage)
del inner, garbage
print(gc.collect() > 0)
"""


def test_payloads_may_be_garbage_in_a_cycle() -> None:
    done = subprocess.run([sys.executable, "-c", GARBAGE], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"True\n", b"")


@pytest.mark.parametrize(
    ("value", "what", "path"),
    [
        (Service(), "service", "service.model._lock"),
        (Service(), "service PI", "service PI.model._lock"),
        (({"f": threading.Lock()},), "argument", ""),
        ((({"f": threading.Lock()},),), "argument", "args[0]['f']"),
        (((1,), {"x": [threading.Lock()]}), "argument", "kwargs['x'][0]"),
        ([1, threading.Lock()], "reply", "reply[1]"),
        (threading.Lock(), "item", "item"),
    ],
)
def test_what_cannot_be_sent_is_named(value: Any, what: str, path: str) -> None:
    with pytest.raises(PayloadError) as caught:
        codec.encode(value, what)
    if path:
        assert caught.value.path == path
        assert path in str(caught.value)
    assert "lock" in str(caught.value)
    assert not caught.value.retryable


def test_whatever_a_reduce_raises_is_a_payload_error() -> None:
    class Moody:
        def __reduce__(self) -> Any:
            raise ZeroDivisionError("not today")

    with pytest.raises(PayloadError, match="not today") as caught:
        codec.encode([Moody()], "reply")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_value_that_is_nested_without_end_is_a_payload_error() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(PayloadError):
        codec.encode(value)
    while value:  # freed a level at a time
        value = value[0]


@pytest.mark.parametrize("data", [b"", b"garbage", b"\x80\x05", pickle.dumps(1)[:-1]])
def test_what_is_no_pickle_is_a_payload_error(data: bytes) -> None:
    with pytest.raises(PayloadError):
        codec.decode(data)


def test_functions_and_classes_made_on_the_spot_arrive() -> None:
    factor = 3

    class Local:
        def times(self, n: int) -> int:
            return n * factor

    assert there_and_back(lambda n: n * factor)(2) == 6
    assert there_and_back(Local()).times(2) == 6


def test_what_belongs_to_main_goes_by_value_where_the_other_side_lacks_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = types.ModuleType("__main__")
    exec("class Point:\n    def x(self): return 4\n", module.__dict__)
    monkeypatch.setitem(sys.modules, "__main__", module)
    point = module.Point()
    # Once a program has had bare machines this stays set: other tests may have had some.
    monkeypatch.setattr(codec, "_by_value", ())
    by_reference = codec.encode(point)
    codec.send_main_by_value()
    by_value = codec.encode(point)
    assert len(by_value.body) > len(by_reference.body)
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
    assert codec.decode(by_value.body).x() == 4
    with pytest.raises(PayloadError):
        codec.decode(by_reference.body)


def test_read_only_arrays_arrive_writable_too() -> None:
    np = pytest.importorskip("numpy")
    for count in (3, 100_000):
        array = np.frombuffer(bytes(8 * count), dtype="f8")
        assert not array.flags.writeable
        arrived = there_and_back({"a": [array], "b": np.broadcast_to(np.arange(3.0), (2, 3))})
        arrived["a"][0][0] = arrived["b"][1, 0] = 7
        assert not array.any()
