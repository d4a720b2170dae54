"""Which modules a process with the same ``sys.path`` cannot import by their names.

A test runner loads test modules from files, under names that nothing on ``sys.path`` has; a
``multiprocessing`` child has the program as ``__mp_main__``. What such modules define cannot be
sent by reference.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["not_importable"]


def not_importable(modules: Mapping[str, ModuleType]) -> list[str]:
    """Return the names of modules, loaded from files, that other processes could not import.

    ``__main__`` is none of them: that is another question. Modules without a file (built-in ones,
    and those that other modules make) are none either.

    Args:
        modules: ``sys.modules``.
    """
    path = {os.path.abspath(entry) for entry in sys.path}
    modules = dict(modules)  # other threads import
    roots: dict[str, list[str]] = {}
    found = []
    for name, module in modules.items():
        root = name.partition(".")[0]
        file = _attribute(module, "__file__")
        if not isinstance(file, str) or root in sys.stdlib_module_names or name == "__main__":
            continue
        if root not in roots:
            roots[root] = _places_of(root, modules.get(root), path)
        if not any(file == place or file.startswith(place + os.sep) for place in roots[root]):
            found.append(name)
    return found


def _places_of(root: str, module: ModuleType | None, path: set[str]) -> list[str]:
    """Return the files and directories that importing a top-level module would give; none: []."""
    places = _loaded_from(module)
    if places:  # most are where the search would begin: spare it
        directory, name = os.path.split(places[0])
        if directory in path and name.partition(".")[0] == root:
            return places
    spec = _find(root)
    if spec is None:
        return []
    if spec.submodule_search_locations is not None:
        return list(spec.submodule_search_locations)
    return [spec.origin or ""]


def _loaded_from(module: ModuleType | None) -> list[str]:
    found = _attribute(module, "__path__") or [_attribute(module, "__file__")]
    places: Iterable[object] = found if isinstance(found, Iterable) else ()
    return [place for place in places if isinstance(place, str)]


def _find(root: str) -> ModuleSpec | None:
    for finder in list(sys.meta_path):
        try:
            spec = finder.find_spec(root, None)
        except Exception:  # a finder of the program's
            continue
        if spec is not None:
            return spec
    return None


def _attribute(module: object, name: str) -> object:
    """Look past a module's own ``__getattr__``, which may import it in the first place."""
    # sys.modules may hold anything, even what only says that it is a module (cffi's libraries).
    if not issubclass(type(module), ModuleType):
        return None
    return object.__getattribute__(module, "__dict__").get(name)
