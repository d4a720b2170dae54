"""Which services machines have, and which of them a function means.

``m.call(CirclePI.sample, n)`` names a method by its function: the one service of the machine
whose class has it or overrides it. Where the services are known (machines that this program
started) this is decided here; a dialled machine decides it itself (`ServiceTable.remote_name`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bigmachine.errors import NoSuchServiceError, UsageError

REMOTE_MARK = "@"
"""Begins the name of a method that the machine is to find by its function."""


class ServiceTable:
    """The services of some machines, by name."""

    def __init__(self, services: Mapping[str, Any]) -> None:
        self._types: dict[str, type[Any]] = {name: type(s) for name, s in services.items()}
        self._found: dict[Any, str] = {}
        self.names: dict[Any, str] = {}
        """What calls may name, by function or text: kept by those who have checked it."""

    def __repr__(self) -> str:
        return f"<ServiceTable {', '.join(self._types)}>"

    def find(self, function: Any) -> str:
        """Return ``Service.method`` of a function.

        Raises:
            NoSuchServiceError: No service's class has it.
            UsageError: Several have it, or it is no function of a class.
        """
        try:
            return self._found[function]
        except KeyError:
            name = self._found[function] = self._look_up(function)
            return name
        except TypeError as error:
            raise UsageError(f"{function!r} is no method: give CLASS.METHOD or a text") from error

    def name_of(self, service: type[Any]) -> str:
        """Return the name of the one service of a class.

        Raises:
            NoSuchServiceError: There is none.
            UsageError: There are several.
        """
        names = [name for name, each in self._types.items() if issubclass(each, service)]
        return self._only(names, service.__qualname__)

    def check_no_stream(self, name: str) -> None:
        """Raise if a method brings many items.

        Raises:
            UsageError: It does.
        """
        service, _, method = name.rpartition(".")
        if _is_generator(getattr(self._types.get(service), method, None)):
            raise UsageError(f"{name} brings many items: use stream() instead of call()")

    @staticmethod
    def remote_name(function: Any) -> str:
        """Return the name by which a machine finds a function itself.

        Raises:
            UsageError: It is no function.
        """
        qualname = getattr(function, "__qualname__", "")
        if "." not in qualname or not callable(function):
            raise UsageError(f"{function!r} is no method of a class: give CLASS.METHOD or a text")
        return f"{REMOTE_MARK}{function.__module__}:{qualname}"

    def _look_up(self, function: Any) -> str:
        plain = _plain(function)
        found: list[tuple[str, str]] = []
        for name, kind in self._types.items():
            method = _method_name(kind, plain)
            if method is not None:
                found.append((name, method))
        name = self._only([name for name, _ in found], getattr(plain, "__qualname__", repr(plain)))
        return f"{name}.{dict(found)[name]}"

    def _only(self, names: list[str], what: str) -> str:
        if len(names) == 1:
            return names[0]
        if names:
            raise UsageError(
                f"{what} is a method of several services ({', '.join(sorted(names))}): "
                f"say which, as {sorted(names)[0]!r} + '.method'"
            )
        have = ", ".join(sorted(self._types))
        raise NoSuchServiceError(f"no service of these machines has {what}; there are: {have}")


def find_remote(services: Mapping[str, Any], name: str) -> str:
    """Return ``Service.method`` of a name that `ServiceTable.remote_name` made.

    A name without a method, as a proxy's, may end in ``.method``.

    Raises:
        NoSuchServiceError: No service has it.
        UsageError: Several have it.
    """
    module, _, qualname = name.removeprefix(REMOTE_MARK).partition(":")
    owner, _, method = qualname.rpartition(".")
    names = [
        service_name
        for service_name, service in services.items()
        if any(
            base.__module__ == module and base.__qualname__ == owner
            for base in type(service).__mro__
        )
    ]
    if not names:
        have = ", ".join(sorted(services)) or "none"
        raise NoSuchServiceError(f"no service here is a {owner} of {module}; there are: {have}")
    if len(names) > 1:
        raise UsageError(f"{qualname} is a method of several services: {', '.join(sorted(names))}")
    return f"{names[0]}.{method}"


def _plain(function: Any) -> Callable[..., Any]:
    """Return the function behind a static, class or bound method."""
    plain = getattr(function, "__func__", function)
    if not callable(plain):
        raise UsageError(f"{function!r} is no method: give CLASS.METHOD or a text")
    return plain  # type: ignore[no-any-return]


def _method_name(kind: type[Any], function: Callable[..., Any]) -> str | None:
    """Return under which public name a class has a function, itself or overridden."""
    hidden = None
    for base in kind.__mro__:
        for name, value in vars(base).items():
            if getattr(value, "__func__", value) is function:
                if not name.startswith("_"):
                    return name
                hidden = hidden or name  # its machine will say that it cannot be called
    return hidden


def _is_generator(function: Any) -> bool:
    import inspect

    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
