"""Distributions whose modules are elsewhere: ``.pth`` files, and the hooks of editable installs.

A ``.pth`` file in ``site-packages`` has a directory to a line, or Python that is run at every
start. What `pip install -e` makes is one of them: a directory; or a module that hooks into the
import system and has a table of packages and directories in it (setuptools), or calls that say so
(the ``editables`` library). In an image all of these become plain directories: what they led to is
part of the user's source, and the file says where that is there.

Hooks that build when imported (meson-python, scikit-build-core) cannot travel: they are reported.
"""

from __future__ import annotations

import ast
import os
import posixpath
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from bigmachine.image.layout import SITE, Layout, real

_TO_ROOT: Final = posixpath.relpath(".", SITE)
_FINDER: Final = re.compile(r"import (__editable___\w+_finder)\b")
_HOOK: Final = re.compile(r"import (_\w+)\s*(?:#.*)?")
_BUILDS: Final = re.compile(r"import (_\w+_editable(?:_loader)?|_\w*skbc?_\w*)\b")

Add = Callable[[str, str], str]
"""Takes a directory and the name that is to be importable from it, or "" when what is in it is;
returns where that is in the image."""


@dataclass(slots=True)
class Paths:
    """What the ``.pth`` files of an environment come to.

    Attributes:
        rewritten: What they are to be in the image, by place; None: they are not to be there.
        sys_path: What they add to ``sys.path`` that is not in ``site-packages``.
        left_out: What cannot travel, and why.
    """

    rewritten: dict[str, bytes | None] = field(default_factory=dict)
    sys_path: list[str] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)


def read_paths(layout: Layout, add: Add) -> Paths:
    """Read all ``.pth`` files, and say what they become.

    Args:
        layout: Where this environment has its things.
        add: Makes a directory part of the image.
    """
    paths = Paths()
    for site in layout.sites:
        for name in sorted(os.listdir(site)):
            if name.endswith(".pth"):
                _read_file(os.path.join(site, name), site, layout, add, paths)
            elif name.endswith(".egg-link"):
                paths.rewritten[f"{SITE}/{name}"] = None  # the .pth file beside it says the same
    return paths


def _read_file(file: str, site: str, layout: Layout, add: Add, paths: Paths) -> None:
    try:
        with open(file, encoding="utf-8-sig", errors="surrogateescape") as stream:
            lines = stream.read().splitlines()
    except OSError as error:
        paths.left_out.append((file, f"it cannot be read: {error.strerror}"))
        return
    kept: list[str] = []
    for line in lines:
        kept += _translate(line.strip(), file, site, layout, add, paths)
    if kept != [line.strip() for line in lines]:
        text = "".join(f"{line}\n" for line in kept)
        data = text.encode("utf-8", "surrogateescape")
        paths.rewritten[f"{SITE}/{os.path.basename(file)}"] = data


def _translate(
    line: str, file: str, site: str, layout: Layout, add: Add, paths: Paths
) -> Iterator[str]:
    """Yield the lines that stand for a line."""
    if not line or line.startswith("#"):
        yield line
        return
    if not line.startswith(("import ", "import\t")):
        directory = real(os.path.join(site, line))
        if layout.is_stdlib(directory) or directory in layout.sites:
            return
        if layout.place(directory) is not None and directory.startswith(site + "/"):
            yield line  # below site-packages it is part of the image as it is
        elif os.path.isdir(directory):
            yield from _entries([add(directory, "")], paths)
        return
    if _BUILDS.match(line):
        reason = "an editable installation that builds when imported: install it as it is"
        paths.left_out.append((file, reason))
        return
    match = _FINDER.match(line) or _HOOK.fullmatch(line)
    hook = os.path.join(site, f"{match[1]}.py") if match else ""
    mapped = _mapping(hook) if match and os.path.isfile(hook) else None
    if mapped is None:
        yield line
        return
    paths.rewritten[f"{SITE}/{os.path.basename(hook)}"] = None
    mounts = [add(directory, name) for name, directory in mapped.items()]
    yield from _entries(list(dict.fromkeys(mounts)), paths)


def _entries(mounts: list[str], paths: Paths) -> Iterator[str]:
    for mount in mounts:
        paths.sys_path.append(mount)
        yield posixpath.join(_TO_ROOT, mount)


def _mapping(hook: str) -> dict[str, str] | None:
    """Return which packages a hook finds where; None when it is no hook that is known."""
    try:
        with open(hook, encoding="utf-8") as stream:
            tree = ast.parse(stream.read())
    except (OSError, SyntaxError, ValueError):
        return None
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign | ast.Assign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [each.id for each in targets if isinstance(each, ast.Name)]
            if names and names[0] == "MAPPING" and node.value is not None:
                found.update(ast.literal_eval(node.value))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            values = [each.value for each in node.args if isinstance(each, ast.Constant)]
            if node.func.attr == "map_module" and len(values) == 2:
                found[str(values[0])] = _package_directory(str(values[1]))
    return found or None


def _package_directory(path: str) -> str:
    """Return what stands for a module's file: a package's directory, or the file's stem."""
    if os.path.basename(path) == "__init__.py":
        return os.path.dirname(path)
    return path.removesuffix(".py")
