"""Values to bytes and back.

A value becomes one pickle and, out of band, the large buffers it holds (pickle protocol 5), so
an array's data is neither copied into the pickle nor out of it. A large `bytes` or `bytearray`
that is itself an argument or a reply goes out of band too.

What pickle cannot do is tried with cloudpickle (functions and classes made on the spot); what
that cannot do either is a `PayloadError` that names the attribute. Where machines do not run the
user's program (``program="bare"``), what belongs to ``__main__`` goes by value, and so does what
belongs to modules that they cannot import.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bigmachine.errors import PayloadError
from bigmachine.wire import frames, landing

OUT_OF_BAND_BYTES: Final = 64 * 1024
"""A buffer from this size on is not copied into the pickle."""

_MAX_BUFFERS: Final = frames.MAX_PARTS - 1
"""A message has no more parts than these and the pickle: further buffers are copied into it."""

Buffer = bytes | bytearray | memoryview

_by_value: tuple[bytes, ...] = ()  # the names of modules that the other side lacks


class NotReadyError(Exception):
    """A value cannot be encoded yet: it holds a machine without an address.

    Attributes:
        machine: That machine.
    """

    def __init__(self, machine: Any) -> None:
        super().__init__(f"{machine!r} has no address yet")
        self.machine = machine


@dataclass(frozen=True, slots=True)
class Payload:
    """One encoded value.

    Attributes:
        body: The pickle.
        buffers: Its out-of-band buffers with the kind of memory each lands in. None is a
            memoryview: with one that something else looks through, CPython crashes when both are
            garbage in the same cycle (seen with 3.11 and 3.12).
    """

    body: Buffer
    buffers: tuple[tuple[Any, int], ...] = ()

    @property
    def size_bytes(self) -> int:
        """The size of everything together."""
        return len(self.body) + sum(memoryview(buffer).nbytes for buffer, _ in self.buffers)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # Its buffers are buffers of whatever holds it: they travel out of band there too.
        wrap = pickle.PickleBuffer
        buffers = [(wrap(buffer), kind) for buffer, kind in self.buffers]
        return _rebuild_payload, (wrap(self.body), buffers)

    @property
    def inline(self) -> bool:
        """Whether it fits one frame."""
        return not self.buffers and len(self.body) <= frames.INLINE_BYTES

    def parts(self) -> list[tuple[memoryview, int]]:
        """Return the parts that travel in DATA frames."""
        kinds = (kind for _, kind in self.buffers)
        views = (memoryview(buffer).cast("B") for buffer in self.flat())
        return [(memoryview(self.body), landing.BUFFER), *zip(views, kinds, strict=True)]

    def flat(self) -> list[Any]:
        """Return the buffers, each of one dimension."""
        return [
            buffer.raw() if type(buffer) is pickle.PickleBuffer else buffer
            for buffer, _ in self.buffers
        ]


def send_main_by_value() -> None:
    """Say that some other side lacks this program's ``__main__``.

    It holds for the whole process, and for good. Those who have it understand values as well.
    """
    global _by_value
    _by_value = _by_value or (b"__main__",)


def send_local_modules_by_value() -> None:
    """Have the present modules that the other side cannot import go by value, too."""
    global _by_value
    import sys

    from bigmachine.rpc.importable import not_importable

    lacking = not_importable(sys.modules)
    if lacking:
        import cloudpickle

        for name in lacking:
            cloudpickle.register_pickle_by_value(sys.modules[name])
    _by_value = (b"__main__", *(name.encode() for name in lacking))


def _is_lacking(body: bytes) -> bool:
    """Whether a pickle refers to what the other side lacks; a false alarm does no harm."""
    return any(name in body for name in _by_value)


def encode(value: Any, what: str = "value") -> Payload:
    """Encode a value.

    Args:
        value: Anything that pickle or cloudpickle can handle.
        what: How the value is called in an error.

    Raises:
        PayloadError: It cannot be encoded; ``path`` names the attribute that is to blame.
    """
    buffers: list[tuple[Any, int]] = []
    read_only = False

    def take(buffer: pickle.PickleBuffer) -> bool:
        nonlocal read_only
        try:
            view = buffer.raw()
        except BufferError:  # not contiguous: pickle copies it
            return True
        if view.readonly and _kind_of(buffer) == landing.BUFFER:
            read_only = True
        if view.nbytes < OUT_OF_BAND_BYTES or len(buffers) >= _MAX_BUFFERS:
            return True
        buffers.append((buffer, _kind_of(buffer)))
        return False

    try:
        body = pickle.dumps(value, 5, buffer_callback=take)
        if read_only and "numpy" in sys.modules:
            buffers.clear()
            body = _dump_writable(value, take)
        if not (_by_value and _is_lacking(body)):
            return Payload(body, tuple(buffers))
    except NotReadyError:
        raise
    except Exception:  # whatever a user's __reduce__ raises: cloudpickle may know better
        pass
    buffers.clear()
    try:
        import cloudpickle

        body = cloudpickle.dumps(value, protocol=5, buffer_callback=take)  # pyright: ignore[reportCallIssue]
    except NotReadyError:
        raise
    except Exception as error:
        raise _payload_error(value, what, error) from error
    return Payload(body, tuple(buffers))


def _dump_writable(value: Any, take: Callable[[pickle.PickleBuffer], bool]) -> bytes:
    """Pickle a value whose read-only arrays are to arrive writable, as all others do.

    Pickle has a read-only buffer arrive read-only; so such an array goes as a copy.
    """
    array_type = sys.modules["numpy"].ndarray
    file = io.BytesIO()
    pickler = pickle.Pickler(file, 5, buffer_callback=take)
    pickler.dispatch_table = {**copyreg.dispatch_table, array_type: _reduce_writable}
    pickler.dump(value)
    return file.getvalue()


def _reduce_writable(array: Any) -> Any:
    return (array if array.flags.writeable else array.copy()).__reduce_ex__(5)


def decode(body: Buffer, buffers: Sequence[Any] = ()) -> Any:
    """Decode a value.

    Raises:
        PayloadError: It cannot be decoded here.
    """
    try:
        return pickle.loads(body, buffers=buffers)
    except Exception as error:
        raise PayloadError(
            f"a value arrived that cannot be rebuilt here: {type(error).__name__}: {error}"
        ) from error


def bulk(value: Any) -> Any:
    """Return what stands for a large `bytes` or `bytearray`, so that it goes out of band."""
    if type(value) in _BULK and len(value) >= OUT_OF_BAND_BYTES:
        return pickle.PickleBuffer(value)
    return value


_BULK = frozenset({bytes, bytearray})


def _rebuild_payload(body: Any, buffers: list[tuple[Any, int]]) -> Payload:
    return Payload(body, tuple(buffers))


def _kind_of(buffer: pickle.PickleBuffer) -> int:
    owner = memoryview(buffer).obj
    if type(owner) is bytes:
        return landing.BYTES
    if type(owner) is bytearray:
        return landing.BYTEARRAY
    return landing.BUFFER


def _payload_error(value: Any, what: str, error: Exception) -> PayloadError:
    from bigmachine.rpc.diagnose import find_unpicklable

    path, reason = find_unpicklable(value, root=what)
    if what == "argument":  # these are encoded as one value: (args, kwargs)
        path = path.replace("argument[0]", "args", 1).replace("argument[1]", "kwargs", 1)
    where = f"{path}: {reason}" if path else f"{type(error).__name__}: {error}"
    return PayloadError(
        f"the {what} cannot be sent: {where}; leave it out (__getstate__) or make it on the "
        f"machine (init)",
        path=path,
    )
