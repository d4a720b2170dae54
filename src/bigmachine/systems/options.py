"""Turns what settings say into the values that a system's parameters are annotated with.

A flag or an environment variable says everything in text; ``bigmachine.toml`` has types of its own
and is held to them. Pure: an annotation and a value in, a value out, or a ``ValueError`` whose text
says what would have been right.
"""

from __future__ import annotations

import collections.abc
import math
import types
import typing
from enum import Enum
from pathlib import Path
from typing import Any

__all__ = ["convert", "describe"]

_BOOLEANS = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}
_SCALARS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
}
_COLLECTIONS = {
    list: list,
    tuple: tuple,
    set: set,
    frozenset: frozenset,
    collections.abc.Sequence: tuple,
    collections.abc.Iterable: tuple,
    collections.abc.Collection: tuple,
}
_MAPPINGS = (dict, collections.abc.Mapping)
_PLURALS = {
    "text": "texts",
    "a number": "numbers",
    "a whole number": "whole numbers",
    "a path": "paths",
    "anything": "anything",
}


def convert(kind: Any, value: object, *, text: bool) -> Any:
    """Return ``value`` as ``kind``, an annotation, wants it.

    Args:
        kind: The annotation: a scalar, ``Literal``, an enum, a union, a list or a mapping of these;
            a type variable is a name of which nothing is known, and takes what it is given.
        value: What the setting says.
        text: Whether it was said in text, so that ``"60"`` stands for a number and ``a,b`` for a
            list. Otherwise the value has TOML's own types already.

    Raises:
        ValueError: It does not fit; the text says what would.
    """
    origin, arguments = _parts(kind)
    if origin is typing.Union:
        return _one_of_these(arguments, value, kind, text=text)
    if origin is typing.Literal:
        return _choice({str(each): each for each in arguments}, value, kind, text=text)
    if _is_enum(origin):
        return _choice({str(each.value): each for each in origin}, value, kind, text=text)
    if origin in _COLLECTIONS:
        return _collection(origin, arguments, value, kind, text=text)
    if origin in _MAPPINGS:
        return _mapping(arguments, value, kind, text=text)
    if origin in _SCALARS:
        return _scalar(origin, value, kind, text=text)
    if origin is Any or isinstance(origin, typing.TypeVar):
        return value
    raise ValueError("a value that only the program itself can give")


def describe(kind: Any) -> str:
    """Return what ``kind``, an annotation, allows, in words: ``'unix' or 'tls'``."""
    origin, arguments = _parts(kind)
    if origin is typing.Union:
        words = dict.fromkeys(map(describe, sorted(filter(_is_settable, arguments), key=_rank)))
        if "a path" in words:  # any text is one
            words.pop("text", None)
        return " or ".join(words)
    if origin is typing.Literal:
        return " or ".join(repr(each) for each in arguments)
    if _is_enum(origin):
        return " or ".join(repr(each.value) for each in origin)
    if origin in _COLLECTIONS:
        return _describe_many("a list", "each", _item_kind(arguments))
    if origin in _MAPPINGS:
        return _describe_many("a table", "each value", _value_kind(arguments))
    if origin is types.NoneType:
        return "none"
    if isinstance(origin, typing.TypeVar):
        return origin.__name__
    return _SCALARS.get(origin, "anything" if origin is Any else "set in the program only")


def _describe_many(whole: str, each: str, kind: Any) -> str:
    one = describe(kind)
    return f"{whole} of {_PLURALS[one]}" if one in _PLURALS else f"{whole} of which {each} is {one}"


def _rank(kind: Any) -> int:
    """Order the members of a union for a reader: one thing, then several, at last none at all."""
    origin, _ = _parts(kind)
    if origin is types.NoneType:
        return 2
    return int(origin in _COLLECTIONS or origin in _MAPPINGS)


def _parts(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return what an annotation is at bottom and its arguments, ``Annotated`` taken off."""
    if kind is None:
        return types.NoneType, ()
    origin = typing.get_origin(kind)
    if origin is None:
        return (Any if kind is object else kind), ()
    if origin is typing.Annotated:
        return _parts(typing.get_args(kind)[0])
    if origin is types.UnionType:
        origin = typing.Union
    return origin, typing.get_args(kind)


def _is_enum(origin: Any) -> bool:
    return isinstance(origin, type) and issubclass(origin, Enum)


def _is_settable(kind: Any) -> bool:
    origin, _ = _parts(kind)
    known = (Any, types.NoneType, typing.Union, typing.Literal, *_SCALARS, *_COLLECTIONS)
    if isinstance(origin, typing.TypeVar):
        return True
    return origin in known or origin in _MAPPINGS or _is_enum(origin)


def _item_kind(arguments: tuple[Any, ...]) -> Any:
    return arguments[0] if arguments else Any


def _value_kind(arguments: tuple[Any, ...]) -> Any:
    return arguments[1] if len(arguments) > 1 else Any


def _unfit(kind: Any, value: object) -> ValueError:
    return ValueError(f"{value!r} is not {describe(kind)}")


def _one_of_these(arguments: tuple[Any, ...], value: object, kind: Any, *, text: bool) -> Any:
    """Return the value as the first member of a union that it fits; text fits ``str`` last."""
    if types.NoneType in arguments and text and str(value).casefold() == "none":
        return None
    for member in sorted(filter(_is_settable, arguments), key=lambda each: each is str):
        if member is types.NoneType:
            continue
        try:
            return convert(member, value, text=text)
        except ValueError:
            continue
    raise _unfit(kind, value)


def _choice(by_text: dict[str, Any], value: object, kind: Any, *, text: bool) -> Any:
    chosen = by_text.get(str(value))
    plain = chosen.value if isinstance(chosen, Enum) else chosen
    if chosen is None or not (text or type(value) is type(plain)):
        raise _unfit(kind, value)
    return chosen


def _collection(
    origin: Any, arguments: tuple[Any, ...], value: object, kind: Any, *, text: bool
) -> Any:
    if text and isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, list):
        raise _unfit(kind, value)
    member = _item_kind(arguments)
    return _COLLECTIONS[origin](convert(member, each, text=text) for each in value)


def _mapping(arguments: tuple[Any, ...], value: object, kind: Any, *, text: bool) -> dict[str, Any]:
    if text and isinstance(value, str):
        parts = [part.partition("=") for part in value.split(",") if part.strip()]
        if not all(separator for _, separator, _ in parts):
            raise _unfit(kind, value)
        value = {key.strip(): item.strip() for key, _, item in parts}
    if not isinstance(value, dict):
        raise _unfit(kind, value)
    member = _value_kind(arguments)
    return {str(key): convert(member, each, text=text) for key, each in value.items()}


def _scalar(origin: Any, value: object, kind: Any, *, text: bool) -> Any:
    """Return a scalar; what TOML gave is held to its type, but a whole number is a number too."""
    if text and isinstance(value, str):
        return _scalar_from_text(origin, value, kind)
    if origin is Path and isinstance(value, str):
        return Path(value).expanduser()
    if origin is float and type(value) is int:
        return float(value)
    if type(value) is not origin:
        raise _unfit(kind, value)
    return value


def _scalar_from_text(origin: Any, value: str, kind: Any) -> Any:
    if origin is bool:
        if value.casefold() not in _BOOLEANS:
            raise _unfit(kind, value)
        return _BOOLEANS[value.casefold()]
    if origin is Path:
        return Path(value).expanduser()
    try:
        result = origin(value)
    except ValueError:
        raise _unfit(kind, value)
    if result != result or result in (math.inf, -math.inf):
        raise _unfit(kind, value)
    return result
