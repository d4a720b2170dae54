"""Plain values that cost nothing to define: what frozen, slotted, keyword-only dataclasses are.

A dataclass compiles its methods when it is defined, which takes most of a millisecond. The messages
of a host are two dozen, and three processes define them before a program's first machine runs; so
theirs are made here, with the same methods for all. To a type checker they are dataclasses.

::

    class Stop(Value):
        grace: float
        reason: str = ""
        secret: bytes = hidden(default=b"")  # not in its repr

What always holds: each attribute is one of the class's own annotations; values do not inherit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NoReturn, TypeVar, dataclass_transform

__all__ = ["Value", "as_mapping", "changed", "hidden"]

V = TypeVar("V", bound="Value")


class _Field:
    """What is known of an attribute beyond its name."""

    __slots__ = ("default", "factory", "is_shown")

    def __init__(self, default: Any, factory: Callable[[], Any] | None, *, is_shown: bool) -> None:
        self.default = default
        self.factory = factory
        self.is_shown = is_shown


_MISSING: Final = object()


def hidden(*, default: Any = _MISSING, default_factory: Callable[[], Any] | None = None) -> Any:
    """Declare an attribute that no ``repr`` shows.

    Args:
        default: What it is when it is not given.
        default_factory: Makes its default anew for each value.
    """
    return _Field(default, default_factory, is_shown=False)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(hidden,))
class _Maker(type):
    """Makes the classes: what stands in their body become slots, and defaults for them."""

    _fields: dict[str, _Field]

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> _Maker:
        fields: dict[str, _Field] = {}
        for attribute in namespace.get("__annotations__", ()) if bases else ():
            default = namespace.pop(attribute, _MISSING)
            if type(default) is not _Field:
                default = _Field(default, None, is_shown=True)
            fields[attribute] = default
        made = super().__new__(mcs, name, bases, {**namespace, "__slots__": tuple(fields)})
        made._fields = fields
        return made


class Value(metaclass=_Maker):
    """A value: frozen, equal to those of the same class with equal attributes."""

    def __init__(self, **given: Any) -> None:
        for name, field in type(self)._fields.items():
            if name in given:
                value = given.pop(name)
            elif field.factory is not None:
                value = field.factory()
            elif field.default is not _MISSING:
                value = field.default
            else:
                raise TypeError(f"{type(self).__name__}: {name} is missing")
            object.__setattr__(self, name, value)
        if given:
            raise TypeError(f"{type(self).__name__} has no {', '.join(given)}")

    def __repr__(self) -> str:
        shown = (
            f"{name}={getattr(self, name)!r}"
            for name, field in type(self)._fields.items()
            if field.is_shown
        )
        return f"{type(self).__name__}({', '.join(shown)})"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return _attributes(self) == _attributes(other)

    def __hash__(self) -> int:
        return hash((type(self), *_attributes(self)))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be set")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be deleted")

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), _attributes(self))


def changed(value: V, **changes: Any) -> V:
    """Return the same value with some attributes changed.

    Raises:
        TypeError: It has no such attribute.
    """
    names = type(value)._fields
    return type(value)(**{**{name: getattr(value, name) for name in names}, **changes})


def as_mapping(value: Value) -> dict[str, Any]:
    """Return the attributes by their names; those that are values themselves likewise."""
    return {
        name: as_mapping(each) if isinstance(each, Value) else each
        for name, each in zip(type(value)._fields, _attributes(value), strict=True)
    }


def _attributes(value: Value) -> list[Any]:
    return [getattr(value, name) for name in type(value)._fields]


def _rebuild(cls: type[Value], attributes: list[Any]) -> Value:
    return cls(**dict(zip(cls._fields, attributes, strict=True)))
