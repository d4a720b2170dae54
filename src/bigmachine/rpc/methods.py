"""Which methods a service has, and of what kind each is."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bigmachine.errors import NoSuchMethodError, NoSuchServiceError, UsageError
from bigmachine.service import REMOTE_MARK, find_remote


class Kind(enum.Enum):
    """How a method is run."""

    PLAIN = "plain"
    ASYNC = "async"
    GENERATOR = "generator"
    ASYNC_GENERATOR = "async generator"


@dataclass(frozen=True, slots=True)
class Method:
    """A method of a service that is registered."""

    name: str
    function: Callable[..., Any]
    kind: Kind


def kind_of(function: Callable[..., Any]) -> Kind:
    """Return of what kind a function or method is, through partials and decorators."""
    if inspect.isasyncgenfunction(function):
        return Kind.ASYNC_GENERATOR
    if inspect.isgeneratorfunction(function):
        return Kind.GENERATOR
    if inspect.iscoroutinefunction(function):
        return Kind.ASYNC
    return Kind.PLAIN


class Registry:
    """The services of one server, by name."""

    def __init__(self) -> None:
        self.services: dict[str, Any] = {}
        self._methods: dict[str, Method] = {}

    def __repr__(self) -> str:
        return f"<Registry {', '.join(self.services) or 'empty'}>"

    def add(self, name: str, service: Any) -> bool:
        """Add a service; False when its name is taken.

        Raises:
            UsageError: The name is empty or has a dot.
        """
        if not name or "." in name:
            raise UsageError(f"a service cannot be called {name!r}: a name without dots is needed")
        if name in self.services:
            return False
        self.services[name] = service
        return True

    def find(self, name: str) -> Method:
        """Return the method that ``Service.method`` names.

        Raises:
            NoSuchServiceError: There is no such service here.
            NoSuchMethodError: The service has no such public method.
        """
        method = self._methods.get(name)
        if method is None:
            method = self._methods[name] = self._look_up(name)
        return method

    def _look_up(self, name: str) -> Method:
        if name.startswith(REMOTE_MARK):
            name = find_remote(self.services, name)
        service_name, dot, method_name = name.rpartition(".")
        if not dot:
            raise NoSuchServiceError(f'{name!r} names no method: give "Service.method"')
        if service_name not in self.services:
            have = ", ".join(sorted(self.services)) or "none"
            raise NoSuchServiceError(f"no service {service_name!r} here; there are: {have}")
        service = self.services[service_name]
        function = None
        if method_name and not method_name.startswith("_"):
            function = getattr(service, method_name, None)
        if not callable(function):
            why = "names that begin with _ cannot be called" if method_name[:1] == "_" else ""
            raise NoSuchMethodError(
                f"service {service_name!r} ({type(service).__name__}) has no method "
                f"{method_name!r}{'; ' + why if why else ''}"
            )
        return Method(name, function, kind_of(function))
