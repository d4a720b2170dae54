"""Which part of a value does not pickle, by name: ``service.model._lock``, ``args[0]['f']``.

Pickle says ``cannot pickle '_thread.lock' object`` and not where it is. Found in two steps:

1. Pickle the value into nothing, once, noting which objects were begun last. Pickle descends depth
   first and stops at the first failure, so the culprit is among the very last ones.
2. Search the value's attributes, items and elements, breadth first, for these objects; the way to
   the latest one that is reachable at all is the answer. (Some objects are made only while
   pickling; then the one that made them is named.)

Both steps stop when time is up, so a huge value takes no longer than a small one. If the first one
was stopped, the second looks for an object of a kind that never pickles instead: a lock, a file.
"""

from __future__ import annotations

import functools
import io
import pickle
import time
import types
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["find_unpicklable"]

MAX_PICKLE_SECONDS = 0.4
MAX_SEARCH_SECONDS = 0.4

MAX_PATH_CHARS = 300
MAX_REASON_CHARS = 500
MAX_KEY_CHARS = 40

_TRAIL_LENGTH = 200
_CLOCK_EVERY = 256  # objects between two looks at the clock

# What has no parts, and always pickles.
_ATOMS = frozenset(
    {type(None), bool, int, float, complex, str, bytes, bytearray, range, type(...), type}
    | {types.ModuleType, types.BuiltinFunctionType}
)


class _TimeIsUpError(Exception):
    """The value is too large to be pickled for its diagnosis."""


class _Nowhere(io.RawIOBase):
    """A file that forgets what is written to it."""

    def write(self, data: Any, /) -> int:
        return memoryview(data).nbytes


def find_unpicklable(
    value: object, *, pickler: Callable[..., pickle.Pickler] | None = None, root: str = "value"
) -> tuple[str, str]:
    """Find the part of a value that does not pickle.

    It takes below a second, unless a ``__reduce__`` or ``__getstate__`` of the user takes longer.

    Args:
        value: What failed to be encoded.
        pickler: The class of pickler that failed; cloudpickle's by default.
        root: What to call the value itself.

    Returns:
        The way to the part, beginning with ``root``, and why it does not pickle. If the value
        pickles after all, the way is ``root`` alone and the reason says so.
    """
    trail: deque[object] = deque(maxlen=_TRAIL_LENGTH)
    try:
        _pickle_into_nothing(value, _pickler_class(pickler), trail)
    except _TimeIsUpError:
        way, reason = _find_refusal(value, root) or (root, "it is too large to say what in it")
    except Exception as error:  # a user's __reduce__ may raise anything
        way, reason = _find_latest(value, trail, root), f"{type(error).__name__}: {error}"
    else:
        way, reason = root, "it pickles now; was it changed meanwhile?"
    return _shorten(way), reason[:MAX_REASON_CHARS]


def _pickler_class(pickler: Callable[..., pickle.Pickler] | None) -> Any:
    if pickler is None:
        import cloudpickle

        return cloudpickle.Pickler
    return pickler


def _pickle_into_nothing(value: object, pickler: Any, trail: deque[object]) -> None:
    """Pickle a value for the failure's sake, leaving the last objects begun in the trail.

    Raises:
        _TimeIsUpError: It takes too long.
        Exception: Why it does not pickle.
    """
    give_up_at = time.monotonic() + MAX_PICKLE_SECONDS
    begun = 0
    # A built-in pickler's own would call the one below again.
    ask_further = isinstance(getattr(pickler, "persistent_id", None), types.FunctionType)

    class Tracer(pickler):  # type: ignore[misc]
        """The pickler, asked about each object before it saves it."""

        def persistent_id(self, obj: object) -> object:
            nonlocal begun
            begun += 1
            if begun % _CLOCK_EVERY == 0 and time.monotonic() > give_up_at:
                raise _TimeIsUpError
            if type(obj) not in _ATOMS:
                trail.append(obj)
            return super().persistent_id(obj) if ask_further else None

    # Out of band, or large arrays would be copied.
    Tracer(_Nowhere(), 5, buffer_callback=lambda _: None).dump(value)


def _find_latest(value: object, trail: deque[object], root: str) -> str:
    """Return the way from the value to the latest object of the trail that it holds."""
    rank = {id(obj): position for position, obj in enumerate(trail)}
    latest = max(rank.values(), default=-1)
    best, best_rank = root, -1
    for obj, way in _walk(value, root):
        if rank.get(id(obj), -1) > best_rank:
            best, best_rank = way, rank[id(obj)]
            if best_rank == latest:
                break
    return best


def _find_refusal(value: object, root: str) -> tuple[str, str] | None:
    """Return the nearest built-in object that refuses to be pickled, and what it says."""
    for obj, way in _walk(value, root):
        if type(obj).__module__.startswith(("builtins", "_")) and not isinstance(obj, type):
            try:
                obj.__reduce_ex__(5)
            except TypeError as error:
                return way, f"TypeError: {error}"
    return None


def _walk(value: object, root: str) -> Iterator[tuple[object, str]]:
    """Yield the value and all that it holds, each once, nearest first, until time is up."""
    give_up_at = time.monotonic() + MAX_SEARCH_SECONDS
    seen = {id(value): value}  # the objects too: an id is good only while its object lives
    waiting: deque[tuple[object, str]] = deque([(value, root)])
    looked_at = 0
    yield value, root
    while waiting:
        obj, way = waiting.popleft()
        for part, step in _parts_of(obj):
            looked_at += 1
            if looked_at % _CLOCK_EVERY == 0 and time.monotonic() > give_up_at:
                return
            if type(part) in _ATOMS or id(part) in seen:
                continue
            seen[id(part)] = part
            yield part, way + step  # now: what stands before it in the queue may be huge
            waiting.append((part, way + step))


def _shorten(way: str) -> str:
    """Return a way without its middle if it is very long."""
    if len(way) <= MAX_PATH_CHARS:
        return way
    half = MAX_PATH_CHARS // 2
    return f"{way[:half]} ... {way[-half:]}"


def _parts_of(obj: object) -> Iterator[tuple[object, str]]:
    """Yield what an object holds, each with the step that leads there."""
    if isinstance(obj, dict):
        yield from _items_of(obj)
    elif isinstance(obj, tuple) and "_fields" in vars(type(obj)):
        fields: tuple[str, ...] = vars(type(obj)).get("_fields", ())
        yield from ((part, f".{name}") for name, part in zip(fields, obj, strict=False))
    elif isinstance(obj, list | tuple | deque):
        yield from ((part, f"[{index}]") for index, part in enumerate(obj))
    elif isinstance(obj, set | frozenset):
        yield from ((part, f"{{{_key(part)}}}") for part in obj)
    if isinstance(obj, types.FunctionType):
        yield from _parts_of_function(obj)
    elif isinstance(obj, types.MethodType):
        yield obj.__self__, ".__self__"
        yield obj.__func__, ".__func__"
    elif isinstance(obj, functools.partial):
        yield from ((obj.func, ".func"), (obj.args, ".args"), (obj.keywords, ".keywords"))
    yield from _attributes_of(obj)


def _items_of(obj: dict[object, object]) -> Iterator[tuple[object, str]]:
    for key, part in obj.items():
        yield part, f"[{_key(key)}]"
        if type(key) not in _ATOMS:
            yield key, f" key {_key(key)}"
    if factory := getattr(obj, "default_factory", None):
        yield factory, ".default_factory"


def _parts_of_function(function: types.FunctionType) -> Iterator[tuple[object, str]]:
    """Yield what goes along with a function that goes by value."""
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield cell.cell_contents, f" closure's {name}"
        except ValueError:  # not bound yet
            continue
    for index, default in enumerate(function.__defaults__ or ()):
        yield default, f".__defaults__[{index}]"
    for name in code.co_names:
        if name in function.__globals__:
            yield function.__globals__[name], f" global {name}"


def _attributes_of(obj: object) -> Iterator[tuple[object, str]]:
    """Yield the attributes that an object has in its dictionary and its slots."""
    attributes = _get(obj, "__dict__")
    if isinstance(attributes, dict | types.MappingProxyType):
        yield from ((part, f".{name}") for name, part in list(attributes.items()))
    for cls in type(obj).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else tuple(slots):
            if name not in ("__dict__", "__weakref__"):
                part = _get(obj, _mangle(cls, name))
                if part is not None:
                    yield part, f".{name}"


def _mangle(cls: type, name: str) -> str:
    """Return the name under which a slot of a class is stored."""
    if name.startswith("__") and not name.endswith("__"):
        return f"_{cls.__name__.lstrip('_')}{name}"
    return name


def _get(obj: object, name: str) -> Any:
    """Return an attribute past the class's own ``__getattr__``; None where there is none."""
    try:
        return object.__getattribute__(obj, name)
    except Exception:  # slots that are not set, properties that raise
        return None


def _key(key: object) -> str:
    try:
        text = repr(key)
    except Exception:  # a user's __repr__ may do anything
        text = f"<{type(key).__name__}>"
    return text if len(text) <= MAX_KEY_CHARS else f"{text[: MAX_KEY_CHARS - 3]}..."
