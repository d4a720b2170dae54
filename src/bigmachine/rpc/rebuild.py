"""One exception taken apart into bytes, and put together again as what it was.

Pickle makes an exception anew by calling its class with ``args``, and that goes wrong for many a
class that people write: where ``__init__`` has other parameters than it hands on, loading fails;
where it makes its message of them, the message is made twice. So the constructor is passed by: the
built-in class underneath makes the object, and arguments, attributes and slots are put back. Only
a class that says itself how it pickles (``__reduce__``, ``copyreg``) is left to its own way.

Classes go by their names; those without one to import (made in a function, or in a ``__main__``
that the other side lacks) go by value, and the other side looks for the name first all the same.

Always holds: what ``take_apart`` returns has been put together once, here; and causes, contexts,
notes and members are no part of it (``exceptions.py`` does those).
"""

from __future__ import annotations

import copyreg
import pickle
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from bigmachine.rpc.tracebacks import type_name

__all__ = ["CannotRebuildError", "Parts", "put_together", "take_apart"]

MAX_REASON_CHARS = 1_000

_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement, not built in.

_BY_ITSELF = "by itself"
_BY_NAME = "by name"
_BY_VALUE = "by value"


class CannotRebuildError(Exception):
    """The exception cannot be taken apart, or put together; the message says why."""


class Parts(NamedTuple):
    """One exception, ready to be sent.

    Attributes:
        way: How it was taken apart.
        data: A pickle; of what, depends on the way.
    """

    way: str
    data: bytes


class _State(NamedTuple):
    """What an exception consists of, besides its class."""

    args: tuple[Any, ...]
    attributes: dict[str, Any]
    fields: dict[str, Any]  # slots and the fields of built-in classes: not in __dict__


def take_apart(exc: BaseException) -> Parts:
    """Take an exception apart.

    Raises:
        CannotRebuildError: Some part of it does not pickle, or not back.
    """
    members = exc.exceptions if isinstance(exc, BaseExceptionGroup) else ()
    ways = [_reduce_by_name, _reduce_by_value]
    if _pickles_itself(type(exc)):
        # One that refuses to be pickled is taken at its word; one that does not load is helped.
        ways = [_reduce_by_itself, *(() if _refuses(exc) else ways)]
    elif _lives_here_only(type(exc)):
        ways.reverse()
    reasons = []
    for way in ways:
        try:
            parts = way(exc)
            _check(exc, put_together(parts, members))
        except Exception as error:  # __reduce__, __setstate__, ... are the user's
            reasons.append(f"{type(error).__name__}: {error}"[:MAX_REASON_CHARS])
        else:
            return parts
    raise CannotRebuildError(reasons[0])


def put_together(parts: Parts, members: Sequence[BaseException] = ()) -> BaseException:
    """Put an exception together again.

    Args:
        parts: What ``take_apart`` returned, here or elsewhere.
        members: The members, if it was a group.

    Raises:
        CannotRebuildError: What came is no exception.
        Exception: Whatever its class, or the import of that, raises.
    """
    if parts.way == _BY_ITSELF:
        exc = pickle.loads(parts.data)
        if not isinstance(exc, BaseException):
            raise CannotRebuildError(f"it pickles as a {type_name(type(exc))}")
        return exc
    if parts.way == _BY_NAME:
        cls, state = pickle.loads(parts.data)
    else:
        module, name, cls_data, state_data = pickle.loads(parts.data)
        cls = _find_class(module, name) or pickle.loads(cls_data)
        state = pickle.loads(state_data)
    return _restore(cls, _State(*state), members)


def _reduce_by_itself(exc: BaseException) -> Parts:
    try:
        return Parts(_BY_ITSELF, pickle.dumps(exc, 5))
    except Exception:  # a class without a name to import, or a user's __reduce__
        import cloudpickle

        return Parts(_BY_ITSELF, cloudpickle.dumps(exc, 5))


def _reduce_by_name(exc: BaseException) -> Parts:
    return Parts(_BY_NAME, pickle.dumps((type(exc), tuple(_state_of(exc))), 5))


def _reduce_by_value(exc: BaseException) -> Parts:
    import cloudpickle

    cls = type(exc)
    # The class apart from the rest: it is not even looked at where its name is found.
    cls_data = cloudpickle.dumps(cls, 5)
    state_data = cloudpickle.dumps(tuple(_state_of(exc)), 5)
    named = (cls.__module__, cls.__qualname__, cls_data, state_data)
    return Parts(_BY_VALUE, pickle.dumps(named, 5))


def _state_of(exc: BaseException) -> _State:
    """Return what the exception consists of; its notes stay out."""
    attributes = dict(exc.__dict__)
    attributes.pop("__notes__", None)
    fields: dict[str, Any] = {}
    if isinstance(exc, BaseExceptionGroup):
        args: tuple[Any, ...] = (exc.message,)
    else:
        # Not exc.args: it lacks the file name of an OSError.
        _, args, *more = _reduce_natively(exc)
        if more and more[0]:
            fields = {key: more[0][key] for key in more[0].keys() - exc.__dict__.keys()}
    if isinstance(exc, AttributeError | NameError) and exc.name is not None:
        fields["name"] = exc.name  # lost in pickle, before Python 3.12
    state: Any = object.__getstate__(exc)
    if isinstance(state, tuple):
        fields.update(state[1])
    return _State(args, attributes, fields)


def _reduce_natively(exc: BaseException) -> tuple[Any, ...]:
    """Return what the built-in class underneath would have pickled: class, args, perhaps state."""
    reduced: Any = _native_base(type(exc)).__reduce__(exc)
    assert isinstance(reduced, tuple)
    return reduced


def _restore(
    cls: type[BaseException], state: _State, members: Sequence[BaseException]
) -> BaseException:
    """Make an exception of its state, past the constructors of its class."""
    native = _native_base(cls)
    make: Any = native.__new__  # takes a class and its arguments, whatever the built-in class says
    exc: BaseException
    if native is BaseExceptionGroup:
        exc = make(cls, *state.args, list(members))
    else:
        exc = make(cls, *state.args)
        try:
            native.__init__(exc, *state.args)
        except TypeError:  # the user has set other args than the built-in class takes
            exc.args = state.args
    exc.__dict__.update(state.attributes)
    for name, value in state.fields.items():
        # Past the class's own __setattr__: a frozen dataclass refuses.
        object.__setattr__(exc, name, value)
    return exc


def _native_base(cls: type[BaseException]) -> type[BaseException]:
    """Return the built-in class whose layout the objects of a class have."""
    base: type = cls
    while base.__flags__ & _HEAP_TYPE and base.__base__ is not None:
        base = base.__base__
    return base


def _pickles_itself(cls: type[BaseException]) -> bool:
    """Return whether a class says itself how its objects pickle."""
    native = _native_base(cls)
    return (
        cls.__reduce__ is not native.__reduce__
        or cls.__reduce_ex__ is not native.__reduce_ex__
        or cls.__setstate__ is not native.__setstate__
        or cls in copyreg.dispatch_table
    )


def _refuses(exc: BaseException) -> bool:
    """Return whether an exception's own way to pickle raises."""
    try:
        exc.__reduce_ex__(5)
    except Exception:  # it is the user's
        return True
    return False


def _lives_here_only(cls: type[BaseException]) -> bool:
    """Return whether other processes are unlikely to have this ``__main__``: a notebook's."""
    return cls.__module__ == "__main__" and not hasattr(sys.modules["__main__"], "__file__")


def _find_class(module: str, name: str) -> type[BaseException] | None:
    """Return the exception class of that name, if this process has it already."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) and issubclass(found, BaseException) else None


def _check(exc: BaseException, copy: BaseException) -> None:
    """Raise if a copy is not one.

    Raises:
        CannotRebuildError: It is the original itself, or of another class than that says.
    """
    if copy is exc:
        raise CannotRebuildError("it pickles as a reference to itself")
    # By name: a class that was defined anew since then is still the one that is meant.
    name = type_name(type(copy))
    if name != type_name(type(exc)) and not _pickles_itself(type(exc)):
        raise CannotRebuildError(f"it comes back as a {name}")
